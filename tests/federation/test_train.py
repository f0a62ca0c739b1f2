"""A training run: reproducible, measured, reported, and clear about what went wrong."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as stock

from neuronexus_kernel import models
from neuronexus_kernel.datasets import Dataset, partition
from neuronexus_kernel.errors import (
    ArchitectureError,
    DatasetError,
    EvaluationError,
    InvalidInputError,
    RecipeError,
)
from neuronexus_kernel.federation import STRATEGIES, Recipe, evaluate
from neuronexus_kernel.federation import train as train_run

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2)


def train(recipe, dataset, **options):
    return train_run(recipe, dataset, **{"progress": False, "rounds": 3, **options})


def same_bits(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def test_digits_are_learnt_in_a_few_rounds(digit_splits):
    result = train_run(
        Recipe(models.mlp(64, (64,), 10), learning_rate=0.1),
        digit_splits["training"],
        partition=partition.dirichlet(10, alpha=1.0),
        clients_per_round=8,
        rounds=8,
        validation=digit_splits["validation"],
        progress=False,
    )
    assert result.accuracy >= 0.9
    assert result.executor == result.plan["executor"] == "fused"
    measured = evaluate(result.recipe.architecture, result.arrays, digit_splits["validation"])
    assert measured.accuracy == result.accuracy == result.history["accuracy"].iloc[-1]


def test_both_executors_give_the_same_run_in_float64(blobs):
    runs = [
        train(SMALL, blobs(90), executor=executor, dtype="float64", validation=blobs(30, seed=1))
        for executor in ("sequential", "vectorized")
    ]
    for name, array in runs[0].arrays.items():
        assert array.dtype == np.float64
        np.testing.assert_allclose(runs[1].arrays[name], array, rtol=0, atol=1e-9)
    assert runs[0].history["accuracy"].tolist() == runs[1].history["accuracy"].tolist()


@pytest.mark.parametrize("executor", ["sequential", "vectorized"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(blobs, executor):
    def weights(seed):
        options = {"clients_per_round": 4, "executor": executor, "seed": seed}
        return train(SMALL, blobs(90), partition=partition.iid(9), **options).arrays

    assert same_bits(weights(1), weights(1))
    assert not same_bits(weights(1), weights(2))


def test_evaluation_progress_and_callbacks_do_not_change_the_training(blobs, capsys):
    def weights(**options):
        return train(SMALL, blobs(90), clients_per_round=4, **options).arrays

    plain = weights(evaluate_every=0)
    assert same_bits(plain, weights(validation=blobs(40, seed=5)))
    assert same_bits(plain, weights(evaluate_every=2, keep_updates=True))
    assert same_bits(plain, weights(progress=True, on_round=lambda report: torch.manual_seed(3)))
    assert "accuracy=" in capsys.readouterr().err


def test_the_history_has_one_row_per_round_and_the_first_is_before_training(blobs):
    reports = []
    result = train(
        SMALL,
        blobs(60),
        rounds=5,
        clients_per_round=3,
        evaluate_every=2,
        validation=blobs(30, seed=1),
        on_round=reports.append,
    )
    history = result.history
    assert list(history.columns) == ["round", "loss", "accuracy", "seconds", "clients"]
    assert history["round"].tolist() == [0, 1, 2, 3, 4, 5]
    assert history["clients"].tolist() == [0, 3, 3, 3, 3, 3]
    assert history["accuracy"].notna().tolist() == [True, False, True, False, True, True]
    assert history["seconds"].iloc[0] == 0.0
    assert (history["seconds"].iloc[1:] > 0).all()
    assert tuple(reports) == result.reports
    assert math.isnan(reports[0].train_loss)
    assert reports[5].train_loss < reports[1].train_loss
    assert not result.interrupted


def test_the_model_is_ready_for_use(blobs):
    data = blobs(60)
    result = train(SMALL, data)
    model = result.model
    assert not model.training
    scores = model(torch.tensor(data.inputs)).argmax(1).numpy()
    assert (scores == data.labels).mean() == pytest.approx(
        evaluate(SMALL.architecture, result.arrays, data).accuracy
    )
    assert all(array.flags.c_contiguous for array in result.arrays.values())
    assert set(result.arrays) == set(SMALL.architecture.parameter_shapes)


def test_named_participants_keep_their_names_and_their_order_does_not_matter(blobs):
    people = {"grace": blobs(20, seed=1), "ada": blobs(31, seed=2), "alan": blobs(7, seed=3)}
    result = train(SMALL, people)
    assert result.reports[1].clients == ("ada", "alan", "grace")
    turned = train(SMALL, dict(reversed(people.items())))
    assert same_bits(result.arrays, turned.arrays)


def test_kept_updates_add_up_to_the_model_of_the_round(blobs):
    people = {"ada": blobs(31, seed=2), "grace": blobs(20, seed=1)}
    result = train(SMALL, people, rounds=2, keep_updates=True, dtype="float64")
    assert len(result.updates) == 2
    last = result.updates[-1]
    assert last.examples == {"ada": 31, "grace": 20}
    for name, final in result.arrays.items():
        mean = sum(last.deltas[who][name] * count for who, count in last.examples.items()) / 51
        np.testing.assert_allclose(last.weights[name] + mean, final, atol=1e-12)
    assert train(SMALL, people).updates == ()


def test_training_goes_on_from_given_weights_and_leaves_them_alone(blobs):
    start = SMALL.architecture.initial_weights(7)
    before = {name: array.copy() for name, array in start.items()}
    result = train(SMALL, blobs(60), rounds=1, initial_weights=start, keep_updates=True)
    assert same_bits(start, before)
    assert same_bits(result.updates[0].weights, before)


def test_without_validation_the_training_examples_are_measured(blobs):
    data = blobs(60)
    result = train(SMALL, data)
    assert result.accuracy == evaluate(SMALL.architecture, result.arrays, data).accuracy


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_trains_by_name(blobs, name):
    data = blobs(90)
    result = train(SMALL.with_changes(strategy=name), data, validation=data, rounds=4)
    assert result.recipe.strategy == result.plan["strategy"] == name
    assert result.reports[-1].loss < result.reports[0].loss


def test_a_strategy_given_by_name_is_written_into_the_recipe(blobs):
    result = train(SMALL, blobs(60), strategy="FedMedian")
    assert result.recipe == SMALL.with_changes(strategy="FedMedian")


def test_a_strategys_parameters_count(blobs):
    def weights(**parameters):
        return train(
            SMALL.with_changes(strategy="FedAvgM", strategy_parameters=parameters), blobs(60)
        ).arrays

    plain = train(SMALL, blobs(60)).arrays
    assert same_bits(weights(), plain)
    assert not same_bits(weights(server_momentum=0.5), plain)


def test_fedprox_with_mu_zero_is_fedavg_and_with_a_large_mu_moves_less(blobs):
    def weights(mu):
        parameters = {"proximal_mu": mu}
        recipe = SMALL.with_changes(strategy="FedProx", strategy_parameters=parameters)
        return train(recipe, blobs(60), rounds=1).arrays

    start = SMALL.architecture.initial_weights(0)

    def distance(trained):
        return sum(float(np.square(trained[name] - start[name]).sum()) for name in start)

    assert same_bits(weights(0.0), train(SMALL, blobs(60), rounds=1).arrays)
    assert distance(weights(3.0)) < 0.7 * distance(weights(0.0))


@pytest.mark.parametrize("executor", ["sequential", "vectorized"])
def test_a_stock_fedavg_object_gives_what_the_name_gives(blobs, executor):
    given = stock.FedAvg(fraction_evaluate=0.0)
    by_object = train(SMALL, blobs(60), strategy=given, executor=executor)
    assert same_bits(by_object.weights, train(SMALL, blobs(60), executor=executor).arrays)


def test_stock_fedavg_with_its_defaults_also_evaluates_at_the_nodes(blobs):
    given = stock.FedAvg()
    plain = train(SMALL, blobs(60), clients_per_round=4).arrays
    assert same_bits(train(SMALL, blobs(60), clients_per_round=4, strategy=given).arrays, plain)


def test_a_stock_strategy_that_samples_is_reproducible(blobs):
    def run(seed):
        given = stock.FedAvg(fraction_train=0.4, fraction_evaluate=0.0)
        result = train(SMALL, blobs(90), strategy=given, seed=seed, rounds=5)
        return [report.clients for report in result.reports], result.arrays

    cohorts, weights = run(1)
    assert all(len(cohort) == 4 for cohort in cohorts[1:])
    assert len(set(cohorts)) > 2
    again, same = run(1)
    assert cohorts == again
    assert same_bits(weights, same)


def test_noise_of_flowers_differential_privacy_is_reproducible(blobs):
    def weights(seed):
        private = stock.DifferentialPrivacyServerSideFixedClipping(
            stock.FedAvg(fraction_evaluate=0.0), 0.5, 1.0, 10
        )
        return train(SMALL, blobs(60), strategy=private, seed=seed, rounds=2).arrays

    assert same_bits(weights(1), weights(1))
    assert not same_bits(weights(1), weights(2))


def test_a_diverged_client_is_left_out_and_named(blobs):
    good = blobs(30)
    wild = Dataset(good.inputs * 1e30, good.labels, classes=3)
    people = {"ada": good, "mallory": wild}
    with pytest.warns(RuntimeWarning, match="diverged at mallory"):
        result = train(SMALL, people, validation=good)
    assert result.reports[1].clients == ("ada",)
    assert "learning rate" in result.reports[1].failures["mallory"]
    assert result.accuracy > 0.9
    assert all(np.isfinite(array).all() for array in result.arrays.values())


def test_a_recipe_that_diverges_everywhere_ends_with_the_weights_it_began_with(blobs):
    recipe = SMALL.with_changes(learning_rate=1000.0, weight_decay=10.0, local_epochs=50)
    with pytest.warns(RuntimeWarning, match="Lower the learning rate"):
        result = train(recipe, blobs(60), rounds=2)
    assert same_bits(result.arrays, recipe.architecture.initial_weights(0))
    assert [len(report.failures) for report in result.reports] == [0, 10, 10]


class Faulty:
    """A data set that cannot be read: stands for one participant's broken storage."""

    def __init__(self, dataset):
        self.labels = dataset.labels
        self.classes = dataset.classes

    def __len__(self):
        return len(self.labels)

    @property
    def inputs(self):
        raise OSError("the disk is gone")


