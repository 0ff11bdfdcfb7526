# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from transformers import LlamaConfig, MistralConfig, Qwen2Config

from timebill_ros.engine.compatibility import check_config, max_positions, sliding_window


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
