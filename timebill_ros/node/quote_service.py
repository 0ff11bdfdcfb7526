# SPDX-License-Identifier: Apache-2.0
"""The service ``~/quote``: what an instruction could be promised, told without running it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rclpy.node import Node
from rclpy.task import Future

import timebill_ros.srv as srv
from timebill_ros.node.conversions import duration_msg, plan_msg
from timebill_ros.node.goal_requests import QuoteRequests
from timebill_ros.node.instruction_service import InstructionService
from timebill_ros.node.topics import INSTRUCTION_QOS
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.outcome import JobStopped

# Quotes that are computed or wait for it; one more is refused, so that none is older than a moment.
_MOST_PENDING = 16
_UNCONFIGURED = "the node is not configured"


class QuoteService:
    """Answers from a thread of its own, which tokenises; the executor's only passes on.

    It lives as long as the node; without a configured service there is no quote.
    """

    def __init__(self, node: Node) -> None:
        """Take requests."""
        self._node = node
        self._service: InstructionService | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quotes")
        self._pending = 0
        self._requests = QuoteRequests()
        # By default ten requests are kept, and of a burst the others never answered.
        self._server = node.create_service(
            self._requests.service, "~/quote", self._answer, qos_profile=INSTRUCTION_QOS
        )

    def attach(self, service: InstructionService) -> None:
        """Quote what this service would do from now on."""
        self._service = service
        self._requests.max_prompt_chars = service.max_prompt_chars

    def detach(self) -> None:
        """Give no quotes from now on."""
        self._service = None

    def destroy(self) -> None:
        """Take no requests any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._node.destroy_service(self._server)

    async def _answer(
        self, request: srv.Quote.Request, response: srv.Quote.Response
    ) -> srv.Quote.Response:
        service, executor = self._service, self._node.executor
        fault = self._requests.fault_of(request)
        if service is None or fault or executor is None:
            response.detail = fault or _UNCONFIGURED
            return response
        if self._pending >= _MOST_PENDING:
            response.detail = f"quotes: {_MOST_PENDING} are being computed already"
            return response
        done = Future()

        def compute() -> None:
            try:
                _fill(response, service, request)
            except JobStopped as stop:
                response.detail = harmless_line(stop.detail)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the client must hear of it
                response.detail = harmless_line(f"{type(failure).__name__}: {failure}")
            # Through the executor, which would not wake up for the future alone.
            executor.create_task(done.set_result, None)

        self._pending += 1
        try:
            self._thread.submit(compute)
            await done
        finally:
            self._pending -= 1
        return response


def _fill(
    response: srv.Quote.Response, service: InstructionService, request: srv.Quote.Request
) -> None:
    """Compute a quote, on the quotes' thread.

    Raises:
        JobStopped: there is none, for this reason.
    """
    quote = service.quote(request.instruction)
    response.promised = quote.promised
    response.in_time = quote.in_time
    if quote.expected_score is not None:
        response.expected_score = quote.expected_score
    response.enough = duration_msg(quote.enough)
    response.waiting = service.waiting
    response.plan = plan_msg(quote.plan, quote.predicted_prefill)
