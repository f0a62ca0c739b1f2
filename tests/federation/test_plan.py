"""The plan: chosen by the work alone, recorded, and good for the same bits again."""

from __future__ import annotations

import json

import pytest
import torch

from neuronexus_kernel import models
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.executors.measure import made_up_cohort
from neuronexus_kernel.federation.executors.plan import EXECUTORS, Plan, make_executor, make_plan
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor
from neuronexus_kernel.federation.executors.threads import torch_threads

MLP = models.mlp(784, (200, 200), 10)
SMALL = models.mlp(4, (3,), 2)
MOMENTUM = {"momentum": 0.9}


def test_the_plan_depends_on_the_model_the_recipe_and_the_cohort_only():
    cnn = models.cnn()
    assert make_plan(MLP, clients=10).executor == make_plan(MLP, clients=1).executor == "fused"
    assert make_plan(cnn, clients=10).executor == "fused"
    assert make_plan(cnn, clients=1).executor == "sequential"  # threads share one client's steps
    assert make_plan(Recipe(MLP, **MOMENTUM), clients=10).executor == "vectorized"
    assert make_plan(Recipe(MLP, **MOMENTUM), clients=1).executor == "sequential"
    assert make_plan(Recipe(cnn, **MOMENTUM), clients=10).executor == "sequential"
    assert make_plan(MLP, clients=10) == make_plan(MLP, clients=10)
    chunks = [make_plan(each, clients=2, executor="vectorized").chunk for each in (MLP, cnn)]
    assert chunks[0] > chunks[1]


def test_a_model_with_large_activations_is_stacked_in_smaller_chunks():
    small = models.cnn((1, 28, 28), 10, channels=(2, 2), hidden=4)
    large = models.cnn((1, 280, 280), 10, channels=(2, 2), hidden=4)
    chunks = [make_plan(each, clients=9, executor="vectorized").chunk for each in (small, large)]
    assert chunks[0] > chunks[1] >= 1


def test_an_executor_that_cannot_run_the_recipe_is_replaced_and_the_reason_says_so():
    plan = make_plan(Recipe(SMALL, **MOMENTUM), clients=5, executor="fused")
    assert plan.executor == "vectorized"
    assert "fused was asked for, but" in plan.reason
    assert "momentum" in plan.reason


@pytest.mark.parametrize("fields", [{"corrections": True}, {"own": True}])
def test_what_a_strategy_gives_its_clients_is_part_of_the_question(fields):
    plan = make_plan(Recipe(SMALL), clients=5, executor="fused", **fields)
    cannot_fuse = plan.executor == "vectorized"
    assert cannot_fuse == ("asked for, but" in plan.reason)


@pytest.mark.parametrize("executor", EXECUTORS[:4])
def test_a_plan_is_plain_data_and_makes_the_executor_that_it_names_again(executor):
    plan = make_plan(SMALL, clients=5, executor=executor, dtype="float64", workers=2)
    record = json.loads(json.dumps({**plan.to_dict(), "strategy": "FedAvg"}))
    again = Plan.from_dict(record)
    assert again == plan
    assert make_executor(again).name == plan.executor == executor
    assert record["versions"]["torch"] == torch.__version__


def test_processes_follow_an_inner_plan_that_does_not_depend_on_their_number():
    plans = [make_plan(MLP, clients=9, executor="processes", workers=each) for each in (2, 7)]
    assert [plan.workers for plan in plans] == [2, 7]
    assert plans[0].inner == plans[1].inner
    assert plans[0].inner.threads == 1


def test_a_measured_plan_records_what_every_candidate_took():
    plan = make_plan(SMALL, clients=4, executor="measured", workers=1)
    assert {"sequential", "vectorized", "fused"} == set(plan.timings)
    assert plan.timings[plan.executor] == min(plan.timings.values())
    assert min(plan.timings.values()) > 0
    assert "measured" in plan.reason
    assert Plan.from_dict(plan.to_dict()) == plan


def _sequences():
    layers = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7))
    return models.Architecture.capture(layers, torch.zeros((1, 5), dtype=torch.int64))


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        (SMALL, {"batch_size": 3}),
        (SMALL, {"loss": "bce", "local_steps": 1000}),
        (SMALL, {"loss": "mse", "optimiser": "adamw"}),
        (_sequences, {"loss": "next_token"}),
    ],
    ids=["classes", "bce", "mse", "next token"],
)
def test_what_is_measured_is_the_recipe_itself_on_data_that_it_can_take(architecture, fields):
    architecture = architecture() if callable(architecture) else architecture
    recipe = Recipe(architecture, **fields)
    cohort = made_up_cohort(recipe, 3)
    updates = SequentialExecutor().train(cohort)
    assert [update.steps for update in updates] == [4, 4, 4]
    assert set(cohort.recipe.diff(recipe)) <= {"local_epochs", "local_steps"}


@pytest.mark.long
def test_processes_are_measured_with_what_they_follow():
    plan = make_plan(SMALL, clients=4, executor="measured", workers=2)
    assert set(plan.timings) >= {"fused", "processes of fused", "processes of sequential"}


@pytest.mark.parametrize(
    "change",
    [
        {"executor": "warp"},
        {"executor": None},
        {"executor": "processes"},
        {"dtype": "float16"},
        {"chunk": 0},
        {"chunk": 1.5},
        {"threads": True},
        {"workers": "2"},
        {"reason": 7},
        {"versions": []},
        {"inner": {}},
    ],
)
def test_a_record_that_is_no_plan_is_refused_by_the_name_of_the_field(change):
    record = {**make_plan(SMALL, clients=5).to_dict(), **change}
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        Plan.from_dict(record)


@pytest.mark.parametrize("record", [None, [], "auto", {}])
def test_what_is_no_record_at_all_is_refused(record):
    with pytest.raises(InvalidInputError, match="plan"):
        Plan.from_dict(record)


@pytest.mark.parametrize("fields", [{"executor": "warp"}, {"dtype": "float16"}])
def test_an_unknown_executor_or_number_type_is_refused(fields):
    with pytest.raises(InvalidInputError, match=next(iter(fields))):
        make_plan(models.mlp(4, (3,), 2), clients=5, **fields)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none_with_what_to_do():
    with pytest.raises(InvalidInputError, match=r"needs a GPU.*use 'auto'"):
        make_plan(SMALL, clients=5, executor="cuda")


def test_small_steps_use_one_thread_and_torch_has_its_own_number_afterwards():
    before = torch.get_num_threads()
    assert make_plan(models.mlp(64, (128,), 10), clients=3).threads == 1
    assert make_plan(MLP, clients=10).threads == before
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
