# SPDX-License-Identifier: Apache-2.0
"""Rendering an instruction with the model's chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.errors import PromptEmpty

# Stand for the contents; private characters, which no template holds.
_SYSTEM, _PROMPT = "\ue000", "\ue001"
_LEAST_LONGEST = 4  # characters; a vocabulary that names its tokens otherwise is not trusted below


def render_prompt(tokenizer: PreTrainedTokenizerBase, system: str, prompt: str) -> str:
    """The text that the model is to continue.

    With a chat template: a system message (if ``system`` is not empty), a user message, and the
    opening of the answer. Some templates refuse a system role; then it leads the user message, as
    it leads the prompt of a model without a template.

    Raises:
        PromptEmpty: ``prompt`` is blank.
    """
    if not prompt.strip():
        raise PromptEmpty
    joined = f"{system}\n{prompt}" if system else prompt
    if tokenizer.chat_template is None:
        return joined
    if system:
        roles = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        try:
            return _apply(tokenizer, roles)
        except TemplateError:
            pass
    return _apply(tokenizer, [{"role": "user", "content": joined}])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, system: str, prompt: str) -> list[int]:
    """Tokens of the rendered prompt; only the template's own special tokens are special.

    A special token's name in ``system`` or ``prompt`` is text like any other: it can neither end
    the prompt nor open a turn. Half a surrogate pair is no character, and becomes "?".

    Raises:
        PromptEmpty: ``prompt`` is blank.
    """
    system, prompt = (text.encode(errors="replace").decode() for text in (system, prompt))
    rendered = render_prompt(tokenizer, system, prompt)
    # A chat template has put in the special tokens already.
    templated = tokenizer.chat_template is not None
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not any(name in text for name in names for text in (system, prompt)):
        return list(tokenizer.encode(rendered, add_special_tokens=not templated))
    # The names in the frame are the template's. What stands between two of them is encoded as one
    # text, contents included, as it would be without names in the contents.
    stand_in = {_SYSTEM: system, _PROMPT: prompt}
    frame = render_prompt(tokenizer, _SYSTEM if system else "", _PROMPT)
    ids: list[int] = []
    for part in _split(frame, names):
        text = re.sub(f"{_SYSTEM}|{_PROMPT}", lambda match: stand_in[match[0]], part)
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


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)
