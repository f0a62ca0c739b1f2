import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel import models
from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation.updates import RoundUpdates
from neuronexus_kernel.valuation.coalitions import (
    LOSS_LIMIT,
    PARTS,
    coalition_utilities,
    participant_values,
    shapley,
    shares,
)


def coalitions(players):
    return [
        frozenset(group)
        for size in range(len(players) + 1)
        for group in itertools.combinations(players, size)
    ]


def by_all_orders(players, utility):
    """The definition: the mean marginal gain over all orders of joining."""
    values = dict.fromkeys(players, 0.0)
    orders = list(itertools.permutations(players))
    for order in orders:
        for position, player in enumerate(order):
            before = frozenset(order[:position])
            values[player] += utility[before | {player}] - utility[before]
    return {player: value / len(orders) for player, value in values.items()}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32))
def test_shapley_values_are_the_mean_gain_over_all_orders_of_joining(count, number):
    players = [f"p{i}" for i in range(count)]
    generator = np.random.default_rng(number)
    utility = {group: float(generator.normal()) for group in coalitions(players)}
    values = shapley(players, utility)
    assert values == pytest.approx(by_all_orders(players, utility))
    gained = utility[frozenset(players)] - utility[frozenset()]
    assert sum(values.values()) == pytest.approx(gained)


def test_the_glove_game_has_its_textbook_values():
    """One left glove, two right ones; a pair is worth 1 (1/6, 1/6, 2/3)."""
    utility = {
        group: float("left" in group and bool(group & {"right", "other"}))
        for group in coalitions(["left", "right", "other"])
    }
    assert shapley(["left", "right", "other"], utility) == pytest.approx(
        {"left": 2 / 3, "right": 1 / 6, "other": 1 / 6}
    )


def test_who_adds_nothing_gets_nothing_and_equals_get_equal_values():
    players = ["ada", "alan", "idle"]
    utility = {group: float(len(group - {"idle"}) ** 2) for group in coalitions(players)}
    values = shapley(players, utility)
    assert values["idle"] == 0
    assert values["ada"] == values["alan"] == 2


def test_twelve_players_are_valued_exactly():
    players = [f"p{i:02d}" for i in range(12)]
    worth = {player: i + 1 for i, player in enumerate(players)}
    utility = {group: float(sum(worth[p] for p in group)) for group in coalitions(players)}
    assert shapley(players, utility) == pytest.approx(worth)


@pytest.mark.parametrize("players", [[], ["a", "a"], [f"p{i}" for i in range(13)]])
def test_too_many_or_double_players_are_refused(players):
    with pytest.raises(InvalidInputError):
        shapley(players, {})


def test_a_missing_coalition_is_named():
    with pytest.raises(InvalidInputError, match="1 coalitions have no utility"):
        shapley(["a"], {frozenset(): 0.0})


ARCHITECTURE = models.mlp(6, (5,), 3)


def a_round(players=("ada", "alan", "grace"), number=0, scale=0.5):
    generator = np.random.default_rng(number)
    weights = ARCHITECTURE.initial_weights(number)
    deltas = {
        player: {
            name: (scale * generator.normal(size=array.shape)).astype(np.float32)
            for name, array in weights.items()
        }
        for player in players
    }
    return RoundUpdates(weights, deltas, {p: 10 * (i + 1) for i, p in enumerate(players)})


@pytest.fixture
def validation():
    generator = np.random.default_rng(7)
    inputs = generator.normal(size=(700, 6))
    return Dataset(inputs, inputs[:, :3].argmax(axis=1), classes=3)


def mean_loss(weights, validation):
    """Cross-entropy of one model, computed alone and in float64 with numpy."""
    import torch

    module = ARCHITECTURE.build(weights).eval()
    with torch.no_grad():
        scores = module(torch.tensor(validation.inputs)).double().numpy()
    scores = scores - scores.max(axis=1, keepdims=True)
    chosen = scores[np.arange(len(validation)), validation.labels]
    return float((np.log(np.exp(scores).sum(axis=1)) - chosen).mean())


def test_a_coalition_is_the_model_that_its_updates_would_have_made_alone(validation):
    updates = a_round()
    utility = coalition_utilities(ARCHITECTURE, updates, validation)
    assert set(utility) == set(coalitions(["ada", "alan", "grace"]))
    for group, value in utility.items():
        total = sum(updates.examples.values())
        weights = {
            name: array
            + sum((updates.examples[p] / total) * updates.deltas[p][name] for p in sorted(group))
            for name, array in updates.weights.items()
        }
        weights = {name: array.astype(np.float32) for name, array in weights.items()}
        assert value == pytest.approx(-mean_loss(weights, validation), abs=1e-6)


