# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine import checkpoint as module
from timebill_ros.engine.checkpoint import (
    check_config,
    load_checkpoint,
    max_positions,
    sliding_window,
)
from timebill_ros.engine.errors import (
    BrokenCheckpoint,
    CheckpointNotFound,
    DeviceUnavailable,
    NotSafetensors,
    UnsupportedModel,
)
from timebill_ros.engine.factory import make_engine
from timebill_ros.engine.projection import WeightKinds
from timebill_ros.engine.settings import EngineSettings


@pytest.fixture
def folder(folder_of, tmp_path):
    """A copy of a good checkpoint, to be damaged."""
    return shutil.copytree(folder_of("qwen2"), tmp_path / "model")


def test_a_good_checkpoint_loads(folder):
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.dtype == torch.float32
    assert checkpoint.device.type == "cpu"
    assert checkpoint.max_positions == 512
    assert checkpoint.eos_tokens == {2}
    assert not any(p.requires_grad for p in checkpoint.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_applied(folder, dtype):
    assert load_checkpoint(folder, dtype=dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("there", "dtype", "said"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, "bfloat16", True),
        ({"avx512_bf16": True}, "bfloat16", False),
        ({"bf16": True}, "bfloat16", False),
        ({"avx512_bf16": True}, "float16", True),
        ({}, "float32", False),
        ({}, "auto", False),
    ],
)
def test_a_type_that_the_processor_lacks_is_told(folder, monkeypatch, caplog, there, dtype, said):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    load_checkpoint(folder, dtype=dtype)
    assert (f"dtype is {dtype}, but the processor" in caplog.text) == said


@pytest.mark.parametrize(("weights", "said"), [("int8", True), ("float32", False), ("", False)])
def test_weights_that_the_processor_cannot_multiply_are_told(
    folder, monkeypatch, caplog, weights, said
):
    checkpoint = load_checkpoint(folder)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    kinds = WeightKinds(weights, weights)
    make_engine(checkpoint, EngineSettings(max_context=64, weights=kinds, threads=1)).close()
    assert ("weights is int8, but the processor" in caplog.text) == said


def test_several_eos_tokens_come_from_the_generation_config(folder):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert load_checkpoint(folder).eos_tokens == {2, 7}


def test_a_generic_tokenizer_keeps_its_own_rules(folder):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "left": 1, "turn": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    assert load_checkpoint(folder).tokenizer.encode("turn left now") == [2, 1, 0]


@pytest.mark.parametrize("name", ["/no/such/model", "./no-such-model", "~/no-such-model", "a/b/c"])
def test_a_path_that_does_not_exist_never_asks_the_hub(name, monkeypatch):
    monkeypatch.setattr(module, "hub_folder", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointNotFound, match="no such directory"):
        load_checkpoint(name)


def test_a_hub_id_is_loaded_from_where_the_hub_s_cache_has_it(folder, monkeypatch):
    waiting = object()
    monkeypatch.setattr(module, "hub_folder", lambda *given: {("a/b", waiting): folder}[given])
    assert load_checkpoint("a/b", waiting=waiting).folder == folder


def test_a_file_is_no_checkpoint(folder):
    with pytest.raises(CheckpointNotFound, match="it is a file"):
        load_checkpoint(folder / "config.json")


@pytest.mark.parametrize("name", ["/no/such/model.gguf", "model.gguf", "someone/model.gguf"])
def test_a_gguf_file_says_how_it_is_imported(name):
    with pytest.raises(CheckpointNotFound, match=f"timebill_ros import-gguf {name} OUT"):
        load_checkpoint(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BrokenCheckpoint, match=name.split(".")[0].replace("model", "safetensors")):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "part"),
    [("config.json", "config"), ("tokenizer.json", "tokenizer"), ("model.safetensors", "weights")],
)
def test_a_damaged_file_is_named(folder, name, part):
    (folder / name).write_bytes(b"{ damaged")
    with pytest.raises(BrokenCheckpoint, match=part):
        load_checkpoint(folder)


def test_a_truncated_weights_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BrokenCheckpoint, match="weights"):
        load_checkpoint(folder)


