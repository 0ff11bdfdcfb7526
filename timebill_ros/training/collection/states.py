# SPDX-License-Identifier: Apache-2.0
"""Hidden states beside a file of pairs: what a predictor that reads the target's own state learns.

``pairs.jsonl`` has ``pairs.states``, float16 numbers in the order of its lines: of each answer the
state of the prompt's last token, then one every so many tokens, so 1 + (N - 1) // every of them.
``pairs.states.json`` says which layers, how often, and how wide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timebill_ros.predictor.errors import HeaderUnusable
from timebill_ros.training.predictor.pairs import Pair, check_same

_BYTES = 2


@dataclass(frozen=True)
class StatesHeader:
    """What a file of hidden states holds.

    Attributes:
        layers: numbers of the layers, counted from 1.
        every: tokens of an answer between two states.
        width: h, numbers of one layer's state.
    """

    layers: tuple[int, ...]
    every: int
    width: int

    def count(self, pair: Pair) -> int:
        """States of one answer."""
        return 1 + (pair.response_tokens - 1) // self.every

    @property
    def bytes_per_state(self) -> int:
        """Of all layers."""
        return len(self.layers) * self.width * _BYTES


def states_path(pairs: Path) -> Path:
    """Where the states of a file of pairs are."""
    return pairs.with_suffix(".states")


def begin_or_go_on(pairs: Path, header: StatesHeader, known: Sequence[Pair]) -> None:
    """Prepare a file of states for more; what belongs to no line of the pairs is cut off.

    Raises:
        SettingsDiffer: it was begun with other layers, or another distance.
        HeaderUnusable: the pairs were begun without states, or the header is damaged.
    """
    path = states_path(pairs)
    wanted = sum(map(header.count, known)) * header.bytes_per_state
    if _header_path(pairs).exists():
        check_same(_header_path(pairs), asdict(read_header(pairs)), asdict(header))
    elif known:
        raise HeaderUnusable(_header_path(pairs), "the pairs were begun without hidden states")
    else:
        _header_path(pairs).write_text(json.dumps(asdict(header)) + "\n", encoding="utf-8")
    path.touch()
    if path.stat().st_size < wanted:
        raise HeaderUnusable(_header_path(pairs), f"{path} is shorter than the pairs say")
    with path.open("r+b") as file:
        file.truncate(wanted)


def append(pairs: Path, states: NDArray[np.float16]) -> None:
    """Add one answer's states, [count, layers, h].

    They are written before the answer's pair, for states without a pair count as not written.
    """
    with states_path(pairs).open("ab") as file:
        file.write(np.ascontiguousarray(states, dtype=np.float16).tobytes())


def read_header(pairs: Path) -> StatesHeader:
    """The header of a file of states.

    Raises:
        HeaderUnusable: it is missing or damaged.
    """
    path = _header_path(pairs)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return StatesHeader(
            tuple(int(layer) for layer in content["layers"]),
            int(content["every"]),
            int(content["width"]),
        )
    except FileNotFoundError as error:
        raise HeaderUnusable(path, "it is missing; collect with --states") from error
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderUnusable(path, f"damaged ({error!r})") from error


def read_states(pairs_path: Path, pairs: Sequence[Pair]) -> list[NDArray[np.float16]]:
    """The states of every pair of one file, in its order: [count, layers, h] each.

    Raises:
        HeaderUnusable: there are none, or not as many as the pairs need.
    """
    header = read_header(pairs_path)
    counts = [header.count(pair) for pair in pairs]
    shape = (sum(counts), len(header.layers), header.width)
    path = states_path(pairs_path)
    needed = shape[0] * header.bytes_per_state
    if not path.is_file() or path.stat().st_size < needed:
        raise HeaderUnusable(_header_path(pairs_path), f"{path} is shorter than the pairs say")
    numbers = np.memmap(path, np.float16, "r", shape=shape)
    return np.split(numbers, np.cumsum(counts)[:-1])


def _header_path(pairs: Path) -> Path:
    return pairs.with_suffix(".states.json")