@pytest.mark.parametrize("executor", ["sequential", "vectorized"])
def test_one_client_that_fails_costs_its_update_only(blobs, executor):
    from neuronexus_kernel.federation.client_app import train_each
    from neuronexus_kernel.federation.executors.base import Client, Cohort
    from neuronexus_kernel.federation.executors.plan import make_executor, make_plan

    plan = make_plan(SMALL.architecture, clients=3, executor=executor)
    clients = (Client(0, blobs(9)), Client(1, Faulty(blobs(9))), Client(2, blobs(8)))
    cohort = Cohort(SMALL, SMALL.architecture.initial_weights(0), clients, seed=0, round=1)
    updates, failures = train_each(make_executor(plan), cohort)
    assert [update.partition_id for update in updates] == [0, 2]
    assert failures == {1: "OSError: the disk is gone"}
    broken = Cohort(SMALL, cohort.weights, clients[1:2], seed=0, round=1)
    with pytest.raises(OSError, match="the disk is gone"):
        train_each(make_executor(plan), broken)


def test_an_interrupted_run_keeps_its_last_full_round(blobs):
    def stop(report):
        if report.round == 2:
            raise KeyboardInterrupt

    result = train(SMALL, blobs(60), rounds=10, on_round=stop)
    assert result.interrupted
    assert [report.round for report in result.reports] == [0, 1, 2]
    assert same_bits(result.arrays, train(SMALL, blobs(60), rounds=2).arrays)


