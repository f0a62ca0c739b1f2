"""Classes, quantities and tokens: what holds for every kind of data set."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuronexus_kernel.datasets import Dataset, Task, diabetes, text
from neuronexus_kernel.errors import DatasetError


def regression(rows=20, shape=(1,), seed=0, **options):
    random = np.random.default_rng(seed)
    inputs, labels = random.normal(size=(rows, 3)), random.normal(size=(rows, *shape))
    return Dataset(inputs, labels, kind="regression", **options)


def tokens(rows=20, length=5, vocabulary=7, seed=0, **options):
    sequences = np.random.default_rng(seed).integers(0, vocabulary, (rows, length + 1))
    return Dataset.from_tokens(sequences, vocabulary, **options)


def classified_tokens(rows=20, **options):
    sequences = np.random.default_rng(0).integers(0, 9, (rows, 4))
    return Dataset(sequences, np.arange(rows) % 3, vocabulary=9, **options)


KINDS = {
    "regression": regression,
    "images to images": lambda **options: regression(shape=(2, 3), **options),
    "next-token": tokens,
    "classes of tokens": classified_tokens,
    "with columns": lambda **options: regression(
        columns={"writer": list("abcde") * 4, "year": np.arange(20)}, **options
    ),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def data(request):
    return request.param(name="some")


def same(one, other):
    return (
        np.array_equal(one.inputs, other.inputs)
        and np.array_equal(one.labels, other.labels)
        and (one.inputs.dtype, one.labels.dtype) == (other.inputs.dtype, other.labels.dtype)
        and (one.kind, one.classes, one.vocabulary, one.name)
        == (other.kind, other.classes, other.vocabulary, other.name)
        and one.columns == other.columns
        and all(np.array_equal(one.column(name), other.column(name)) for name in one.columns)
    )


# What they are


def test_quantities_are_float32_and_a_vector_of_them_gets_a_column():
    data = Dataset([[1], [2]], [0.5, 3], kind="regression")
    assert (data.labels.dtype, data.labels.shape) == (np.float32, (2, 1))
    assert (data.kind, data.classes, data.vocabulary) == ("regression", 0, 0)
    assert data.output_shape == (1,)
    assert regression(shape=(2, 3)).output_shape == (2, 3)


def test_whole_numbers_are_classes_unless_the_kind_says_otherwise():
    assert Dataset([[1], [2]], [0.0, 3.0]).classes == 4
    assert Dataset([[1], [2]], [0, 3], kind="regression").labels.dtype == np.float32
    with pytest.raises(DatasetError, match="kind='regression'"):
        Dataset([[1], [2]], [0.5, 3])


def test_tokens_are_foretold_from_those_before_them():
    data = Dataset.from_tokens([[0, 1, 2], [3, 4, 5]], 10)
    assert data.inputs.tolist() == [[0, 1], [3, 4]]
    assert data.labels.tolist() == [[1, 2], [4, 5]]
    assert (data.inputs.dtype, data.labels.dtype) == (np.int64, np.int64)
    assert (data.kind, data.classes, data.vocabulary) == ("next-token", 10, 10)
    assert (data.input_shape, data.output_shape) == ((2,), (2, 10))
    assert Dataset.from_tokens([[0, 1, 2]]).classes == 3


def test_inputs_are_tokens_where_a_vocabulary_is_given():
    data = classified_tokens()
    assert (data.inputs.dtype, data.kind, data.classes) == (np.int64, "classification", 3)
    assert (data.vocabulary, data.output_shape) == (9, (3,))
    assert Dataset([[1, 2]], [0]).inputs.dtype == np.float32


BAD = {
    "unknown kind": (lambda: Dataset([[1]], [1], kind="ranking"), "kind is one of"),
    "classes of quantities": (
        lambda: Dataset([[1]], [1], kind="regression", classes=2),
        "no classes",
    ),
    "NaN quantity": (
        lambda: Dataset([[1], [2]], [0, np.nan], kind="regression"),
        r"Row 1 of the labels holds nan at \(0,\)",
    ),
    "text quantity": (lambda: Dataset([[1]], ["a"], kind="regression"), "numbers"),
    "no quantity": (lambda: Dataset([[1]], np.zeros((1, 0)), kind="regression"), "nothing"),
    "one quantity for all": (lambda: Dataset([[1]], 3.0, kind="regression"), "one number"),
    "fewer quantities": (lambda: Dataset([[1], [2]], [1], kind="regression"), "but 1 labels"),
    "half a token": (lambda: Dataset.from_tokens([[0.5, 1]]), "whole numbers"),
    "negative token": (lambda: Dataset.from_tokens([[0, -1]]), "token -1"),
    "token out of range": (lambda: Dataset.from_tokens([[0, 7]], 7), "token 7, but there are 7"),
    "one token": (lambda: Dataset.from_tokens([[0], [1]]), "length 1 or more"),
    "flat tokens": (lambda: Dataset.from_tokens([0, 1, 2]), "shape"),
    "labels of another length": (
        lambda: Dataset([[0, 1]], [[1]], kind="next-token"),
        "from_tokens",
    ),
    "two vocabularies": (
        lambda: Dataset([[0]], [[1]], kind="next-token", classes=3, vocabulary=4),
        "differ",
    ),
    "input token out of range": (lambda: Dataset([[5]], [0], vocabulary=5), "token 5"),
    "deep sequences": (
        lambda: Dataset([[[0]]], [[[1]]], kind="next-token"),
        r"\(n, length\)",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_labels_and_tokens_are_refused_and_the_message_says_where(make, message):
    with pytest.raises(DatasetError, match=message):
        make()


# What they do


def test_every_kind_can_be_cut_and_joined(data):
    first, rest = data.subset(range(5)), data.subset(range(5, 20))
    assert same(first.concat(rest), data)
    assert (first.kind, first.output_shape) == (data.kind, data.output_shape)


def test_every_kind_can_be_split_and_no_row_is_lost(data):
    parts = data.split({"a": 0.25, "b": 0.75}, seed=1)
    assert [len(part) for part in parts.values()] == [5, 15]
    hashes = [digest for part in parts.values() for digest in part.row_hashes()]
    assert sorted(hashes) == sorted(data.row_hashes())


def test_every_kind_comes_back_from_its_bytes_and_from_another_process(data):
    encoded = data.encode()
    again = Dataset.decode(encoded)
    assert same(again, data)
    assert again.encode() == encoded
    assert again.inputs.flags.aligned
    assert same(pickle.loads(pickle.dumps(data)), data)  # noqa: S301


def test_every_kind_shows_what_it_is(data):
    assert repr(data).startswith("Dataset('some', 20 rows")
    assert (data.kind in repr(data)) == (data.kind != "classification")
    assert data._repr_html_().count("<div title=") >= 3
    assert len(data.summary()) >= 1


def test_labels_are_replaced_by_labels_of_the_same_kind(data):
    assert same(data.with_labels(data.labels[::-1]).with_labels(data.labels), data)
    assert data.with_labels(data.labels).kind == data.kind


def test_rows_of_different_kinds_do_not_go_together():
    made = [regression(shape=(4,)), tokens(length=3, vocabulary=4), tokens(length=3, vocabulary=5)]
    made += [Dataset(np.zeros((2, 3)), [0, 1], classes=4)]
    for one in made:
        for other in made:
            if one is not other:
                with pytest.raises(DatasetError, match="does not fit"):
                    one.concat(other)


def test_a_summary_of_quantities_tells_their_spread():
    table = Dataset(np.zeros((3, 1)), [[1, 5], [2, 5], [6, 5]], kind="regression").summary()
    assert table["output"].tolist() == ["0", "1"]
    assert table["mean"].tolist() == [3, 5]
    assert table["deviation"].tolist() == pytest.approx([np.std([1, 2, 6]), 0])
    assert table["median"].tolist() == [2, 5]


def test_a_summary_of_tokens_begins_with_the_most_frequent():
    table = Dataset.from_tokens([[0, 2, 2, 1]], 4).summary()
    assert table["token"].tolist() == [2, 1, 0, 3]
    assert table["positions"].tolist() == [2, 1, 0, 0]


def test_tokens_and_numbers_have_different_row_hashes():
    assert tokens().row_hashes() != Dataset(tokens().inputs, np.zeros(20)).row_hashes()


# Columns


def test_a_column_stays_with_its_rows():
    data = regression(columns={"hospital": np.arange(20) // 5, "writer": list("abcd") * 5})
    assert data.columns == ("hospital", "writer")
    part = data.subset([19, 0])
    assert part.column("hospital").tolist() == [3, 0]
    assert part.column("writer").tolist() == ["d", "a"]
    assert data.with_labels(data.labels).columns == data.columns
    assert data.concat(regression(columns={"writer": ["z"] * 20})).columns == ("writer",)


def test_a_column_is_added_and_replaced():
    data = regression().with_column("year", np.full(20, 2020)).with_column("year", range(20))
    assert data.column("year").tolist() == list(range(20))
    with pytest.raises(ValueError):
        data.column("year")[0] = 1
    with pytest.raises(DatasetError, match="no column 'month'; it has year"):
        data.column("month")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a b", range(20), "does not name a column"),
        ("", range(20), "does not name a column"),
        ("x", range(19), "one value per row"),
        ("x", np.zeros(20), "whole numbers or text"),
        ("x", [None] * 20, "whole numbers or text"),
        ("x", ["a\n"] * 20, "Row 0"),
        ("x", np.full(20, 2**64 - 1, dtype=np.uint64), "above"),
    ],
)
def test_what_is_no_column_is_refused(name, values, message):
    with pytest.raises(DatasetError, match=message):
        regression(columns={name: values})


def test_columns_count_in_the_cid_and_none_leaves_it_as_it_was():
    plain = Dataset([[1.0], [2.0]], [0, 1])
    assert plain.cid != plain.with_column("x", [1, 2]).cid
    assert b"neuronexus-dataset-1" in plain.encode()
    assert str(plain.cid) == "bafkreiesymy4wux66553pifjfvgsfery3yvzg3vhdljb423mf4bafl4t2y"


# Hostile bytes


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def datasets(draw):
    rows = draw(st.integers(1, 6))
    columns = {}
    if draw(st.booleans()):
        columns["t"] = draw(st.lists(st.text("aé0 ", max_size=3), min_size=rows, max_size=rows))
    if draw(st.booleans()):
        whole = st.integers(-(2**63), 2**63 - 1)
        columns["n"] = np.array(draw(st.lists(whole, min_size=rows, max_size=rows)), dtype=np.int64)
    options = {"columns": columns, "name": "drawn"}
    if draw(st.booleans()):
        length = draw(st.integers(2, 5))
        drawn = draw(hnp.arrays(np.int64, (rows, length), elements=st.integers(0, 6)))
        return Dataset.from_tokens(drawn, draw(st.integers(7, 9)), **options)
    shape = (rows, *draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3)))
    labels = draw(hnp.arrays(np.float32, shape, elements=FINITE))
    vocabulary = draw(st.sampled_from([None, 5]))
    inputs = draw(hnp.arrays(np.int64, (rows, 3), elements=st.integers(0, 4)))
    return Dataset(inputs, labels, kind="regression", vocabulary=vocabulary, **options)


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_any_data_set_comes_back_from_its_bytes(data):
    assert same(Dataset.decode(data.encode()), data)


@settings(max_examples=200, deadline=None)
@given(datasets(), st.data())
def test_damaged_bytes_are_refused_or_are_another_dataset(data, draws):
    encoded = bytearray(data.encode())
    match draws.draw(st.sampled_from(["flip", "cut", "add"])):
        case "flip":
            place = draws.draw(st.integers(0, len(encoded) - 1))
            encoded[place] ^= draws.draw(st.integers(1, 255))
        case "cut":
            del encoded[draws.draw(st.integers(0, len(encoded) - 1)) :]
        case _:
            encoded += draws.draw(st.binary(min_size=1, max_size=9))
    try:
        other = Dataset.decode(bytes(encoded))
    except DatasetError:
        return
    assert other.encode() == encoded


SWAPS = {
    "a class as a newer kind": (b"neuronexus-dataset-1", b"neuronexus-dataset-2"),
    "quantities as classes": (b'"regression"', b'"classification"'),
    "an unknown kind": (b'"regression"', b'"regressive"'),
    "a value that no row has": (b'[\\"a\\",\\"b\\"]', b'[\\"a\\",\\"c\\"]'),
    "values out of order": (b'[\\"a\\",\\"b\\"]', b'[\\"b\\",\\"a\\"]'),
    "values twice": (b'[\\"a\\",\\"b\\"]', b'[\\"a\\",\\"a\\"]'),
    "mixed values": (b'[\\"a\\",\\"b\\"]', b'[\\"a\\",  7 ]'),
    "a column of another name": (b'"column.w"', b'"column.v"'),
    "more tokens": (b'"vocabulary":"0"', b'"vocabulary":"7"'),
    "classes of quantities": (b'"classes":"0"', b'"classes":"3"'),
}


@pytest.mark.parametrize(("old", "new"), SWAPS.values(), ids=SWAPS.keys())
def test_a_header_that_tells_something_else_is_refused_or_tells_it_in_full(old, new):
    encoded = regression(2, columns={"w": ["a", "b"]}).encode()
    encoded = Dataset([[1.0]], [0]).encode() if old not in encoded else encoded
    assert old in encoded
    changed = encoded.replace(old, new)
    try:
        other = Dataset.decode(changed)
    except DatasetError:
        return
    assert other.encode() == changed


# Sources and tasks


def test_diabetes_is_442_patients():
    data = diabetes()
    assert (len(data), data.input_shape, data.output_shape) == (442, (10,), (1,))
    assert data.inputs.std(axis=0) == pytest.approx(np.ones(10), abs=1e-3)
    assert data.labels.mean() == pytest.approx(1.521, abs=1e-3)


def test_a_text_becomes_sequences_of_bytes_without_a_gap(tmp_path):
    data = text("abcdefghij", 3)
    assert bytes(data.inputs.astype(np.uint8).ravel()) == b"abcdefghi"
    assert bytes(data.labels.astype(np.uint8).ravel()) == b"bcdefghij"
    assert (data.classes, data.name) == (256, "text")
    path = tmp_path / "é.txt"
    path.write_text("ééé", encoding="utf-8")
    assert text(path, 5).inputs.tolist() == [[0xC3, 0xA9, 0xC3, 0xA9, 0xC3]]
    assert text(path, 5).name == "é.txt"


def test_a_text_too_short_or_missing_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="need 5 or more"):
        text("abcd", 4)
    with pytest.raises(DatasetError, match="cannot be read"):
        text(tmp_path / "nowhere.txt")
    with pytest.raises(DatasetError, match="length"):
        text("abcd", 0)


def test_a_task_measures_what_goes_with_its_data():
    task = Task(regression(200))
    assert (task.metric, task.kind, task.classes) == ("r2", "regression", 0)
    assert task.output_shape == (1,)
    assert "regression, r2" in repr(task)
    assert "quantities" in task._repr_html_()
    task = Task(tokens(200))
    assert (task.metric, task.kind, task.output_shape) == ("accuracy", "next-token", (5, 7))
    with pytest.raises(DatasetError, match="its metric is 'r2'"):
        Task(regression(200), "accuracy")
    with pytest.raises(DatasetError, match="no metric 'auc'"):
        Task(tokens(200), "auc")
