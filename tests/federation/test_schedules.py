"""Schedules count rounds, and are those of torch where torch has them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel import models
from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation import Recipe

ARCHITECTURE = models.mlp(4, (3,), 2)
ROUNDS = range(1, 31)


def rates(**fields):
    recipe = Recipe(ARCHITECTURE, learning_rate=0.4, **fields)
    return [recipe.learning_rate_at(round) for round in ROUNDS]


def torch_rates(make, **fields):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = make(optimiser, **fields)
    found = []
    for _ in ROUNDS:
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_a_constant_rate_is_the_recipes_own():
    assert rates() == [0.4] * len(ROUNDS)


def test_step_is_torchs_step_with_rounds_for_epochs():
    ours = rates(schedule="step", schedule_parameters={"every": 7, "factor": 0.3})
    theirs = torch_rates(torch.optim.lr_scheduler.StepLR, step_size=7, gamma=0.3)
    assert ours == pytest.approx(theirs)


def test_cosine_is_torchs_cosine_and_stays_at_its_end():
    ours = rates(schedule="cosine", schedule_parameters={"rounds": 20, "final": 0.25})
    theirs = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20, eta_min=0.1)
    assert ours[:21] == pytest.approx(theirs[:21])
    assert ours[20:] == pytest.approx([0.1] * 10)


def test_warm_up_climbs_in_equal_steps_to_what_the_schedule_says():
    assert rates(warmup_rounds=3)[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    cosine = {"schedule": "cosine", "schedule_parameters": {"rounds": 20}}
    warm, cold = rates(warmup_rounds=4, **cosine), rates(**cosine)
    assert warm[:4] == pytest.approx([cold[place] * (place + 1) / 5 for place in range(4)])
    assert warm[4:] == cold[4:]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["step", "cosine"]),
    length=st.integers(1, 1_000_000),
    fraction=st.floats(0.01, 1.0),
    warmup=st.integers(0, 1_000_000),
    round=st.integers(-5, 2**40),
)
def test_a_rate_is_never_negative_nor_above_the_recipes(name, length, fraction, warmup, round):
    parameters = {
        "step": {"every": length, "factor": fraction},
        "cosine": {"rounds": length, "final": fraction},
    }[name]
    recipe = Recipe(
        ARCHITECTURE, schedule=name, schedule_parameters=parameters, warmup_rounds=warmup
    )
    assert 0.0 <= recipe.learning_rate_at(round) <= recipe.learning_rate * (1 + 1e-12)


@pytest.mark.parametrize(
    ("schedule", "parameters", "words"),
    [
        ("linear", {}, "schedule must be 'constant', 'step' or 'cosine', not 'linear'"),
        ("constant", {"every": 3}, "schedule_parameters must be empty"),
        ("step", {}, "schedule_parameters: step needs 'every'"),
        ("step", {"every": 3}, "schedule_parameters: step needs 'factor'"),
        ("step", {"every": 0, "factor": 0.5}, r"schedule_parameters\['every'\] must be a whole"),
        ("step", {"every": 3, "factor": 2}, r"schedule_parameters\['factor'\] must be a number"),
        ("step", {"every": 3, "factor": 0.5, "rounds": 3}, "step has no parameter 'rounds'"),
        ("cosine", {"rounds": 3, 7: 1}, "cosine has no parameter 7"),
        ("cosine", {"rounds": 3, "final": -1}, "final"),
        ("cosine", [("rounds", 3)], "schedule_parameters must map names"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(schedule, parameters, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(ARCHITECTURE, schedule=schedule, schedule_parameters=parameters)
