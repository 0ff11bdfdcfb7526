# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.request import SamplingOverride


@dataclass(frozen=True)
class Sampling:
    """How response tokens are chosen; the default is greedy.

    Args:
        temperature: 0 takes the most likely token; above, logits are divided by it. Below a
            millionth it takes the most likely one too: divided by less, they would overflow.
        top_p: sample from the smallest set of tokens whose probability reaches this, in (0, 1].
        seed: every request draws from this seed anew, so equal requests get equal responses.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise SettingError("temperature", self.temperature, "finite and >= 0")
        if not 0 < self.top_p <= 1:
            raise SettingError("top_p", self.top_p, "in (0, 1]")


def overridden(sampling: Sampling, override: SamplingOverride) -> Sampling:
    """The sampling of one request: what it sets, and otherwise ``sampling``.

    Raises:
        SettingError: a value that it sets is out of range.
    """
    chosen = override.chosen()
    chosen.pop("stop", None)  # not of how tokens are drawn
    return replace(sampling, **chosen)


_COLDEST = 1e-6  # temperature


class Sampler:
    """Draws the tokens of one request after another.

    All work over the vocabulary runs where the logits are; per draw one small tensor comes to the
    host, and nothing is sorted: sorting 152,000 logits takes longer than many a model's step.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        # On the host whatever the model's device is, so that a seed means the same everywhere.
        self._generator = torch.Generator()
        self._scratch: _Scratch | None = None

    def begin(self, sampling: Sampling | None = None) -> None:
        """Start a request's random sequence; None draws as before."""
        if sampling is not None:
            self._sampling = sampling
        self._generator.manual_seed(self._sampling.seed)

    def pick(self, logits: Tensor) -> int | None:
        """The next token of logits [V]; None if the logits are not finite."""
        if self._sampling.temperature < _COLDEST:
            largest, index = logits.max(-1)  # NaN wins every comparison, so looking here is enough
            value, token = torch.stack((largest.double(), index.double())).tolist()
            return int(token) if math.isfinite(value) else None
        if self._scratch is None or not self._scratch.fits(logits):
            self._scratch = _Scratch(logits)
        return self._draw(logits, self._scratch)

    def _draw(self, logits: Tensor, scratch: _Scratch) -> int | None:
        """A token of the nucleus, by rejection; None where the logits are no numbers.

        A token is in the nucleus if the tokens before it, the likelier ones and of equal ones
        those with a smaller index, have less than ``top_p`` together. So a token drawn from all of
        them is taken if it is in, and otherwise another one is drawn from those before it: the
        result has the nucleus's own distribution. The first one is in with a probability of
        ``top_p`` at least.
        """
        probabilities = scratch.softmax(logits, self._sampling.temperature)
        cumulated = scratch.cumulated
        while True:
            torch.cumsum(probabilities, -1, out=cumulated)
            # In (0, 1], so that the token found has a probability above 0.
            share = 1.0 - torch.rand((), generator=self._generator).item()
            # The clamp: where the probabilities are NaN, none is found.
            token = torch.searchsorted(cumulated, cumulated[-1:] * share).clamp_(max=scratch.last)
            before = scratch.before(token)
            mass = probabilities.dot(before)
            total, index, sum_before = torch.stack(
                (cumulated[-1].double(), token[0].double(), mass.double())
            ).tolist()
            if not math.isfinite(total):
                return None
            if sum_before < self._sampling.top_p or self._sampling.top_p == 1.0:
                return int(index)
            probabilities.mul_(before)


class _Scratch:
    """Vectors over the vocabulary that every token needs.

    Kept, since the memory of new ones would come from the system and go back to it at every token,
    which costs several times what is computed in them.
    """

    def __init__(self, like: Tensor) -> None:
        self._vectors = torch.empty((6, len(like)), device=like.device)
        self._probabilities, self.cumulated, *_, self._index = self._vectors
        torch.arange(len(like), out=self._index)  # exact up to 2^24
        self.last = len(like) - 1

    def fits(self, logits: Tensor) -> bool:
        """Whether it was made for logits like these."""
        return bool(logits.shape == self._index.shape and logits.device == self._index.device)

    def softmax(self, logits: Tensor, temperature: float) -> Tensor:
        """The probabilities of logits [V]; valid until the next call."""
        scaled = self.cumulated.copy_(logits).div_(temperature)
        return torch.softmax(scaled, -1, out=self._probabilities)

    def before(self, token: Tensor) -> Tensor:
        """1 for the tokens before ``token`` [1] in the order of the nucleus, else 0."""
        probability, index = self._probabilities[token], token.float()
        before, equal, earlier = self._vectors[2], self._vectors[3], self._vectors[4]
        # Comparisons that write numbers: those that write booleans take four times as long on CPU.
        torch.gt(self._probabilities, probability, out=before)
        torch.eq(self._probabilities, probability, out=equal)
        torch.lt(self._index, index, out=earlier)
        return before.addcmul_(equal, earlier)
