# SPDX-License-Identifier: Apache-2.0
"""The service ``~/quote``: what an instruction could be promised, told without running it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

import timebill_ros.srv as srv
from timebill_ros.node.conversions import duration_msg, plan_msg
from timebill_ros.node.goal_requests import QuoteRequests
from timebill_ros.node.instruction_service import InstructionService
from timebill_ros.node.topics import INSTRUCTION_QOS
from timebill_ros.runtime.admission import is_light
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped

# Quotes that are computed or wait for it on one thread; one more is refused, so that none is older
# than a moment.
_MOST_PENDING = 16
_UNCONFIGURED = "the node is not configured"


class _QuotesThread:
    """Computes quotes one after the other."""

    def __init__(self) -> None:
        self.pending = 0
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="quotes")


class QuoteService:
    """Answers from threads of its own, which tokenise; the executor's only passes on.

    One of the two computes only what takes a moment, so that a schema that compiles for seconds,
    or a long prompt, keeps no other client waiting.

    It lives as long as the node; without a configured service there is no quote.
    """

    def __init__(self, node: Node) -> None:
        """Take requests."""
        self._node = node
        self._service: InstructionService | None = None
        self._light, self._heavy = _QuotesThread(), _QuotesThread()
        self._requests = QuoteRequests()
        # By default ten requests are kept, and of a burst the others never answered. And a quote in
        # the making would keep all that the node receives waiting, instructions too.
        self._server = node.create_service(
            self._requests.service,
            "~/quote",
            self._answer,
            qos_profile=INSTRUCTION_QOS,
            callback_group=ReentrantCallbackGroup(),
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
        for thread in (self._light, self._heavy):
            thread.pool.shutdown(wait=True, cancel_futures=True)
        self._node.destroy_service(self._server)

    async def _answer(
        self, request: srv.Quote.Request, response: srv.Quote.Response
    ) -> srv.Quote.Response:
        service, executor = self._service, self._node.executor
        fault = self._requests.fault_of(request)
        if service is None or fault or executor is None:
            response.detail = fault or _UNCONFIGURED
            return response
        try:
            job = service.job_to_quote(request.instruction)
        except JobStopped as stop:
            response.detail = harmless_line(stop.detail)
            return response
        thread = self._light if is_light(job) else self._heavy
        if thread.pending >= _MOST_PENDING:
            response.detail = f"quotes: {_MOST_PENDING} are being computed already"
            return response
        done = Future()

        def compute() -> None:
            try:
                _fill(response, service, job)
            except JobStopped as stop:
                response.detail = harmless_line(stop.detail)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the client must hear of it
                response.detail = harmless_line(f"{type(failure).__name__}: {failure}")
            # Through the executor, which would not wake up for the future alone.
            executor.create_task(done.set_result, None)

        thread.pending += 1
        try:
            thread.pool.submit(compute)
            await done
        finally:
            thread.pending -= 1
        return response


def _fill(response: srv.Quote.Response, service: InstructionService, job: Job) -> None:
    """Compute a quote, on one of the quotes' threads.

    Raises:
        JobStopped: there is none, for this reason.
    """
    quote = service.quote(job)
    response.promised = quote.promised
    response.in_time = quote.in_time
    if quote.expected_score is not None:
        response.expected_score = quote.expected_score
    response.enough = duration_msg(quote.enough)
    response.waiting = service.waiting
    response.plan = plan_msg(quote.plan, quote.predicted_prefill)
