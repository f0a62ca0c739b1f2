import hashlib
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import DatasetError
from neuronexus_kernel.storage import cid_of


def rows(count, *shape, seed=0):
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


@pytest.fixture
def data():
    return Dataset(rows(30, 2, 3), np.arange(30) % 4, classes=5, name="thirty")


@st.composite
def datasets(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    inputs = draw(hnp.arrays(np.float32, shape, elements=finite))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, 6)))
    names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
    return Dataset(inputs, labels, classes=draw(st.integers(7, 9)), name=draw(names))


def same(one, other):
    return (
        one.inputs.tobytes() == other.inputs.tobytes()
        and one.inputs.shape == other.inputs.shape
        and np.array_equal(one.labels, other.labels)
        and (one.classes, one.name) == (other.classes, other.name)
    )


# Making one


def test_inputs_become_float32_and_labels_int64():
    data = Dataset([[1, 2], [3, 4]], [0.0, 1.0])
    assert (data.inputs.dtype, data.labels.dtype) == (np.float32, np.int64)
    assert (len(data), data.input_shape, data.classes, data.name) == (2, (2,), 2, "data")


def test_a_dataset_cannot_be_changed(data):
    with pytest.raises(ValueError):
        data.inputs[0, 0, 0] = 1
    with pytest.raises(ValueError):
        data.labels[0] = 1
    with pytest.raises(AttributeError):
        data.name = "other"


def test_changing_the_array_that_was_given_changes_nothing():
    inputs, labels = rows(4, 2), np.zeros(4, dtype=np.int64)
    data = Dataset(inputs, labels)
    before = data.cid
    inputs[:] = 7
    labels[:] = 1
    assert data.cid == before
    assert inputs.flags.writeable


def test_arrays_that_cannot_be_written_to_are_kept_without_a_copy():
    inputs, labels = rows(4, 2), np.zeros(4, dtype=np.int64)
    inputs.flags.writeable = labels.flags.writeable = False
    data = Dataset(inputs, labels)
    assert np.shares_memory(data.inputs, inputs)
    assert np.shares_memory(data.labels, labels)


def test_torch_tensors_are_taken_as_arrays():
    import torch

    data = Dataset(torch.ones(3, 2), torch.tensor([0, 1, 2]))
    assert (data.input_shape, data.classes) == ((2,), 3)


NAN = rows(5, 2, 3)
NAN[3, 1, 2] = np.nan
INFINITE = rows(5, 2)
INFINITE[2, 0] = -np.inf

BAD = {
    "NaN": (NAN, np.zeros(5), {}, r"Row 3 .* nan at \(1, 2\)"),
    "infinity": (INFINITE, np.zeros(5), {}, r"Row 2 .* -inf at \(0,\)"),
    "too large for float32": ([[0.0], [1e300]], [0, 0], {}, r"Row 1 .*1e\+300"),
    "no rows": (np.zeros((0, 3)), [], {}, "empty"),
    "rows of nothing": (np.zeros((3, 0)), [0, 0, 0], {}, "empty"),
    "a single column": (np.zeros(3), [0, 0, 0], {}, "reshape"),
    "a number": (7, [0], {}, "shape"),
    "ragged rows": ([[1, 2], [3]], [0, 0], {}, "no array"),
    "text": ([["a"]], [0], {}, "must be numbers"),
    "objects": (np.array([[None]]), [0], {}, "must be numbers"),
    "complex numbers": ([[1j]], [0], {}, "must be numbers"),
    "fewer labels": (rows(5, 2), [0, 1], {}, "5 rows of inputs, but 2 labels"),
    "one-hot labels": (rows(2, 2), np.eye(2), {}, "argmax"),
    "text labels": (rows(2, 2), ["cat", "dog"], {}, "number the classes"),
    "negative label": (rows(3, 2), [0, 1, -1], {}, "Row 2 has the label -1"),
    "half label": (rows(2, 2), [0, 0.5], {}, "Row 1 has the label 0.5"),
    "NaN label": (rows(2, 2), [0, np.nan], {}, "Row 1 has the label nan"),
    "huge label": (rows(2, 2), [0, 2**40], {}, "Row 1"),
    "unsigned huge label": (rows(1, 2), np.array([2**64 - 1], dtype=np.uint64), {}, "Row 0"),
    "label out of range": (rows(3, 2), [0, 1, 5], {"classes": 5}, "Row 2 has the label 5"),
    "no classes": (rows(1, 2), [0], {"classes": 0}, "classes"),
    "half a class": (rows(1, 2), [0], {"classes": 1.5}, "classes"),
    "no name": (rows(1, 2), [0], {"name": ""}, "name"),
    "line break in the name": (rows(1, 2), [0], {"name": "a\nb"}, "name"),
    "surrogate in the name": (rows(1, 2), [0], {"name": "\ud800"}, "name"),
    "long name": (rows(1, 2), [0], {"name": "x" * 201}, "name"),
}


