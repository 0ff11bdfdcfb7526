# SPDX-License-Identifier: Apache-2.0
"""Rendering an instruction with the model's chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.conversation import Conversation, Turn
from timebill_ros.engine.errors import ConversationRefused, PromptEmpty

# A number between them stands for a text; private characters, which no template holds.
_OPEN, _CLOSE = "\ue000", "\ue001"
_LEAST_LONGEST = 4  # characters; a vocabulary that names its tokens otherwise is not trusted below


def render_prompt(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> str:
    """The text that the model is to continue.

    With a chat template: the system message, if there is one, the turns, and the opening of the
    answer. Some templates refuse a system role; then it leads the first turn. Without a template,
    the texts are one per line, and nothing tells the turns apart.

    Raises:
        PromptEmpty: the turn to answer is blank.
        ConversationRefused: the template does not take the turns, in their order for example.
    """
    if not conversation.prompt.strip():
        raise PromptEmpty
    if tokenizer.chat_template is None:
        return "\n".join(conversation.texts)
    turns = [*conversation.turns, Turn("user", conversation.prompt)]
    if system := conversation.system:
        try:
            return _apply(tokenizer, [Turn("system", system), *turns])
        except TemplateError:
            turns[0] = replace(turns[0], content=f"{system}\n{turns[0].content}")
    try:
        return _apply(tokenizer, turns)
    except TemplateError as error:
        raise ConversationRefused(error) from error


def encode_prompt(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    """Tokens of the rendered prompt; only the template's own special tokens are special.

    A special token's name in one of the texts is text like any other: it can neither end the
    prompt nor open a turn. Half a surrogate pair is no character, and becomes "?".

    Raises:
        PromptEmpty, ConversationRefused: see ``render_prompt``.
    """
    conversation = conversation.with_texts(lambda text: text.encode(errors="replace").decode())
    rendered = render_prompt(tokenizer, conversation)
    # A chat template has put in the special tokens already.
    templated = tokenizer.chat_template is not None
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not any(name in text for name in names for text in conversation.texts):
        return list(tokenizer.encode(rendered, add_special_tokens=not templated))
    # The names in the frame are the template's. What stands between two of them is encoded as one
    # text, contents included, as it would be without names in the contents.
    texts = conversation.texts
    numbers = iter(range(len(texts)))
    frame = render_prompt(
        tokenizer, conversation.with_texts(lambda _: f"{_OPEN}{next(numbers)}{_CLOSE}")
    )
    ids: list[int] = []
    for part in _split(frame, names):
        text = re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda match: texts[int(match[1])], part)
        ids += tokenizer.encode(
            text, add_special_tokens=not templated, split_special_tokens=part not in names
        )
    return ids


def most_characters(tokenizer: PreTrainedTokenizerBase, tokens: int) -> int:
    """Characters that ``tokens`` tokens can hold: a longer text need not be encoded to be refused.

    Generous: a token counts with the characters of its vocabulary entry, where bytes have one each.
    """
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    return tokens * max(_LEAST_LONGEST, longest)


def _split(text: str, names: Sequence[str]) -> list[str]:
    """``text`` in pieces that are one of ``names`` or hold none, longer names first."""
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return [piece for piece in re.split(f"({either})", text) if piece]


def _apply(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)
