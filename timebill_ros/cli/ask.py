# SPDX-License-Identifier: Apache-2.0
"""Ask a running node one thing, with a deadline, and watch the answer grow."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import timebill_ros.msg as msg
from timebill_ros.cli.arguments import node_name, positive_seconds
from timebill_ros.client.client import InstructionClient, NodeAbsent
from timebill_ros.client.exchange import Exchange
from timebill_ros.client.record import Ending, Planned, Record
from timebill_ros.engine.request import SamplingOverride
from timebill_ros.node.command_line import command_parser, parse_with_ros_arguments
from timebill_ros.node.conversions import duration_msg, sampling_fields
from timebill_ros.runtime.harmless import harmless_line, harmless_text
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
    parser = _parser()
    options = parse_with_ros_arguments(parser, sys.argv[1:] if arguments is None else arguments)
    try:
        prompt, turns = conversation(options.prompt, options.file, options.messages)
        sampling = sampling_asked(options)
    except ValueError as fault:
        parser.error(harmless_line(str(fault)))
    instruction = msg.Instruction(
        id=f"ask-{uuid.uuid4().hex[:8]}",
        system=text_or_file(options.system) or (turns.pop(0)["content"] if opened(turns) else ""),
        prompt=prompt,
        messages=[msg.ChatMessage(**turn) for turn in turns],
        budget=duration_msg(options.budget),
        max_tokens=options.max_tokens,
        response_schema=options.schema or "",
        **sampling_fields(sampling),
    )
    printed = GrowingText()
    try:
        ros = options.given_ros_arguments
        with InstructionClient(server=options.node, ros_arguments=ros) as client:
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
        print(f"ask: {harmless_line(str(absent))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    status = _tell(exchange, printed)
    return _INTERRUPTED if interrupted.is_set() else status


def sampling_asked(options: argparse.Namespace) -> SamplingOverride:
    """What the options set of the sampling.

    Raises:
        ValueError: a value is out of its bounds.
    """
    stop = None if options.stop is None else tuple(filter(None, options.stop))
    sampling = SamplingOverride(options.temperature, options.top_p, options.seed, stop)
    if fault := sampling.fault():
        raise ValueError(fault)
    return sampling


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
    """Prints a text that grows, each part of it once, and the whole where its end was another."""

    def __init__(self) -> None:
        """Nothing is printed yet."""
        self._shown = ""

    def show(self, text: str) -> None:
        """Print what is new; what is cut off again may come back."""
        if not self._shown.startswith(text):
            self._print(text)

    def end(self, text: str | None) -> None:
        """Print the rest of the text as it was answered.

        What was shown cannot be unprinted: where the answer is not that and more, as one that was
        cut back to its last whole sentence at the deadline, it follows as a whole, and stderr says
        so. None stands for an answer that is not known.
        """
        if text is not None and not text.startswith(self._shown):
            print(flush=True)
            print("ask: cut back at its end; the answer is:", file=sys.stderr, flush=True)
            self._shown = ""
        if text is not None:
            self._print(text)
        if self._shown:
            print(flush=True)

    def _print(self, text: str) -> None:
        if text.startswith(self._shown):
            print(harmless_text(text[len(self._shown) :]), end="", flush=True)
        else:
            print(f"\n{harmless_text(text)}", end="", flush=True)
        self._shown = text


def _tell(exchange: Exchange, printed: GrowingText) -> int:
    """Print the rest of the text, then how the exchange ended; 0 if it was answered in time."""
    record = exchange.record()
    if record is None or record.ending is Ending.MISSING:
        printed.end(None)
        print("ask: the node has not said how the instruction ended", file=sys.stderr)
        return 1
    printed.end(record.text)
    if record.detail:
        print(f"{record.ending}: {harmless_line(record.detail)}", file=sys.stderr)
    print(account(record), file=sys.stderr)
    return 0 if record.ending is Ending.IN_TIME else 1


def account(record: Record) -> str:
    """What was planned and what was measured, in one line."""
    truncated = f"{record.ending}, truncated" if record.truncated else f"{record.ending}"
    parts = [f"[{truncated}]"]
    if (plan := record.plan) is not None:
        score = "" if plan.score is None else f" (where answers score {plan.score:.0f} of 100)"
        if plan.expected_score is not None:
            score += f" (expected score {plan.expected_score:.0f})"
        late = f" from token {plan.evicted_at}" if plan.evicted_at > 1 else ""
        selected = "" if plan.rho >= 1.0 else f" (selected, {plan.rho:.0%} of it)"
        selected += f" ({plan.reused_tokens} reused)" if plan.reused_tokens else ""
        beyond = "" if plan.feasible else ", more than the budget left: no plan could promise it"
        if plan.model:
            parts.append(f"model {harmless_line(plan.model)}")
        parts += [
            f"alpha {plan.alpha:.2f}{late}{score}",
            f"prompt {record.prompt_tokens} tokens{selected}",
            f"response {record.response_tokens} tokens ({_expected(plan)})",
            f"time {record.execution:.3f} s (predicted {plan.predicted_time:.3f}, "
            f"worst case {plan.wcet:.3f}{beyond})",
        ]
    stages = ("queued", "prefill", "predict", "evict", "decode")
    spent = {name: getattr(record.timing, name) for name in stages}
    parts += [f"{name} {value:.3f} s" for name, value in spent.items() if value > 0.0]
    return ", ".join([*parts, f"slack {record.timing.slack:+.3f} s"])


def _expected(plan: Planned) -> str:
    """How long an answer was expected and planned for."""
    predicted = f"predicted {plan.predicted_tokens}" if plan.predicted_tokens else "no prediction"
    if plan.risk is None:
        return f"{predicted}, planned for {plan.planned_tokens}"
    if plan.risk == 0.0:
        return f"{predicted}, planned for {plan.planned_tokens}, the most that it may have"
    return f"{predicted}, planned for {plan.planned_tokens}, {plan.risk:.1%} of answers are longer"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("ask", __doc__)
    parser.add_argument("prompt", nargs="?", help="the instruction; -: from standard input")
    parser.add_argument(
        "--file", type=_file, metavar="FILE", help="file that holds the instruction instead"
    )
    parser.add_argument(
        "--messages",
        type=_file,
        metavar="FILE",
        help="JSON array of turns, {role, content} each: a system message, if any, then user's and "
        "assistant's, oldest first; without an instruction, the last one is it",
    )
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
    parser.add_argument(
        "--temperature", type=float, help="sampling temperature; 0: greedy (the node's default)"
    )
    parser.add_argument(
        "--top-p", type=float, help="share of probability to draw from (the node's default)"
    )
    parser.add_argument("--seed", type=int, help="seed of the sampling (the node's default)")
    parser.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="string that ends the answer; may be given again; '': none (the node's default)",
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
    value = int(text) if text.isdecimal() else 0
    if not 0 < value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of tokens")
    return value


def _file(name: str) -> str:
    """The content of a file that must be there."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be read: {error}") from error


