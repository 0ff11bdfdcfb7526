# SPDX-License-Identifier: Apache-2.0
"""How far the model still says what it said with its whole context, after each lever.

The model answers each whole prompt greedily. Then it is given that answer after a lever was pulled,
token by token, in one pass: the share of the tokens that are still its first choice, and their mean
log-probability. Far less noisy than comparing two texts, and it needs no references.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from timebill_ros.bench.cases import Case
from timebill_ros.bench.intervals import interval_of_mean
from timebill_ros.budget.quality import QualityCurve, QualityPoint
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.selection.selector import Selector

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Agreement:
    """What became of one answer after one lever.

    Attributes:
        lever: eviction or selection.
        method: its method's name.
        dropped: alpha, or 1 - rho.
        share: of the answer's tokens, how many are still the first choice.
        log_probability: of the answer's tokens, on average.
    """

    lever: str
    method: str
    dropped: float
    share: float
    log_probability: float


@dataclass(frozen=True)
class AgreedCase:
    """The agreements of one case.

    Attributes:
        case: the case's id.
        prompt_tokens, response_tokens: N_x, and N of the answer to the whole prompt.
        ended: whether that ended by itself.
        rankings: s that ranking the prompt's passages took, by the selection method's name.
        agreements: one for each lever, method and share, those that drop nothing among them.
    """

    case: str
    prompt_tokens: int
    response_tokens: int
    ended: bool
    rankings: Mapping[str, float]
    agreements: tuple[Agreement, ...]


def agreed_case(content: dict[str, Any]) -> AgreedCase:
    """The case of a line of a ``RunFile``."""
    agreements = tuple(Agreement(**each) for each in content.pop("agreements"))
    return AgreedCase(**content, agreements=agreements)


class Agreeing:
    """Runs cases through an engine.

    Args:
        engine: answers, greedily.
        evictions: eviction methods' names.
        selectors: shorten prompts, by their method's name.
        max_tokens: N_max.
    """

    def __init__(
        self,
        engine: TransformerEngine,
        evictions: Sequence[str],
        selectors: Mapping[str, Selector],
        max_tokens: int,
    ) -> None:
        self._engine = engine
        self._evictions = evictions
        self._selectors = selectors
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def agree(self, case: Case, alphas: Sequence[float], shares: Sequence[float]) -> AgreedCase:
        """The agreement of every method at every ratio, and at every share of the prompt.

        Raises:
            RequestError: the prompt cannot be run, it is too long for example.
        """
        engine, request = self._engine, self._engine.prepare(case.conversation)
        most = min(self._max_tokens, case.max_tokens or self._max_tokens)
        room = max(1, min(most, engine.max_context - request.prompt_tokens))
        self._prefill(request, room)
        while engine.finish_reason is None:
            engine.step()
        answer, ended = list(engine.response_ids), engine.finish_reason is not FinishReason.LENGTH
        engine.cache.drop(len(answer) - 1)
        whole = self._after_prompt(request, answer)
        agreements = list(self._evicted(request, answer, whole, alphas))
        rankings: dict[str, float] = {}
        for name, selector in self._selectors.items():
            agreements.append(_agreement("selection", name, 0.0, whole, answer))
            start = time.perf_counter()
            ranked = selector.rank(case.conversation.texts, request.prompt_tokens)
            rankings[name] = time.perf_counter() - start
            for share in sorted(set(shares) - {1.0}, reverse=True):
                shorter = engine.prepare(case.conversation.of_texts(ranked.select(share)))
                self._prefill(shorter, room)
                logits = self._after_prompt(shorter, answer)
                dropped = round(1.0 - share, 6)
                agreements.append(_agreement("selection", name, dropped, logits, answer))
        engine.abort()
        return AgreedCase(
            case.id, request.prompt_tokens, len(answer), ended, rankings, tuple(agreements)
        )

    def _evicted(
        self,
        request: PreparedRequest,
        answer: Sequence[int],
        whole: Tensor,
        alphas: Sequence[float],
    ) -> Iterator[Agreement]:
        """Of the prompt that is cached whole. The first token is the prefill's: no lever's."""
        engine, n_x = self._engine, request.prompt_tokens
        cached = engine.cache.copy(n_x)
        least = min(n_x, max(1, engine.window))
        for name in self._evictions:
            engine.cache.restore(cached)
            eviction, logits = engine.eviction_by(name), whole
            for alpha in sorted(alphas):
                kept = max(least, math.floor((1.0 - alpha) * n_x * (1.0 + _ROUNDING)))
                if kept < eviction.kept_tokens:
                    eviction.evict(kept)
                    logits = torch.cat((whole[:1], self._follow(answer[:-1])))
                yield _agreement("eviction", name, alpha, logits, answer)
        engine.cache.restore(cached)

    def _prefill(self, request: PreparedRequest, room: int) -> None:
        self._engine.begin(request, room)
        while not self._engine.prefill_chunk():
            pass

    def _after_prompt(self, request: PreparedRequest, answer: Sequence[int]) -> Tensor:
        """Logits [N, V] of the answer's tokens behind the prompt, which is cached before and after.

        The prompt's last token is run once more: it makes the first one's.
        """
        self._engine.cache.drop(1)
        tokens = [request.prompt_ids[-1], *answer[:-1]]
        logits = self._follow(tokens)
        self._engine.decoder.follow(self._tokens(tokens[:1]))
        return logits

    def _follow(self, tokens: Sequence[int]) -> Tensor:
        """Logits [n, V] of each token; they are not cached afterwards."""
        if not tokens:
            return torch.empty(0, self._engine.vocabulary, device=self._engine.device)
        logits = self._engine.decoder.follow(self._tokens(tokens))
        self._engine.cache.drop(len(tokens))
        return logits

    def _tokens(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor(tokens, device=self._engine.device)


def _agreement(
    lever: str, method: str, dropped: float, logits: Tensor, answer: Sequence[int]
) -> Agreement:
    wanted = torch.tensor(answer, device=logits.device)
    likely = torch.log_softmax(logits.float(), -1).gather(-1, wanted[:, None])
    return Agreement(
        lever,
        method,
        dropped,
        share=round(float((logits.argmax(-1) == wanted).float().mean()), 6),
        log_probability=round(float(likely.mean()), 6),
    )


@dataclass(frozen=True)
class MethodAgreement:
    """One method's agreements as arrays of shape [dropped, cases].

    Attributes:
        dropped: shape [dropped], ascending.
        shares, log_probabilities: see ``Agreement``.
        ran_to_cap: share of the whole answers that did not end by themselves.
    """

    dropped: Sequence[float]
    shares: NDArray[np.float64]
    log_probabilities: NDArray[np.float64]
    ran_to_cap: float

    @classmethod
    def of(cls, cases: Sequence[AgreedCase], lever: str, method: str) -> MethodAgreement:
        """Those of a lever's method."""
        rows = [
            sorted(
                (each for each in case.agreements if (each.lever, each.method) == (lever, method)),
                key=lambda each: each.dropped,
            )
            for case in cases
        ]
        return cls(
            [each.dropped for each in rows[0]],
            np.array([[each.share for each in row] for row in rows]).T,
            np.array([[each.log_probability for each in row] for row in rows]).T,
            float(np.mean([not case.ended for case in cases])),
        )

    def curve(self) -> QualityCurve:
        """The mean agreement in hundredths. It tells nothing of answers that run on."""
        count = self.shares.shape[1]
        return QualityCurve(
            tuple(
                QualityPoint(
                    dropped,
                    score=round(100.0 * float(row.mean()), 3),
                    standard_error=round(100.0 * _error(row), 3) if count > 1 else 0.0,
                    ran_to_cap=round(self.ran_to_cap, 4),
                )
                for dropped, row in zip(self.dropped, self.shares, strict=True)
            )
        )


