"""A run that is stopped at any moment goes on, and ends as one that was never stopped."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp import strategy as stock
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from neuronexus_kernel import models
from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.datasets import partition
from neuronexus_kernel.errors import ConflictError, InvalidInputError, StoreError
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation import train as train_run
from neuronexus_kernel.federation.arrays import to_record
from neuronexus_kernel.federation.checkpoint import Checkpoint
from neuronexus_kernel.federation.snapshot import pack, unpack

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2)

ADAPTIVE = {"privacy": "adaptive-clipping", "privacy_parameters": {"noise_multiplier": 0.1}}
RECIPES = {
    "FedAvg": SMALL,
    "FedAvgM": SMALL.with_changes(strategy="FedAvgM", strategy_parameters={"server_momentum": 0.9}),
    "FedAdam": SMALL.with_changes(strategy="FedAdam"),
    "FedYogi": SMALL.with_changes(strategy="FedYogi"),
    "QFedAvg": SMALL.with_changes(strategy="QFedAvg"),
    "Krum": SMALL.with_changes(strategy="Krum"),
    "SCAFFOLD": SMALL.with_changes(strategy="SCAFFOLD"),
    "FedNova": SMALL.with_changes(strategy="FedNova"),
    "FedPer": SMALL.with_changes(strategy="FedPer", strategy_parameters={"personal_layers": 1}),
    "Ditto": SMALL.with_changes(strategy="Ditto"),
    "FedBuff": SMALL.with_changes(strategy="FedBuff"),
    "adaptive clipping": SMALL.with_changes(**ADAPTIVE),
    "schedule and momentum": SMALL.with_changes(
        momentum=0.9, schedule="step", schedule_parameters={"every": 2, "factor": 0.5}
    ),
}
OPTIONS = {
    "partition": partition.iid(9),
    "clients_per_round": 4,
    "rounds": 5,
    "progress": False,
    "executor": "sequential",
}


def train(recipe, data, **options):
    return train_run(recipe, data, **{**OPTIONS, **options})


def stop_after(number):
    def on_round(report):
        if report.round == number:
            raise KeyboardInterrupt

    return on_round


def bits(result):
    """All that must be equal: weights, own tensors and reports, but for the seconds."""
    return (
        {name: (array.dtype.str, array.tobytes()) for name, array in result.arrays.items()},
        {
            who: {name: array.tobytes() for name, array in own.items()}
            for who, own in result.own.items()
        },
        [
            (each.round, repr(each.loss), repr(each.accuracy), each.clients, repr(each.train_loss))
            for each in result.reports
        ],
        [update.encode() for update in result.updates],
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_run_goes_on_and_ends_as_one_never_stopped(blobs, tmp_path, name):
    data = blobs(90)
    never = train(RECIPES[name], data)
    first = train(RECIPES[name], data, checkpoint=tmp_path / "c", on_round=stop_after(2))
    assert first.interrupted
    heard = []
    again = train(RECIPES[name], data, checkpoint=tmp_path / "c", on_round=heard.append)
    assert [report.round for report in heard] == [3, 4, 5]
    assert bits(again) == bits(never)
    assert again.plan == never.plan


def test_a_strategy_object_goes_on_with_its_moments(blobs, tmp_path):
    def made():
        return stock.DifferentialPrivacyServerSideAdaptiveClipping(
            stock.FedAdam(fraction_evaluate=0.0, eta=0.05), 0.1, 4
        )

    data = blobs(90)
    never = train(SMALL, data, strategy=made())
    for stop in (1, 3):
        train(SMALL, data, strategy=made(), checkpoint=tmp_path, on_round=stop_after(stop))
    assert bits(train(SMALL, data, strategy=made(), checkpoint=tmp_path)) == bits(never)


def test_kept_updates_go_on_too(blobs, tmp_path):
    never = train(SMALL, blobs(90), keep_updates=True)
    train(SMALL, blobs(90), keep_updates=True, checkpoint=tmp_path, on_round=stop_after(3))
    again = train(SMALL, blobs(90), keep_updates=True, checkpoint=tmp_path)
    assert bits(again) == bits(never)
    assert len(again.updates) == 5


def test_a_finished_run_is_read_back_and_more_rounds_may_follow(blobs, tmp_path):
    done = train(SMALL, blobs(90), checkpoint=tmp_path)
    told = []
    again = train(SMALL, blobs(90), checkpoint=tmp_path, on_round=told.append)
    assert bits(again) == bits(done)
    assert told == []
    more = train(SMALL, blobs(90), checkpoint=tmp_path, rounds=7)
    assert bits(more) == bits(train(SMALL, blobs(90), rounds=7))
    with pytest.raises(InvalidInputError, match=r"rounds is 5, but .* has 7"):
        train(SMALL, blobs(90), checkpoint=tmp_path)


def test_diverging_runs_have_nan_in_their_reports_and_go_on(blobs, tmp_path):
    wild = SMALL.with_changes(learning_rate=1000.0, weight_decay=10.0, local_epochs=50)
    with pytest.warns(RuntimeWarning):
        never = train(wild, blobs(90), rounds=2)
    with pytest.warns(RuntimeWarning):
        train(wild, blobs(90), rounds=2, checkpoint=tmp_path, on_round=stop_after(1))
    with pytest.warns(RuntimeWarning):
        again = train(wild, blobs(90), rounds=2, checkpoint=tmp_path)
    assert bits(again) == bits(never)
    assert again.reports[1].failures == never.reports[1].failures


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed is 0 there and 1 now"),
        ({"clients_per_round": 5}, "clients_per_round is 4 there and 5 now"),
        ({"partition": partition.iid(9, seed=4)}, "partition.seed"),
        ({"partition": partition.dirichlet(9, 1.0)}, "partition.alpha"),
        ({"validation": "other"}, "validation"),
        ({"evaluate_every": 2}, "evaluate_every"),
        ({"executor": "vectorized"}, "executor is sequential there and vectorized now"),
        ({"dtype": "float64"}, "dtype"),
        ({"strategy": "FedAdam"}, "recipe.strategy is FedAvg there and FedAdam now"),
        ({"strategy": stock.FedAvg(fraction_evaluate=0.0)}, "strategy"),
        ({"recipe": SMALL.with_changes(learning_rate=0.2)}, "recipe.learning_rate is 0.1 there"),
        ({"recipe": SMALL.with_changes(momentum=0.5)}, "recipe.momentum"),
        ({"data": 1}, "data is bafk"),
        ({"keep_updates": True}, "keep_updates is False there"),
        ({"initial_weights": SMALL.architecture.initial_weights(3)}, "initial_weights"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_another_run_is_refused_and_what_differs_is_named(blobs, tmp_path, changed, named):
    data = blobs(90)
    train(SMALL, data, checkpoint=tmp_path, rounds=1)
    options = dict(changed)
    recipe = options.pop("recipe", SMALL)
    data = blobs(90, seed=5) if options.pop("data", None) else data
    if options.get("validation") == "other":
        options["validation"] = blobs(20, seed=3)
    with pytest.raises(InvalidInputError, match=named):
        train(recipe, data, checkpoint=tmp_path, **options)


def test_another_setting_of_a_strategy_object_is_named(blobs, tmp_path):
    def made(eta):
        return stock.DifferentialPrivacyServerSideFixedClipping(
            stock.FedAdam(fraction_evaluate=0.0, eta=eta), 0.5, 1.0, 4
        )

    train(SMALL, blobs(90), strategy=made(0.1), checkpoint=tmp_path, rounds=1)
    with pytest.raises(InvalidInputError, match=r"strategy\.strategy\.eta is 0\.1 there and 0\.2"):
        train(SMALL, blobs(90), strategy=made(0.2), checkpoint=tmp_path)


def test_a_used_strategy_object_is_refused(blobs, tmp_path):
    given = stock.FedAdam(fraction_evaluate=0.0)
    train(SMALL, blobs(90), strategy=given, checkpoint=tmp_path, rounds=1)
    with pytest.raises(InvalidInputError, match=r"strategy\.current_arrays"):
        train(SMALL, blobs(90), strategy=given, checkpoint=tmp_path)


def test_participants_data_are_compared_by_name(blobs, tmp_path):
    people = {"ada": blobs(20, seed=1), "grace": blobs(20, seed=2)}
    options = {"partition": None, "clients_per_round": 2, "checkpoint": tmp_path, "rounds": 1}
    train(SMALL, people, **options)
    with pytest.raises(InvalidInputError, match=r"data\.grace"):
        train(SMALL, {**people, "grace": blobs(20, seed=3)}, **options)


class Odd(stock.FedAvg):
    """A strategy that keeps something with no form as data."""

    def __init__(self, **options):
        super().__init__(**options)
        self.lock = threading.Lock()


def test_a_state_that_cannot_be_written_is_refused_before_training(blobs, tmp_path):
    with pytest.raises(InvalidInputError, match=r"strategy\.lock is a lock"):
        train(
            SMALL,
            blobs(90),
            strategy=Odd(fraction_evaluate=0.0),
            checkpoint=tmp_path,
            on_round=lambda report: pytest.fail("it trained"),
        )


def test_a_folder_with_other_things_in_it_is_left_alone(blobs, tmp_path):
    (tmp_path / "round-1.safetensors").write_bytes(b"mine")
    with pytest.raises(InvalidInputError, match=r"holds round-1\.safetensors"):
        train(SMALL, blobs(90), checkpoint=tmp_path)
    assert (tmp_path / "round-1.safetensors").read_bytes() == b"mine"


def test_two_runs_do_not_write_to_one_checkpoint(blobs, tmp_path):
    def meanwhile(report):
        if report.round == 1:
            with pytest.raises(ConflictError, match="Another run"):
                train(SMALL, blobs(90), checkpoint=tmp_path)

    train(SMALL, blobs(90), checkpoint=tmp_path, rounds=2, on_round=meanwhile)


def test_who_starts_a_run_is_told_what_is_trained_already(blobs, tmp_path):
    told = []
    options = {"checkpoint": tmp_path, "on_start": told.append}
    train(SMALL, blobs(90), on_round=stop_after(2), **options)
    train(SMALL, blobs(90), **options)
    assert [[report.round for report in reports] for reports in told] == [[], [0, 1, 2]]


def test_what_is_raised_at_the_start_leaves_no_run_behind(blobs, tmp_path):
    def refuse(reports):
        raise ConflictError("not today")

    with pytest.raises(ConflictError, match="not today"):
        train(SMALL, blobs(90), checkpoint=tmp_path, on_start=refuse)
    other = SMALL.with_changes(learning_rate=0.2)
    assert bits(train(other, blobs(90), checkpoint=tmp_path)) == bits(train(other, blobs(90)))


def test_another_run_is_refused_before_anybody_is_told(blobs, tmp_path):
    train(SMALL, blobs(90), checkpoint=tmp_path, rounds=1)
    with pytest.raises(InvalidInputError, match="another run"):
        train(
            SMALL,
            blobs(90),
            checkpoint=tmp_path,
            seed=1,
            on_start=lambda reports: pytest.fail("it started"),
        )


def test_an_open_checkpoint_keeps_a_note_and_stays_open(blobs, tmp_path):
    with Checkpoint(tmp_path / "c") as store:
        assert store.note is None
        store.write_note({"run": "first"})
        store.write_note({"run": "second"})
        train(SMALL, blobs(90), checkpoint=store, on_round=stop_after(2))
        with pytest.raises(ConflictError, match="Another run"):
            train(SMALL, blobs(90), checkpoint=tmp_path / "c")
    again = train(SMALL, blobs(90), checkpoint=tmp_path / "c")
    assert bits(again) == bits(train(SMALL, blobs(90)))
    with Checkpoint(tmp_path / "c") as store:
        assert store.note == {"run": "second"}


def test_a_checkpoint_holds_few_files_and_no_code(blobs, tmp_path):
    train(RECIPES["SCAFFOLD"], blobs(90), checkpoint=tmp_path, clients_per_round=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clients-5.safetensors",
        "head.cbor",
        "history.log",
        "lock",
        "round-5.safetensors",
        "run.cbor",
    ]
    assert not any(b"pickle" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["head.cbor", "round-2.safetensors", "history.log"])
@pytest.mark.parametrize("harm", ["cut", "garbage", "gone"])
def test_a_spoilt_checkpoint_is_reported_not_trusted(blobs, tmp_path, name, harm):
    train(SMALL, blobs(90), checkpoint=tmp_path, rounds=2)
    path = tmp_path / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if harm == "cut" else b"\\xff" * len(data))
    if (name, harm) == ("head.cbor", "gone"):  # as after a crash in the very first round
        assert bits(train(SMALL, blobs(90), checkpoint=tmp_path)) == bits(train(SMALL, blobs(90)))
        return
    with pytest.raises(StoreError, match="checkpoint"):
        train(SMALL, blobs(90), checkpoint=tmp_path)


def test_leftovers_of_a_killed_round_are_swept_away(blobs, tmp_path):
    never = train(SMALL, blobs(90))
    train(SMALL, blobs(90), checkpoint=tmp_path, rounds=5, on_round=stop_after(2))
    (tmp_path / "round-3.safetensors").write_bytes(b"half")
    (tmp_path / "head.cbor.new").write_bytes(b"half")
    with (tmp_path / "history.log").open("ab") as file:
        file.write(b"half a report")
    assert bits(train(SMALL, blobs(90), checkpoint=tmp_path)) == bits(never)
    assert not (tmp_path / "head.cbor.new").exists()


# --- killed ---------------------------------------------------------------------------------------

CHILD = """
    import os, pathlib, signal, sys, threading
    sys.path.insert(0, {here!r})
    import test_checkpoint as tests
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.content import dagcbor

    name, folder, rows = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    wait = float(sys.argv[4])
    data = Dataset.decode(rows.read_bytes())
    head = folder / "head.cbor"
    first = dagcbor.decode(head.read_bytes())["round"] + 1 if head.exists() else 0

    def start(report):
        if report.round == first:
            threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()

    tests.train(tests.RECIPES[name], data, checkpoint=folder, rounds={rounds}, on_round=start)