def text_or_file(text: str) -> str:
    """The content of the file of that name, where there is one; otherwise the text itself."""
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return text


def conversation(
    prompt: str | None, file: str | None, messages: str | None
) -> tuple[str, list[dict[str, str]]]:
    """The instruction, and the turns before it.

    Args:
        prompt: as it was given; "-" stands for standard input.
        file: the content of a file that holds it instead.
        messages: JSON of the turns.

    Raises:
        ValueError: there is no instruction, or more than one; the turns are none.
    """
    if prompt is not None and file is not None:
        raise ValueError("the instruction is given twice: by itself and with --file")
    text = sys.stdin.read() if prompt == "-" else (file if prompt is None else prompt)
    turns = _turns(messages) if messages is not None else []
    if text is None and turns and turns[-1]["role"] == "user":
        text = turns.pop()["content"]
    if text is None:
        raise ValueError("there is no instruction: give it, - or --file FILE")
    return text, turns


def opened(turns: list[dict[str, str]]) -> bool:
    """Whether a system message opens them."""
    return bool(turns) and turns[0]["role"] == "system"


def _turns(messages: str) -> list[dict[str, str]]:
    """Turns out of JSON.

    Raises:
        ValueError: they are none; the message says which.
    """
    try:
        turns = json.loads(messages)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"--messages: not JSON: {fault}") from None
    if not isinstance(turns, list):
        raise ValueError("--messages: not an array of turns")
    for number, turn in enumerate(turns, start=1):
        whole = isinstance(turn, dict) and turn.keys() == {"role", "content"}
        if not whole or not all(isinstance(value, str) for value in turn.values()):
            raise ValueError(f"--messages: turn {number} is not {{role, content}}, both strings")
    return turns


if __name__ == "__main__":
    sys.exit(main())
