# SPDX-License-Identifier: Apache-2.0
"""Equation (11): the smallest eviction ratio with which a response of a given length is in time."""

from __future__ import annotations

from timebill_ros.budget.plan import Situation, fits
from timebill_ros.budget.time_model import TimeModel


def minimal_alpha(planned: int, situation: Situation, model: TimeModel) -> float:
    """alpha* >= 0 of equation (11), corrected, unclipped above: may exceed alpha_max and 1.

    Solving delta + t_WCET <= T for alpha gives, with T as the situation's pace leaves it,

        alpha* = 1 - (T - t_prefill - delta - t_evict) / (p N_x (N_W - 1))
                 + (N_W - 2) / (2 N_x) + q / (p N_x)

    (the paper prints the middle term as (N_W - 2) / (2 p N_x), which is not dimensionless).
    t_evict counts only where something is evicted, so alpha = 0 is tried first. Where alpha has
    no effect (N_W <= 1, p <= 0, or a prompt that is all window) it is 0: evicting would cost
    quality and buy nothing.
    """
    n_x, steps = situation.prompt_tokens, planned - 1
    if fits(situation.pace.worst(model.evict_and_decode(n_x, n_x, planned)), situation):
        return 0.0
    if steps <= 0 or model.p <= 0.0 or situation.smallest_kept() == n_x:
        return 0.0
    decode_time = situation.pace.profiled_within(situation.remaining) - model.evict(n_x)
    per_prompt_token = model.p * n_x
    alpha = (
        1.0
        - decode_time / (per_prompt_token * steps)
        + (planned - 2) / (2.0 * n_x)
        + model.q / per_prompt_token
    )
    return max(0.0, alpha)