def test_a_free_rider_who_sends_nothing_is_worth_exactly_nothing(validation):
    updates = a_round(scale=3.0)
    nothing = {name: np.zeros_like(array) for name, array in updates.weights.items()}
    deltas = {**updates.deltas, "rider": nothing}
    joined = RoundUpdates(updates.weights, deltas, {**updates.examples, "rider": 1000})
    assert participant_values(ARCHITECTURE, [joined], validation)["rider"] == pytest.approx(0)


def test_values_over_all_rounds_sum_to_the_fall_of_the_loss(validation):
    rounds = [a_round(number=1), a_round(("ada", "grace"), number=2)]
    values = participant_values(ARCHITECTURE, rounds, validation)
    assert list(values) == ["ada", "alan", "grace"]
    gained = 0.0
    for updates in rounds:
        utility = coalition_utilities(ARCHITECTURE, updates, validation)
        gained += utility[frozenset(updates.players)] - utility[frozenset()]
    assert sum(values.values()) == pytest.approx(gained)
    alone = participant_values(ARCHITECTURE, rounds[:1], validation)
    assert values["alan"] == alone["alan"]


def test_copies_of_one_update_are_worth_the_same(validation):
    single = a_round(("ada",), number=3)
    twins = RoundUpdates(
        single.weights,
        {"ada": single.deltas["ada"], "twin": single.deltas["ada"]},
        {"ada": 10, "twin": 10},
    )
    values = participant_values(ARCHITECTURE, [twins], validation)
    assert values["ada"] == pytest.approx(values["twin"])


def test_a_diverged_participant_is_valued_below_zero_and_not_at_infinity(validation):
    updates = a_round(number=4, scale=0.01)
    name = next(iter(updates.weights))
    for poison in (np.nan, np.inf, 1e30):
        deltas = {**updates.deltas, "alan": {**updates.deltas["alan"]}}
        deltas["alan"][name] = np.full_like(deltas["alan"][name], poison)
        spoiled = RoundUpdates(updates.weights, deltas, updates.examples)
        values = participant_values(ARCHITECTURE, [spoiled], validation)
        assert -LOSS_LIMIT <= values["alan"] < -1
        assert all(math.isfinite(value) for value in values.values())
        honest = coalition_utilities(ARCHITECTURE, updates, validation)
        utility = coalition_utilities(ARCHITECTURE, spoiled, validation)
        for group in coalitions(["ada", "grace"]):
            assert utility[group] == pytest.approx(honest[group])


def test_many_participants_are_valued_in_chunks_as_they_are_one_by_one(validation):
    players = [f"p{i}" for i in range(8)]
    updates = a_round(players, number=5)
    utility = coalition_utilities(ARCHITECTURE, updates, validation)
    assert len(utility) == 256
    everyone = {
        name: array
        + sum(updates.examples[p] * updates.deltas[p][name] for p in players)
        / sum(updates.examples.values())
        for name, array in updates.weights.items()
    }
    everyone = {name: array.astype(np.float32) for name, array in everyone.items()}
    assert utility[frozenset(players)] == pytest.approx(-mean_loss(everyone, validation), abs=1e-6)


def test_updates_read_back_from_their_bytes_unchanged():
    updates = a_round()
    data = updates.encode()
    read = RoundUpdates.decode(data)
    assert read.encode() == data
    assert read.examples == updates.examples
    for player in updates.players:
        for name, array in updates.deltas[player].items():
            np.testing.assert_array_equal(read.deltas[player][name], array)


def test_the_bytes_do_not_depend_on_the_order_of_participants():
    updates = a_round()
    turned = RoundUpdates(
        updates.weights,
        dict(reversed(updates.deltas.items())),
        dict(reversed(updates.examples.items())),
    )
    assert turned.encode() == updates.encode()


def test_bytes_that_are_no_updates_are_refused():
    node = dagcbor.decode(a_round().encode())
    double = {**node, "participants": [node["participants"][0]] * 2}
    strange = [
        {**node, "format": "other"},
        {**node, "weights": b"x"},
        {**node, "participants": []},
        {**node, "participants": 3},
        {**node, "participants": [{"name": "ada"}]},
        double,
        [],
    ]
    for data in [b"", b"\xff", *(dagcbor.encode(each) for each in strange)]:
        with pytest.raises(EvaluationError):
            RoundUpdates.decode(data)


