# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.cli.import_gguf import main
from timebill_ros.engine.gguf import DTYPES


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no-such-package-at-all", "neither a file nor an installed package"),
        ("./none.gguf", "no such file"),
        (__file__, "damaged, cut short, or no GGUF file"),
        (str(Path(__file__).parent), "it is a folder"),
    ],
)
def test_a_bad_source_is_named(
    source: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([source, str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"import-gguf: {source} cannot be imported: ")
    assert reason in told
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert main([str(file), str(tmp_path)]) == 1
    assert f"{tmp_path} exists already" in capsys.readouterr().err


def test_other_types_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["model.gguf", str(tmp_path / "out"), "--dtype", "float8"])
    told = capsys.readouterr().err
    assert all(name in told for name in DTYPES)