@pytest.mark.parametrize(("inputs", "labels", "options", "message"), BAD.values(), ids=BAD.keys())
def test_bad_data_is_refused_and_the_message_says_where(inputs, labels, options, message):
    with pytest.raises(DatasetError, match=message):
        Dataset(inputs, labels, **options)


# Parts


def test_a_subset_has_the_rows_asked_for_in_their_order(data):
    part = data.subset([4, 0, 4], name="part")
    assert np.array_equal(part.inputs, data.inputs[[4, 0, 4]])
    assert part.labels.tolist() == [0, 0, 0]
    assert (part.classes, part.name) == (5, "part")
    assert data.subset([1]).name == "thirty"


def test_a_subset_by_mask_has_the_rows_that_are_true(data):
    assert same(data.subset(data.labels == 2), data.subset(np.flatnonzero(data.labels == 2)))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([30], "no row 30"),
        ([-1], "no row -1"),
        ([], "empty"),
        ([0.5], "integers"),
        ([[1, 2]], "integers"),
        ([True, False], "mask"),
    ],
)
def test_rows_that_do_not_exist_are_refused(data, indices, message):
    with pytest.raises(DatasetError, match=message):
        data.subset(indices)


def test_concat_puts_rows_behind_each_other(data):
    both = data.subset([0, 1]).concat(data.subset([2]))
    assert same(both, data.subset([0, 1, 2]))


def test_data_of_another_kind_cannot_be_concatenated(data):
    with pytest.raises(DatasetError, match=r"other .* does not fit thirty"):
        data.concat(Dataset(rows(2, 6), [0, 1], classes=5, name="other"))
    with pytest.raises(DatasetError, match="3 classes"):
        data.concat(Dataset(rows(2, 2, 3), [0, 1], classes=3))


def test_with_labels_keeps_the_rows(data):
    other = data.with_labels(np.ones(30))
    assert np.shares_memory(other.inputs, data.inputs)
    assert other.labels.tolist() == [1] * 30
    assert other.classes == 5
    with pytest.raises(DatasetError, match="Row 0 has the label 9"):
        data.with_labels([9] * 30)


def test_the_summary_counts_rows_per_class(data):
    table = data.summary()
    assert table["class"].tolist() == [0, 1, 2, 3, 4]
    assert table["rows"].tolist() == [8, 8, 7, 7, 0]
    assert table["share"].sum() == pytest.approx(1)


def test_a_dataset_shows_what_it_is():
    data = Dataset(rows(3, 2), [0, 1, 2], name="<b>mine</b>")
    assert repr(data) == "Dataset('<b>mine</b>', 3 rows, input_shape=(2,), classes=3)"
    assert "&lt;b&gt;mine&lt;/b&gt;" in data._repr_html_()
    assert "<b>mine</b>" not in data._repr_html_()


# Splitting


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=20, max_size=200),
    weights=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)