def test_updates_that_do_not_fit_together_are_refused():
    updates = a_round()
    one = {"ada": updates.deltas["ada"]}
    for deltas, examples in [
        (one, {"alan": 1}),
        (one, {"ada": 0}),
        ({}, {}),
        ({"ada": {}}, {"ada": 1}),
    ]:
        with pytest.raises(InvalidInputError):
            RoundUpdates(updates.weights, deltas, examples)


def test_more_participants_than_can_be_valued_exactly_are_refused_before_any_work(validation):
    updates = a_round()
    crowd = {f"p{i}": updates.deltas["ada"] for i in range(13)}
    many = RoundUpdates(updates.weights, crowd, dict.fromkeys(crowd, 1))
    with pytest.raises(InvalidInputError, match="12 different players"):
        participant_values(ARCHITECTURE, [many], validation)


@settings(max_examples=100)
@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.floats(-1e6, 1e6), min_size=1, max_size=12)
)
def test_shares_are_parts_of_the_positive_values_and_lose_none(values):
    parts = shares(values)
    positive = {name: value for name, value in values.items() if value > 0}
    assert sum(parts.values()) == (PARTS if positive else 0)
    for name, part in parts.items():
        expected = PARTS * positive.get(name, 0) / (math.fsum(positive.values()) or 1)
        assert part == pytest.approx(expected, abs=1.001)
        assert part == 0 or name in positive


def test_a_harmful_participant_takes_nothing_from_the_others():
    assert shares({"ada": 3.0, "alan": -5.0, "grace": 1.0}) == {
        "ada": 750_000_000,
        "alan": 0,
        "grace": 250_000_000,
    }
    assert shares({"ada": -1.0, "alan": 0.0}) == {"ada": 0, "alan": 0}
    assert shares({"c": 1.0, "b": 1.0, "a": 1.0}) == {
        "a": 333_333_334,
        "b": 333_333_333,
        "c": 333_333_333,
    }
    assert shares({"ada": math.nan, "alan": 2.0}) == {"ada": 0, "alan": PARTS}
    assert shares({}) == {}


# -- other kinds of data -------------------------------------------------------------------------


def two_steps(weights):
    """Updates of one who steps towards the truth, one who stands still, one who steps away."""
    start = {name: np.zeros_like(array) for name, array in weights.items()}
    still = {name: np.zeros_like(array) for name, array in weights.items()}
    away = {name: -array for name, array in weights.items()}
    deltas = {"towards": weights, "still": still, "away": away}
    return RoundUpdates(start, deltas, dict.fromkeys(deltas, 1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_quantities_are_valued_by_their_error_whatever_their_unit(scale):
    inputs = np.random.default_rng(0).normal(size=(60, 2))
    data = Dataset(inputs, scale * inputs.sum(axis=1), kind="regression")
    architecture = models.mlp(2, (), 1)
    truth = {
        name: np.full(shape, scale if len(shape) == 2 else 0, np.float32)
        for name, shape in architecture.parameter_shapes.items()
    }
    values = participant_values(architecture, [two_steps(truth)], data)
    assert values["towards"] > 0 > values["away"]
    assert values["still"] == pytest.approx(0, abs=1e-9)
    utility = coalition_utilities(architecture, two_steps(truth), data)
    # Nobody: all of the (uncentred) variance is left; the truth's third: four ninths of it.
    nobody = -np.square(inputs.sum(axis=1)).mean() / inputs.sum(axis=1).var()
    assert utility[frozenset()] == pytest.approx(nobody, rel=1e-4)
    assert utility[frozenset({"towards"})] == pytest.approx(4 / 9 * nobody, rel=1e-4)


def test_tokens_are_valued_by_the_places_foretold():
    from neuronexus_kernel.models.graph import INPUT, GraphBuilder

    graph = GraphBuilder((4,), tokens=True)
    last = graph.add("embedding", INPUT, num_embeddings=5, embedding_dim=5)
    architecture = models.Architecture((4,), tuple(graph.nodes), last, input_dtype="int64")
    (name,) = architecture.parameter_shapes
    data = Dataset.from_tokens((np.arange(30)[:, None] + np.arange(5)) % 5, 5)
    updates = two_steps({name: 3 * np.roll(np.eye(5, dtype=np.float32), 1, axis=1)})
    values = participant_values(architecture, [updates], data)
    assert values["towards"] > 0 > values["away"]
    assert values["still"] == pytest.approx(0, abs=1e-6)
    nobody = coalition_utilities(architecture, updates, data)[frozenset()]
    assert nobody == pytest.approx(-np.log(5), rel=1e-5)
