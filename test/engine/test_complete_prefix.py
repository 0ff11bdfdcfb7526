# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from timebill_ros.engine.complete_prefix import closings, complete_prefix


def closed(text: str) -> list[str]:
    """Every way to close it, the longest first."""
    data = text.encode()
    return [(data[: end.kept] + end.closers).decode() for end in closings(data)]


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("", []),
        ("tru", []),
        ("true", ["true"]),
        ("12", []),
        ("12 ", ["12"]),
        ('"left', []),
        ('"turn lef', ['"turn"']),
        ('"turn ', ['"turn"']),
        ("{", ["{}"]),
        ('{"a', ["{}"]),
        ('{"a"', ["{}"]),
        ('{"a": ', ["{}"]),
        ('{"a": 1', ["{}"]),
        ('{"a": 1,', ['{"a": 1}', "{}"]),
        ('{"a": nul', ["{}"]),
        ('{"a": null', ['{"a": null}', "{}"]),
        ('{"a": "b"', ['{"a": "b"}', "{}"]),
        ('{"a": ["b c d', ['{"a": ["b c"]}', '{"a": []}', "{}"]),
        (
            '{"a": [1, {"b": []',
            ['{"a": [1, {"b": []}]}'] * 2 + ['{"a": [1, {}]}', '{"a": [1]}', '{"a": []}', "{}"],
        ),
        ('[1, "a, b: {c', ['[1, "a, b:"]', "[1]", "[]"]),
        (r'["a \"b" , "c \" d', [r'["a \"b" , "c \""]', r'["a \"b"]', "[]"]),
        ('["a\\', ["[]"]),
        ('["öl ü', ['["öl"]', "[]"]),
    ],
)
def test_the_longest_closing_comes_first(text, ways):
    assert closed(text) == ways
    assert all(json.loads(way) is not ... for way in ways)


def test_half_a_character_is_left_out():
    data = '["a ü'.encode()[:-1]
    (first, *_) = closings(data)
    assert data[: first.kept] + first.closers == b'["a"]'


def test_cuts_through_strings_are_marked():
    assert [(end.closers, end.prose) for end in closings(b'["a b')] == [
        (b'"]', True),
        (b"]", False),
    ]


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", ""),
        ("stop", ""),
        ("slow down", "slow"),
        ("slow down ", "slow down"),
        ("The truck stands. It wai", "The truck stands."),
        ("The truck stands.", "The truck stands."),
        ("the limit is 3.", "the limit is"),
        ("at 3.5 m", "at 3.5"),
        ("Is it red? No! I", "Is it red? No!"),
        ('He said "go." Then', 'He said "go."'),
        ("first line\nsecond li", "first line"),
        ("o12 car front ; o13 tru", "o12 car front ;"),
        ("o12 car front ;", "o12 car front ;"),
        ("a. b; c", "a. b;"),
        ("\n\nslow do", "slow"),
    ],
)
def test_a_prefix_ends_where_something_ends(text, complete):
    assert complete_prefix(text) == complete
