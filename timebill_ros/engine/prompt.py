# SPDX-License-Identifier: Apache-2.0
"""Rendering an instruction with the model's chat template."""

from __future__ import annotations

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.errors import PromptEmpty

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


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a rendered prompt; a chat template has put in the special tokens already."""
    templated = tokenizer.chat_template is not None
    # Half a surrogate pair is no character, and tokenizers refuse the whole text for it.
    characters = text.encode(errors="replace").decode()
    return list(tokenizer.encode(characters, add_special_tokens=not templated))


def most_characters(tokenizer: PreTrainedTokenizerBase, tokens: int) -> int:
    """Characters that ``tokens`` tokens can hold: a longer text need not be encoded to be refused.

    Generous: a token counts with the characters of its vocabulary entry, where bytes have one each.
    """
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    return tokens * max(_LEAST_LONGEST, longest)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)
