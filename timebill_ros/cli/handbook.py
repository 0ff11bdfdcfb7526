# SPDX-License-Identifier: Apache-2.0
"""Two documents of a warehouse robot that never was, for instructions with long prompts."""

from __future__ import annotations

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
