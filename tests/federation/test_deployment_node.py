"""One lab's node, and nodes elsewhere that answer as if they were here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.errors import (
    DatasetError,
    EvaluationError,
    InvalidInputError,
    RecipeError,
)
from neuronexus_kernel.federation._flower import (
    Array,
    ArrayRecord,
    Error,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
    Run,
    TaskIdentity,
)
from neuronexus_kernel.federation.deployment.conduct import conduct
from neuronexus_kernel.federation.deployment.node import Node, load_data
from neuronexus_kernel.federation.deployment.order import (
    Assignment,
    Seat,
    read_round,
    read_seats,
    read_updates,
    saved_in,
    write_seats,
)
from neuronexus_kernel.federation.deployment.recipefile import load_recipe, save_recipe
from neuronexus_kernel.federation.strategies.replies import METRICS

NAMES = ("ada", "bob", "cleo")


class Killed(BaseException):
    """The server's process ended here."""


class FarNodes(Grid):
    """Flower's grid with nodes that answer through their own `Node`, or do something else.

    The server dies in the exchange `last`, when the nodes have answered already.
    """

    def __init__(
        self, nodes: dict[int, Node], silent: frozenset[int] = frozenset(), last: int = -1
    ) -> None:
        self._nodes = nodes
        self.states = {node: RecordDict() for node in nodes}
        self._silent = silent
        self._exchanges = 0
        self.last = last
        self._run = Run.create_empty(77)
        self._replies: dict[str, Message] = {}
        self.sources: set[tuple[int, int]] = set()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *arguments: object, **options: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        self._exchanges += 1
        for message in messages:
            self.sources.add((message.metadata.run_id, message.metadata.src_node_id))
            name = f"message-{message.metadata.dst_node_id}-{len(self._replies)}"
            message.metadata.__dict__["_message_id"] = name
            node = message.metadata.dst_node_id
            if node not in self._silent:
                self._replies[name] = self._nodes[node].answer(message, self.states[node])
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        if self._exchanges == self.last:
            self.last = -1
            raise Killed
        return [self._replies[name] for name in message_ids if name in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def recipe() -> nx.Recipe:
    return nx.Recipe(nx.models.mlp(64, (8,), 10), local_epochs=1)


@pytest.fixture(scope="module")
def shares() -> list[nx.Dataset]:
    return nx.datasets.digits().partition(nx.partition.iid(3, seed=1))


@pytest.fixture(scope="module")
def few(shares: list[nx.Dataset]) -> list[nx.Dataset]:
    return [share.subset(np.arange(40)) for share in shares]


@pytest.fixture(autouse=True)
def _identity() -> Iterable[None]:
    """Be the task that a SuperLink has started."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 5, 77, 1
    yield
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = before


SEATS = tuple(Seat(900 - place, place, name) for place, name in enumerate(NAMES))


def assignment(recipe: nx.Recipe, **changes: object) -> Assignment:
    values: dict[str, object] = {
        "rounds": 2,
        "nodes": 3,
        "seed": 3,
        "patience": 30.0,
        "keep_updates": True,
        **changes,
    }
    return Assignment(recipe, recipe.architecture.initial_weights(3), **values)  # type: ignore[arg-type]


def order(folder: Path, recipe: nx.Recipe, **changes: object) -> Path:
    """Write an order, and return its folder."""
    assignment(recipe, **changes).write(folder / "order")
    write_seats(folder / "order", SEATS)
    return folder / "order"


def far_nodes(shares: list[nx.Dataset]) -> dict[int, Node]:
    return {900 - place: Node(share, executor="sequential") for place, share in enumerate(shares)}


def test_an_order_comes_out_as_it_went_in(tmp_path: Path, recipe: nx.Recipe) -> None:
    given = assignment(recipe, validation=nx.datasets.digits(), update_bound=5.0, cohort=2)
    given.write(tmp_path / "order")
    read = Assignment.read(tmp_path / "order")
    for name in ("id", "recipe", "rounds", "nodes", "seed", "cohort", "patience", "update_bound"):
        assert getattr(read, name) == getattr(given, name)
    assert read.validation is not None
    assert read.validation.cid == nx.datasets.digits().cid
    write_seats(tmp_path / "order", SEATS)
    assert read_seats(tmp_path / "order") == SEATS
    with pytest.raises(EvaluationError, match="cannot be read"):
        Assignment.read(tmp_path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_seats(tmp_path)


def test_nodes_elsewhere_give_what_nodes_here_give(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset]
) -> None:
    folder = order(tmp_path, recipe, cohort=2)
    grid = FarNodes(far_nodes(shares))
    conduct(folder, grid)
    local = nx.federation.train(
        recipe,
        dict(zip(NAMES, shares, strict=True)),
        rounds=2,
        clients_per_round=2,
        seed=3,
        executor="sequential",
        progress=False,
    )
    saved = saved_in(folder)
    assert saved is not None
    for name, values in saved.weights.items():
        np.testing.assert_array_equal(values, np.asarray(local.weights[name]))
    for number in (1, 2):
        report = read_round(folder, number)
        assert report is not None
        assert report.clients == local.reports[number].clients
        updates = read_updates(folder, number)
        assert updates is not None
        assert nx.federation.RoundUpdates.decode(updates).players == report.clients
    assert grid.sources == {(77, 1)}, "messages are those of the task that Flower started"
    assert TaskIdentity.run_id == 77


def test_a_node_that_never_answers_is_waited_for_no_longer_than_said(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset]
) -> None:
    folder = order(tmp_path, recipe, rounds=1, patience=0.5)
    conduct(folder, FarNodes(far_nodes(shares), silent=frozenset({899})))
    report = read_round(folder, 1)
    assert report is not None
    assert report.clients == ("ada", "cleo")
    assert "did not answer within 0.5 seconds" in report.failures["bob"]


def test_an_update_that_goes_too_far_is_left_out(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset]
) -> None:
    class Runaway(Node):
        def answer(self, message: Message, state: RecordDict) -> Message:
            reply = super().answer(message, state)
            (key,) = reply.content.array_records
            record = ArrayRecord()
            for name, array in reply.content.array_records[key].items():
                record[name] = Array(array.numpy() + np.float32(1000))
            reply.content[key] = record
            return reply

    nodes = far_nodes(shares)
    nodes[900] = Runaway(shares[0], executor="sequential")
    folder = order(tmp_path, recipe, rounds=1, update_bound=100.0)
    conduct(folder, FarNodes(nodes))
    report = read_round(folder, 1)
    assert report is not None
    assert report.clients == ("bob", "cleo")
    assert "away from the one that was sent" in report.failures["ada"]


def test_a_node_refuses_weights_that_are_not_finite_and_other_partitions(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset]
) -> None:
    message = first_message(recipe, shares, tmp_path)
    for record in message.content.array_records.values():
        name = next(iter(record))
        record[name] = Array(np.full_like(record[name].numpy(), np.inf))
    node = Node(shares[0], executor="sequential")
    assert "finite" in told(node.answer(message, RecordDict()))
    message = first_message(recipe, shares, tmp_path / "again")
    other = Node(shares[0], partition=2, executor="sequential")
    assert "partition" in told(other.answer(message, RecordDict()))


# -- interrupted ------------------------------------------------------------------------------

STRATEGIES = ["FedAdam", "SCAFFOLD", "FedPer", "Ditto", "FedBuff"]


def interrupted(folder: Path, nodes: dict[int, Node], *, after: int) -> FarNodes:
    """Conduct an order until its server dies in the exchange after so many; return the nodes."""
    grid = FarNodes(nodes, last=after + 1)
    with pytest.raises(Killed):
        conduct(folder, grid)
    return grid


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_order_whose_server_died_goes_on_and_ends_as_one_that_lived(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset], strategy: str
) -> None:
    chosen = recipe.with_changes(strategy=strategy)
    options = {"rounds": 4, "cohort": 2, "keep_updates": strategy != "FedBuff"}
    lived = order(tmp_path / "lived", chosen, **options)
    conduct(lived, FarNodes(far_nodes(few)))
    died = order(tmp_path / "died", chosen, **options)
    grid = interrupted(died, far_nodes(few), after=2)
    grid.last = 4  # and once more
    with pytest.raises(Killed):
        conduct(died, grid)
    conduct(died, grid)
    whole, joined = saved_in(lived), saved_in(died)
    assert whole is not None
    assert joined is not None
    for name, values in whole.weights.items():
        np.testing.assert_array_equal(joined.weights[name], values)
    for one, other in zip(whole.reports, joined.reports, strict=True):
        assert (one.round, one.clients, one.failures) == (other.round, other.clients, {})
        assert read_updates(lived, one.round) == read_updates(died, one.round)


def test_an_order_whose_rounds_are_all_saved_asks_nobody(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset]
) -> None:
    folder = order(tmp_path, recipe, rounds=1)
    conduct(folder, FarNodes(far_nodes(few)))
    conduct(folder, FarNodes({}))


def test_others_cannot_take_the_seats_of_those_who_began(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset]
) -> None:
    folder = order(tmp_path, recipe)
    grid = interrupted(folder, far_nodes(few), after=1)
    write_seats(folder, (*SEATS[:2], Seat(898, 2, "dora")))
    with pytest.raises(InvalidInputError, match="dora"):
        conduct(folder, grid)


@pytest.mark.parametrize(("strategy", "needed"), [("SCAFFOLD", True), ("FedAvgM", False)])
def test_a_run_does_not_go_on_without_what_its_strategy_had_the_nodes_keep(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset], strategy: str, needed: bool
) -> None:
    folder = order(tmp_path, recipe.with_changes(strategy=strategy))
    grid = interrupted(folder, far_nodes(few), after=1)
    kept, grid.states[899] = grid.states[899], RecordDict()
    if needed:
        with pytest.raises(EvaluationError, match="bob: This node does not have what it kept"):
            conduct(folder, grid)
        assert read_round(folder, 2) is None
    grid.states[899] = kept
    conduct(folder, grid)
    assert read_round(folder, 2).clients == NAMES


def test_a_node_that_forgets_in_mid_run_costs_its_updates_and_not_the_run(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset]
) -> None:
    class Forgetful(Node):
        def answer(self, message: Message, state: RecordDict) -> Message:
            state.clear()
            return super().answer(message, state)

    nodes = {**far_nodes(few), 899: Forgetful(few[1], executor="sequential")}
    folder = order(tmp_path, recipe.with_changes(strategy="FedPer"))
    conduct(folder, FarNodes(nodes))
    assert read_round(folder, 1).clients == NAMES
    assert read_round(folder, 2).clients == ("ada", "cleo")
    assert "after round 1" in read_round(folder, 2).failures["bob"]


# -- what nodes say of themselves -------------------------------------------------------------


class Boastful(Node):
    """Says in each round what it was told to say."""

    def __init__(self, dataset: nx.Dataset, name: str, values: list[float]) -> None:
        super().__init__(dataset, executor="sequential")
        self._name, self._values = name, values

    def answer(self, message: Message, state: RecordDict) -> Message:
        reply = super().answer(message, state)
        said = dict(reply.content.metric_records[METRICS])
        reply.content[METRICS] = MetricRecord({**said, self._name: self._values.pop(0)})
        return reply


def test_a_lab_cannot_change_how_many_examples_it_has(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset]
) -> None:
    nodes = far_nodes(few)
    nodes[899] = Boastful(few[1], "num-examples", [500, 500, 9000, 9000, 500])
    folder = order(tmp_path, recipe, rounds=4)
    conduct(folder, interrupted(folder, nodes, after=2))
    assert read_round(folder, 2).clients == NAMES
    report = read_round(folder, 3)
    assert report.clients == ("ada", "cleo")
    assert "9000 examples, but bob had 500 before" in report.failures["bob"]
    assert read_round(folder, 4).clients == NAMES


def test_a_lab_stands_for_itself_only(
    tmp_path: Path, recipe: nx.Recipe, few: list[nx.Dataset]
) -> None:
    nodes = {**far_nodes(few), 899: Boastful(few[1], "clients", [40])}
    folder = order(tmp_path, recipe, rounds=1)
    conduct(folder, FarNodes(nodes))
    assert "stands for 40 clients" in read_round(folder, 1).failures["bob"]


def told(reply: Message) -> str:
    assert isinstance(reply.error, Error)
    return str(reply.error.reason)


def first_message(recipe: nx.Recipe, shares: list[nx.Dataset], folder: Path) -> Message:
    """Return the first message that a strategy sends to partition 0."""
    seen: list[Message] = []

    class Curious(Node):
        def answer(self, message: Message, state: RecordDict) -> Message:
            seen.append(message)
            return super().answer(message, state)

    nodes = far_nodes(shares)
    nodes[900] = Curious(shares[0], executor="sequential")
    conduct(order(folder, recipe, rounds=1), FarNodes(nodes))
    return seen[0]


# -- files ------------------------------------------------------------------------------------


def test_data_are_read_from_archives_tables_and_encoded_bytes(
    tmp_path: Path, shares: list[nx.Dataset]
) -> None:
    import pandas as pd

    share = shares[0]
    np.savez(tmp_path / "lab.npz", inputs=share.inputs, labels=share.labels, classes=10)
    (tmp_path / "lab.dataset").write_bytes(share.encode())
    table = pd.DataFrame(share.inputs)
    table["label"] = share.labels
    table.to_csv(tmp_path / "lab.csv", index=False)
    for name in ("lab.npz", "lab.dataset", "lab.csv"):
        read = load_data(tmp_path / name)
        np.testing.assert_array_equal(read.inputs, share.inputs)
        np.testing.assert_array_equal(read.labels, share.labels)
        assert read.classes == 10


def test_a_pickle_in_an_archive_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    traps = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "lab.npz", inputs=traps, labels=np.zeros(1, int), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"lab\.npz"):
        load_data(tmp_path / "lab.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["missing.npz", "missing.csv", "missing", "odd.npz", "odd.csv"])
def test_a_file_that_is_no_data_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "odd.npz").write_bytes(b"nothing")
    (tmp_path / "odd.csv").write_text("a,b\n1,x\n")
    with pytest.raises(DatasetError, match=name.replace(".", r"\.")):
        load_data(tmp_path / name)


def test_a_recipe_file_comes_out_as_it_went_in(tmp_path: Path, recipe: nx.Recipe) -> None:
    chosen = recipe.with_changes(strategy="FedProx", strategy_parameters={"proximal_mu": 0.1})
    save_recipe(chosen, tmp_path / "recipe.json")
    assert load_recipe(tmp_path / "recipe.json") == chosen
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"recipe\.json"):
        load_recipe(tmp_path / "recipe.json")
