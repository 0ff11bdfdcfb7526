# SPDX-License-Identifier: Apache-2.0
"""How a server is asked: the request in OpenAI's form, and what holds its answer to a schema."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from timebill_ros.engine.complete_prefix import ANY_WORDS, MOST_CLOSINGS, closings
from timebill_ros.engine.errors import EngineMisuse
from timebill_ros.engine.json_schema import SchemaCheck, check_schema, read_schema
from timebill_ros.engine.request import Conversation, PreparedRequest, SamplingOverride
from timebill_ros.engine.served.flavors import Flavor

_TURN = 8  # tokens that a chat template puts around one text
_PER_CHARACTER = 0.3  # tokens, before the server has counted any


@dataclass(frozen=True)
class ServedModel:
    """What a server runs, and how it is asked.

    Attributes:
        name: the model, as the server calls it.
        flavor: what the server understands.
        max_context: most tokens of prompt and response together.
        window: the last prompt tokens, which selection keeps.
        sampling: of requests that set none; every value set.
        priority: the server schedules by priority.
    """

    name: str
    flavor: Flavor
    max_context: int
    window: int
    sampling: SamplingOverride
    priority: bool = False


@dataclass(frozen=True)
class HeldToSchema:
    """What holds a response to its schema: the schema for the server, the check for us."""

    schema: Mapping[str, Any]
    check: SchemaCheck

    @classmethod
    def read(cls, text: str) -> HeldToSchema:
        """From the schema's text.

        Raises:
            SchemaRefused: it is none.
        """
        schema = read_schema(text)
        check_schema(schema)
        return cls(schema, SchemaCheck(schema))

    def closed(self, text: str) -> str:
        """The longest beginning of ``text`` that, closed, satisfies the schema; "" for none."""
        raw = text.encode()
        for closing in islice(closings(raw), MOST_CLOSINGS):
            found = closing.closed(raw)
            if self.check.violation(found):
                continue
            # Half a name is another name: only free text may go on with any word.
            goes_on = (closing.closed(raw, word) for word in ANY_WORDS if closing.prose)
            if not any(map(self.check.violation, goes_on)):
                return found.lstrip()
        return ""


class TokenEstimate:
    """How many tokens a text has, where only the server knows: from what it counted so far.

    May be used from any thread.
    """

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._lock = threading.Lock()
        self._per_character = _PER_CHARACTER

    def __call__(self, conversation: Conversation) -> int:
        """Tokens of the conversation with its template, at least 1."""
        texts = conversation.texts
        with self._lock:
            return math.ceil(sum(map(len, texts)) * self._per_character) + _TURN * len(texts)

    def observe(self, conversation: Conversation, tokens: int) -> None:
        """The server counted so many; a quarter of the difference is taken over."""
        texts = conversation.texts
        characters = sum(map(len, texts))
        if characters == 0 or tokens == 0:
            return
        counted = max(0.0, tokens - _TURN * len(texts)) / characters
        with self._lock:
            self._per_character += 0.25 * (counted - self._per_character)


def request_body(
    model: ServedModel,
    request: PreparedRequest,
    max_tokens: int,
    request_id: str,
    *,
    ignore_eos: bool = False,
) -> dict[str, Any]:
    """The request in OpenAI's form, with what this server understands beyond it.

    Raises:
        EngineMisuse: it was prepared by another engine.
    """
    flavor, expected = model.flavor, request.expected
    said, held = request.conversation, request.constraint
    sampling = replace(model.sampling, **request.sampling.chosen())
    if said is None or not isinstance(held, HeldToSchema | None):
        raise EngineMisuse("the request was prepared by another engine")
    if expected is not None and expected.most_tokens is not None:
        max_tokens = min(max_tokens, max(1, expected.most_tokens))
    body: dict[str, Any] = {
        "model": model.name,
        "messages": _messages(said),
        "stream": True,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        **flavor.counting(),
        **flavor.naming(request_id),
    }
    if sampling.temperature:
        body |= {"top_p": sampling.top_p, "seed": sampling.seed}
    if held is not None:
        answer = {"name": "answer", "schema": held.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": answer}
    elif sampling.stop:
        body["stop"] = list(sampling.stop)
    if ignore_eos and flavor.ignores_eos:
        body["ignore_eos"] = True
    if expected is not None:
        body |= flavor.hints(expected, priority=model.priority)
    return body


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    """The conversation in OpenAI's form."""
    messages = [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
    if conversation.system:
        messages.insert(0, {"role": "system", "content": conversation.system})
    return [*messages, {"role": "user", "content": conversation.prompt}]
