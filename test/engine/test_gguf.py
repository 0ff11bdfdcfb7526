# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.errors import GgufRefused
from timebill_ros.engine.gguf import gguf_file, import_gguf

from .conftest import LLAMA3_ROPE, PARTIAL_ROPE, save_checkpoint
from .gguf_files import SHAPE, TEMPLATE, TOKENS, GgufModel, reference_tokenizer

ROPE = LLAMA3_ROPE | {"original_max_position_embeddings": 8192, "rope_theta": 500000.0}
MODELS = {
    "llama": ("llama", LlamaConfig(**SHAPE)),
    "llama_biased": ("llama", LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "llama_wide_heads": ("llama", LlamaConfig(**SHAPE, head_dim=32)),
    "llama_tied": ("llama", LlamaConfig(**SHAPE | {"tie_word_embeddings": True})),
    "llama3": ("llama", LlamaConfig(**SHAPE, rope_parameters=ROPE)),
    "mistral": ("llama", MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": ("qwen2", Qwen2Config(**SHAPE)),
    "qwen3": ("qwen3", Qwen3Config(**SHAPE, head_dim=32)),
    "phi3": ("phi3", Phi3Config(**SHAPE, sliding_window=None, rope_parameters=PARTIAL_ROPE)),
    "phi3_sliding": ("phi3", Phi3Config(**SHAPE, sliding_window=200)),
}


def rope_divisors(config):
    """By what llama.cpp divides the frequencies of a Llama 3."""
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = config.head_dim
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    return (plain / frequencies).numpy()


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """How a model of ``MODELS`` is written as GGUF; its checkpoint is there."""
    root = tmp_path_factory.mktemp("models")

    def model(name, **options):
        architecture, config = MODELS[name]
        if not (root / name).exists():
            save_checkpoint(root / name, config)
        extra = {"rope_freqs.weight": rope_divisors(config)} if name == "llama3" else {}
        return GgufModel(root / name, architecture, **{"extra": extra, **options})

    return model


@pytest.fixture
def refused(model_of, tmp_path):
    """Writes a file, has it refused for a reason, and sees that nothing is left of it."""

    def check(reason, name="llama", **options):
        file = model_of(name, **options).write(tmp_path / "model.gguf")
        with pytest.raises(GgufRefused, match=reason):
            import_gguf(file, tmp_path / "out")
        assert list(tmp_path.iterdir()) == [file]

    return check


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 60)[None]).logits


@pytest.mark.parametrize("name", MODELS)
def test_the_imported_model_computes_what_the_original_does(name, model_of, tmp_path):
    written = model_of(name)
    made = import_gguf(written.write(tmp_path / "model.gguf"), tmp_path / "out")
    checkpoint = load_checkpoint(made.folder)
    original = AutoModelForCausalLM.from_pretrained(written.checkpoint)
    torch.testing.assert_close(logits(checkpoint.model), logits(original), rtol=1e-4, atol=1e-4)
    assert made.weights == original.num_parameters()
    assert checkpoint.max_positions == made.max_positions == 512
    sliding = getattr(original.config, "sliding_window", None)
    assert getattr(checkpoint.model.config, "sliding_window", None) == sliding


def test_the_imported_tokenizer_makes_the_same_tokens(model_of, tmp_path):
    made = import_gguf(model_of("llama").write(tmp_path / "model.gguf"), tmp_path / "out")
    checkpoint = load_checkpoint(made.folder)
    expected = reference_tokenizer()
    for text in ("the other path, 12 m", "</s>thin\n Größe", ""):
        assert checkpoint.tokenizer.encode(text) == expected.encode(text)
    assert TOKENS.index("th") in checkpoint.tokenizer.encode("the")
    assert made.chat_template
    assert checkpoint.tokenizer.chat_template == TEMPLATE


def test_smollm_splits_off_every_digit(model_of, tmp_path):
    file = model_of("llama", split="smollm").write(tmp_path / "model.gguf")
    tokenizer = load_checkpoint(import_gguf(file, tmp_path / "out").folder).tokenizer
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  57 b")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "5", "7", "Ġb"]


