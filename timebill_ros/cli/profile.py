# SPDX-License-Identifier: Apache-2.0
"""Show how long the model takes on this machine, measured as the node measures it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from timebill_ros.budget.errors import ProfileFitError, SettingError
from timebill_ros.budget.fit import TimeModelFit
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.cli.arguments import add_parameters, take_settings
from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.serving_threads import wait_passively
from timebill_ros.runtime.settings import Settings

# Those of the node's parameters that a profile depends on.
_PARAMETERS = (
    "model",
    "device",
    "dtype",
    "weights",
    "threads",
    "max_context",
    "chunk",
    "window",
    "eviction_method",
    "kernel",
    "temperature",
    "predictor",
    "predictor_device",
    "predictor_threads",
    "profile_cache",
    "profile_seconds",
)
_SHORTEST_ROW = 256  # tokens
_RESPONSE = 100  # tokens; what the last columns of the table answer with
_ALPHAS = (0.0, 0.5, 0.95)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the time model of the node's model on this machine; 0 if there is one."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    refresh, save = options.pop("refresh"), options.pop("save")
    settings = take_settings(parser, options, _PARAMETERS)
    log_to_stderr()
    wait_passively()  # as the node does
    # Loading pulls in torch: not before the arguments are known to be good.
    from timebill_ros.engine.errors import EngineError
    from timebill_ros.predictor.errors import PredictorError

    try:
        fit, longest = measure_anew(settings) if refresh else measured(settings)
        if save is not None:
            save.write_text(json.dumps(asdict(fit.model), indent=1) + "\n", encoding="utf-8")
    except (SettingError, ProfileFitError, EngineError, PredictorError, OSError) as failure:
        print(f"profile: {harmless_line(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join([*describe(fit), "", "predicted, in ms", *table(fit.model, longest)]))
    return 0


def describe(fit: TimeModelFit) -> Iterator[str]:
    """The coefficients with their units, and the errors on points that were not fitted."""
    model = fit.model
    yield "time model, in seconds; error: mean absolute percentage on points that were not fitted"
    yield (
        f"prefill    a N_x^2 + b N_x + c   a = {model.a:.3e} s/token^2, b = {model.b:.3e} s/token, "
        f"c = {model.c:.3e} s   error {fit.prefill_mape:.1%}"
    )
    yield (
        f"step       p N_kv + q            p = {model.p:.3e} s/token, q = {model.q:.3e} s   "
        f"error {fit.step_mape:.1%}"
    )
    yield (
        f"eviction   r N_x + s             r = {model.evict_rate:.3e} s/token, "
        f"s = {model.evict_base:.3e} s   error {fit.evict_mape:.1%}"
    )
    yield f"schema     per response token   {model.q_structured:.3e} s"
    yield f"drawing    per response token   {model.q_drawn:.3e} s"
    yield f"selection  per prompt token     {model.rank:.3e} s, per token kept {model.render:.3e} s"
    if fit.disturbance:
        yield f"disturbed  {fit.disturbance}"
    if model.predictor is None:
        yield "predictor  none"
    else:
        rlp = model.predictor
        yield (
            f"predictor  a N_p^2 + b N_p + c   a = {rlp.a:.3e} s/token^2, b = {rlp.b:.3e} s/token, "
            f"c = {rlp.c:.3e} s"
        )


def table(model: TimeModel, longest: int) -> Iterator[str]:
    """Predicted times for prompts up to ``longest`` tokens, in ms."""
    columns = ["prefill", "predictor", "eviction", "step", *(f"alpha {a:.2f}" for a in _ALPHAS)]
    yield f"{'':8}{'':44}{f'answer of {_RESPONSE} tokens, all in all':>36}"
    yield (
        f"{'tokens':>8}"
        + "".join(f"{column:>11}" for column in columns[:4])
        + "".join(f"{column:>12}" for column in columns[4:])
    )
    tokens = _SHORTEST_ROW
    while tokens <= longest:
        rlp = f"{model.predictor(tokens) * 1e3:.1f}" if model.predictor else "-"
        totals = "".join(f"{_end_to_end(model, tokens, alpha) * 1e3:>12.1f}" for alpha in _ALPHAS)
        yield (
            f"{tokens:>8,}{model.prefill(tokens) * 1e3:>11.1f}{rlp:>11}"
            f"{model.evict(tokens) * 1e3:>11.2f}{model.step(tokens) * 1e3:>11.3f}{totals}"
        )
        tokens *= 2


def _end_to_end(model: TimeModel, prompt_tokens: int, alpha: float) -> float:
    """Seconds from start to end, equations (7) and (9)."""
    kept = int((1.0 - alpha) * prompt_tokens)
    return (
        model.prefill(prompt_tokens)
        + model.predictor_excess(prompt_tokens, model.longest_predictor_input(prompt_tokens))
        + model.evict_and_decode(prompt_tokens, kept, _RESPONSE)
    )


def measured(settings: Settings) -> tuple[TimeModelFit, int]:
    """The time model, recalled or measured as by the node, and the longest context, tokens."""
    from timebill_ros.runtime.loading import load

    told = ""

    def progress(share: float, doing: str) -> None:
        nonlocal told
        if doing != told:
            print(f"[{share:4.0%}] {doing}", file=sys.stderr)
        told = doing

    loaded = load(settings, progress)
    return loaded.fit, loaded.engine.max_context


def measure_anew(settings: Settings) -> tuple[TimeModelFit, int]:
    """Measure beside the kept profiles; only a good one then takes the old one's place."""
    from timebill_ros.runtime.loading import profile_folder

    folder = profile_folder(settings)
    with tempfile.TemporaryDirectory() as beside:
        result = measured(replace(settings, profile_cache=beside))
        folder.mkdir(parents=True, exist_ok=True)
        for profile in Path(beside).glob("*.json"):
            shutil.move(profile, folder / profile.name)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("profile", __doc__)
    parser.add_argument(
        "--refresh", action="store_true", help="measure even if there is a profile of this machine"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="keep the coefficients, for replay --simulate"
    )
    add_parameters(parser, _PARAMETERS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
