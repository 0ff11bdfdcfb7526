# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket

import pytest

from timebill_ros.cli import session as module
from timebill_ros.cli.session import Session, free_domain


def test_only_a_long_wait_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session("waiting", free_domain()) as session:
        assert session.wait_for("/llm", lambda: True, 10.0)
        monkeypatch.setattr(module, "_UNTOLD", 0.05)
        assert not session.wait_for("/llm", lambda: False, 0.05)
        assert capsys.readouterr().err == ""
        assert not session.wait_for("/llm", lambda: False, 0.15)
        assert capsys.readouterr().err == "waiting for /llm, up to 0.1 s more\n"


def test_a_domain_is_taken_where_only_a_later_participant_is_left() -> None:
    domain = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7400 + 250 * domain + 10 + 2 * 3))
        assert free_domain() != domain
