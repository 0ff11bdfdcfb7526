# SPDX-License-Identifier: Apache-2.0
"""`python -m timebill_ros NAME ...`: every executable of the package by its name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from timebill_ros.node.command_line import package_version

MODULES = {
    "llm_node": "timebill_ros.node.main",
    "import-gguf": "timebill_ros.cli.import_gguf",
    "profile": "timebill_ros.cli.profile",
    "ask": "timebill_ros.cli.ask",
    "demo": "timebill_ros.cli.demo",
    "demo-real": "timebill_ros.cli.demo_real",
    "replay": "timebill_ros.cli.replay",
    "bench": "timebill_ros.bench.command",
    "measure-quality": "timebill_ros.bench.measure_quality",
    "reach": "timebill_ros.cli.reach",
    "top": "timebill_ros.cli.top",
    "collect": "timebill_ros.training.commands.collect",
    "train-predictor": "timebill_ros.training.commands.train_predictor",
    "evaluate-predictor": "timebill_ros.training.commands.evaluate_predictor",
    "autoware_adapter": "timebill_ros.autoware.adapter_node",
}


# By the build: the source folder has none.
_GENERATED = {"timebill_ros.msg", "timebill_ros.action"}


def main() -> int | None:
    """Run the executable named by the first argument, with the rest as its own arguments."""
    names = ", ".join(MODULES)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"usage: timebill_ros NAME [argument ...]\n\nNAME is one of: {names}")
        return 0 if len(sys.argv) > 1 else 2
    if sys.argv[1] == "--version":
        print(f"timebill_ros {package_version()}")
        return 0
    name = sys.argv.pop(1)
    if name not in MODULES:
        print(f"timebill_ros: no executable {name!r}; there are: {names}", file=sys.stderr)
        return 2
    sys.argv[0] = f"timebill_ros {name}"
    try:
        command: Callable[[], int | None] = importlib.import_module(MODULES[name]).main
        return command()
    except ImportError as missing:
        if missing.name is None or (advice := _advice(missing.name)) is None:
            raise
        print(f"timebill_ros: {advice}", file=sys.stderr)
        return 1


def _advice(missing: str) -> str | None:
    """What to do about a module that is not there; None where it should be."""
    if missing == __package__ and importlib.util.find_spec("timebill_ros.msg") is None:
        missing = "timebill_ros.msg"  # that was to be imported from it
    if missing in _GENERATED:
        folder = Path(__file__).parent
        return f"{folder} is a source folder without messages: python -P finds the installed one"
    package = missing.partition(".")[0]
    if package == __package__:
        return None
    return (
        f"{package} is not installed for {sys.executable}: source ROS 2, activate the virtual "
        "environment, and see the README, Getting started"
    )


if __name__ == "__main__":
    sys.exit(main())
