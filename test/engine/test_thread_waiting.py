# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from timebill_ros.runtime.serving_threads import wait_passively

PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}


def test_threads_wait_passively():
    environment = {"HOME": "/"}
    wait_passively(environment)
    assert environment == {"HOME": "/", **PASSIVE}


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "active"}, {"KMP_BLOCKTIME": "200"}])
def test_what_the_environment_says_stands(own):
    environment = dict(own)
    wait_passively(environment)
    assert environment == {**PASSIVE, **own}


def test_a_number_of_spins_says_all():
    environment = {"GOMP_SPINCOUNT": "1000"}
    wait_passively(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}


@pytest.mark.parametrize("module", ["timebill_ros.node.main", "timebill_ros.cli.profile"])
def test_what_runs_the_engine_can_still_choose(module):
    """OpenMP reads the environment when torch is loaded: that must come after ``main`` begins."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
