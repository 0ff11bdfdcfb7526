# SPDX-License-Identifier: Apache-2.0
"""The closed set of words that the workload is written in.

Every word is separated by one space, so that a tokenizer with these words has one token per word
and the workload can count tokens without one. Of JSON, a word is what stands between two spaces:
``"o17",`` or ``23}``.
"""

from __future__ import annotations

import json

from timebill_ros.workload.phrases import all_phrases

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

# Exclusive upper bounds of the numbered words: "o17" is an object, "s3" a sector of the map, "n4"
# a number of objects, "d40" a distance of 40 m, "v12" a speed of 12 m/s, "h9" a heading of 90
# degrees, "l2" a lane.
NUMBERED_WORDS = {"o": 1100, "s": 520, "n": 5, "d": 100, "v": 60, "h": 36, "l": 6}

# Who drives the vehicle.
MODES = ("autonomous", "local", "remote", "stopped")

# Where a vehicle can be sent.
GOALS = ("depot", "harbour", "station", "airport", "hospital", "workshop", "charger", "home")

# Answers to commands need no scene.
COMMANDS = {
    "emergency_stop": "brake .",
    "keep_lane": "keep lane steady hold speed .",
    "slow_down": "check rear ease throttle brake soft hold gap .",
    "give_way": "slow check left check right wait give way then proceed slow .",
    "park": "signal right slow check mirror steer right align stop set brake shift park "
    "engine off .",
    "pull_over": "check mirror signal right check rear ease throttle steer right slow stop "
    "set brake lights on wait .",
}

# The steps of a manoeuvre around a target.
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

# Fields of an object in the order of its record, with the word that asks for each.
FIELD_WORDS = ("zone", "class", "distance", "speed", "heading", "lane")

UNCLEAR_ANSWER = "request not understood ."
# Stands for data that the log does not hold.
UNKNOWN = "unknown"


def velocity_limit(speed: int) -> str:
    """The command that bounds the speed, m/s."""
    return json.dumps({"command": "velocity_limit", "velocity_mps": speed})


def change_goal(goal: str) -> str:
    """The command that sends the vehicle elsewhere."""
    return json.dumps({"command": "change_goal", "goal": goal})


STOP = json.dumps({"command": "stop"})
RESUME = json.dumps({"command": "resume"})


def manoeuvre_plan(manoeuvre: str, target: str) -> str:
    """The plan of a manoeuvre around the object of a name."""
    steps = MANOEUVRES[manoeuvre]
    return json.dumps({"manoeuvre": manoeuvre, "target": target, "steps": steps})


def domain_words() -> list[str]:
    """Return every word of the workload once, in a fixed order."""
    texts = [
        ";",
        ":",
        "sector count ego there are",
        UNKNOWN,
        UNCLEAR_ANSWER,
        *FIELD_WORDS,
        *OBJECT_KINDS,
        *MODES,
        *GOALS,
        *all_phrases(),
        *COMMANDS,
        *COMMANDS.values(),
        *MANOEUVRES,
        STOP,
        RESUME,
        *(change_goal(goal) for goal in GOALS),
        *(manoeuvre_plan(manoeuvre, UNKNOWN) for manoeuvre in MANOEUVRES),
    ]
    for speed in range(NUMBERED_WORDS["v"]):
        texts += [str(speed), velocity_limit(speed)]
    words = [word for text in texts for word in text.split()]
    words += [f"{prefix}{i}" for prefix, bound in NUMBERED_WORDS.items() for i in range(bound)]
    words += [f'"o{i}",' for i in range(NUMBERED_WORDS["o"])]
    return list(dict.fromkeys(words))
