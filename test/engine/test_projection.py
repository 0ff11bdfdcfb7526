# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.projection import KINDS, SplitProjection, WeightKinds
from timebill_ros.engine.request import PreparedRequest

# Relative error of a product: of rounding weights, and the input to bfloat16.
ERRORS = {"float32": 1e-6, "bfloat16": 0.01, "int8": 0.02, "int4": 0.12}
NARROW = [kind for kind in KINDS if kind != "float32"]


def random_layer(rows=96, columns=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return weight, torch.randn(rows, generator=generator)


def relative_error(out, expected):
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    return float((out - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (100,)])
def test_a_rounded_weight_multiplies_as_the_whole_one_nearly(kind, shape):
    weight, bias = random_layer()
    project = WeightKinds(kind, kind).maker()(weight, bias)
    x = torch.randn(*shape, 64, generator=torch.Generator().manual_seed(1))
    error = relative_error(project(x), torch.nn.functional.linear(x, weight, bias))
    assert error < ERRORS[kind]
    if kind != "float32":
        assert error > ERRORS[kind] / 50  # it is rounded, and not kept whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_is_added_in_place(kind):
    weight, bias = random_layer()
    project = WeightKinds(kind, kind).maker()(weight, bias)
    x, total = torch.ones(64), torch.full((96,), 2.0)
    project.add_to(total, x)
    assert torch.allclose(total, 2.0 + project(x), atol=1e-4)


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("columns", [8, 16, 24, 40, 48, 100, 160])
@pytest.mark.parametrize("rows", [1, 7, 16, 259])
def test_every_shape_is_multiplied(kind, rows, columns):
    """The int8 kernel reads beyond the end of rows that are no multiple of 16 long."""
    weight, _ = random_layer(rows, columns)
    project = WeightKinds(kind, kind).maker()(weight, None)
    for x in (torch.ones(columns), torch.ones(3, columns), torch.ones(50, columns)):
        expected = x @ weight.T
        assert (project(x) - expected).abs().max() < 0.2 * columns**0.5


@pytest.mark.parametrize(("rows", "columns"), [(40, 64), (96, 40)])
def test_int8_where_the_int4_kernel_cannot_have_the_shape(rows, columns):
    weight, bias = random_layer(rows, columns)
    x = torch.ones(columns)
    int4, int8 = (WeightKinds(kind, kind).maker()(weight, bias) for kind in ("int4", "int8"))
    assert torch.equal(int4(x), int8(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_and_a_constant_row(kind):
    weight = torch.zeros(16, 32)
    weight[1] = 0.5
    out = WeightKinds(kind, kind).maker()(weight, None)(torch.ones(32))
    assert out[0] == 0.0
    assert out[1] == pytest.approx(16.0, rel=0.02)
    assert torch.isfinite(out).all()


def test_chunks_and_vectors_may_have_weights_of_their_own():
    weight, bias = random_layer()
    split = WeightKinds(prefill="bfloat16", steps="int8").maker()(weight, bias)
    assert isinstance(split, SplitProjection)
    x = torch.randn(4, 64)
    assert torch.equal(split(x), WeightKinds("bfloat16", "bfloat16").maker()(weight, bias)(x))
    assert torch.equal(split(x[0]), WeightKinds("int8", "int8").maker()(weight, bias)(x[0]))
    assert str(WeightKinds("bfloat16", "int8")) == "bfloat16/int8"


def test_the_head_keeps_eight_bits():
    weight, _ = random_layer()
    x = torch.ones(64)
    head = WeightKinds("int4", "int4").head_maker()(weight, None)
    assert torch.equal(head(x), WeightKinds("int8", "int8").maker()(weight, None)(x))


def generated(engine, prompt, tokens=12):
    engine.begin(PreparedRequest(prompt), tokens, ignore_eos=True)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return list(engine.response_ids)


@pytest.mark.parametrize("kind", NARROW)
def test_an_engine_with_rounded_weights_is_another_and_runs(make_engine, prompt_of, kind):
    plain, narrow = make_engine(), make_engine(weights=WeightKinds(kind, kind))
    assert narrow.traits["weights"] == kind
    assert narrow.traits != plain.traits
    assert len(generated(narrow, prompt_of(60))) == 12


def test_kept_whole_for_both_it_is_the_same_engine(make_engine, prompt_of):
    whole = make_engine(weights=WeightKinds("float32", "float32"))
    assert generated(whole, prompt_of(60)) == generated(make_engine(), prompt_of(60))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": WeightKinds("int3", "int3")}, "weights must be one of auto, float32"),
        ({"weights": WeightKinds("int8", "int8"), "lean": False}, "auto for this architecture"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make_engine, settings, message):
    with pytest.raises(SettingError, match=message):
        make_engine(**settings)


def test_no_weights_wider_than_the_activations(folder_of):
    from timebill_ros.engine.settings import EngineSettings
    from timebill_ros.engine.transformer_engine import TransformerEngine

    narrow = load_checkpoint(folder_of("qwen2"), dtype="bfloat16")
    settings = EngineSettings(max_context=64, weights=WeightKinds("float32", "float32"))
    with pytest.raises(SettingError, match="no wider than dtype"):
        TransformerEngine(narrow, settings)