def test_missing_weights_are_not_made_up(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"1 weights are missing, .*layers\.1\.mlp\.up_proj"):
        load_checkpoint(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(NotSafetensors, match=r"pytorch_model\.bin"):
        load_checkpoint(folder)


def test_code_in_the_checkpoint_is_never_run(folder, monkeypatch):
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    config = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked whether to run the code"))
    with pytest.raises(BrokenCheckpoint, match="config"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("model_type", "architecture", "reason"),
    [
        ("qwen2", "Qwen2ForSequenceClassification", "not a causal language model"),
        ("t5", "T5ForConditionalGeneration", "not a causal language model"),
        ("bert", "BertForMaskedLM", "not a causal language model"),
        ("gpt2", "GPT2LMHeadModel", "not rotary"),
        ("mamba", "MambaForCausalLM", "linear_attention"),
        ("gemma3_text", "Gemma3ForCausalLM", "sliding_attention"),
        ("qwen3_next", "Qwen3NextForCausalLM", "linear_attention"),
    ],
)
def test_models_without_full_rotary_attention_are_refused(folder, model_type, architecture, reason):
    AutoConfig.for_model(model_type, architectures=[architecture]).save_pretrained(folder)
    with pytest.raises(UnsupportedModel, match=reason):
        load_checkpoint(folder)


@pytest.mark.parametrize("device", ["no-such-device", "cuda:99", "meta"])
def test_devices_that_cannot_be_used_are_named(folder, device):
    with pytest.raises(DeviceUnavailable, match=device):
        load_checkpoint(folder, device=device)


def test_unknown_dtypes_are_named(folder):
    with pytest.raises(SettingError, match="dtype must be one of auto, float32"):
        load_checkpoint(folder, dtype="int8")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("type_", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_weights_of_a_quantised_type_are_refused_by_name(folder, type_):
    change_weights(folder, lambda weights: weights.update({UP: weights[UP].to(type_)}))
    with pytest.raises(UnsupportedModel, match=rf"{UP} is of type .*no quantization_config"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["weight_scale", "weight_scale_inv", "input_scale", "qweight", "weight_packed"]
)
def test_scales_without_a_quantisation_are_refused_by_name(folder, name):
    scale = f"model.layers.0.mlp.up_proj.{name}"
    change_weights(folder, lambda weights: weights.update({scale: torch.ones(1)}))
    with pytest.raises(UnsupportedModel, match=rf"{scale} belongs to quantised weights"):
        load_checkpoint(folder)


def test_a_tensor_without_a_place_is_told(folder, caplog):
    change_weights(folder, lambda weights: weights.update({"model.extra": torch.ones(1)}))
    load_checkpoint(folder)
    assert "1 tensors have no place in the model: model.extra" in caplog.text


def test_weights_of_another_shape_are_named(folder):
    change_weights(folder, lambda weights: weights.update({UP: torch.ones(3, 64)}))
    with pytest.raises(BrokenCheckpoint, match=rf"{UP}, \[3, 64\] instead of \[96, 64\]"):
        load_checkpoint(folder)


@pytest.mark.parametrize("tokenizer_class", ["Qwen2Tokenizer", "LlamaTokenizer", None])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_tokenizer_s_file_decides_and_not_a_class(folder_of, tmp_path, family, tokenizer_class):
    folder = shutil.copytree(folder_of(family), tmp_path / "model")
    vocabulary = {
        "<unk>": 0,
        "1": 1,
        "2": 2,
        "12": 3,
        "a": 4,
        "\u2581": 5,
        "\u2581a": 6,
        "\u0120": 7,
    }
    merging = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("\u2581", "a")], unk_token="<unk>"))
    merging.save(str(folder / "tokenizer.json"))
    declared = {"eos_token": "<unk>", "unk_token": "<unk>"}
    if tokenizer_class:
        declared["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    tokenizer = load_checkpoint(folder).tokenizer
    for text in ("1212", "a", "a12"):
        assert tokenizer.encode(text, add_special_tokens=False) == merging.encode(text).ids


def test_an_end_that_only_the_tokenizer_knows_ends_answers_and_is_told(folder, caplog):
    caplog.set_level("INFO")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert load_checkpoint(folder).eos_tokens == {2, 7}
    assert "</s> ends an answer too" in caplog.text


def test_what_a_generation_config_asks_for_and_does_not_get_is_told(folder, caplog):
    caplog.set_level("INFO")
    asked = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 0, "do_sample": True, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    load_checkpoint(folder)
    assert "asks for what is not applied: repetition_penalty 1.1" in caplog.text
    assert "asks for sampling (top_k 20)" in caplog.text
    assert "no_repeat_ngram_size" not in caplog.text


def test_architectures_need_not_be_named():
    config = Qwen2Config()
    assert config.architectures is None
    check_config(config, "some model")


def test_longrope_is_held_to_its_original_length():
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, "rope_theta": 1e4}
    factors = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    config = Qwen2Config(max_position_embeddings=512, rope_parameters=rope | factors)
    assert max_positions(config) == 64
    assert max_positions(Qwen2Config(max_position_embeddings=512)) == 512


def test_a_sliding_window_counts_only_where_it_is_used():
    assert sliding_window(MistralConfig(sliding_window=200)) == 200
    assert sliding_window(MistralConfig(sliding_window=None)) is None
    unused = Qwen2Config(use_sliding_window=False)
    unused.sliding_window = 200
    assert sliding_window(unused) is None
    assert sliding_window(LlamaConfig(sliding_window=200)) is None
    everywhere_full = Qwen2Config(layer_types=["full_attention"] * 32, use_sliding_window=True)
    everywhere_full.sliding_window = 200
    assert sliding_window(everywhere_full) is None
