# SPDX-License-Identifier: Apache-2.0
"""What each lever can do to a request's time, from published figures, before anyone deploys.

A model's shape says how many operations and bytes each stage takes, a machine how fast it is at
both. Nothing is measured: what comes out is the least that a perfect engine would take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.time_model import TimeModel

_MOST = 10**7  # of any number in a config
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class ConfigError(ValueError):
    """A model's configuration from which no times follow; names the key."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a dense decoder with gated feed-forward layers, as ``config.json`` tells them.

    Attributes:
        layers, hidden, heads, kv_heads, head_dim, feed_forward, vocabulary: numbers.
        max_positions: longest prompt and response together, tokens.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    max_positions: int

    @classmethod
    def of(cls, config: object) -> ModelShape:
        """Read the sizes from a parsed ``config.json``.

        Raises:
            ConfigError: a key is missing or makes no sense, or the model is of another kind.
        """
        if not isinstance(config, Mapping):
            raise ConfigError("a model's configuration must be a JSON object")
        if isinstance(text := config.get("text_config"), Mapping):
            config = text
        for key in _EXPERTS:
            if config.get(key):
                raise ConfigError(f"{key}: a mixture of experts reads other weights at each step")
        heads = _number(config, "num_attention_heads")
        hidden = _number(config, "hidden_size")
        shape = cls(
            layers=_number(config, "num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=_number(config, "num_key_value_heads", heads),
            head_dim=_number(config, "head_dim", hidden // heads),
            feed_forward=_number(config, "intermediate_size"),
            vocabulary=_number(config, "vocab_size"),
            max_positions=_number(config, "max_position_embeddings", _MOST),
        )
        if shape.heads % shape.kv_heads:
            raise ConfigError(
                f"num_key_value_heads: {shape.kv_heads} does not divide the {shape.heads} heads"
            )
        return shape

    @property
    def layer_weights(self) -> int:
        """Weights of all layers: attention's four matrices and the feed-forward's three."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def weights(self) -> int:
        """Weights that a decoding step reads: those of the layers and of the head."""
        return self.layer_weights + self.hidden * self.vocabulary

    @property
    def cached_per_token(self) -> int:
        """Keys and values of one token, numbers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Machine:
    """How fast a machine is, and what its engine does with the cache.

    Attributes:
        bandwidth: of its memory, bytes/s.
        flops: operations/s of matrix products in the weights' type.
        step_overhead: s of each step beside reading: kernel launches, the host's work.
        repeats: whether keys and values are appended by a copy of the whole cache and repeated for
            every query head in memory, as plain kernels do.

    Raises:
        SettingError: a figure that no machine has.
    """

    bandwidth: float
    flops: float
    step_overhead: float = 0.0
    repeats: bool = False

    def __post_init__(self) -> None:
        """Check the figures."""
        for name, value, least in (
            ("bandwidth", self.bandwidth, 1.0),
            ("flops", self.flops, 1.0),
            ("step_overhead", self.step_overhead, 0.0),
        ):
            if not least <= value < 1e18:
                raise SettingError(name, value, f"a number from {least:g} to 1e18")


@dataclass(frozen=True)
class Types:
    """How many bits a weight and a number in the cache take."""

    weights: float = 16.0
    cache: float = 16.0

    def __post_init__(self) -> None:
        """Check that both are a type's.

        Raises:
            SettingError: one is not.
        """
        for name, bits in (("weights_bits", self.weights), ("cache_bits", self.cache)):
            if not 1.0 <= bits <= 64.0:
                raise SettingError(name, bits, "from 1 to 64")


def time_model(shape: ModelShape, machine: Machine, types: Types) -> TimeModel:
    """The time model of a perfect engine: every stage bound by arithmetic or by memory alone.

    Prefill does two operations per weight and token, and for each pair of tokens, half of which the
    causal mask leaves, four per query head and dimension. A step reads all weights and the cache
    once; with ``repeats`` the cache is read and written for the append, read again, and written and
    read once for every query head of a group. An eviction reads the keys, and reads and writes
    what is kept.
    """
    cached = shape.cached_per_token * types.cache / 8.0
    read = shape.weights * types.weights / 8.0 / machine.bandwidth
    group = shape.heads // shape.kv_heads
    traffic = 3.0 + 2.0 * group if machine.repeats else 1.0
    return TimeModel(
        a=2.0 * shape.layers * shape.heads * shape.head_dim / machine.flops,
        b=2.0 * shape.layer_weights / machine.flops,
        c=read + machine.step_overhead,
        p=traffic * cached / machine.bandwidth,
        q=read + machine.step_overhead,
        evict_rate=2.0 * cached / machine.bandwidth,
    )


@dataclass(frozen=True)
class Question:
    """What is asked: N_x and N; and how far the levers may be pulled.

    Attributes:
        prompt_tokens, response_tokens: without any lever.
        alpha: largest eviction ratio.
        rho: smallest share of the prompt.
        least_response: fewest tokens that a cut answer may have.
        prefix: share of the prompt whose cache may be there already.
        quantised_bits: of rounded weights.

    Raises:
        SettingError: one out of range.
    """

    prompt_tokens: int
    response_tokens: int
    alpha: float = 0.95
    rho: float = 0.25
    least_response: int = 1
    prefix: float = 0.9
    quantised_bits: float = 4.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value, least, most in (
            ("prompt_tokens", self.prompt_tokens, 1, _MOST),
            ("response_tokens", self.response_tokens, 1, _MOST),
            ("alpha_max", self.alpha, 0, 1),
            ("rho_min", self.rho, 0, 1),
            ("least_response", self.least_response, 1, self.response_tokens),
            ("prefix", self.prefix, 0, 1),
        ):
            if not least <= value <= most:
                raise SettingError(name, value, f"from {least} to {most}")


@dataclass(frozen=True)
class Reach:
    """What one lever does: the request's time, s, with it pulled as far as allowed."""

    lever: str
    time: float


def reach(shape: ModelShape, machine: Machine, types: Types, request: Question) -> Iterator[Reach]:
    """The time without any lever, with each alone, and the least with all that go together.

    Rounded weights are read faster, but multiplied as fast as before; selection breaks a prefix.

    Raises:
        SettingError: the request is longer than the model's context.
    """
    if request.prompt_tokens + request.response_tokens > shape.max_positions:
        raise SettingError(
            "prompt_tokens and response_tokens",
            request.prompt_tokens + request.response_tokens,
            f"{shape.max_positions} together at most, the model's positions",
        )
    model = time_model(shape, machine, types)
    rounded = time_model(shape, machine, replace(types, weights=request.quantised_bits))
    n_x, n = request.prompt_tokens, request.response_tokens
    shorter, known = max(1, round(request.rho * n_x)), min(n_x - 1, round(request.prefix * n_x))
    cap = request.least_response
    yield Reach("none", _time(model, n_x, n))
    yield Reach(f"eviction, alpha {request.alpha:g}", _time(model, n_x, n, alpha=request.alpha))
    yield Reach(f"selection, rho {request.rho:g}", _time(model, shorter, n))
    yield Reach(f"answer cap, {cap} token{'s' if cap > 1 else ''}", _time(model, n_x, cap))
    yield Reach(f"weights of {request.quantised_bits:g} bits", _time(rounded, n_x, n))
    yield Reach(f"prefix reuse, {request.prefix:g} of it", _time(model, n_x, n, known=known))
    least = min(_time(rounded, shorter, cap, alpha=alpha) for alpha in (0.0, request.alpha))
    yield Reach("all but prefix reuse", least)


def _time(model: TimeModel, n_x: int, n: int, *, alpha: float = 0.0, known: int = 0) -> float:
    """Seconds of a request ``known`` of whose prompt tokens are cached already."""
    kept = max(1, int((1.0 - alpha) * n_x + 1e-9))
    return model.prefill(n_x, known) + model.evict_and_decode(n_x, kept, n)


def _number(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        value = default
    if value is None:
        raise ConfigError(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ConfigError(f"{key} must be a whole number from 1 to {_MOST}, not {value!r}")
    return value
