# SPDX-License-Identifier: Apache-2.0
"""N_max between the job's wish, the default and the context: each bound at its last token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.admission import max_tokens_of
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped, Reason

CONTEXT = 1000
JOB = Job("a", Conversation("", "stop"), 0, 10)


@pytest.mark.parametrize(
    ("wished", "prompt_tokens", "max_tokens"),
    [
        (None, 1, 400),
        (None, 599, 400),
        (None, 600, 400),
        (None, 601, 399),
        (None, 999, 1),
        (1, 999, 1),
        (7, 100, 7),
        (900, 100, 900),  # a wish may be more than the default
    ],
)
def test_n_max_is_the_wish_or_as_much_of_the_default_as_there_is_room_for(
    wished: int | None, prompt_tokens: int, max_tokens: int
) -> None:
    job = replace(JOB, max_tokens=wished)
    assert max_tokens_of(job, prompt_tokens, default=400, context=CONTEXT) == max_tokens


@pytest.mark.parametrize(
    ("wished", "prompt_tokens", "detail"),
    [
        (None, 0, "prompt: it is empty after tokenising"),
        (
            5,
            1000,
            "prompt: 1000 tokens leave no room for a response in the model's context of 1000",
        ),
        (None, 1001, "prompt: 1001 tokens leave no room"),
        (
            901,
            100,
            "max_tokens: 901 exceed the 900 that a prompt of 100 tokens leaves in the model's "
            "context of 1000",
        ),
        (2, 999, "max_tokens: 2 exceed the 1 "),
    ],
)
def test_what_has_no_room_is_rejected_with_its_bound(
    wished: int | None, prompt_tokens: int, detail: str
) -> None:
    job = replace(JOB, max_tokens=wished)
    with pytest.raises(JobStopped) as stopped:
        max_tokens_of(job, prompt_tokens, default=400, context=CONTEXT)
    assert stopped.value.reason is Reason.REJECTED
    assert stopped.value.detail.startswith(detail)
