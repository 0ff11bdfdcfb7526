# SPDX-License-Identifier: Apache-2.0
"""Linear layers as a decoder calls them, whose weights may take fewer bytes: bfloat16, int8, int4.

A decoding step reads every weight once, so on a CPU it takes about as long as reading them. The
kernels are torch's own, chosen by measurement: of those for int8 and int4 the ones for bfloat16
input take 18 and 9 ms for all matrices of a 135 M model on one core, those for float32 input 118
and 238, float32 weights 24. So the input is rounded to bfloat16, whatever the activations are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from timebill_ros.budget.errors import SettingError

_INT4_GROUP = 32  # weights of a row that share scale and zero
_INT4_ROWS = 16  # the kernel's blocks of rows
_INT8_COLUMNS = 16  # the kernel's blocks of columns; it reads beyond the end of others
_LARGE = 1 << 18  # weights of a matrix in models that are too large for the caches
_FEW = 32  # input vectors up to which the int8 kernel beats widening the weight first


class Projection(Protocol):
    """A linear layer with its bias, however its weight is kept."""

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add the projection of one vector [in] to ``total`` [out], in place."""
        total += self(x)


MakeProjection = Callable[[Tensor, Tensor | None], Projection]
"""Makes one of a weight [out, in] and a bias [out]: keeps them, or makes its own of them."""


@dataclass(frozen=True, slots=True)
class FullProjection(Projection):
    """The weight as the checkpoint has it, without a copy."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See ``Projection``."""
        if x.dim() == 1 and (parts := _parts(self.weight)) > 1:
            out = torch.bmm(*_batch(self.weight, x, parts)).view(-1)
            return out if self.bias is None else out.add_(self.bias)
        return F.linear(x, self.weight, self.bias)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """See ``Projection``."""
        if (parts := _parts(self.weight)) > 1:
            total.view(parts, -1, 1).baddbmm_(*_batch(self.weight, x, parts))
        elif total.dtype == torch.float32:
            total.addmv_(self.weight, x)
        else:  # narrower types have a much faster kernel behind linear than behind addmv
            total += F.linear(x, self.weight)
        if self.bias is not None:
            total += self.bias


def _parts(weight: Tensor) -> int:
    """How many parts of a weight are multiplied with one vector as a batch.

    MKL's product of a float32 matrix and a vector runs on one thread, whatever is set. Its product
    of a batch shares the parts between threads, and reads memory twice as fast even on one; what
    the processor's caches hold it multiplies more slowly.
    """
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.numel() < _LARGE:
        return 1
    parts = max(2, torch.get_num_threads())
    return parts if len(weight) % parts == 0 else 1