def test_what_a_callback_raises_ends_the_run(blobs):
    def fail(report):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        train(SMALL, blobs(60), on_round=fail)


def test_flowers_log_does_not_fill_the_notebook(blobs, capsys):
    train(SMALL, blobs(60))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rounds": 0}, InvalidInputError, "rounds"),
        ({"rounds": 2.5}, InvalidInputError, "rounds"),
        ({"clients_per_round": 11}, InvalidInputError, "clients_per_round .* from 1 to 10"),
        ({"seed": -1}, InvalidInputError, "seed"),
        ({"evaluate_every": -1}, InvalidInputError, "evaluate_every"),
        ({"executor": "warp"}, InvalidInputError, "executor"),
        ({"dtype": "int8"}, InvalidInputError, "dtype"),
        ({"strategy": "FedBest"}, RecipeError, "strategy"),
        ({"strategy": 7}, InvalidInputError, "strategy"),
        ({"strategy": "Bulyan", "clients_per_round": 2}, InvalidInputError, "at least 3 clients"),
        ({"partition": partition.iid(1000)}, DatasetError, "1000"),
        ({"validation": [1, 2]}, DatasetError, "validation"),
        ({"initial_weights": {}}, ArchitectureError, "missing"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(blobs, options, error, message):
    with pytest.raises(error, match=message):
        train(SMALL, blobs(60), on_round=lambda report: pytest.fail("it trained"), **options)


def test_a_strategy_object_that_would_wait_for_ever_is_refused(blobs):
    with pytest.raises(InvalidInputError, match="min_available_nodes is 2"):
        train(SMALL, [blobs(30)], strategy=stock.FedAvg(min_train_nodes=1, min_evaluate_nodes=1))


def test_a_strategy_that_gives_up_is_reported_as_an_evaluation_error(blobs):
    given = stock.FedAvg(weighted_by_key="no-such-number", fraction_evaluate=0.0)
    with pytest.raises(EvaluationError, match="FedAvg could not go on"):
        train(SMALL, blobs(60), strategy=given)


def test_data_that_do_not_fit_the_model_are_refused(blobs):
    with pytest.raises(ArchitectureError, match="shape"):
        train(SMALL, blobs(60, shape=(5,)))
    with pytest.raises(ArchitectureError, match="classes"):
        train(SMALL, blobs(60, classes=4))
    with pytest.raises(ArchitectureError):
        train(SMALL, blobs(60), validation=blobs(60, shape=(7,)))


def test_a_model_without_parameters_is_refused(blobs):
    nothing = models.Architecture.capture(torch.nn.ReLU(), torch.zeros(1, 3))
    with pytest.raises(ArchitectureError, match="nothing to train"):
        train(Recipe(nothing), blobs(60, shape=(3,)))


@pytest.mark.parametrize("data", [[], {}, 7, "digits", None, [np.zeros(3)], {"ada": None}])
def test_what_is_no_data_set_is_refused(data):
    with pytest.raises(DatasetError):
        train(SMALL, data)


def test_several_data_sets_cannot_be_partitioned_again(blobs):
    with pytest.raises(InvalidInputError, match="partition"):
        train(SMALL, [blobs(30), blobs(30)], partition=partition.iid(2))


def test_a_participant_without_the_last_class_can_take_part(blobs):
    all_classes = blobs(60)
    rows = all_classes.labels < 2
    first_two = Dataset(all_classes.inputs[rows], all_classes.labels[rows])
    assert first_two.classes == 2
    result = train(SMALL, {"ada": first_two, "grace": all_classes})
    assert result.reports[1].clients == ("ada", "grace")


def test_weights_are_tensors_and_arrays_are_the_same_memory(blobs):
    result = train(SMALL, blobs(60))
    for name, tensor in result.weights.items():
        assert isinstance(tensor, torch.Tensor)
        assert np.array_equal(tensor.numpy(), result.arrays[name])
        assert np.shares_memory(tensor.numpy(), result.arrays[name])
    again = train(SMALL, blobs(60), initial_weights=result.weights, rounds=1)
    assert same_bits(
        again.arrays, train(SMALL, blobs(60), initial_weights=result.arrays, rounds=1).arrays
    )


def test_a_callback_that_returns_true_ends_the_run(blobs):
    result = train(SMALL, blobs(60), rounds=50, on_round=lambda report: report.round == 2)
    assert not result.interrupted
    assert len(result.reports) == 3
    assert same_bits(result.arrays, train(SMALL, blobs(60), rounds=2).arrays)


@pytest.mark.parametrize("executor", ["sequential", "vectorized", "fused"])
def test_a_plan_is_replayed(blobs, executor):
    first = train(SMALL, blobs(60), executor=executor, dtype="float64")
    again = train(SMALL, blobs(60), plan=first.plan)
    assert again.plan == first.plan
    assert again.executor == executor
    assert same_bits(again.arrays, first.arrays)


def test_a_recipe_may_say_the_size_of_the_cohort(blobs):
    recipe = SMALL.with_changes(cohort_size=3)
    assert [len(each.clients) for each in train(recipe, blobs(60)).reports] == [0, 3, 3, 3]
    sizes = [len(each.clients) for each in train(recipe, blobs(60), clients_per_round=5).reports]
    assert sizes == [0, 5, 5, 5]
    with pytest.raises(InvalidInputError, match="cohort_size is 3, but there are 2 clients"):
        train(recipe, [blobs(10), blobs(10)])


def test_a_fixed_start_is_the_same_for_every_seed(blobs):
    def start(seed, policy):
        recipe = SMALL.with_changes(seed_policy=policy)
        return train(recipe, blobs(60), seed=seed, rounds=1, keep_updates=True).updates[0].weights

    zero = SMALL.architecture.initial_weights(0)
    assert same_bits(start(5, "fixed-start"), zero)
    assert not same_bits(start(5, "run"), zero)


def test_presummed_updates_give_the_same_model_but_for_rounding(blobs):
    for name in ("FedAvg", "FedAdam"):
        recipe = SMALL.with_changes(strategy=name)
        plain = train(recipe, blobs(90), dtype="float64")
        summed = train(recipe, blobs(90), dtype="float64", presum=True)
        assert summed.plan["presum"] is True
        for array, expected in zip(summed.arrays.values(), plain.arrays.values(), strict=True):
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-7)
        assert [each.clients for each in summed.reports] == [each.clients for each in plain.reports]
        assert summed.reports[-1].failures == {}
        assert same_bits(train(recipe, blobs(90), plan=summed.plan).arrays, summed.arrays)


