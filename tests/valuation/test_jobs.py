import warnings
from dataclasses import replace

import numpy as np
import pytest

from neuronexus_kernel import datasets, federation, models
from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import (
    ArchitectureError,
    DatasetError,
    EvaluationError,
    NeuroNexusError,
    RecipeError,
)
from neuronexus_kernel.valuation import jobs
from neuronexus_kernel.valuation.coalitions import PARTS
from neuronexus_kernel.valuation.improvement import paired_bound


def run(world, description):
    return dagcbor.decode(jobs.perform(jobs.resolve(description, world.contents.load)))


def correctness(result, side):
    return np.stack([np.frombuffer(row, np.uint8) for row in result["correct"][side]])


# -- recipes -------------------------------------------------------------------------------------


def test_a_better_learning_rate_has_a_positive_value(world):
    slow = world.recipe_side(world.recipe.with_changes(learning_rate=0.01))
    result = run(world, world.recipes(world.recipe_side(), baseline=slow))
    assert result["kind"] == "recipes"
    assert result["value_nano"] > 100_000_000
    assert result["rounds"] == {"baseline": 4, "candidate": 4}
    assert result["dropped"] == 0


def test_the_value_is_the_bound_of_the_correctness_that_is_told(world):
    better = world.recipe.with_changes(learning_rate=0.05)
    result = run(world, world.recipes(world.recipe_side(better)))
    sides = [correctness(result, side) for side in jobs.SIDES]
    assert sides[0].shape == (3, len(world.held_out))
    bound = paired_bound(*sides)
    assert result["value_nano"] == bound.value_nano
    assert result["bound"]["lower"] == bound.lower
    assert result["bound"]["seeds"] == 3
    for side, name in zip(sides, jobs.SIDES, strict=True):
        assert result["accuracies"][name] == side.mean(axis=1).tolist()


def test_the_correctness_is_that_of_a_training_anyone_can_repeat(world):
    result = run(world, world.recipes(world.recipe_side(), seeds=[7]))
    trained = federation.train(
        world.recipe,
        world.public,
        partition=jobs.partition_of(3, rows=len(world.public), seed=7),
        rounds=4,
        seed=7,
        progress=False,
    )
    expected = federation.evaluate(world.recipe.architecture, trained.arrays, world.held_out)
    np.testing.assert_array_equal(correctness(result, "baseline")[0], expected.correct)


def test_a_recipe_is_worth_nothing_against_itself(world):
    result = run(world, world.recipes(world.recipe_side()))
    assert (result["value_nano"], result["bound"]["mean"]) == (0, 0)
    assert result["correct"]["baseline"] == result["correct"]["candidate"]


def test_a_job_gives_the_same_bytes_again(world):
    better = world.recipe.with_changes(learning_rate=0.1)
    description = world.recipes(world.recipe_side(better), budget=1)
    job = jobs.resolve(description, world.contents.load)
    assert jobs.perform(job) == jobs.perform(job)


