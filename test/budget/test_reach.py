# SPDX-License-Identifier: Apache-2.0
"""The calculator against calculations by hand, and against a profile."""

from __future__ import annotations

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.reach import (
    ConfigError,
    Machine,
    ModelShape,
    Question,
    Types,
    reach,
    time_model,
)
from timebill_ros.budget.time_model import TimeModel

TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 100,
}
SMOLLM2 = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}
SIMPLE = Machine(bandwidth=1e6, flops=1e6)


def test_sizes_by_hand() -> None:
    shape = ModelShape.of(TINY)
    # Per layer: queries and output 8 x 8 each, keys and values 8 x 4 each; three of 8 x 16.
    assert shape.layer_weights == 2 * (2 * 64 + 2 * 32 + 3 * 128)
    assert shape.weights == shape.layer_weights + 800
    assert shape.cached_per_token == 2 * 2 * 2 * 2
    assert ModelShape.of({"text_config": TINY, "vision_config": {}}) == shape
    # 134.5 million, as the checkpoint has them, less the norms.
    assert ModelShape.of(SMOLLM2).weights == 134_479_872


def test_times_by_hand() -> None:
    model = time_model(ModelShape.of(TINY), SIMPLE, Types(16, 8))
    # 1,952 weights of 2 bytes at 1 MB/s; two operations for each of the layers' 1,152.
    assert model.q == model.c == pytest.approx(1952 * 2e-6)
    assert model.b == pytest.approx(2 * 1152e-6)
    # Half of all pairs, 4 operations for each of 4 heads of 2 in 2 layers.
    assert model.a == pytest.approx(0.5 * 4 * 4 * 2 * 2 * 1e-6)
    assert model.p == pytest.approx(16e-6)
    repeated = time_model(ModelShape.of(TINY), Machine(1e6, 1e6, 0.5, repeats=True), Types(16, 8))
    # Append: read and write; read; write and read for two heads a group.
    assert repeated.p == pytest.approx((2 + 1 + 2 * 2) * 16e-6)
    assert repeated.q == pytest.approx(model.q + 0.5)


def test_each_lever_by_hand() -> None:
    shape, types = ModelShape.of(TINY), Types()
    model = time_model(shape, SIMPLE, types)
    request = Question(100, 11, alpha=0.5, rho=0.25, prefix=0.8, quantised_bits=4)
    times = {row.lever: row.time for row in reach(shape, SIMPLE, types, request)}
    whole = model.prefill(100) + 10 * model.step(100) + 45 * model.p
    saved = {
        "none": 0.0,
        "eviction, alpha 0.5": 10 * model.p * 50 - model.evict(100),
        "selection, rho 0.25": model.prefill(100) - model.prefill(25) + 10 * model.p * 75,
        "answer cap, 1 token": 10 * model.step(100) + 45 * model.p,
        "weights of 4 bits": 11 * 0.75 * 1952 * 2e-6,
        "prefix reuse, 0.8 of it": model.a * 80**2 + model.b * 80,
    }
    for lever, seconds in saved.items():
        assert times[lever] == pytest.approx(whole - seconds), lever
    assert times["all but prefix reuse"] == pytest.approx(model.prefill(25) - 0.75 * 1952 * 2e-6)


def test_it_agrees_with_a_profile_within_a_factor_of_1_6() -> None:
    # SmolLM2-135M in float32 on two cores with nothing beside: 2 x 16 multiply-adds a cycle at
    # 3.1 GHz, and memory that a matrix-vector product reads at 20 GB/s.
    calculated = time_model(ModelShape.of(SMOLLM2), Machine(20e9, 0.2e12), Types(32, 32))
    profiled = TimeModel(
        **{"a": 2.712e-07, "b": 1.326e-03, "c": 4.625e-02, "p": 3.136e-06, "q": 2.919e-02}
    )
    for tokens in (200, 1000, 4000, 8000):
        assert 1.0 <= profiled.prefill(tokens) / calculated.prefill(tokens) <= 1.6
        assert 1.0 <= profiled.step(tokens) / calculated.step(tokens) <= 1.6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number .* not 'many'"),
        ({"vocab_size": True}, "vocab_size must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number from 1"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers must be a whole number"),
        ({"hidden_size": 2}, "head_dim must be a whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide the 4 heads"),
        ({"num_local_experts": 8}, "num_local_experts: a mixture of experts"),
        ({"intermediate_size": float("nan")}, "intermediate_size must be a whole number"),
    ],
)
def test_a_configuration_that_says_nothing_is_refused_by_key(
    change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        ModelShape.of({**TINY, **change})


def test_other_bad_figures_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="JSON object"):
        ModelShape.of([1, 2])
    for name in ("bandwidth", "flops"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            figures = {"bandwidth": 1e9, "flops": 1e12, name: value}
            with pytest.raises(SettingError, match=f"{name} must be"):
                Machine(**figures)
    with pytest.raises(SettingError, match="weights_bits must be"):
        Types(weights=0)
    with pytest.raises(SettingError, match="alpha_max must be"):
        Question(100, 10, alpha=1.5)
    with pytest.raises(SettingError, match=r"must be 8192 together at most.*, not 8300"):
        list(reach(ModelShape.of(SMOLLM2), SIMPLE, Types(), Question(8000, 300)))
