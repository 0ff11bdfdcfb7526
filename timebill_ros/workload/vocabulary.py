# SPDX-License-Identifier: Apache-2.0
"""The closed set of words that the workload is written in.

Every word is separated by one space, so that a tokenizer with these words has one token per word
and the workload can count tokens without one.
"""

from __future__ import annotations

OBJECT_KINDS = (
    "car",
    "truck",
    "bus",
    "van",
    "pedestrian",
    "cyclist",
    "motorcycle",
    "cone",
    "animal",
    "barrier",
)

# Exclusive upper bounds of the numbered words: "o17" is an object, "s3" a sector of the map, "n5"
# a number of objects, "d40" a distance of 40 m, "v12" a speed of 12 m/s, "h9" a heading of 90
# degrees, "l2" a lane.
NUMBERED_WORDS = {"o": 1100, "s": 320, "n": 7, "d": 100, "v": 60, "h": 36, "l": 6}

# Answers to commands need no scene.
COMMANDS = {
    "stop": "brake .",
    "keep_lane": "keep lane steady hold speed .",
    "slow_down": "check rear ease throttle brake soft hold gap .",
    "give_way": "slow check left check right wait give way then proceed slow .",
    "park": "signal right slow check mirror steer right align stop set brake shift park "
    "engine off .",
    "pull_over": "check mirror signal right check rear ease throttle steer right slow stop "
    "set brake lights on wait .",
}

# A manoeuvre is a numbered list of steps; the plan answer adds the target's data.
MANOEUVRES = {
    "overtake": (
        "check mirror",
        "signal left",
        "steer left",
        "raise speed",
        "pass target",
        "signal right",
        "steer right",
        "hold lane",
    ),
    "follow": ("match speed", "hold gap", "keep lane", "watch target"),
    "avoid": ("brake soft", "check left", "steer left", "pass target", "steer right", "hold lane"),
    "rescue": (
        "slow down",
        "lights on",
        "approach target",
        "stop near",
        "set brake",
        "call help",
        "mark lane",
        "guard target",
        "wait there",
        "report clear",
    ),
}
STEP_NUMBERS = tuple(str(i) for i in range(1, 1 + max(len(s) for s in MANOEUVRES.values())))

# Fields of an object in the order of its record, with the word that asks for each.
FIELD_WORDS = ("zone", "class", "distance", "speed", "heading", "lane")

# Paraphrases: the words that stand before the names in an instruction.
REPORT_PHRASES = ("report", "describe", "state of", "details for")
LIST_PHRASES = ("list", "show all in", "objects in")
COUNT_PHRASES = ("count", "how many in", "number in")
FIELD_PHRASES = ("get {field} of", "{field} of", "{field} for")
PLAN_PHRASES = ("plan {manoeuvre} for", "manoeuvre {manoeuvre} on", "prepare {manoeuvre} for")
COMMAND_PHRASES = ("{command}", "please {command}", "now {command}")

UNCLEAR_ANSWER = "request not understood ."
# Stands for data that the log does not hold.
UNKNOWN = "unknown"


def domain_words() -> list[str]:
    """Return every word of the workload once, in a fixed order."""
    texts = [
        ";",
        ":",
        "sector count target there are",
        UNKNOWN,
        UNCLEAR_ANSWER,
        *FIELD_WORDS,
        *OBJECT_KINDS,
    ]
    texts += [*REPORT_PHRASES, *LIST_PHRASES, *COUNT_PHRASES, *FIELD_PHRASES]
    texts += [*PLAN_PHRASES, *COMMAND_PHRASES, *COMMANDS, *COMMANDS.values()]
    texts += [*STEP_NUMBERS, *MANOEUVRES]
    texts += [step for steps in MANOEUVRES.values() for step in steps]
    words = [word for text in texts for word in text.split() if "{" not in word]
    words += [f"{prefix}{i}" for prefix, bound in NUMBERED_WORDS.items() for i in range(bound)]
    return list(dict.fromkeys(words))
