# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.runtime.harmless import harmless_line, harmless_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("j7", "j7"),
        ("grüße 你好 👩\u200d🚀\u00a0%", "grüße 你好 👩\u200d🚀\u00a0%"),
        ("a\n[FATAL] b\r\tc", r"a\n[FATAL] b\r\tc"),
        ("\x1b[2J\x07\x00\x7f\x9b", r"\x1b[2J\x07\x00\x7f\x9b"),
        ("file\u202egpj.exe\u2066", r"file\u202egpj.exe\u2066"),
        ("\u2028\u2029\udc80", r"\u2028\u2029\udc80"),
        ("", ""),
    ],
)
def test_a_line_shows_controls_and_keeps_every_script(text: str, shown: str) -> None:
    assert harmless_line(text) == shown


def test_a_line_is_bounded_and_says_what_it_left_out() -> None:
    assert harmless_line("a" * 10, longest=4) == "aaaa... and 6 characters more"
    assert harmless_line("a" * 4, longest=4) == "aaaa"


def test_a_text_keeps_its_lines_and_tabs_only() -> None:
    assert harmless_text("go\n\tleft\r\x1b[2J") == "go\n\tleft" + r"\r\x1b[2J"
