# SPDX-License-Identifier: Apache-2.0
"""Calculate what each lever can do to a request's time, for a model and a machine on paper."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

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
from timebill_ros.cli.arguments import positive_count
from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.harmless import harmless_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if the figures make sense."""
    options = _parser().parse_args(arguments)
    try:
        print("\n".join(_table(options)))
    except (ConfigError, SettingError, OSError, ValueError, RecursionError) as bad:
        print(f"reach: {harmless_line(str(bad))}", file=sys.stderr)
        return 1
    return 0


def _table(options: argparse.Namespace) -> Iterator[str]:
    try:
        config = json.loads(options.model_config.read_text(encoding="utf-8"))
        shape = ModelShape.of(config)
    except (ConfigError, ValueError, RecursionError) as bad:
        raise ConfigError(f"{options.model_config}: {bad}") from bad
    machine = Machine(
        bandwidth=options.bandwidth * 1e9,
        flops=options.flops * 1e12,
        step_overhead=options.step_overhead / 1e3,
        repeats=options.repeats,
    )
    types = Types(options.weights_bits, options.cache_bits)
    request = Question(
        prompt_tokens=options.prompt_tokens,
        response_tokens=options.response_tokens,
        alpha=options.alpha_max,
        rho=options.rho_min,
        least_response=min(options.least_response, options.response_tokens),
        prefix=options.prefix,
        quantised_bits=options.quantised_bits,
    )
    rows = list(reach(shape, machine, types, request))
    model = time_model(shape, machine, types)
    yield (
        f"{shape.weights / 1e6:.0f} million weights are read by a step, "
        f"{shape.cached_per_token * types.cache / 8e3:.3g} kB of cache per token"
    )
    yield (
        f"prefill {model.prefill(request.prompt_tokens):.4g} s, step "
        f"{1e3 * model.step(request.prompt_tokens):.4g} ms, of which "
        f"{1e3 * model.p * request.prompt_tokens:.3g} ms are the prompt's cache"
    )
    yield ""
    yield "| lever | time, s | of the whole |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {row.lever} | {row.time:.4g} | {row.time / rows[0].time:.1%} |"
    if options.save:
        text = json.dumps({k: v for k, v in asdict(model).items() if v is not None}, indent=1)
        options.save.write_text(text + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "reach", __doc__, epilog="Times of a perfect engine: a real one takes longer."
    )
    parser.add_argument(
        "--model-config", type=Path, required=True, metavar="FILE", help="the model's config.json"
    )
    parser.add_argument("--bandwidth", type=float, required=True, help="of the memory, GB/s")
    parser.add_argument(
        "--flops",
        type=float,
        required=True,
        help="of matrix products, TFLOP/s; reached ones, if known",
    )
    parser.add_argument("--prompt-tokens", type=positive_count, default=4096)
    parser.add_argument("--response-tokens", type=positive_count, default=256)
    parser.add_argument("--weights-bits", type=float, default=16.0)
    parser.add_argument("--cache-bits", type=float, default=16.0)
    parser.add_argument(
        "--step-overhead", type=float, default=0.0, metavar="MS", help="of each step, ms"
    )
    parser.add_argument(
        "--repeats",
        action="store_true",
        help="the engine copies the cache at each step and repeats keys and values for each head",
    )
    parser.add_argument("--alpha-max", type=float, default=0.95, help="largest eviction ratio")
    parser.add_argument("--rho-min", type=float, default=0.25, help="smallest share selected")
    parser.add_argument(
        "--least-response", type=positive_count, default=1, help="tokens of a cut answer"
    )
    parser.add_argument("--prefix", type=float, default=0.9, help="share of the prompt reused")
    parser.add_argument("--quantised-bits", type=float, default=4.0, help="of rounded weights")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write the time model, for --time-model of others"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
