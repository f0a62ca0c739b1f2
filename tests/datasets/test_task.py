import numpy as np
import pytest

from neuronexus_kernel.datasets import Dataset, Task, curation, digits
from neuronexus_kernel.errors import DatasetError


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def task(data):
    return Task(data)


PARTS = ("public", "private", "validation", "held_out")


def test_digits_are_1797_rows_of_64_values_from_0_to_1(data):
    assert (len(data), data.input_shape, data.classes, data.name) == (1797, (64,), 10, "digits")
    assert (data.inputs.min(), data.inputs.max()) == (0, 1)
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_task_shares_out_every_row_once(data, task):
    hashes = [digest for part in PARTS for digest in getattr(task, part).row_hashes()]
    assert sorted(hashes) == sorted(data.row_hashes())
    assert [len(getattr(task, part)) for part in PARTS] == [359, 809, 270, 359]


def test_every_part_has_all_classes_evenly(task):
    for part in PARTS:
        rows = getattr(task, part)
        counts = np.bincount(rows.labels, minlength=10)
        assert counts.min() >= 0.09 * len(rows)
        assert rows.name == f"digits/{part}"


def test_a_task_knows_the_shape_of_its_inputs_and_its_classes(task):
    assert (task.input_shape, task.classes, task.metric) == ((64,), 10, "accuracy")


def test_the_seed_decides_which_rows_are_held_out(data, task):
    assert Task(data).held_out.cid == task.held_out.cid
    assert Task(data, seed=1).held_out.cid != task.held_out.cid


def test_a_task_shows_its_parts_and_no_rows(task):
    assert repr(task) == (
        "Task(accuracy, input_shape=(64,), classes=10, rows of public: 359, private: 809, "
        "validation: 270, held_out: 359)"
    )
    assert "<td>809</td>" in task._repr_html_()


def test_a_task_cannot_be_changed(task):
    with pytest.raises(AttributeError):
        task.metric = "loss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "beauty"}, "no metric 'beauty'; known: accuracy"),
        ({"metric": ["accuracy"]}, "metric"),
        ({"public": 0.7}, "no private rows"),
        ({"public": 0}, "public"),
        ({"validation": -0.1}, "validation"),
        ({"held_out": 1}, "held_out"),
        ({"held_out": "half"}, "held_out"),
        ({"held_out": float("nan")}, "held_out"),
        ({"seed": -3}, "seed"),
        ({"public": 0.00001}, "'public' would have no row"),
    ],
)
def test_an_impossible_task_is_refused(data, options, message):
    with pytest.raises(DatasetError, match=message):
        Task(data, **options)


# Curation


def test_rows_of_the_reference_are_duplicates_whatever_their_label(task):
    reference = task.public.row_hashes()
    known = task.public.subset([3, 5]).with_labels([0, 0])
    mixed = task.private.subset([0]).concat(known).concat(task.private.subset([1]))
    assert curation.duplicates(mixed, reference).tolist() == [False, True, True, False]


def test_repeated_rows_are_duplicates_from_the_second_on(task):
    repeated = task.private.subset([4, 7, 4, 4, 7, 9])
    assert curation.duplicates(repeated).tolist() == [False, False, True, True, True, False]


def test_a_changed_pixel_is_no_duplicate(task):
    inputs = task.public.inputs[:1].copy()
    inputs[0, 0] += 0.001
    changed = Dataset(inputs, [0], classes=10)
    assert curation.duplicates(changed, set(task.public.row_hashes())).tolist() == [False]