"""


def kill_and_go_on(blobs, folder, name, waits, rounds):
    rows = folder.parent / "rows"
    rows.write_bytes(blobs(90).encode())
    code = textwrap.dedent(CHILD).format(here=str(Path(__file__).parent), rounds=rounds)
    killed = 0
    for wait in waits:
        child = subprocess.run(
            [sys.executable, "-c", code, name, folder, rows, str(wait)], capture_output=True
        )
        assert child.returncode in (0, -9), child.stderr.decode()
        killed += child.returncode == -9
        if child.returncode == 0:
            break
    data = blobs(90)
    again = train(RECIPES[name], data, checkpoint=folder, rounds=rounds)
    assert bits(again) == bits(train(RECIPES[name], data, rounds=rounds))
    return killed


def test_a_killed_process_loses_the_round_at_work_only(blobs, tmp_path):
    assert kill_and_go_on(blobs, tmp_path / "checkpoint", "FedAdam", (0.01, 0.06), rounds=60) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["FedAvg", "FedAvgM", "FedAdam", "SCAFFOLD", "Ditto", "adaptive clipping"]
)
def test_many_kills_at_random_moments_change_nothing(blobs, tmp_path, name):
    random = np.random.default_rng(len(name))
    waits = random.uniform(0.0, 0.15, size=8).tolist()
    assert kill_and_go_on(blobs, tmp_path / "checkpoint", name, waits, rounds=300) >= 6


# --- values as data -------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-5, 5), inner, max_size=3)
    ),
    max_leaves=8,
)


def through(value):
    """Pack a value, write it, read it and unpack it."""
    from safetensors.numpy import load, save

    found = {}
    node = dagcbor.decode(dagcbor.encode(pack(value, found)))
    return unpack(node, load(save(found)))


@given(values)
def test_values_come_back_as_they_were(value):
    back = through(value)
    assert back == value
    assert repr(back) == repr(value)


@given(
    arrays_of.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.uint8]),
        arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    ),
    st.randoms(use_true_random=False),
)
def test_arrays_come_back_with_their_layout(array, chance):
    axes = list(range(array.ndim))
    chance.shuffle(axes)
    turned = array.transpose(axes)
    back = through(turned)
    assert back.dtype == turned.dtype
    np.testing.assert_array_equal(back, turned)
    if turned.size:
        kept = [place for place, size in enumerate(turned.shape) if size > 1]
        assert [back.strides[place] for place in kept] == [turned.strides[place] for place in kept]


def test_flowers_values_come_back():
    plain = ArrayRecord({"w": Array(np.arange(3.0))})
    back = through({"a": plain, "l": to_record({"w": np.ones(2)}), "m": MetricRecord({"x": [1.5]})})
    assert back["a"].object_id == plain.object_id
    assert type(back["a"]["w"]) is Array
    assert type(back["l"]["w"]).__name__ == "LocalArray"
    assert dict(back["m"]) == {"x": [1.5]}
    generator = np.random.default_rng(4)
    generator.random(3)
    assert through(generator).random() == generator.random()


def test_what_has_no_form_is_named():
    with pytest.raises(InvalidInputError, match=r"state\['a'\]\[1\] is a object"):
        pack({"a": [1, object()]}, {})
    with pytest.raises(InvalidInputError, match="complex128"):
        pack(np.zeros(2, dtype=complex), {})
