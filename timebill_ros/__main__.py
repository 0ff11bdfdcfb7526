# SPDX-License-Identifier: Apache-2.0
"""`python -m timebill_ros NAME ...`: every executable of the package by its name."""

from __future__ import annotations

import importlib
import sys

MODULES = {
    "llm_node": "timebill_ros.node.main",
    "profile": "timebill_ros.cli.profile",
    "ask": "timebill_ros.cli.ask",
    "demo": "timebill_ros.cli.demo",
    "replay": "timebill_ros.cli.replay.main",
    "top": "timebill_ros.cli.top",
    "collect": "timebill_ros.cli.collect",
    "train-predictor": "timebill_ros.cli.train_predictor",
    "evaluate-predictor": "timebill_ros.cli.evaluate_predictor",
    "autoware_adapter": "timebill_ros.autoware.main",
}


def main() -> int | None:
    """Run the executable named by the first argument, with the rest as its own arguments."""
    names = ", ".join(MODULES)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"usage: timebill_ros NAME [argument ...]\n\nNAME is one of: {names}")
        return 0 if len(sys.argv) > 1 else 2
    name = sys.argv.pop(1)
    if name not in MODULES:
        print(f"timebill_ros: no executable {name!r}; there are: {names}", file=sys.stderr)
        return 2
    sys.argv[0] = f"timebill_ros {name}"
    return importlib.import_module(MODULES[name]).main()


if __name__ == "__main__":
    sys.exit(main())
