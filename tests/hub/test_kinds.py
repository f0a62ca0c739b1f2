"""Projects that foretell quantities and tokens, from their making to their payment."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.errors import ArchitectureError, DatasetError, InvalidInputError, RecipeError
from neuronexus_kernel.models.graph import INPUT, GraphBuilder


def next_token_model(vocabulary: int, length: int) -> nx.Architecture:
    graph = GraphBuilder((length,), tokens=True)
    last = graph.add("embedding", INPUT, num_embeddings=vocabulary, embedding_dim=8)
    last = graph.add("linear", last, out_features=vocabulary)
    return nx.Architecture((length,), tuple(graph.nodes), last, input_dtype="int64")


def sentences(rows: int = 300, seed: int = 0) -> nx.Dataset:
    """Sequences over 12 tokens, in which mostly the next number follows."""
    random = np.random.default_rng(seed)
    steps = np.where(random.random((rows, 9)) < 0.6, 1, random.integers(0, 12, (rows, 9)))
    tokens = np.unique(np.cumsum(steps, axis=1) % 12, axis=0)
    # Rows are compared by their inputs, which lack the last token.
    _, first = np.unique(tokens[:, :-1], axis=0, return_index=True)
    return nx.Dataset.from_tokens(tokens[first], 12, name="sentences")


CASES = {
    "quantities": (
        lambda: nx.Task(nx.datasets.diabetes(), public=0.3, held_out=0.3),
        lambda: nx.Recipe(nx.models.mlp(10, (), 1), loss="mse", learning_rate=0.001),
    ),
    "tokens": (
        lambda: nx.Task(sentences(), public=0.3, held_out=0.3),
        lambda: nx.Recipe(next_token_model(12, 8), loss="next_token", learning_rate=0.001),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_project_is_made_trained_and_improved_whatever_its_kind(bench, case):
    task, recipe = (make() for make in CASES[case])
    owner = bench.person("owner")
    project = owner.create_project("p", task=task, recipe=recipe)
    record = project.record
    assert (record.kind, record.metric) == (task.kind, task.metric)
    assert (record.output_shape, record.classes) == (task.output_shape, task.classes)
    assert task.metric in project._repr_html_()

    better = recipe.with_changes(learning_rate=0.05)
    run = project.train(rounds=4, partition=nx.partition.iid(2), recipe=better, progress=False)
    reports = run.record.history
    assert reports[-1].loss < reports[0].loss
    assert reports[-1].accuracy > reports[0].accuracy
    assert list(run.history.columns) == ["round", "loss", task.metric, "seconds", "clients"]
    assert task.metric in project.runs().columns
    assert task.metric in project.versions().columns

    ada = bench.person("ada")
    theirs = ada.project("p")
    weights = project.submit(nx.ComputeContribution(run))
    tuned = theirs.submit(nx.HyperparameterContribution(learning_rate=0.05))
    data = theirs.submit(nx.DataContribution(task.private))
    bench.evaluate()
    assert weights.state == tuned.state == "rewarded"
    assert data.state in ("rewarded", "rejected")
    assert tuned.reward == Decimal(10_000) * Decimal(str(tuned.value))
    assert project.recipe.learning_rate == 0.05
    assert f"held_out_{task.metric}" in project.versions().columns
    assert project.head.number == 1
    receipt = dagcbor.decode(ada.storage.get(str(tuned.receipt)))
    assert receipt["outcome"]["metric"] == task.metric
    assert task.metric in receipt["method"]["value"]
    assert bench.hub.verify_ledger().ok


def test_participants_share_what_their_quantities_earned(bench):
    task, recipe = (make() for make in CASES["quantities"])
    ada, grace = bench.person("ada"), bench.person("grace")
    project = ada.create_project("p", task=task, recipe=recipe)
    halves = task.private.partition(nx.partition.iid(2))
    run = project.train(
        rounds=3,
        participants={"ada": halves[0], "grace": halves[1]},
        recipe=recipe.with_changes(learning_rate=0.05),
        progress=False,
    )
    contribution = project.submit(nx.ComputeContribution(run))
    bench.evaluate()
    assert contribution.state == "rewarded"
    assert set(contribution.shares["account"]) == {"ada", "grace"}
    grace.contribution(contribution.id).confirm()
    assert ada.tokens.balance() + grace.tokens.balance() == contribution.reward


def test_participants_of_a_run_that_went_on_are_valued_by_all_its_rounds(bench, tmp_path):
    task, recipe = (make() for make in CASES["quantities"])
    ada, _ = bench.person("ada"), bench.person("grace")
    project = ada.create_project("p", task=task, recipe=recipe)
    halves = task.private.partition(nx.partition.iid(2))
    options = {
        "rounds": 3,
        "participants": {"ada": halves[0], "grace": halves[1]},
        "recipe": recipe.with_changes(learning_rate=0.05),
        "progress": False,
    }

    def fail(report):
        if report.round == 2:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        project.train(checkpoint=tmp_path / "c", on_round=fail, **options)
    run = project.train(checkpoint=tmp_path / "c", **options)
    assert len(run.result.updates) == 3
    contribution = project.submit(nx.ComputeContribution(run))
    bench.evaluate()
    assert contribution.state == "rewarded"
    assert set(contribution.shares["account"]) == {"ada", "grace"}
    assert contribution.shares["fraction"].sum() == pytest.approx(1)


def test_what_does_not_fit_a_project_of_quantities_is_refused(bench):
    task, recipe = (make() for make in CASES["quantities"])
    owner = bench.person("owner")
    with pytest.raises(RecipeError, match=r"'cross_entropy' does not go with.*regression"):
        owner.create_project("p", task=task, recipe=recipe.with_changes(loss="cross_entropy"))
    wide = nx.Recipe(nx.models.mlp(10, (), 2), loss="mse")
    with pytest.raises(ArchitectureError):
        owner.create_project("p", task=task, recipe=wide)
    project = owner.create_project("p", task=task, recipe=recipe)
    rng = np.random.default_rng(0)
    for offered, message in {
        nx.Dataset(rng.random((5, 10)), [0, 1, 2, 3, 4]): "is for classification",
        nx.Dataset(rng.random((5, 10)), rng.random((5, 2)), kind="regression"): "labels of shape",
        nx.Dataset(rng.random((5, 9)), rng.random(5), kind="regression"): "rows of shape",
    }.items():
        with pytest.raises(DatasetError, match=message):
            project.submit(nx.DataContribution(offered))
    with pytest.raises(RecipeError, match="does not go with"):
        project.submit(nx.HyperparameterContribution(loss="cross_entropy"))
    with pytest.raises(RecipeError, match="does not go with"):
        project.submit(nx.CodeContribution(loss="cross_entropy"))
    assert project.contributions().empty


def test_a_model_that_does_not_know_all_tokens_is_refused(bench):
    task, recipe = (make() for make in CASES["tokens"])
    project = bench.person("owner").create_project("p", task=task, recipe=recipe)
    graph = GraphBuilder((8,), tokens=True)
    last = graph.add("embedding", INPUT, num_embeddings=5, embedding_dim=12)
    small = nx.Architecture((8,), tuple(graph.nodes), last, input_dtype="int64")
    with pytest.raises(ArchitectureError, match="knows 5 tokens"):
        project.submit(nx.CodeContribution(small))


def test_a_record_that_tells_something_else_than_the_data_is_refused(bench):
    from dataclasses import replace

    from neuronexus_kernel.content import new_id
    from neuronexus_kernel.hub.records import NewProject

    task, recipe = (make() for make in CASES["quantities"])
    owner = bench.person("owner")
    record = owner.create_project("p", task=task, recipe=recipe).record
    good = NewProject(
        id=new_id(),
        name="q",
        input_shape=record.input_shape,
        classes=0,
        metric="r2",
        kind="regression",
        output_shape=(1,),
        public=record.public,
        validation=record.validation,
        held_out=owner.hub.put(task.held_out.encode(), visibility="sealed").cid,
        recipe=record.recipe,
        weights=record.head.weights,
    )
    for wrong in ({"metric": "accuracy"}, {"kind": "classification"}, {"classes": 1}):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            owner.hub.create_project(replace(good, **wrong))
    assert owner.hub.create_project(good).output_shape == (1,)
