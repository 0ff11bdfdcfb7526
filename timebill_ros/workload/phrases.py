# SPDX-License-Identifier: Apache-2.0
"""Paraphrases: the ways to ask for the same thing, and which of them training never sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phrases:
    """Templates of one kind of instruction; ``{}`` stands for what it is about.

    The held-out ones are made of words that the others use, in other company.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    def draw(self, rng: np.random.Generator, held_out: bool, about: str = "") -> str:
        """Draw an instruction ``about`` something, from one set of templates or the other."""
        templates = self.held_out if held_out else self.training
        return templates[rng.integers(len(templates))].format(about)


REPORT = Phrases(
    training=(
        "report {}",
        "report on {}",
        "describe {}",
        "describe the state of {}",
        "state of {}",
        "details for {}",
        "give the details of {}",
        "show details of {}",
        "tell me about {}",
        "tell me the state of {}",
        "give me the state of {}",
        "show me {}",
        "what is the state of {}",
        "details of {} please",
        "report now on {}",
    ),
    held_out=(
        "report the state of {}",
        "give me details for {}",
        "show the state of {}",
        "tell me the details of {}",
    ),
)
LIST = Phrases(
    training=(
        "list {}",
        "list all in {}",
        "list the objects in {}",
        "show all in {}",
        "show the objects of {}",
        "objects in {}",
        "all objects of {}",
        "what is in {}",
        "tell me what is in {}",
        "give all objects in {}",
        "tell me the objects in {}",
        "what objects are in {}",
        "list what is in {}",
        "show what is in {}",
        "give me the list of objects in {}",
    ),
    held_out=(
        "list all objects in {}",
        "show all objects of {}",
        "tell me all in {}",
        "what objects is in {}",
    ),
)
COUNT = Phrases(
    training=(
        "count {}",
        "count all in {}",
        "count the objects of {}",
        "how many in {}",
        "how many objects are in {}",
        "number in {}",
        "number of objects in {}",
        "give the number of objects in {}",
        "tell me how many are in {}",
        "count of objects in {}",
        "give the count of {}",
        "what is the number of objects in {}",
        "tell me the count for {}",
        "how many objects in {} now",
    ),
    held_out=(
        "count objects in {}",
        "how many are in {}",
        "tell me the number in {}",
        "give the count of objects in {}",
    ),
)
# The field's word comes first.
FIELD = Phrases(
    training=(
        "get {} of",
        "get the {} for",
        "{} of",
        "{} for",
        "what is the {} of",
        "what {} is given for",
        "tell me the {} of",
        "give {} for",
        "give me the {} of",
        "show the {} for",
        "tell me {} of",
        "show me the {} for",
        "what is {} of",
        "get {} for",
        "the {} of",
    ),
    held_out=("get the {} of", "tell me {} for", "show {} of", "what is {} for"),
)
# The manoeuvre's name comes first.
PLAN = Phrases(
    training=(
        "plan {} for",
        "plan a {} of",
        "plan to {}",
        "manoeuvre {} on",
        "prepare {} for",
        "prepare to {}",
        "steps to {}",
        "steps of {} for",
        "tell me how to {}",
        "give the steps to {}",
        "plan the {} for",
        "tell me the steps to {}",
        "give steps to {}",
        "prepare the {} of",
        "how to {}",
    ),
    held_out=("plan how to {}", "prepare a {} of", "give steps of {} for", "plan the steps to {}"),
)
COMMAND = Phrases(
    training=(
        "{}",
        "please {}",
        "now {}",
        "{} now",
        "command {}",
        "do {}",
        "do {} now",
        "carry out {}",
        "what to do for {}",
        "go on with {}",
        "please carry out {}",
        "now do {}",
        "{} please",
        "please {} now",
        "what to do to {}",
    ),
    held_out=("please do {}", "do {} please", "now carry out {}", "command {} now"),
)

LIMIT = Phrases(
    training=(
        "limit speed to {}",
        "set the speed limit to {}",
        "set maximum speed {}",
        "speed limit {}",
        "go no faster than {}",
        "do not drive faster than {}",
        "keep the speed below {}",
        "drive at most {}",
        "slow down to {}",
        "stay below {}",
        "limit the speed now to {}",
        "set speed to {}",
        "keep speed below {}",
        "drive no faster now than {}",
        "set the limit to {}",
    ),
    held_out=(
        "limit the speed to {}",
        "drive no faster than {}",
        "keep below {}",
        "set the maximum speed to {}",
    ),
)
BEHIND = Phrases(
    training=(
        "slow down behind {}",
        "stay behind {}",
        "drive behind {}",
        "keep the speed of {}",
        "limit speed to that of {}",
        "go no faster than {}",
        "match the speed of {}",
        "slow down to the speed of {}",
        "drive at the speed of {}",
        "do not go faster than {}",
        "slow down now behind {}",
        "keep to the speed of {}",
        "stay at the speed of {}",
        "limit speed to the speed of {}",
        "please stay behind {}",
    ),
    held_out=(
        "slow down to stay behind {}",
        "keep behind {}",
        "limit the speed to that of {}",
        "drive no faster than {}",
    ),
)
HOLDING = Phrases(
    training=(
        "hold the ego speed",
        "keep the ego speed",
        "keep the speed of ego",
        "stay at the ego speed",
        "limit speed to the ego speed",
        "drive at the speed of ego",
        "do not go faster than ego",
        "set the speed limit to the ego speed",
        "hold the speed now of ego",
        "please keep the ego speed",
        "stay at the speed of ego",
    ),
    held_out=("hold the speed of ego", "keep to the ego speed", "go no faster than ego"),
)
STOPPING = Phrases(
    training=(
        "stop",
        "stop here",
        "stop now",
        "stop the vehicle",
        "please stop",
        "halt",
        "halt the vehicle",
        "come to a halt",
        "come to a stop here",
        "bring the vehicle to a stop",
        "stop the vehicle please",
        "halt now",
        "please stop the vehicle",
        "please come to a halt",
        "stop driving",
    ),
    held_out=("stop the vehicle now", "halt here", "come to a stop", "please halt"),
)
RESUMING = Phrases(
    training=(
        "resume",
        "resume driving",
        "resume now",
        "please resume",
        "continue",
        "continue driving",
        "go on",
        "go on driving",
        "start again",
        "start driving",
        "continue to drive",
        "please go on",
        "start driving now",
        "now resume driving",
        "go on now",
    ),
    held_out=("resume driving now", "continue now", "start driving again", "please continue"),
)
HEADING = Phrases(
    training=(
        "drive to {}",
        "drive on to {}",
        "go to {}",
        "go to the {}",
        "take me to {}",
        "bring me to the {}",
        "change the goal to {}",
        "set the goal to {}",
        "new goal {}",
        "the new goal is {}",
        "drive now to {}",
        "take me to {} please",
        "set goal to {}",
        "go on to the {}",
        "the goal is {} now",
    ),
    held_out=("drive to the {}", "take me to the {}", "change goal to {}", "set a new goal {}"),
)


def all_phrases() -> Iterator[str]:
    """Every template, with nothing in the place of what it is about."""
    driving = (LIMIT, BEHIND, HOLDING, STOPPING, RESUMING, HEADING)
    for phrases in (REPORT, LIST, COUNT, FIELD, PLAN, COMMAND, *driving):
        for template in (*phrases.training, *phrases.held_out):
            yield template.format("")


# Words of the longest instruction but for its names; what a field asks for is one of them.
LONGEST_PHRASE = max(1 + len(phrase.split()) for phrase in all_phrases())
