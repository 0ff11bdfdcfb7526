# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.eviction import EVICTION_METHODS, make_eviction_method
from timebill_ros.engine.eviction_methods import SnapKV


@pytest.mark.parametrize("name", ["", "SnapKV", "h2o"])
def test_an_unknown_name_is_told_the_known_ones(name, stock_of):
    with pytest.raises(SettingError, match=r"eviction_method must be one of snapkv, chunkkv, "):
        make_eviction_method(name, kernel=5, model=stock_of("qwen2"))


@pytest.mark.parametrize("name", EVICTION_METHODS)
def test_the_kernel_is_checked_even_where_it_means_nothing(name, stock_of):
    with pytest.raises(SettingError, match="kernel must be odd"):
        make_eviction_method(name, kernel=4, model=stock_of("qwen2"))


BY_ATTENTION = ["snapkv", "chunkkv", "criticalkv"]


@pytest.mark.parametrize("name", BY_ATTENTION)
def test_the_kernel_reaches_what_scores_attention(name, stock_of):
    method = make_eviction_method(name, kernel=7, model=stock_of("qwen2"))
    assert getattr(method, "attention", method) == SnapKV(7)


def test_methods_are_told_apart_by_their_description(stock_of):
    methods = {
        repr(make_eviction_method(name, kernel=kernel, model=stock_of("qwen2")))
        for name in EVICTION_METHODS
        for kernel in (5, 7)
    }
    # By both kernels, where attention is smoothed by one.
    assert len(methods) == len(EVICTION_METHODS) + len(BY_ATTENTION)
