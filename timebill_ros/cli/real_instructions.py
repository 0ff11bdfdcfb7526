# SPDX-License-Identifier: Apache-2.0
"""What the demo of a real model asks, and budgets as shares of the times that are predicted.

A budget that is a share of a predicted time means the same on a slow and on a fast machine. What
comes of it does not: a machine that is busier than it was when it was profiled misses more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from timebill_ros.budget.time_model import TimeModel

HANDBOOK = """\
Handbook of the transport robots in hall 3

1. Charging. A robot drives to the nearest free charger when its battery falls below 25 percent,
or below 40 percent in the hour before the end of a shift. It does not leave the charger below
80 percent unless the control room asks for it. Chargers 1 to 4 stand behind the packing tables,
charger 5 at the cold store. Charger 5 is for robots with the blue mark only, whose batteries
stand the cold.

2. Speed. In aisles a robot drives at most 1.2 metres per second, at crossings 0.5, and beside
people 0.3. On a wet floor every limit is halved. A robot that carries glass drives as on a wet
floor.

3. Crossings. The robot that comes from the right drives first. A robot without a load waits for
one with a load. Where three robots wait for each other for more than ten seconds, the one with
the lowest number drives first and the others follow in the order of their numbers.

4. People. A robot stops when a person is closer than one metre in its way, waits for five
seconds, and then asks aloud to be let through. After three requests it looks for another way.
It never pushes, and never turns its lamp towards a face.

5. Gates. Gate A opens by itself. Gate B opens when the control room answers on channel 6. If
gate B does not open within a minute, the robot calls the gatekeeper, Mrs Okafor, on extension
114, and waits in the marked bay. Gate C is closed from 22:00 to 05:00, and no robot passes it
then, whatever it carries.

6. Loads. A pallet weighs at most 400 kilograms. A load that is higher than 1.6 metres is
strapped. Fluids stand at the bottom. A robot that feels its load slip stops at once, lowers its
forks, and reports the number of the pallet. It does not go on before someone has looked at the
load.

7. The scanner. The laser scanner is cleaned with a dry cloth every morning, and whenever the
robot reports more than five false obstacles within ten minutes. A robot whose scanner is
covered drives at most to the nearest bay.

8. Lifts. Lift 1 carries one robot and no people. Lift 2 carries people, and robots only between
20:00 and 06:00. A robot enters a lift backwards, so that its scanner looks at the door.

9. Alarms. When the fire alarm sounds, every robot leaves the aisles, stops beside a wall,
lowers what it carries and switches its drive off. It never uses a lift then. Only the fire
officer, Mr Brandt, ends an alarm.

10. Reports. At the end of a shift each robot reports the metres driven, the pallets moved, the
stops for people, and every rule that it could not keep, with the time and the reason.
"""

_ERRANDS = (
    "took pallet {n} at the packing tables and brought it to shelf {s}",
    "waited at the crossing of aisles {s} and 9 for a robot with a load",
    "stopped for a person in aisle {s}, asked once, was let through",
    "brought the empty pallet {n} from shelf {s} to the stack",
    "passed gate A without a load",
)
_EVENTS = {
    9: "reported six false obstacles within four minutes; the scanner was cleaned at bay 12",
    17: "waited at gate B for 75 seconds, called extension 114, and waited in the marked bay",
    23: "felt pallet 437 slip, stopped and lowered its forks; drove on before anyone had looked",
    29: "battery at 22 percent; drove to charger 2 and stayed until it was at 81 percent",
}


def shift_log(entries: int) -> str:
    """The log of one shift of robot 7, about 27 tokens an entry; the same at every call."""
    lines, minute = [], 6 * 60
    for number in range(entries):
        minute += 3 + number % 5
        errand = _ERRANDS[number % len(_ERRANDS)]
        text = _EVENTS.get(number) or errand.format(n=400 + number, s=11 + 7 * number % 23)
        lines.append(f"{minute // 60:02}:{minute % 60:02} robot 7 {text}.")
    return "Log of robot 7, early shift\n\n" + "\n".join(lines) + "\n"


_UNHURRIED = 600.0  # s


class BudgetRule(StrEnum):
    """How a budget follows from the profile; the value is its formula."""

    UNHURRIED = f"{_UNHURRIED:.0f} s"
    COMFORTABLE = "1.5 worst case"
    TIGHT = "worst case with half evicted"
    SHORT = "prefill + 0.4 decode"
    HOPELESS = "0.5 prefill"

    @property
    def letter(self) -> str:
        """By which ids begin."""
        return self.name[0].lower()

    def seconds(self, model: TimeModel, prompt_tokens: int, max_tokens: int) -> float:
        """T, from N_x and N_max.

        The worst case is equation (9) for N_W = N_max, at alpha = 0 unless said otherwise.
        """
        prefill = model.prefill(prompt_tokens)
        whole = prefill + model.decode(prompt_tokens, max_tokens)
        match self:
            case BudgetRule.UNHURRIED:
                return _UNHURRIED
            case BudgetRule.COMFORTABLE:
                return 1.5 * whole
            case BudgetRule.TIGHT:
                half = prompt_tokens // 2
                return prefill + model.evict_and_decode(prompt_tokens, half, max_tokens)
            case BudgetRule.SHORT:
                return prefill + 0.4 * (whole - prefill)
            case BudgetRule.HOPELESS:
                return 0.5 * prefill


LEGEND = ", ".join(f"{budget.letter} {budget.value}" for budget in BudgetRule)


@dataclass(frozen=True)
class RealInstruction:
    """One instruction of the run.

    Attributes:
        prompt: the question.
        max_tokens: N_max of its answer.
        budget: how long it may take.
        document: what the question is about, which precedes it.
    """

    prompt: str
    max_tokens: int
    budget: BudgetRule
    document: str = ""

    @property
    def text(self) -> str:
        """The whole turn."""
        return f"{self.document}\n{self.prompt}" if self.document else self.prompt


_LOG = shift_log(40)
_BOTH = f"{HANDBOOK}\n{_LOG}"
INSTRUCTIONS = (
    RealInstruction("What is the capital of France?", 32, BudgetRule.UNHURRIED),
    RealInstruction("What should a robot do when its battery is low?", 64, BudgetRule.COMFORTABLE),
    RealInstruction(
        "Name three things to check before a mobile robot leaves its charger.",
        *(96, BudgetRule.COMFORTABLE),
    ),
    RealInstruction(
        "Write one sentence that tells passengers that the train is late.",
        *(48, BudgetRule.COMFORTABLE),
    ),
    RealInstruction("Why is a wet floor dangerous for a wheeled robot?", 96, BudgetRule.SHORT),
    RealInstruction("When does a robot drive to a charger?", 64, BudgetRule.COMFORTABLE, HANDBOOK),
    RealInstruction(
        "Whom does a robot call when gate B stays closed?", 48, BudgetRule.TIGHT, HANDBOOK
    ),
    RealInstruction("Summarize the text above.", 96, BudgetRule.SHORT, HANDBOOK),
    RealInstruction("What was cleaned at bay 12?", 48, BudgetRule.TIGHT, _LOG),
    RealInstruction("Which rule did robot 7 break?", 48, BudgetRule.TIGHT, _BOTH),
    RealInstruction("Which rule did robot 7 keep?", 48, BudgetRule.HOPELESS, _BOTH),
    RealInstruction("Summarize the log above.", 96, BudgetRule.COMFORTABLE, _LOG),
    RealInstruction("What is the capital of Japan?", 32, BudgetRule.UNHURRIED),
)
# How many of the last ones are sent together, so that they wait for each other.
TOGETHER = 2
