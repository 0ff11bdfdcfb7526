# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's side of ``llamacpp.py``, run by the Python of build/llamacpp.

Arguments: a GGUF file, the number of threads, and how many tokens are cached at a step. Lines on
standard input ask, a JSON list of a word and a prompt; a line of JSON on standard output answers.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Sequence

import llama_cpp
import numpy as np

CHUNK = 512
STEPS = 8
ANSWER = 32


class Context:
    """One sequence in llama.cpp."""

    def __init__(self, model: object, size: int, threads: int) -> None:
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = size
        settings.n_batch = settings.n_ubatch = CHUNK
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, settings)
        self._words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        if not self._context:
            raise SystemExit("llama.cpp makes no context")

    def cut(self, tokens: int) -> None:
        """Forget all but the first tokens."""
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_seq_rm(memory, -1, tokens, -1)

    def run(self, tokens: Sequence[int]) -> int:
        """Go on with at most ``CHUNK`` tokens; the likeliest next one."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if code := llama_cpp.llama_decode(self._context, batch):
            raise SystemExit(f"llama.cpp does not run the tokens: {code}")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._words,)).argmax())


def main() -> None:
    """Answer until standard input ends."""
    file, threads, cached = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        file.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise SystemExit(f"llama.cpp cannot read {file}")
    steps, chunks = Context(model, cached + 64, threads), Context(model, CHUNK + 64, threads)
    for start in range(0, cached, CHUNK):
        steps.run([0] * min(CHUNK, cached - start))
    for line in sys.stdin:
        what, prompt = json.loads(line)
        answers = {
            "version": lambda: llama_cpp.__version__,
            "step": lambda: timed_step(steps, cached),
            "prefill": lambda: timed_chunk(chunks),
            "answer": lambda given=prompt: answer(chunks, given),
        }
        print(json.dumps(answers[what]()), flush=True)


def timed_step(context: Context, cached: int) -> float:
    """Median seconds of some decoding steps after the cached tokens."""
    context.cut(cached)
    times, token = [], 0
    for _ in range(STEPS):
        start = time.perf_counter()
        token = context.run([token])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def timed_chunk(context: Context) -> float:
    """Seconds of a first chunk."""
    context.cut(0)
    start = time.perf_counter()
    context.run([0] * CHUNK)
    return time.perf_counter() - start


def answer(context: Context, prompt: Sequence[int]) -> list[int]:
    """Greedy tokens after a prompt."""
    context.cut(0)
    tokens = [context.run(prompt)]
    while len(tokens) < ANSWER:
        tokens.append(context.run(tokens[-1:]))
    return tokens


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """Say nothing of what llama.cpp tells while loading."""
