# SPDX-License-Identifier: Apache-2.0
"""What large evictions do to the plans of others: one window of past responses, or one for each.

Streams in which some requests lose most of their cache, whereupon some of those run on to the cap.
Responses after large evictions are kept in a window of their own, as the node does, or in one with
all others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from coverage import EVICTED, Answered, answered_prompts, prompts_parser
from machine import heading

from timebill_ros.budget.calibration import Calibration
from timebill_ros.predictor.checkpoint import read_calibration
from timebill_ros.runtime.coverage_tracker import WINDOW, CoverageTracker
from timebill_ros.training.embedded.generation import LONGEST_RESPONSE

RISKS = (0.01, 0.05, 0.1)
SHARES = (0.2, 0.5)
COUNTED = 600  # requests of a stream, after those that fill the window


def main() -> None:
    """Count and print both."""
    parser = prompts_parser(__doc__)
    parser.add_argument("--streams", type=int, default=20)
    arguments = parser.parse_args()
    usual = answered_prompts(arguments, "usual", alpha=0.0)
    evicted = answered_prompts(arguments, "evicted", alpha=EVICTED)
    calibration = read_calibration(arguments.predictor)
    print(heading("Coverage where some evict much"))
    print(f"{arguments.streams} streams of {COUNTED} counted requests\n")
    print(f"{'evicting':>9}{'windows':>8}{'risk':>6}{'':>4}covered, N_W: others {'':>8}evicted")
    for share in SHARES:
        for apart in (False, True):
            rows = mixed(usual, evicted, calibration, share, arguments.streams, apart=apart)
            for row in rows:
                print(f"{share:9.0%}{'two' if apart else 'one':>8}{row}")


def mixed(
    usual: Sequence[Answered],
    evicted: Sequence[Answered],
    calibration: Calibration | None,
    share: float,
    streams: int,
    *,
    apart: bool,
) -> Iterator[str]:
    """Rows per risk: share of N <= N_W and mean N_W, of requests that keep and that lose most."""
    rng = np.random.default_rng(0)
    seen = defaultdict(list)
    for _ in range(streams):
        tracker = CoverageTracker(calibration)
        for number in range(WINDOW + COUNTED):
            loses = bool(rng.random() < share)
            pool = evicted if loses else usual
            each = pool[rng.integers(len(pool))]
            alpha = EVICTED if loses and apart else 0.0
            known = tracker.assess(each.lengths).at(alpha)
            for risk in RISKS if number >= WINDOW else ():
                planned = known.planned_tokens(risk, LONGEST_RESPONSE)
                seen[risk, loses].append((each.response_tokens <= planned, planned))
            ended = each.response_tokens < LONGEST_RESPONSE
            tracker.observe(known, each.response_tokens, complete=ended, alpha=alpha)
    for risk in RISKS:
        figures = [np.mean(seen[risk, loses], axis=0) for loses in (False, True)]
        yield f"{risk:6g}" + "".join(f"{within:16.3f}{n_w:8.0f}" for within, n_w in figures)


if __name__ == "__main__":
    main()