def test_a_split_is_exact_and_every_part_has_its_share_of_each_class(labels, weights, seed):
    data = Dataset(np.arange(len(labels)).reshape(-1, 1), labels, classes=6)
    fractions = {f"p{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    try:
        parts = data.split(fractions, seed=seed)
    except DatasetError:
        assert min(fractions.values()) * len(labels) < 1
        return
    assert list(parts) == list(fractions)
    together = np.concatenate([part.inputs[:, 0] for part in parts.values()])
    assert sorted(together) == list(range(len(labels)))
    left = np.bincount(labels, minlength=6)
    rest = len(labels)
    for name, part in parts.items():
        assert abs(len(part) - fractions[name] * len(labels)) < 1
        counts = np.bincount(part.labels, minlength=6)
        assert np.abs(counts - left * len(part) / rest).max() < 1
        left, rest = left - counts, rest - len(part)


def test_a_split_is_the_same_for_ever():
    data = Dataset(np.arange(12).reshape(-1, 1), [0, 1, 2] * 4)
    parts = data.split({"a": 0.5, "b": 0.5}, seed=42)
    assert parts["a"].inputs[:, 0].tolist() == [2, 3, 4, 8, 9, 10]
    assert parts["a"].name == "data/a"
    assert not same(parts["a"], data.split({"a": 0.5, "b": 0.5}, seed=43)["a"])


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"a": 0.5, "b": 0.4}, "sum to 0.9"),
        ({}, "between 0 and 1"),
        ({"a": 1.5, "b": -0.5}, "between 0 and 1"),
        ({"a": 0, "b": 1}, "between 0 and 1"),
        ({"a": float("nan"), "b": 1}, "between 0 and 1"),
        ({"a": 0.001, "b": 0.999}, "'a' would have no row"),
    ],
)
def test_impossible_fractions_are_refused(data, fractions, message):
    with pytest.raises(DatasetError, match=message):
        data.split(fractions, seed=0)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True, 2**63])
def test_a_seed_is_a_whole_number(data, seed):
    with pytest.raises(DatasetError, match="seed"):
        data.split({"a": 1.0}, seed=seed)


# Identity


def test_a_row_hash_is_what_the_documentation_says(data):
    expected = hashlib.sha256(
        struct.pack("<3Q", 2, 2, 3) + data.inputs[7].astype("<f4").tobytes()
    ).digest()
    assert data.row_hashes()[7] == expected


def test_labels_and_the_sign_of_zero_do_not_change_a_row_hash():
    one = Dataset([[0.0, 1.0]], [0], classes=2)
    other = Dataset([[-0.0, 1.0]], [1], classes=2)
    assert one.row_hashes() == other.row_hashes()


def test_the_shape_changes_a_row_hash():
    inputs = rows(1, 4)
    flat, square = Dataset(inputs, [0]), Dataset(inputs.reshape(1, 2, 2), [0])
    assert flat.row_hashes() != square.row_hashes()


@settings(max_examples=50, deadline=None)
@given(datasets())
def test_a_dataset_comes_back_from_its_bytes(data):
    encoded = data.encode()
    again = Dataset.decode(encoded)
    assert same(again, data)
    assert again.encode() == encoded


def test_the_cid_is_the_one_a_store_gives_the_bytes(data):
    assert data.cid == cid_of(data.encode())
    large = Dataset(rows(700, 1000), np.zeros(700))
    assert large.cid == cid_of(large.encode())


def test_the_cid_changes_with_every_field(data):
    others = [
        data.subset(np.arange(29)),
        data.with_labels(data.labels[::-1]),
        Dataset(data.inputs, data.labels, classes=6, name="thirty"),
        Dataset(data.inputs, data.labels, classes=5, name="other"),
        Dataset(data.inputs.reshape(30, 6), data.labels, classes=5, name="thirty"),
    ]
    assert len({str(one.cid) for one in [data, *others]}) == 6


def test_the_safetensors_library_reads_the_bytes(data):
    import safetensors.numpy

    tensors = safetensors.numpy.load(data.encode())
    assert np.array_equal(tensors["inputs"], data.inputs)
    assert np.array_equal(tensors["labels"], data.labels)


def with_header(header, body=b"", *, raw=None):
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + body