def _error(row: NDArray[np.float64]) -> float:
    return float(row.std(ddof=1)) / math.sqrt(row.size)


def agreement_table(
    methods: Mapping[str, MethodAgreement], lever: str, against: str
) -> Iterator[str]:
    """A table in Markdown: agreement with its error, and log-probability, a line for each method.

    In brackets the difference to the method ``against`` on the same prompts, with its interval of
    95 % by bootstrap.
    """
    first = next(iter(methods.values()))
    heads = [f"{dropped:g} dropped" for dropped in first.dropped]
    yield f"| {lever} by | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    count = first.shares.shape[1]
    for name, method in methods.items():
        cells = []
        for place, row in enumerate(method.shares):
            error = _error(row) if count > 1 else 0.0
            cell = f"{row.mean():.3f} ± {error:.3f}, {method.log_probabilities[place].mean():.2f}"
            if name != against and against in methods and first.dropped[place] > 0.0:
                low, high = interval_of_mean(row - methods[against].shares[place])
                cell += f" [{low:+.3f} to {high:+.3f}]"
            cells.append(cell)
        yield f"| {name} | {' | '.join(cells)} |"


_STYLES = (
    *(("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D")),
    *(("#e69f00", "v"), ("#000000", "x"), ("#56b4e9", "P"), ("#999999", "*")),
)


def draw_agreement(path: Path, levers: Mapping[str, Mapping[str, MethodAgreement]]) -> None:
    """Agreement and log-probability over what is dropped, a column for each lever."""
    figure = Figure(figsize=(6.2 * len(levers), 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(levers), sharey="row", squeeze=False)
    for column, (lever, methods) in enumerate(levers.items()):
        for (name, method), (color, marker) in zip(methods.items(), _STYLES, strict=False):
            style = {"color": color, "marker": marker, "label": name}
            means, errors = method.shares.mean(axis=1), [_error(row) for row in method.shares]
            axes[0, column].errorbar(
                method.dropped, means, 2.0 * np.nan_to_num(errors), capsize=3, **style
            )
            axes[1, column].plot(method.dropped, method.log_probabilities.mean(axis=1), **style)
        axes[0, column].set_title(f"{lever}: tokens that stay first choice", loc="left")
        axes[1, column].set_title(f"{lever}: mean log-probability", loc="left")
        axes[1, column].set_xlabel("share that is dropped")
        axes[0, column].set_ylim(0.0, 1.02)
        axes[0, column].legend(frameon=False, fontsize=8)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#e6e6e6")
    figure.savefig(path, dpi=110)
