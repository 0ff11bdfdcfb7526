# SPDX-License-Identifier: Apache-2.0
"""The managed node: instructions in, responses and overruns out."""

from __future__ import annotations

import logging
import threading
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from timebill_ros.node.diagnostics import Diagnostics
from timebill_ros.node.instruct_action import InstructAction
from timebill_ros.node.instruction_service import InstructionService, ServiceSetup
from timebill_ros.node.managed_node import ManagedNode
from timebill_ros.node.parameters import Parameters
from timebill_ros.node.quote_service import QuoteService
from timebill_ros.runtime.harmless import HarmlessFormatter, harmless_line

PACKAGE_LOGGER = logging.getLogger("timebill_ros")


class NodeLogHandler(logging.Handler):
    """Hands records to a node's logger, at their level."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Hand records to ``logger``."""
        super().__init__()
        self.setFormatter(HarmlessFormatter())
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; one that cannot be told goes to stderr and costs its sender nothing."""
        try:
            self._log(record.levelno, self.format(record))
        except Exception:  # noqa: BLE001 - logging must not cost its sender anything
            self.handleError(record)

    def _log(self, level: int, text: str) -> None:
        # rclpy ties a severity to the place of the call, so each level needs a line of its own.
        if level >= logging.ERROR:
            self._logger.error(text)
        elif level >= logging.WARNING:
            self._logger.warning(text)
        elif level >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


# Progress of configuring is logged when it has come this much further, as a share.
_REPORT_STEP = 0.1
_NOTHING = -1.0


class LlmNode(ManagedNode):
    """Answers instructions in time, while it is active.

    Configuring loads, profiles and warms up on a thread of its own. Everything else is instant:
    callbacks hand work to the engine's thread and never compute.

    Attributes:
        ending: set from outside to have the process end; a configuration under way gives up.
    """

    def __init__(self, ending: threading.Event | None = None, **node_options: Any) -> None:
        """An unconfigured node: parameters are declared, nothing is loaded."""
        super().__init__("llm", **node_options)
        PACKAGE_LOGGER.setLevel(logging.INFO)
        self._log_handler = NodeLogHandler(self.get_logger())
        PACKAGE_LOGGER.addHandler(self._log_handler)
        self.ending = ending or threading.Event()
        self._canceled = threading.Event()
        self._setup: ServiceSetup | None = None
        self._service: InstructionService | None = None
        self._settings = Parameters(self)
        self._reported = _NOTHING
        self._diagnostics = Diagnostics(self)
        self._action = InstructAction(self)
        self._quotes = QuoteService(self)

    def begin_loading(self) -> None:
        """Read the parameters and create the topics for outcomes."""
        self._canceled.clear()
        self._reported = _NOTHING
        settings = self._settings.read()
        self._setup = ServiceSetup(self, settings)
        # What may change while the node is in use may change now too, and counts in the end.
        self._settings.attach(lambda _: None)

    def load(self) -> None:
        """Load the model and the predictor, profile, warm up."""
        self._set_up.load(self._report)

    def finish_loading(self) -> None:
        """Open the instructions' topic and the action."""
        self._service = service = InstructionService(self, self._set_up)
        settings = self._settings.read()
        service.apply(settings)
        self._settings.attach(service.apply)
        self._action.attach(service)
        self._quotes.attach(service)
        self._diagnostics.watch(service.reports, service.device, settings.diagnostics_period)
        self._diagnostics.enter("inactive")

    def loading_failed(self, failure: Exception) -> None:
        """Say why, and give back what there was; what was asked for is no failure."""
        told = harmless_line(str(failure))
        asked = self._canceled.is_set() or self.ending.is_set()
        if not asked:
            self.get_logger().error(f"configuring failed: {told}")
        self.release()
        if asked:
            self._diagnostics.enter("unconfigured")
        else:
            self._diagnostics.failed(told)

    def cancel_loading(self) -> None:
        """Have loading give up at its next step."""
        self._canceled.set()

    def settle(self, *, release: bool) -> None:
        """Announce what is in flight as canceled once the engine has stopped."""
        if (service := self._service) is not None:
            service.close()
        if release and (setup := self._setup) is not None:
            setup.end()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept instructions."""
        result = super().on_activate(state)
        if self._service is not None:
            self._service.open()
        self._diagnostics.enter("active")
        topic = self.resolve_topic_name("~/input/instruction")
        self.get_logger().info(f"active: instructions are taken on {topic}")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Announce what is in flight as canceled, then accept no more."""
        if self._service is not None:
            self._service.close()
        self._diagnostics.enter("inactive")
        self.get_logger().info("inactive: instructions are rejected")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the memory back."""
        self.release()
        self._diagnostics.enter("unconfigured")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Announce what is in flight and give the memory back, from whatever state."""
        self.release()
        self._diagnostics.enter("finalized")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, with nothing held."""
        self.release()
        self._diagnostics.enter("unconfigured")
        return super().on_error(state)

    def release(self) -> None:
        """Announce what is in flight and give the memory back; the node takes nothing any more.

        The results of goals that this ends leave while the node is spun on: see ``goals_pending``.
        """
        self.stop_loading()
        setup, self._setup = self._setup, None
        service, self._service = self._service, None
        self._settings.detach()
        self._action.detach()
        self._quotes.detach()
        self._diagnostics.unwatch()
        if service is not None:
            service.destroy()
        elif setup is not None:
            setup.release()

    @property
    def goals_pending(self) -> int:
        """Goals of the action that have not got their result yet."""
        return self._action.pending

    def destroy_node(self) -> None:
        """Release what a shutdown without transition left behind."""
        self.release()
        self._action.destroy()
        self._quotes.destroy()
        self._diagnostics.destroy()
        PACKAGE_LOGGER.removeHandler(self._log_handler)
        super().destroy_node()

    @property
    def _set_up(self) -> ServiceSetup:
        if self._setup is None:
            raise InterruptedError("configuring was given up")
        return self._setup

    def _report(self, share: float, doing: str) -> None:
        """Tell how far configuring has come; on the thread that waits for it."""
        if self.ending.is_set():
            raise InterruptedError("the node is ending")
        if self._canceled.is_set():
            raise InterruptedError("it was canceled")
        ends = share in (0.0, 1.0) and share != self._reported
        if ends or share >= self._reported + _REPORT_STEP:
            self.get_logger().info(f"[{share:4.0%}] {doing}")
            self._reported = share
        self._diagnostics.configuring(share, doing)