@pytest.mark.parametrize("ends", [{}, {"eot": 7}])
def test_every_token_that_ends_an_answer_is_kept(ends, model_of, tmp_path):
    def change(writer):
        for name, token in ends.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)

    file = model_of("llama", change=change).write(tmp_path / "model.gguf")
    folder = import_gguf(file, tmp_path / "out").folder
    assert load_checkpoint(folder).eos_tokens == {2, *ends.values()}


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_weights_are_written_in_the_type_asked_for(dtype, size, model_of, tmp_path):
    types = {"ffn": gguf.GGMLQuantizationType.Q8_0}
    file = model_of("llama", types=types).write(tmp_path / "model.gguf")
    made = import_gguf(file, tmp_path / "out", dtype)
    assert made.stored_as == ("F32", "Q8_0")
    config = json.loads((made.folder / "config.json").read_text())
    assert config["dtype"] == dtype
    assert not [key for key in config if "quant" in key]
    weights = made.folder / "model.safetensors"
    assert weights.stat().st_size == pytest.approx(size * made.weights, rel=0.05)
    assert weights.stat().st_mode == (made.folder / "config.json").stat().st_mode


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("one of 3 parts; join them", {"change": lambda w: w.add_uint16("split.count", 3)}),
        ("mixture of experts", {"change": lambda w: w.add_expert_count(8)}),
        (
            r"positions are scaled \(yarn\)",
            {"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
        ),
        ("no tokenizer", {"tokenizer": False}),
        ("tokenizer.ggml.pre is jais", {"split": "jais"}),
        ("tokenizer.ggml.pre is none", {"split": None}),
        (
            "1 weights are missing, first .*layers.1.mlp.up_proj",
            {"without": ("blk.1.ffn_up.weight",)},
        ),
        ("weights, of which a qwen2 model takes", {"name": "qwen2", "extra": {"odd": np.ones(4)}}),
        ("another way than Llama 3's", {"extra": {"rope_freqs.weight": np.linspace(1, 8, 8)}}),
        (r"scaled \(longrope\)", {"extra": {"rope_factors_long.weight": np.ones(8)}}),
    ],
)
def test_what_would_be_read_wrongly_is_refused(reason, options, refused):
    extra = {name: a.astype(np.float32) for name, a in options.get("extra", {}).items()}
    refused(reason, **options | {"extra": extra})


def test_what_lies_beside_the_file_does_not_count(model_of, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked whether to run code"))
    evil = {"auto_map": {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.T", None]}}
    (tmp_path / "evil.py").write_text("raise SystemExit('the code beside the file ran')")
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(evil))
    file = model_of("llama").write(tmp_path / "model.gguf")
    folder = import_gguf(file, tmp_path / "out").folder
    assert load_checkpoint(folder).tokenizer.encode("the") == reference_tokenizer().encode("the")


def test_other_architectures_are_refused(tmp_path):
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "mamba")
    writer.add_uint32("mamba.block_count", 1)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.close()
    with pytest.raises(GgufRefused, match="architecture is mamba; known are llama"):
        import_gguf(file, tmp_path / "out")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.6, 0.99])
def test_a_file_cut_short_is_refused(share, model_of, tmp_path):
    file = model_of("llama").write(tmp_path / "model.gguf")
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.raises(GgufRefused, match="damaged, cut short, or no GGUF"):
        import_gguf(file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_an_existing_folder_is_left_alone(model_of, tmp_path):
    file = model_of("llama").write(tmp_path / "model.gguf")
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists already"):
        import_gguf(file, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_leaves_nothing(model_of, tmp_path):
    """A limit on the size of files stops the weights half-way, as a full disk would."""
    file = model_of("llama").write(tmp_path / "model.gguf")
    code = (
        "import sys; from pathlib import Path; from timebill_ros.engine.gguf import import_gguf\n"
        "try: import_gguf(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except OSError as error: sys.exit(f'OSError: {error}')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(file), str(tmp_path / "out")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OSError: ")
    assert list(tmp_path.iterdir()) == [file]


def test_sources_are_files_or_packages_with_one_file(tmp_path, monkeypatch):
    class Installed(importlib.metadata.Distribution):
        def read_text(self, name):
            return "one/model.gguf,,\none/__init__.py,,\n" if name == "RECORD" else None

        def locate_file(self, path):
            return tmp_path / path

    def distribution(name):
        if name != "one":
            raise importlib.metadata.PackageNotFoundError(name)
        return Installed()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert gguf_file("one") == tmp_path / "one" / "model.gguf"
    with pytest.raises(GgufRefused, match="neither a file nor an installed package"):
        gguf_file("two")
    with pytest.raises(GgufRefused, match="no such file"):
        gguf_file("two.gguf")
    with pytest.raises(GgufRefused, match="it is a folder"):
        gguf_file(str(tmp_path))
    monkeypatch.setattr(Installed, "read_text", lambda self, name: "a.gguf,,\nb.gguf,,\n")
    with pytest.raises(GgufRefused, match=r"one GGUF file, but has a\.gguf, b\.gguf"):
        gguf_file("one")
