# SPDX-License-Identifier: Apache-2.0
"""Whether queries at the answer's positions choose better than the prompt's end what stays cached.

DapQ (arXiv 2603.11564) holds that where a query stands matters more than what it says: it runs made
up tokens at the positions that follow the prompt, scores the prompt's tokens by what these attend
to, and drops them again. Measured beside SnapKV, with as many tokens kept: how many tokens of the
answer to the whole prompt stay the model's first choice. The made up tokens are the prompt's last
ones once more. "answer" has the answer's own first tokens in their place, which nobody has in time:
no made up ones can be expected to do better.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from machine import heading
from selection_by_layers import Layers, Past, Trial, against, mean_of, measured, parser_of
from torch import Tensor

from timebill_ros.engine.attention import observed_attention
from timebill_ros.engine.eviction_methods import LayerPrompt, SnapKV, keep_highest

LAST = 16  # tokens at the prompt's end that stay whatever scores them
ALPHAS = (0.75, 0.9, 0.95, 0.97)
REFERENCE = "snapkv 16"
COLUMNS = ("case", "method", "alpha", "agreement")


class Scores:
    """What some tokens attend to of those before them, smoothed as SnapKV's, for every layer."""

    def __init__(self, window: int) -> None:
        self._window = window
        self.of_layer: dict[int, Tensor] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        """See ``Look``."""
        asking = query[:, -self._window :]
        seen = observed_attention(asking, key, value, query.shape[-1] ** -0.5)[1]
        self.of_layer[layer] = SnapKV().scores(LayerPrompt(layer, seen, key, value))


def rows(layers: Layers, trial: Trial, case: str) -> Iterator[tuple[object, ...]]:
    """A row for every method and ratio, as ``COLUMNS`` names them; none of too short an answer."""
    if len(trial.answer) < 2:
        return
    total, every = len(trial.prompt), range(layers.shape.layers)
    past: Past = {}
    wide, narrow = Scores(64), Scores(LAST)

    def look(*told: object) -> None:
        wide(*told)  # type: ignore[arg-type]
        narrow(*told)  # type: ignore[arg-type]

    layers.run(layers.embed(trial.prompt), torch.arange(total), past, every, look)
    scores = {"snapkv 64": wide.of_layer, REFERENCE: narrow.of_layer}
    for name, count in (("pseudo 16", 16), ("pseudo 64", 64), ("answer 16", 16)):
        tokens = trial.answer[:count] if name.startswith("answer") else trial.prompt[-count:]
        asked = Scores(len(tokens))
        positions = torch.arange(total, total + len(tokens))
        layers.run(layers.embed(tokens), positions, dict(past), every, asked)
        scores[name] = {layer: own[:, : total - LAST] for layer, own in asked.of_layer.items()}
    for name, of_layer in scores.items():
        for alpha in ALPHAS:
            kept = {i: _kept(of_layer[i], total, alpha, past[i]) for i in every}
            yield case, name, alpha, _agreement(layers, trial, kept)


def _kept(
    scores: Tensor, total: int, alpha: float, own: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer that stay: what was not scored, and the best of the others."""
    tail = total - scores.shape[1]
    best = keep_highest(scores, max(0, round((1.0 - alpha) * total) - tail))
    end = torch.arange(total - tail, total).expand(len(scores), -1)
    places = torch.cat((best, end), 1)[..., None]
    keys, values = (part.gather(1, places.expand(-1, -1, part.shape[-1])) for part in own)
    return keys, values


def _agreement(layers: Layers, trial: Trial, kept: Past) -> float:
    """Share of the answer that stays first choice; its first token is the whole prompt's."""
    given, total = trial.answer[:-1], len(trial.prompt)
    positions = torch.arange(total, total + len(given))
    x = layers.run(layers.embed(given), positions, kept, range(layers.shape.layers))
    same = layers.logits(x).argmax(-1) == torch.tensor(trial.answer[1:])
    return (1.0 + float(same.sum())) / len(trial.answer)


def table(found: Sequence[Sequence[str]]) -> Iterator[str]:
    """Markdown: a row for each method, with its differences to SnapKV."""
    by: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for case, method, alpha, agreement in found:
        by[method, alpha][case] = float(agreement)
    alphas = list(dict.fromkeys(alpha for _, alpha in by))
    yield f"{len({row[0] for row in found})} prompts; agreement and its standard error, and of"
    yield f"{REFERENCE}, with the difference to it and its interval of 95 %"
    yield ""
    yield f"| scored by | {' | '.join(f'alpha {alpha}' for alpha in alphas)} |"
    yield "|---" * (len(alphas) + 1) + "|"
    for method in dict.fromkeys(method for method, _ in by):
        cells = [
            f"{mean_of(by[method, a])} / {against(by[method, a], by[REFERENCE, a])}" for a in alphas
        ]
        yield f"| {method} | {' | '.join(cells)} |"


def main() -> None:
    """Measure what the CSV file does not hold yet, and print the table."""
    arguments = parser_of(__doc__, jobs=24).parse_args()
    if not (arguments.model and arguments.prompts and arguments.csv):
        print("skipped: needs --model, --prompts and --csv")
        return
    found, _ = measured(arguments, COLUMNS, rows)
    print(heading("Eviction by pseudo queries"))
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
