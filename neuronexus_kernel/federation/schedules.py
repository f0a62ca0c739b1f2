"""Schedules: how the clients' learning rate changes from round to round, as data.

A schedule counts rounds, not steps: clients of one round share one rate, whatever the size of
their data, so that an average of their models is an average of equals.  Round 1 has the recipe's
full rate; each later one a fraction of it.  Warm-up multiplies the first rounds on top of that.

Sources: step and cosine as `torch.optim.lr_scheduler` defines them (the latter is Loshchilov and
Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, without restarts); warm-up as in Goyal et al. 2017,
arXiv:1706.02677.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation.fields import Setting, Value, choice, number, settings_of, whole

MOST_ROUNDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one schedule works.

    Attributes
    ----------
    fraction
        (rounds done before, parameters) -> fraction of the learning rate, 0 to 1.
    settings
        Its parameters.
    """

    fraction: Callable[[int, Mapping[str, Value]], float]
    settings: Mapping[str, Setting] = field(default_factory=dict)


def _constant(done: int, parameters: Mapping[str, Value]) -> float:
    return 1.0


def _step(done: int, parameters: Mapping[str, Value]) -> float:
    return float(parameters["factor"]) ** (done // int(parameters["every"]))


def _cosine(done: int, parameters: Mapping[str, Value]) -> float:
    final, rounds = float(parameters["final"]), int(parameters["rounds"])
    way = min(done, rounds) / rounds
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * way)) / 2.0


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": Schedule(_constant),
        "step": Schedule(
            _step,
            {
                "every": Setting(whole(1, MOST_ROUNDS)),
                "factor": Setting(number(0.0, 1.0, low_allowed=False)),
            },
        ),
        "cosine": Schedule(
            _cosine,
            {
                "rounds": Setting(whole(1, MOST_ROUNDS)),
                "final": Setting(number(0.0, 1.0), default=0.0),
            },
        ),
    }
)
"""Schedule by name.

``step`` multiplies the rate by ``factor`` after every so many rounds; ``cosine`` lets it fall
along half a cosine to the fraction ``final`` over so many ``rounds`` and stay there.
"""


def check_schedule(name: object, parameters: object) -> tuple[str, dict[str, Value]]:
    """Check a schedule and its parameters; return them in their normal form.

    Raises
    ------
    RecipeError
        If there is no such schedule or parameter, or a value is missing or out of range.
    """
    checked = str(choice(*SCHEDULES)("schedule", name))
    if checked == "constant" and parameters:
        raise RecipeError("schedule_parameters must be empty with schedule 'constant'.")
    settings = SCHEDULES[checked].settings
    return checked, settings_of("schedule_parameters", checked, parameters, settings)


def fraction_at(round: int, name: str, parameters: Mapping[str, Value], *, warmup: int) -> float:
    """Return the fraction of the learning rate that a round trains with.

    Parameters
    ----------
    round
        Counted from 1; what lies before counts as 1.
    name, parameters
        A schedule, checked.
    warmup
        Rounds of warm-up: of n, round r uses r / (n + 1) of what the schedule says.
    """
    turn = max(1, round)
    warm = min(1.0, turn / (warmup + 1))
    return warm * SCHEDULES[name].fraction(turn - 1, parameters)
