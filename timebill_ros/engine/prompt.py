# SPDX-License-Identifier: Apache-2.0
"""From a conversation to the prompt's text and tokens, by the model's chat template."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from jinja2 import TemplateError
from transformers import AddedToken, PreTrainedTokenizerBase

from timebill_ros.engine.errors import ConversationRefused, PromptEmpty, PromptTooLong
from timebill_ros.engine.request import Conversation, Turn

_LOG = logging.getLogger(__name__)

_PRIVATE = range(0xE000, 0xF8FF)  # characters without a meaning, which no template holds
_LEAST_LONGEST = 4  # characters; a vocabulary that names its tokens otherwise is not trusted below
_BEGINNING = 16  # characters that show what a tokenizer adds to any text
_PROBE = "Zqj7"  # a word that no template writes by itself


class PromptEncoder:
    """Renders and tokenises conversations, on any thread.

    Only the template's own markers are marker tokens. What a text says is text: it can neither end
    the prompt nor open a turn, whether it names a marker or a normaliser would make one of it.

    Args:
        tokenizer: the model's, with its chat template if it has one.
        max_tokens: most tokens that a prompt can have.

    Attributes:
        max_chars: a conversation of more characters has more tokens than that, see
            ``most_characters``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.max_chars = most_characters(tokenizer, max_tokens)
        self._max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # the tokenizer keeps whether special tokens are split
        self._vocabulary = tokenizer.get_vocab()
        self._takes_system = self._keeps_the_system_text()
        self._markers = self._find_markers()
        # Any text may come to hold the token for what is not in the vocabulary.
        unknown = {tokenizer.unk_token_id}
        self._marker_ids = frozenset(self._id(name) for name in self._markers) - unknown
        either = _alternatives(self._markers)
        self._splitter = re.compile(f"({either})")
        self._beginning = re.compile(f"(?={either})(.)", re.DOTALL)

    def encode(self, conversation: Conversation) -> tuple[str, list[int]]:
        """The rendered prompt and its tokens.

        Half a surrogate pair is no character, and becomes "?".

        Raises:
            PromptEmpty: the turn to answer is blank.
            PromptTooLong: it has more characters or turns than ``max_tokens`` tokens can hold.
            ConversationRefused: the template does not take the turns, in their order for example.
        """
        self._check_size(conversation)
        conversation = conversation.with_texts(lambda text: text.encode(errors="replace").decode())
        guard = _unused_character(conversation.texts)
        rendered = self._render(conversation.with_texts(lambda text: self._guarded(text, guard)))
        text = rendered.replace(guard, "")
        before, after = self._added(text) if self._tokenizer.chat_template is None else ([], [])
        if guard not in rendered:
            tokens = self._tokens(text)
            if self._marked(tokens) == self._written(text):
                return text, [*before, *tokens, *after]
        return text, [*before, *self._piece_by_piece(rendered, guard), *after]

    def without_middle(self, text: str, most: int) -> str:
        """A text of at most ``most`` tokens: the first and the last half of them."""
        tokens = self._tokens(text)
        if len(tokens) <= most:
            return text
        half = most // 2
        return self._text(tokens[:half]) + self._text(tokens[len(tokens) - half :])

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _check_size(self, conversation: Conversation) -> None:
        turns = 1 + len(conversation.turns)
        if turns > self._max_tokens:
            raise PromptTooLong(turns, "turns", self._max_tokens)
        characters = sum(map(len, conversation.texts))
        if characters > self.max_chars:
            raise PromptTooLong(characters, "characters", self.max_chars)
        if not conversation.prompt.strip():
            raise PromptEmpty

    def _render(self, conversation: Conversation) -> str:
        """The text that the model is to continue.

        With a chat template: the system message, if there is one, the turns, and the opening of the
        answer. Some templates refuse or drop a system role; then it leads the first turn. Without a
        template, the texts are one per line, and nothing tells the turns apart.
        """
        if self._tokenizer.chat_template is None:
            return "\n".join(conversation.texts)
        turns = [*conversation.turns, Turn("user", conversation.prompt)]
        if system := conversation.system:
            if self._takes_system:
                try:
                    return self._apply([Turn("system", system), *turns])
                except TemplateError:  # it may take one before other turns only
                    pass
            turns[0] = replace(turns[0], content=f"{system}\n{turns[0].content}")
        try:
            return self._apply(turns)
        except TemplateError as error:
            raise ConversationRefused(error) from error

    def _apply(self, turns: Sequence[Turn]) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return str(text)

    def _keeps_the_system_text(self) -> bool:
        """Whether the template has a place for a system message; one without may just drop it."""
        if self._tokenizer.chat_template is None:
            return True
        try:
            kept = _PROBE in self._apply([Turn("system", _PROBE), Turn("user", "x")])
        except TemplateError:
            kept = False
        if not kept:
            _LOG.info("the chat template has no system role: the system text leads the first turn")
        return kept

    def _find_markers(self) -> dict[str, AddedToken]:
        """The tokens that must not come of a text, by name.

        Special ones, and of the others those that the template itself writes: where a template's
        markers are not declared special, they are told by that.
        """
        turns = [Turn("user", "x"), Turn("assistant", "x"), Turn("user", "x")]
        written = ""
        if self._tokenizer.chat_template is not None:
            try:
                written = self._apply(turns)
            except TemplateError:
                written = str(self._tokenizer.chat_template)
        return {
            token.content: token
            for token in self._tokenizer.added_tokens_decoder.values()
            if token.special or (len(token.content.strip()) > 1 and token.content in written)
        }

    def _guarded(self, text: str, guard: str) -> str:
        """``text`` with a character in each marker's name, so that it names none."""
        return self._beginning.sub(lambda first: f"{first[1]}{guard}", text)

    def _written(self, text: str) -> list[int]:
        """The markers whose names stand in ``text``."""
        written = [self._id(name) for name in self._splitter.findall(text)]
        return [token for token in written if token in self._marker_ids]

    def _marked(self, tokens: Sequence[int]) -> list[int]:
        """The markers among tokens."""
        return [token for token in tokens if token in self._marker_ids]

    def _piece_by_piece(self, rendered: str, guard: str) -> list[int]:
        """Tokens of a prompt whose texts name markers: those that stand whole are the template's.

        What stands between two of them is encoded as one text, as it would be without the names.
        """
        tokens: list[int] = []
        pieces = self._splitter.split(rendered)  # texts and names in turn
        for index in range(0, len(pieces), 2):
            piece = pieces[index].replace(guard, "")
            if index and self._markers[pieces[index - 1]].rstrip:
                piece = piece.lstrip()
            if index + 1 < len(pieces) and self._markers[pieces[index + 1]].lstrip:
                piece = piece.rstrip()
            tokens += self._plain(piece)
            tokens += [self._id(name) for name in pieces[index + 1 : index + 2]]
        return tokens

    def _plain(self, text: str) -> list[int]:
        """Tokens of a text, none of them a marker."""
        if not text:
            return []
        tokens = self._tokens(text, split_special_tokens=True)
        if not self._marked(tokens):
            return tokens
        # A name of a token that is not special, or something that is normalised to a name: cut up,
        # it is none. One character alone can be no marker that is worth keeping.
        if len(text) == 1:
            return [token for token in tokens if token not in self._marker_ids]
        cuts = [name.end() for name in self._beginning.finditer(text)] or [len(text) // 2]
        parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        return [token for part in parts for token in self._plain(part)]

    def _tokens(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        with self._lock:
            return list(
                self._tokenizer.encode(
                    text, add_special_tokens=False, split_special_tokens=split_special_tokens
                )
            )

    def _added(self, text: str) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text of its own accord."""
        beginning = text[:_BEGINNING]
        bare = self._tokens(beginning)
        with self._lock:
            whole = list(self._tokenizer.encode(beginning))
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []

    def _id(self, name: str) -> int:
        return self._vocabulary[name]


def most_characters(tokenizer: PreTrainedTokenizerBase, tokens: int) -> int:
    """Characters that ``tokens`` tokens can hold: a longer text need not be encoded to be refused.

    Generous: a token counts with the characters of its vocabulary entry, where bytes have one each.
    """
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    return tokens * max(_LEAST_LONGEST, longest)


def _alternatives(names: Iterable[str]) -> str:
    """The expression of any of ``names``, longer ones first; of nothing where there are none."""
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    return f"(?:{either})" if either else "(?!)"


def _unused_character(texts: Sequence[str]) -> str:
    used = {character for text in texts for character in text if ord(character) in _PRIVATE}
    return next(chr(code) for code in _PRIVATE if chr(code) not in used)