def test_large_cohorts_need_presummed_updates(blobs):
    data = blobs(1001)
    shares = [data.subset([row]) for row in range(1001)]
    options = {"rounds": 1, "evaluate_every": 0}
    with pytest.raises(InvalidInputError, match=r"more than 1000 .* pass presum=True"):
        train(SMALL, shares, **options)
    with pytest.raises(InvalidInputError, match="use one of FedAvg"):
        train(SMALL, shares, strategy="FedMedian", **options)
    result = train(SMALL, shares, presum=True, **options)
    assert len(result.reports[1].clients) == 1001


CLIPPING = {"noise_multiplier": 1.0, "clipping_norm": 1.0}


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "Krum"},
        {"strategy": "FedNova"},
        {"keep_updates": True},
        {"recipe": {"privacy": "fixed-clipping", "privacy_parameters": CLIPPING}},
    ],
    ids=["Krum", "FedNova", "kept updates", "privacy"],
)
def test_presum_is_refused_where_a_mean_is_not_enough(blobs, options):
    recipe = SMALL.with_changes(**options.pop("recipe", {}))
    with pytest.raises(InvalidInputError, match="presum"):
        train(recipe, blobs(60), presum=True, **options)


def test_regression_is_measured_by_r2():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(200, 4)).astype("f4")
    targets = inputs @ np.array([[1.0], [-2.0], [0.5], [0.0]], dtype="f4")
    data = Dataset(inputs, targets, kind="regression")
    recipe = Recipe(models.mlp(4, (16,), 1), loss="mse", learning_rate=0.05)
    result = train(recipe, data, rounds=4)
    assert list(result.history.columns) == ["round", "loss", "r2", "seconds", "clients"]
    assert result.metric == "r2"
    assert result.accuracy > 0.9
    assert "r2 0.9" in repr(result)


