# SPDX-License-Identifier: Apache-2.0
"""Ask a running node one thing, with a deadline, and watch the answer grow."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from timebill_ros.cli.argument_types import node_name, positive_seconds
from timebill_ros.client.client import InstructionClient, NodeAbsent
from timebill_ros.client.exchange import Exchange
from timebill_ros.client.record import Ending, Record
from timebill_ros.msg import Instruction
from timebill_ros.node.conversions import duration_msg
from timebill_ros.runtime.harmless import harmless_text
from timebill_ros.runtime.settings import Settings

# How long a late answer, or the news that there is none, may take beyond the deadline, s.
_SPARE = 60.0
# How long a canceled goal may take to end, s.
_CANCELING = 10.0
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Send one instruction as a goal and print what becomes of it.

    Returns:
        0 if it was answered in time, 130 if it was interrupted, and so canceled, otherwise 1.
    """
    options = _parser().parse_args(arguments)
    instruction = Instruction(
        id=f"ask-{uuid.uuid4().hex[:8]}",
        system=_text_or_file(options.system),
        prompt=options.prompt,
        budget=duration_msg(options.budget),
        max_tokens=options.max_tokens,
        response_schema=options.schema or "",
    )
    printed = GrowingText()
    try:
        with InstructionClient(server=options.node) as client:
            client.wait_for_node(options.wait)
            watch = (lambda feedback: printed.show(feedback.text)) if options.stream else None
            longest = (options.budget or Settings().default_budget) + _SPARE
            with _interrupt() as interrupted:
                exchange = client.send(instruction, on_feedback=watch)
                client.wait_until(lambda: exchange.done() or interrupted.is_set(), longest)
                if interrupted.is_set():
                    exchange.cancel()
                    client.wait_for(exchange, timeout=_CANCELING)
    except NodeAbsent as absent:
        print(f"ask: {absent}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    status = _tell(exchange, printed)
    return _INTERRUPTED if interrupted.is_set() else status


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, where an exception could cut a printed part in two."""
    seen = threading.Event()

    def note(*_: object) -> None:
        seen.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)


class GrowingText:
    """Prints a text that grows, each part of it once."""

    def __init__(self) -> None:
        """Nothing is printed yet."""
        self._shown = ""

    def show(self, text: str) -> None:
        """Print what is new."""
        if self._shown.startswith(text):
            return  # What was shown and is cut off again, as at a stop string, cannot be unprinted.
        if text.startswith(self._shown):
            print(harmless_text(text[len(self._shown) :]), end="", flush=True)
        else:
            # Another end than was shown, as where a schema is closed at the deadline.
            print(f"\n{harmless_text(text)}", end="", flush=True)
        self._shown = text

    def end(self) -> None:
        """End the line, if there is one."""
        if self._shown:
            print(flush=True)


def _tell(exchange: Exchange, printed: GrowingText) -> int:
    """Print the rest of the text, then how the exchange ended; 0 if it was answered in time."""
    record = exchange.record()
    if record is None or record.ending is Ending.MISSING:
        printed.end()
        print("ask: the node has not said how the instruction ended", file=sys.stderr)
        return 1
    printed.show(record.text)
    printed.end()
    if record.detail:
        print(f"{record.ending}: {record.detail}", file=sys.stderr)
    print(account(record), file=sys.stderr)
    return 0 if record.ending is Ending.IN_TIME else 1


def account(record: Record) -> str:
    """What was planned and what was measured, in one line."""
    parts = [f"[{record.ending}]"]
    if (plan := record.plan) is not None:
        predicted = f"predicted {plan.predicted_tokens}" if plan.predicted_tokens else "unpredicted"
        score = "" if plan.score is None else f" (where answers score {plan.score:.0f} of 100)"
        risk = "" if plan.risk is None else f" at a risk of {plan.risk:.3f}"
        if plan.expected_score is not None:
            score += f" (expected score {plan.expected_score:.0f})"
        selected = "" if plan.rho >= 1.0 else f" (selected, {plan.rho:.0%} of it)"
        parts += [
            f"alpha {plan.alpha:.2f}{score}",
            f"prompt {record.prompt_tokens} tokens{selected}",
            f"response {record.response_tokens} tokens ({predicted}, "
            f"planned for {plan.planned_tokens}{risk})",
            f"time {record.execution:.3f} s (predicted {plan.predicted_time:.3f}, "
            f"worst case {plan.wcet:.3f})",
        ]
    stages = ("queued", "prefill", "predict", "evict", "decode")
    spent = {name: getattr(record.timing, name) for name in stages}
    parts += [f"{name} {value:.3f} s" for name, value in spent.items() if value > 0.0]
    return ", ".join([*parts, f"slack {record.timing.slack:+.3f} s"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", help="the instruction")
    parser.add_argument("--system", default="", help="system message, or a file that holds it")
    parser.add_argument(
        "--budget",
        type=positive_seconds,
        default=0.0,
        help="s until the deadline (the node's default)",
    )
    parser.add_argument(
        "--max-tokens", type=_tokens, default=0, help="longest answer (the node's default)"
    )
    parser.add_argument("--schema", type=_file, metavar="FILE", help="JSON schema of the answer")
    parser.add_argument(
        "--no-stream", dest="stream", action="store_false", help="print the answer once it is whole"
    )
    parser.add_argument("--node", type=node_name, default="/llm", help="name of the node")
    parser.add_argument(
        "--wait", type=positive_seconds, default=10.0, help="s to wait for the node to be there"
    )
    return parser


def _tokens(text: str) -> int:
    value = int(text)
    if not 0 < value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of tokens")
    return value


def _file(name: str) -> str:
    """The content of a file that must be there."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be read: {error}") from error


def _text_or_file(text: str) -> str:
    """The content of the file of that name, where there is one; otherwise the text itself."""
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return text


if __name__ == "__main__":
    sys.exit(main())