HOSTILE = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "empty header": bytes(8),
    "huge header": b"\xff" * 8 + b"{}",
    "header cut off": struct.pack("<Q", 100) + b"{}",
    "no JSON": with_header(None, raw=b"\xff\xfe"),
    "a list": with_header([]),
    "null": with_header(None),
    "nested": with_header(None, raw=b"[" * 60_000),
    "huge number": with_header(None, raw=b'{"inputs":' + b"9" * 10_000 + b"}"),
    "no metadata": with_header({"inputs": {"shape": [1, 1]}}),
    "metadata is text": with_header({"__metadata__": "x", "inputs": {"shape": [1, 1]}}),
    "other tensors": with_header({"__metadata__": {"format": "pt"}, "weight": {}}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(data):
    with pytest.raises(DatasetError, match="no data set"):
        Dataset.decode(data)


def changed_header(data, change):
    """The bytes of a data set with another header of the same length."""
    encoded = data.encode()
    size = struct.unpack_from("<Q", encoded)[0]
    header = json.loads(encoded[8 : 8 + size])
    change(header)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + encoded[8 + size :]


CHANGES = {
    "more rows": lambda h: h["inputs"].update(shape=[31, 2, 3]),
    "negative shape": lambda h: h["inputs"].update(shape=[-30, -2, 3]),
    "zero shape": lambda h: h["inputs"].update(shape=[30, 0, 3]),
    "huge shape": lambda h: h["inputs"].update(shape=[2**60, 2**60, 2**60]),
    "bool shape": lambda h: h["inputs"].update(shape=[True, True]),
    "float shape": lambda h: h["inputs"].update(shape=[30.0, 2, 3]),
    "text shape": lambda h: h["inputs"].update(shape="30"),
    "flat shape": lambda h: h["inputs"].update(shape=[180]),
    "deep shape": lambda h: h["inputs"].update(shape=[30] + [1] * 100),
    "other type": lambda h: h["inputs"].update(dtype="F64"),
    "other place": lambda h: h["inputs"].update(data_offsets=[0, 720]),
    "another tensor": lambda h: h.update(
        extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    ),
    "more metadata": lambda h: h["__metadata__"].update(note="hello"),
    "other format": lambda h: h["__metadata__"].update(format="pt"),
    "classes not canonical": lambda h: h["__metadata__"].update(classes="05"),
    "classes no number": lambda h: h["__metadata__"].update(classes="-5"),
    "classes in other digits": lambda h: h["__metadata__"].update(classes="٥"),
    "classes endless": lambda h: h["__metadata__"].update(classes="9" * 5000),
    "classes a number": lambda h: h["__metadata__"].update(classes=5),
    "too few classes": lambda h: h["__metadata__"].update(classes="3"),
    "no name": lambda h: h["__metadata__"].pop("name"),
    "empty name": lambda h: h["__metadata__"].update(name=""),
    "name with a surrogate": lambda h: h["__metadata__"].update(name="\ud800"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_header_is_refused(data, change):
    with pytest.raises(DatasetError):
        Dataset.decode(changed_header(data, change))


def test_bad_values_in_good_bytes_are_refused(data):
    encoded = bytearray(data.encode())
    encoded[-4:] = struct.pack("<f", float("nan"))
    with pytest.raises(DatasetError, match="Row 29"):
        Dataset.decode(bytes(encoded))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_are_another_dataset(data):
    encoded = bytearray(Dataset(rows(3, 2), [0, 1, 2]).encode())
    match data.draw(st.sampled_from(["flip", "cut", "add", "any"])):
        case "flip":
            encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            del encoded[data.draw(st.integers(0, len(encoded) - 1)) :]
        case "add":
            encoded += data.draw(st.binary(min_size=1, max_size=9))
        case _:
            encoded = bytearray(data.draw(st.binary(max_size=100)))
    try:
        other = Dataset.decode(bytes(encoded))
    except DatasetError:
        return
    assert other.encode() == encoded


def test_importing_the_room_needs_no_heavy_library():
    code = (
        "import sys, neuronexus_kernel.datasets\n"
        "heavy = {'torch', 'sklearn', 'pandas', 'requests', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