@pytest.mark.parametrize("name", ["FedPer", "Ditto"])
def test_personalised_strategies_give_each_client_a_model_of_its_own(blobs, name):
    """Two groups of clients call the same blobs by different names: no joint model can serve."""
    shares = {}
    for place in range(4):
        data = blobs(30, seed=place)
        turned = (data.labels + place % 2) % 3
        shares[f"lab {place}"] = Dataset(data.inputs, turned, classes=3)
    parameters = {"FedPer": {"personal_layers": 1}, "Ditto": {"personal_mu": 0.05}}[name]
    recipe = SMALL.with_changes(strategy=name, strategy_parameters=parameters)
    result = train(recipe, shares, rounds=6)
    assert set(result.personal) == set(shares)
    own = []
    for who, weights in result.personal.items():
        assert set(weights) == set(SMALL.architecture.parameter_shapes)
        own.append(evaluate(SMALL.architecture, weights, shares[who]).accuracy)
    assert min(own) > 0.9
    joint = train(SMALL, shares, rounds=6)
    assert joint.personal == {}
    both = [evaluate(SMALL.architecture, joint.arrays, share).accuracy for share in shares.values()]
    assert np.mean(both) < 0.8


def test_a_personalised_run_is_measured_by_the_clients_own_models(blobs):
    shares = {name: blobs(30, seed=place) for place, name in enumerate("abc")}
    test = blobs(40, seed=9)
    recipe = SMALL.with_changes(strategy="Ditto")
    result = train(recipe, shares, validation=test)
    each = [evaluate(SMALL.architecture, own, test) for own in result.personal.values()]
    assert result.accuracy == pytest.approx(np.mean([one.accuracy for one in each]))
    assert result.reports[-1].loss == pytest.approx(np.mean([one.loss for one in each]))


MANY = """
import resource, sys
import numpy as np
from neuronexus_kernel import models
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.federation import Recipe, train

clients = int(sys.argv[1])
rows = np.random.default_rng(0).random((6 * clients, 784), dtype=np.float32)
data = [
    Dataset(rows[start : start + 6], np.arange(6), classes=10)
    for start in range(0, 6 * clients, 6)
]
recipe = Recipe(models.mlp(784, (200, 200), 10), local_epochs=1)
result = train(recipe, data, rounds=2, presum=True, evaluate_every=0, progress=False)
assert len(result.reports[2].clients) == clients
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(peak)
"""


@pytest.mark.long
def test_ten_thousand_clients_take_less_than_2_gb():
    child = subprocess.run(
        [sys.executable, "-c", MANY, "10000"], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 2e9
