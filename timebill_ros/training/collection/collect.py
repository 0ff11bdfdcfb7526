# SPDX-License-Identifier: Apache-2.0
"""Have a target answer prompts without eviction, and keep how long its answers are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from timebill_ros.engine.checkpoint import Checkpoint, target_fingerprint
from timebill_ros.engine.conversation import Conversation
from timebill_ros.engine.errors import ContextExceeded, PromptTooLong, RequestError
from timebill_ros.engine.protocol import Engine
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.predictor.errors import HeaderUnusable
from timebill_ros.training.collection.prompts import Prompt
from timebill_ros.training.predictor.pairs import (
    Pair,
    PairsHeader,
    check_header,
    header_path,
    iterate_pairs,
    pair_line,
    prompt_digest,
    read_header,
    write_header,
)

_LOG = logging.getLogger(__name__)


class Fate(StrEnum):
    """What became of one prompt."""

    ANSWERED = "answered"
    KNOWN = "known already"
    TOO_LONG = "too long for the context"
    REFUSED = "refused"


def describe_target(
    target_id: str, checkpoint: Checkpoint, settings: EngineSettings, longest_response: int
) -> PairsHeader:
    """The header of lengths that an engine with these settings is going to generate."""
    sampling = settings.sampling
    return PairsHeader(
        target_id=target_id,
        target=target_fingerprint(checkpoint.folder),
        longest_response=longest_response,
        decoding={
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(settings.stop),
            "chat_template": checkpoint.tokenizer.chat_template is not None,
            "max_tokens": longest_response,
            "alpha": 0.0,
        },
    )


def begin_or_go_on(output: Path, header: PairsHeader) -> set[str]:
    """Prepare a file of pairs; the digests of the prompts that it holds already.

    A last line that a crash tore is cut off.

    Raises:
        SettingsDiffer: the file was begun with another target or other settings.
        HeaderUnusable: it holds pairs, but what made them is not known.
        BadLine: it holds something else.
    """
    if header_path(output).exists():
        check_header(header_path(output), read_header(output), header)
    elif output.exists() and output.stat().st_size:
        raise HeaderUnusable(header_path(output), f"it is missing, but {output} is not empty")
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_header(output, header)
    if not output.exists():
        return set()
    _cut_torn_line(output)
    return {pair.digest for pair in iterate_pairs(output, header)}


def collect(
    engine: Engine, prompts: Iterable[Prompt], output: Path, header: PairsHeader
) -> Iterator[Fate]:
    """Answer prompts and append a line for each; yields what became of one after the other.

    Every line is on disk before its fate is told, so that nothing is generated twice. A prompt
    that the engine cannot take is logged and left out.

    Raises:
        PairsError: see ``begin_or_go_on``, and what reading the prompts raises.
        EngineError: the engine failed.
    """
    known = begin_or_go_on(output, header)
    with output.open("a", encoding="utf-8") as file:
        for prompt in prompts:
            try:
                pair = _answer(engine, prompt.conversation, known, header.longest_response)
            except RequestError as error:
                _LOG.warning("%s is left out: %s", prompt.source, error)
                too_long = isinstance(error, ContextExceeded | PromptTooLong)
                yield Fate.TOO_LONG if too_long else Fate.REFUSED
                continue
            if pair is None:
                yield Fate.KNOWN
                continue
            file.write(pair_line(pair))
            file.flush()
            known.add(pair.digest)
            yield Fate.ANSWERED


def _answer(
    engine: Engine, conversation: Conversation, known: set[str], longest_response: int
) -> Pair | None:
    """The pair of a prompt; None for one that is known."""
    request = engine.prepare(conversation)
    if prompt_digest(request.text) in known:
        return None
    engine.begin(request, longest_response)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return Pair(
        request.text, request.prompt_tokens, engine.response_tokens, engine.finish_reason.value
    )


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        _LOG.warning("%s: the last line was not written to its end and is cut off", path)
        with path.open("r+b") as file:
            file.truncate(whole)
