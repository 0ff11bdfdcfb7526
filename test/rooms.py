# SPDX-License-Identifier: Apache-2.0
"""What each room holds and imports, and what an installation brings: ``make rooms``.

With a folder it counts another clone's rooms: ``python test/rooms.py ../other``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "timebill_ros"
GENERATED = ("msg", "action", "srv")
ROOT = Path(__file__).resolve().parents[1]
# A requirement's name; what follows are extras, versions and conditions.
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def sources(tree: Path) -> list[Path]:
    """The package's modules, but for generated ones."""
    package = tree / PACKAGE
    found = sorted(package.rglob("*.py"))
    return [path for path in found if path.relative_to(package).parts[0] not in GENERATED]


def room_of(tree: Path, path: Path) -> str:
    """The room that a source file lies in; a file beside the rooms has none ("")."""
    parts = path.relative_to(tree / PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(tree: Path, path: Path) -> set[str]:
    """Dotted names of all that a file imports, at any depth, relative imports resolved."""
    package = path.relative_to(tree).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: Iterable[str]) -> set[str]:
    """The rooms among imported names."""
    return {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}


def graph(tree: Path) -> str:
    """A row per room: modules, lines, those with fewer than 50, and the rooms that it imports."""
    modules: dict[str, list[int]] = defaultdict(list)
    imported: dict[str, set[str]] = defaultdict(set)
    for path in sources(tree):
        room = room_of(tree, path)
        imported[room] |= rooms_of(imports(tree, path)) - {room}
        if path.name != "__init__.py":
            modules[room].append(len(path.read_text(encoding="utf-8").splitlines()))
    rows = ["| room | modules | lines | under 50 | imports |", "|---|---|---|---|---|"]
    for room, lines in sorted(modules.items()):
        if room:
            named = ", ".join(sorted(imported[room])) or "nothing"
            rows.append(f"| {room} | {len(lines)} | {sum(lines)} | {_short(lines)} | {named} |")
    every = [lines for room in modules.values() for lines in room]
    rows.append(f"| all | {len(every)} | {sum(every)} | {_short(every)} | |")
    return "\n".join(rows)


def _short(lines: list[int]) -> int:
    return sum(count < 50 for count in lines)


def installed() -> str:
    """What is installed here: the package's files, and the distributions of its requirements."""
    files = [file for file in distribution(PACKAGE).files or () if "__pycache__" not in file.parts]
    training = [file for file in files if file.parts[:2] == (PACKAGE, "training")]
    rows = ["| brings | distributions | files | MB |", "|---|---|---|---|"]
    rows += [
        _row("the package without training", 1, set(files) - set(training)),
        _row("the package, training", 0, training),
    ]
    met: set[str] = set()
    for name in ("ros", "runtime", "train"):
        added = closure(ROOT / "requirements" / f"{name}.txt") - met
        met |= added
        found = [file for each in sorted(added) for file in distribution(each).files or ()]
        rows.append(_row(f"requirements/{name}.txt, in addition", len(added), found))
    return "\n".join(rows)


def closure(requirements: Path) -> set[str]:
    """The installed distributions that a file of requirements brings, and theirs."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pending = [line for line in lines if line and not line.startswith(("#", "-"))]
    found: set[str] = set()
    while pending:
        named = _NAME.match(pending.pop())
        name = named[0].lower().replace("_", "-").replace(".", "-") if named else ""
        if name in found:
            continue
        try:
            needed = distribution(name).requires or ()
        except PackageNotFoundError:  # for another platform or Python
            continue
        found.add(name)
        pending += [text for text in needed if "extra ==" not in text]
    return found


def _row(what: str, count: int, files: Iterable[object]) -> str:
    sizes = [path.stat().st_size for path in (file.locate() for file in files) if path.is_file()]  # type: ignore[attr-defined]
    return f"| {what} | {count or ''} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |"


def main() -> None:
    """Print the tables; of another clone only the rooms."""
    if sys.argv[1:]:
        print(graph(Path(sys.argv[1]).resolve()))
    else:
        print(graph(ROOT), installed(), sep="\n\n")


if __name__ == "__main__":
    main()
