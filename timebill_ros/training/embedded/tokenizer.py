# SPDX-License-Identifier: Apache-2.0
"""A tokenizer with one token per word of the workload, and bytes for everything else."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, ASK, ANSWER = "<pad>", "<bos>", "<eos>", "<ask>", "<ans>"
SPECIAL_TOKENS = (PAD, BOS, EOS, ASK, ANSWER)
SPACE = "▁"

# The scene log, the instruction, then the cue to answer. Later turns follow in the same way.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<ask>' + message['content'] }}"
    "{% else %}{{ '<ans>' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<ans>' }}{% endif %}"
)


def build_tokenizer(words: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer: special tokens, 256 bytes, the space mark, then one token per word.

    A word is looked up whole with the space before it (byte-pair encoding without merges); any
    other text falls apart into the space mark and UTF-8 bytes, so that every string has tokens and
    decodes to itself but for one leading space.
    """
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE]
    pieces += [SPACE + word for word in words]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[],
            byte_fallback=True,
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[ASK, ANSWER],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
