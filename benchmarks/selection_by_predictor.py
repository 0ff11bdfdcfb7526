# SPDX-License-Identifier: Apache-2.0
"""Whether the length predictor's own attention should choose which passages of a prompt stay.

It reads the prompt anyway. Each token of the instruction attends to the occurrences of the same
token, in proportion to what stands around them; a passage counts by what it gets of that. The
embedded model answers tasks of its workload from what is left of them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import heading
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from timebill_ros.bench.answers import AnsweredCase, Answering, Levers
from timebill_ros.bench.cases import embedded_cases
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.checkpoint import read_config
from timebill_ros.predictor.embedded_predictor import LookUpNetwork, Shape
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings
from timebill_ros.selection.methods import SelectionMethod, make_selection_method
from timebill_ros.selection.selector import Selector
from timebill_ros.training.progress import track

MODEL = Path(model_folder(Settings()))
WINDOW, HEAD = 64, 16  # as the node's defaults
SHORTEST_AND_LONGEST = (512, 8192)  # tokens of the tasks
MOST = 400  # tokens of an answer


def load_network(folder: Path) -> LookUpNetwork:
    """The predictor's network, whose attention the predictor does not show."""
    config = read_config(folder)
    network = LookUpNetwork(Shape(**{key: config[key] for key in Shape.__dataclass_fields__}))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval()


class ByAttention(SelectionMethod):
    """Scores passages by what the predictor's tail attends to in them."""

    def __init__(self, network: LookUpNetwork, tokenizer: Any) -> None:
        self._network = network
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """The attention of every passage, [passages]; the instruction is the prompt's end."""
        encoded = self._tokenizer(
            "".join(passages), return_offsets_mapping=True, add_special_tokens=False
        )
        attention = self._attention(torch.tensor(encoded["input_ids"]))
        starts = [start for start, _ in encoded["offset_mapping"]]
        ends = np.cumsum([len(passage) for passage in passages])
        places = np.searchsorted(ends, starts, side="right")
        scores = np.zeros(len(passages))
        np.add.at(scores, places, attention.sum(0).numpy())
        return scores

    def _attention(self, tokens: Tensor) -> Tensor:
        """What each token of the tail looks up before the tail, [tail, N_x]; mean of the heads."""
        network = self._network
        x = network.embedding(tokens)[None]
        tail, ask = network.shape.tail, network.look_up
        query = ask.query(ask.query_norm(x[:, -tail:])).unflatten(-1, (ask.heads, -1))
        key = ask.key(ask.key_norm(network.surroundings_of(x))).unflatten(-1, (ask.heads, -1))
        weights = torch.einsum("bqhd,bkhd->bhqk", query, key)[0] * query.shape[-1] ** -0.5
        same = tokens[-tail:, None] == tokens
        attention: Tensor = weights.masked_fill(~same, -torch.inf).softmax(-1).mean(0)
        attention[:, -tail:] = 0.0
        return attention


def table(cases: Sequence[AnsweredCase], names: Sequence[str], shares: Sequence[float]) -> str:
    """Markdown: mean score after each selection, its error, and the difference to the first."""
    scores: dict[tuple[str, float], list[float]] = defaultdict(list)
    for case in cases:
        for answer in case.answers:
            scores[answer.selection, answer.share].append(answer.score)
    lines = [f"| method | {' | '.join(f'{share:g}' for share in shares)} | ranking |"]
    lines.append("|---" * (len(shares) + 2) + "|")
    tokens = sum(case.whole.prompt_tokens for case in cases)
    for name in names:
        cells = []
        for share in shares:
            own, first = np.array(scores[name, share]), np.array(scores[names[0], share])
            mean, difference = (_with_error(values) for values in (own, own - first))
            cells.append(mean if name == names[0] else f"{mean} ({difference})")
        rate = sum(case.rankings[name] for case in cases) / tokens
        lines.append(f"| {name} | {' | '.join(cells)} | {rate * 1e6:.1f} us/token |")
    return "\n".join(lines)


def _with_error(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(values.size):.1f}"


def main() -> None:
    """Answer the tasks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictor", type=Path, default=MODEL.parent / "predictor")
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25, 0.1, 0.06])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = load_checkpoint(MODEL)
    longest = SHORTEST_AND_LONGEST[1] + MOST
    settings = EngineSettings(max_context=longest, window=WINDOW, threads=arguments.threads)
    network = load_network(arguments.predictor)
    methods: dict[str, SelectionMethod] = {
        "lexical": make_selection_method("lexical"),
        "recent": make_selection_method("recent"),
        "predictor": ByAttention(network, checkpoint.tokenizer),
    }
    selectors = {name: Selector(method, WINDOW, HEAD) for name, method in methods.items()}
    answering = Answering(TransformerEngine(checkpoint, settings), selectors, MOST)
    levers = Levers((1.0, *arguments.shares), (0.0,), (0.0,))
    tasks = embedded_cases(arguments.jobs, [arguments.seed], SHORTEST_AND_LONGEST)
    cases = [answering.answer(task, levers) for task in track(tasks, "answering")]
    print(heading("Selection by the predictor"))
    print(f"{len(cases)} tasks, whole prompts score {np.mean([c.whole.score for c in cases]):.1f}")
    print(table(cases, list(methods), arguments.shares))


if __name__ == "__main__":
    main()
