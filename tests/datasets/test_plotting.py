"""The plot of who holds what: what is counted, and that it is drawn for few and for many."""

import io

import numpy as np
import pytest

from neuronexus_kernel.datasets import Dataset, digits, partition
from neuronexus_kernel.datasets.plotting import holdings
from neuronexus_kernel.errors import DatasetError

QUANTITIES = Dataset(
    np.zeros((60, 1)),
    np.linspace(-1, 9, 60),
    kind="regression",
    columns={"hospital": ["Basel", "Lagos", "Tokyo"] * 20},
)


def drawn(figure):
    """The PNG, which is not blank."""
    from matplotlib.image import imread

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    buffer.seek(0)
    assert np.ptp(imread(buffer)) > 0.5
    return figure


def test_every_row_is_counted_once():
    shares = digits().partition(partition.dirichlet(6, 0.3))
    held = holdings({f"lab {k}": share for k, share in enumerate(shares)})
    assert held.counts.shape == (10, 6)
    assert held.counts.sum(axis=0).tolist() == held.sizes.tolist() == [len(s) for s in shares]
    assert held.counts.sum(axis=1).tolist() == np.bincount(digits().labels).tolist()
    assert held.clients[0] == "lab 0"


def test_quantities_are_counted_in_bins_with_round_edges():
    held = holdings({"a": QUANTITIES.subset(range(30)), "b": QUANTITIES.subset(range(30, 60))})
    assert held.counts.sum(axis=0).tolist() == [30, 30]
    assert {"0", "2.5", "5"} <= set(held.classes)
    # The halves do not overlap, but for the bin that both reach into.
    assert ((held.counts > 0).sum(axis=1) <= 1).sum() >= len(held.counts) - 1


def test_of_tokens_the_most_frequent_are_counted():
    data = Dataset.from_tokens(np.array([[0, 5, 5, 3], [1, 5, 9, 3]]), 1000)
    held = holdings({"a": data.subset([0]), "b": data.subset([1])})
    assert held.classes[:2] == ("5", "3")
    assert held.counts[:2].tolist() == [[2, 1], [1, 1]]
    assert held.sizes.tolist() == [1, 1]


@pytest.mark.parametrize("clients", [1, 3, 40, 41, 300])
def test_few_and_many_clients_are_drawn(clients):
    figure = drawn(partition.plot(digits(), partition.dirichlet(clients, 0.5)))
    circles = figure.axes[1].collections
    image = figure.axes[1].images
    assert (bool(circles), bool(image)) == (clients <= 40, clients > 40)


@pytest.mark.parametrize("made", [partition.iid(3), partition.shards(50, 1)], ids=repr)
def test_quantities_are_drawn(made):
    drawn(partition.plot(QUANTITIES, made))


def test_tokens_are_drawn():
    drawn(partition.plot(Dataset.from_tokens(np.arange(400).reshape(40, 10)), partition.iid(4)))


def test_clients_bear_the_names_of_the_column_or_of_the_mapping():
    by_hospital = partition.plot(QUANTITIES, partition.by_column(QUANTITIES, "hospital"))
    labels = [tick.get_text() for tick in by_hospital.axes[1].get_xticklabels()]
    assert labels == ["Basel", "Lagos", "Tokyo"]
    named = partition.plot({"ada": QUANTITIES, "bo": QUANTITIES.subset([1])})
    assert [tick.get_text() for tick in named.axes[1].get_xticklabels()] == ["ada", "bo"]


def test_the_figure_is_shown_by_its_caller_only():
    from matplotlib import pyplot

    partition.plot(QUANTITIES.partition(partition.iid(2)))
    assert pyplot.get_fignums() == []


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(DatasetError, match="plot\\(dataset, partition\\)"):
        partition.plot(QUANTITIES)
    with pytest.raises(DatasetError, match="one data set"):
        partition.plot([QUANTITIES], partition.iid(2))
    with pytest.raises(DatasetError, match="at least one"):
        partition.plot([])
    with pytest.raises(DatasetError, match="does not go with"):
        partition.plot([QUANTITIES, digits()])