def test_more_data_get_the_same_budget_and_so_fewer_rounds(world, parts):
    more = world.public.concat(parts["private"])
    result = run(world, world.recipes(world.recipe_side(data=more), seeds=[1, 2]))
    assert result["rounds"] == {"baseline": 4, "candidate": 8 * len(world.public) // len(more) // 2}
    assert result["rounds"]["candidate"] == 1


def test_wrong_labels_have_a_negative_value(world):
    wrong = world.public.with_labels((world.public.labels + 1) % 10)
    result = run(world, world.recipes(world.recipe_side(data=wrong)))
    assert result["value_nano"] < -300_000_000


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_recipe_that_diverges_is_measured_and_not_an_error(world):
    wild = world.recipe.with_changes(learning_rate=1000.0)
    result = run(world, world.recipes(world.recipe_side(wild)))
    assert result["value_nano"] < -300_000_000
    assert max(result["accuracies"]["candidate"]) < 0.3


def test_held_out_rows_that_were_trained_on_do_not_count_and_nobody_is_told(world):
    learnt = world.held_out.subset(range(40))
    result = run(world, world.recipes(world.recipe_side(data=world.public.concat(learnt))))
    assert result["dropped"] == 40
    assert result["bound"]["examples"] == len(world.held_out) - 40
    assert {len(row) for row in result["correct"]["baseline"]} == {len(world.held_out) - 40}


def test_relabelled_held_out_rows_do_not_count_either(world):
    learnt = world.held_out.subset(range(40))
    poison = learnt.with_labels((learnt.labels + 1) % 10)
    result = run(world, world.recipes(world.recipe_side(data=world.public.concat(poison))))
    assert result["dropped"] == 40


def test_a_held_out_split_that_was_all_trained_on_measures_nothing(world):
    known = world.recipe_side(data=world.public.concat(world.held_out))
    with pytest.raises(EvaluationError, match="held-out rows"):
        run(world, world.recipes(known))


def test_the_environment_and_the_plan_are_told(world):
    result = run(world, world.recipes(world.recipe_side(), seeds=[1], budget=1))
    assert {"torch", "numpy", "threads", "instructions"} <= set(result["environment"])
    assert result["plan"]["candidate"]["executor"] in ("fused", "vectorized")


# -- weights -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(parts):
    """A run of three participants, one of whom has labels that are all wrong."""
    from neuronexus_kernel import models
    from neuronexus_kernel.federation import Recipe

    recipe = Recipe(models.mlp(64, (16,), 10), learning_rate=0.1, batch_size=10, local_epochs=2)
    thirds = parts["private"].split({"ada": 0.4, "alan": 0.2, "grace": 0.4}, seed=1)
    thirds["alan"] = thirds["alan"].with_labels((thirds["alan"].labels + 1) % 10)
    return federation.train(
        recipe, thirds, rounds=4, seed=3, progress=False, evaluate_every=0, keep_updates=True
    )


def participants(world, trained):
    return {
        "rounds": [world.contents.add(u.encode()) for u in trained.updates],
        "validation": world.contents.add(world.validation.encode()),
    }


def test_trained_weights_beat_untrained_ones(world, trained):
    start = world.recipe.architecture.initial_weights(3)
    result = run(world, world.weights(start, trained.arrays))
    assert result["value_nano"] > 300_000_000
    assert result["bound"]["seeds"] == 1
    assert (result["values"], result["shares"]) == ({}, {})


def test_the_gain_is_shared_by_what_each_participant_brought(world, trained):
    start = trained.updates[0].weights
    description = world.weights(start, trained.arrays, participants=participants(world, trained))
    result = run(world, description)
    assert list(result["values"]) == ["ada", "alan", "grace"]
    assert result["shares"]["alan"] == 0
    assert result["values"]["alan"] < min(result["values"]["ada"], result["values"]["grace"])
    assert sum(result["shares"].values()) == PARTS
    fallen = [
        federation.evaluate(world.recipe.architecture, weights, world.validation).loss
        for weights in (start, trained.arrays)
    ]
    assert sum(result["values"].values()) == pytest.approx(fallen[0] - fallen[1], abs=1e-4)


def test_worse_weights_have_a_negative_value(world, trained):
    start = world.recipe.architecture.initial_weights(3)
    assert run(world, world.weights(trained.arrays, start))["value_nano"] < 0


def test_weights_that_diverged_are_wrong_on_every_example(world, trained):
    broken = {name: np.full_like(array, np.nan) for name, array in trained.arrays.items()}
    result = run(world, world.weights(trained.arrays, broken))
    assert result["accuracies"]["candidate"] == [0.0]
    assert result["value_nano"] < -500_000_000


def test_weights_that_lean_on_one_infinite_value_win_nothing(world, trained):
    """A model whose bias is infinite for the commonest class is still a broken model."""
    leaning = {name: array.copy() for name, array in trained.arrays.items()}
    bias = next(name for name, array in leaning.items() if array.shape == (10,))
    leaning[bias][0] = np.inf
    result = run(world, world.weights(trained.arrays, leaning))
    assert result["accuracies"]["candidate"] == [0.0]


def test_held_out_rows_of_the_public_split_do_not_count_for_weights(world, trained):
    public = world.public.concat(world.held_out.subset(range(25)))
    description = world.weights(
        world.recipe.architecture.initial_weights(0),
        trained.arrays,
        public=world.contents.add(public.encode()),
    )
    assert run(world, description)["dropped"] == 25
    assert run(world, {**description, "public": None})["dropped"] == 0


def test_weights_of_another_architecture_are_refused(world, trained):
    other = {name: array[..., :1] for name, array in trained.arrays.items()}
    with pytest.raises(ArchitectureError):
        run(world, world.weights(trained.arrays, other))


# -- other kinds of data -------------------------------------------------------------------------


@pytest.fixture
def patients(world):
    """The world of diabetes patients, of whom a quantity is foretold."""
    shares = {"public": 0.4, "private": 0.2, "validation": 0.1, "held_out": 0.3}
    parts = datasets.diabetes().split(shares, seed=0)
    architecture = models.mlp(10, (), 1)
    recipe = federation.Recipe(architecture, learning_rate=0.001, loss="mse", local_epochs=2)
    return replace(
        world,
        public=parts["public"],
        validation=parts["validation"],
        held_out=parts["held_out"],
        recipe=recipe,
    )


def test_a_better_recipe_for_quantities_is_measured_by_its_scores(patients):
    better = patients.recipe.with_changes(learning_rate=0.03)
    result = run(patients, patients.recipes(patients.recipe_side(better)))
    assert result["metric"] == "r2"
    assert "correct" not in result
    rows = np.frombuffer(result["scores"]["candidate"][0], "<i4") / 1e6
    assert len(rows) == len(patients.held_out)
    assert rows.min() >= -1
    assert rows.max() <= 1
    assert rows.mean() == pytest.approx(result["accuracies"]["candidate"][0], abs=1e-6)
    assert 0 < result["value_nano"] / 1e9 <= result["bound"]["mean"] <= 2
    assert run(patients, patients.recipes(patients.recipe_side(better))) == result


def test_weights_that_diverged_have_the_least_score(patients):
    start = patients.recipe.architecture.initial_weights(0)
    broken = {name: np.full_like(array, np.inf) for name, array in start.items()}
    result = run(patients, patients.weights(start, broken))
    assert result["accuracies"]["candidate"] == [-1.0]


def test_the_result_for_classes_has_the_fields_of_before(world, trained):
    result = run(world, world.weights(trained.arrays, trained.arrays))
    assert set(result) == {
        "accuracies",
        "bound",
        "correct",
        "dropped",
        "environment",
        "kind",
        "shares",
        "value_nano",
        "values",
    }


# -- malformed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"kind": 5},
        {"extra": 1},
        {"baseline": 1},
        {"baseline": {}},
        {"seeds": []},
        {"seeds": [1, 1]},
        {"seeds": ["a"]},
        {"seeds": 3},
        {"seeds": list(range(101))},
        {"budget": 0},
        {"budget": 1.5},
        {"clients": True},
        {"held_out": None},
    ],
)
def test_a_malformed_job_is_refused(world, changes):
    job = dagcbor.decode(jobs.resolve(world.recipes(world.recipe_side()), world.contents.load))
    with pytest.raises(EvaluationError):
        jobs.perform(dagcbor.encode({**job, **changes}))