def _batch(weight: Tensor, x: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """A weight [out, in] as [parts, out / parts, in], and a vector as [parts, in, 1]; views.

    The vector is a row that is transposed: as a column the product takes six times as long.
    """
    return weight.view(parts, -1, len(x)), x.expand(parts, 1, -1).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class BFloat16Projection(Projection):
    """The weight rounded to bfloat16 [out, in]."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> BFloat16Projection:
        """Round a weight [out, in]."""
        return cls(weight.to(torch.bfloat16), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """See ``Projection``."""
        return _with_bias(F.linear(x.to(torch.bfloat16), self.weight).to(x.dtype), self.bias)


@dataclass(frozen=True, slots=True)
class Int8Projection(Projection):
    """The weight in whole steps of one scale per row: weight [out, in] int8, scale [out]."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8Projection:
        """Round each row of a weight [out, in] to 255 steps that reach its largest value."""
        full = weight.float()
        scale = full.abs().amax(-1).clamp_(min=torch.finfo(torch.float32).tiny) / 127.0
        steps = (full / scale[:, None]).round_().to(torch.int8)
        return cls(steps, scale.to(torch.bfloat16), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """See ``Projection``."""
        rows = x.to(torch.bfloat16).reshape(-1, x.shape[-1])
        if len(rows) <= _FEW and rows.shape[-1] % _INT8_COLUMNS == 0:
            out = torch._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            out = F.linear(rows, self.weight.to(torch.bfloat16)).mul_(self.scale)
        return _with_bias(out.view(*x.shape[:-1], -1).to(x.dtype), self.bias)


@dataclass(frozen=True, slots=True)
class Int4Projection(Projection):
    """The weight in 16 steps between the ends of each group of 32 weights of a row.

    ``packed`` is the kernel's own layout, ``scale_and_zero`` [in / 32, out, 2].
    """

    packed: Tensor
    scale_and_zero: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Projection:
        """Round a weight [out, in]; to int8 where the kernel cannot have its shape."""
        rows, columns = weight.shape
        if rows % _INT4_ROWS or columns % _INT4_GROUP:
            return Int8Projection.of(weight, bias)
        groups = weight.float().view(rows, -1, _INT4_GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15.0).clamp_(min=torch.finfo(torch.float32).tiny)
        steps = ((groups - low[..., None]) / scale[..., None]).round_().to(torch.int32)
        packed = torch._convert_weight_to_int4pack_for_cpu(steps.view(rows, columns), 1)
        pairs = torch.stack((scale, low + 8.0 * scale), -1).transpose(0, 1).contiguous()
        return cls(packed, pairs.to(torch.bfloat16), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """See ``Projection``."""
        rows = x.to(torch.bfloat16).reshape(-1, x.shape[-1])
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        out = multiply(rows, self.packed, _INT4_GROUP, self.scale_and_zero)
        return _with_bias(out.view(*x.shape[:-1], -1).to(x.dtype), self.bias)


@dataclass(frozen=True, slots=True)
class SplitProjection(Projection):
    """One weight kept twice: as is faster for whole chunks, and as is faster for one vector."""

    chunk: Projection
    vector: Projection

    def __call__(self, x: Tensor) -> Tensor:
        """See ``Projection``."""
        return self.vector(x) if x.dim() == 1 else self.chunk(x)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """See ``Projection``."""
        self.vector.add_to(total, x)


_MAKERS: dict[str, MakeProjection] = {
    "float32": FullProjection,
    "bfloat16": BFloat16Projection.of,
    "int8": Int8Projection.of,
    "int4": Int4Projection.of,
}
KINDS = tuple(_MAKERS)


@dataclass(frozen=True)
class WeightKinds:
    """How weights are kept, for prefill and for steps: two of ``KINDS``, or "" as they are."""

    prefill: str = ""
    steps: str = ""

    def __str__(self) -> str:
        return self.steps if self.prefill == self.steps else f"{self.prefill}/{self.steps}"

    def maker(self) -> MakeProjection:
        """Makes projections that keep their weights so."""
        chunk, vector = _maker(self.prefill), _maker(self.steps)
        if self.prefill == self.steps:
            return chunk
        return lambda weight, bias: SplitProjection(chunk(weight, bias), vector(weight, bias))

    def head_maker(self) -> MakeProjection:
        """The same for the head, which decides between tokens: in int8 where the rest is int4."""
        kinds = ("int8" if kind == "int4" else kind for kind in (self.prefill, self.steps))
        return WeightKinds(*kinds).maker()


def check_kinds(kinds: WeightKinds, *, dtype: torch.dtype, device: str, lean: bool) -> None:
    """Raise ``SettingError`` unless these weights can be kept so.

    Args:
        kinds: what is wanted.
        dtype: of the activations, which weights cannot be wider than.
        device: its type; the kernels are those of CPUs.
        lean: whether the lean decoder runs the model, which alone has them.
    """
    for kind in {kinds.prefill, kinds.steps} - {""}:
        if kind not in KINDS:
            raise SettingError("weights", kind, f"one of auto, {', '.join(KINDS)}")
        if kind == "float32" and dtype != torch.float32:
            raise SettingError("weights", kind, f"no wider than dtype ({dtype})")
        if kind != "float32" and (device != "cpu" or not lean):
            reason = "auto on other devices than CPUs" if lean else "auto for this architecture"
            raise SettingError("weights", kind, reason)


def _maker(kind: str) -> MakeProjection:
    return _MAKERS[kind] if kind else FullProjection


def _with_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out.add_(bias)