def test_bytes_that_are_no_job_are_refused(world):
    for data in (b"", b"\xff\xff", dagcbor.encode([]), dagcbor.encode({})):
        with pytest.raises(EvaluationError):
            jobs.perform(data)


def test_bad_contents_of_a_job_are_named_by_their_own_room(world):
    job = dagcbor.decode(jobs.resolve(world.recipes(world.recipe_side()), world.contents.load))
    recipe = {**job["candidate"]["recipe"], "learning_rate": -1.0}
    for changes, kind in [
        ({"recipe": recipe}, RecipeError),
        ({"architecture": {"format": "x"}}, ArchitectureError),
        ({"data": b"no data set"}, DatasetError),
    ]:
        bad = {**job, "candidate": {**job["candidate"], **changes}}
        with pytest.raises(kind):
            jobs.perform(dagcbor.encode(bad))


def test_a_candidate_that_does_not_fit_the_held_out_split_is_refused(world):
    description = world.recipes(world.recipe_side())
    narrow = Dataset(np.zeros((50, 3)) + np.arange(50)[:, None], np.zeros(50), classes=10)
    description["held_out"] = world.contents.add(narrow.encode())
    with warnings.catch_warnings(), pytest.raises(NeuroNexusError):
        run(world, description)


def test_a_description_holds_addresses_and_nothing_else(world):
    description = world.recipes(world.recipe_side())
    assert isinstance(description["held_out"], CID)
    with pytest.raises(EvaluationError, match="CIDs"):
        jobs.resolve({**description, "held_out": b"rows"}, world.contents.load)
    weights = world.recipe.architecture.initial_weights(0)
    for participants in ([], {}, {"rounds": 1, "validation": None}):
        with pytest.raises(EvaluationError):
            jobs.resolve(
                world.weights(weights, weights, participants=participants), world.contents.load
            )
