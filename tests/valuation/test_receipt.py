import copy
import hashlib

import pytest

from neuronexus_kernel.content import CID, dagcbor, new_id
from neuronexus_kernel.errors import ContentError, EvaluationError
from neuronexus_kernel.federation.updates import RoundUpdates
from neuronexus_kernel.valuation import jobs, receipt

CONTRIBUTION = new_id()
SALT = bytes(range(32))


def receipt_of(world, description, **changes):
    result = jobs.perform(jobs.resolve(description, world.contents.load))
    options = {"contribution": CONTRIBUTION, "contribution_kind": "data", "salt": SALT}
    return receipt.make_receipt(description, result, **{**options, **changes})


@pytest.fixture
def description(world):
    slow = world.recipe_side(world.recipe.with_changes(learning_rate=0.02))
    return world.recipes(world.recipe_side(), baseline=slow, budget=1)


@pytest.fixture
def parts_of_receipt(world, description):
    return receipt_of(world, description)


@pytest.fixture
def shared(world, parts):
    """The receipt of two participants' run, whose weights got a little better."""
    start = world.recipe.architecture.initial_weights(0)
    nudged = {name: array * 1.1 for name, array in start.items()}
    deltas = {name: {k: nudged[k] - start[k] for k in start} for name in ("ada", "alan")}
    updates = RoundUpdates(start, deltas, {"ada": 10, "alan": 30})
    participants = {
        "rounds": [world.contents.add(updates.encode())],
        "validation": world.contents.add(world.validation.encode()),
    }
    return receipt_of(world, world.weights(start, nudged, participants=participants))


def links(node):
    """Every CID in a document."""
    if isinstance(node, CID):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from links(value)
    elif isinstance(node, list):
        for value in node:
            yield from links(value)


def test_both_parts_are_documents_that_the_store_can_keep(parts_of_receipt):
    for part in parts_of_receipt:
        assert dagcbor.decode(dagcbor.encode(part)) == part


def test_the_public_part_says_what_was_compared_and_how(parts_of_receipt, description):
    public, _ = parts_of_receipt
    assert public["contribution"] == {"id": CONTRIBUTION, "kind": "data"}
    assert public["compared"]["candidate"] == description["candidate"]
    assert public["design"] == {"seeds": [1, 2, 3], "budget": 1, "clients": 3}
    assert public["method"]["confidence"] == "0.9"
    assert {"torch", "numpy", "neuronexus"} <= set(public["outcome"]["environment"])


def test_the_public_part_tells_nothing_of_the_held_out_split(parts_of_receipt, shared, description):
    for public, sealed in (parts_of_receipt, shared):
        data = dagcbor.encode(public)
        assert sealed["fields"]["held_out"] not in set(links(public))
        assert sealed["salt"] not in data
        result = sealed["fields"]["result"]
        for rows in result["correct"].values():
            assert all(row not in data for row in rows)
        assert not {"correct", "bound", "accuracies", "dropped", "values"} & set(public["outcome"])
    hidden = set(links(shared[1]["fields"]["participants"]))
    assert len(hidden) == 2
    assert not hidden & set(links(shared[0]))


def test_the_value_that_counts_is_rounded_down_to_a_ten_thousandth(parts_of_receipt):
    public, sealed = parts_of_receipt
    exact = sealed["fields"]["result"]["value_nano"]
    assert public["value_nano"] == receipt.counted(exact)
    assert [receipt.counted(n) for n in (0, 99_999, 100_000, 1_234_567, -1)] == [
        0,
        0,
        100_000,
        1_200_000,
        -100_000,
    ]


def test_equal_results_have_different_commitments_under_different_salts(world, description):
    first, _ = receipt_of(world, description, salt=None)
    second, _ = receipt_of(world, description, salt=None)
    assert first["outcome"] == second["outcome"]
    for name in first["commitments"]:
        assert first["commitments"][name] != second["commitments"][name]


def test_a_salt_that_is_too_short_is_refused(world, description):
    with pytest.raises(EvaluationError, match="32 bytes"):
        receipt_of(world, description, salt=b"short")


def test_parts_that_belong_together_pass(parts_of_receipt, shared):
    receipt.check(*parts_of_receipt)
    receipt.check(*shared)


def spoil_value(public, sealed):
    public["value_nano"] += 100_000


def spoil_result(public, sealed):
    sealed["fields"]["result"]["value_nano"] += 1


def spoil_one_example(public, sealed):
    rows = sealed["fields"]["result"]["correct"]["candidate"]
    rows[0] = bytes([1 - rows[0][0]]) + rows[0][1:]


def spoil_held_out(public, sealed):
    sealed["fields"]["held_out"] = CID.of(b"another split")


def spoil_salt(public, sealed):
    sealed["salt"] = bytes(32)


def spoil_commitment(public, sealed):
    public["commitments"]["held_out"] = bytes(32)


def drop_a_field(public, sealed):
    del sealed["fields"]["participants"]


def drop_everything(public, sealed):
    sealed["fields"].clear()
    public["commitments"].clear()


def change_format(public, sealed):
    public["format"] = "neuronexus/receipt@9"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_value,
        spoil_result,
        spoil_one_example,
        spoil_held_out,
        spoil_salt,
        spoil_commitment,
        drop_a_field,
        drop_everything,
        change_format,
    ],
)
def test_any_change_to_either_part_is_found(parts_of_receipt, spoil):
    public, sealed = copy.deepcopy(parts_of_receipt)
    spoil(public, sealed)
    with pytest.raises(ContentError):
        receipt.check(public, sealed)


def test_one_sealed_field_can_be_revealed_without_the_others(parts_of_receipt):
    public, sealed = parts_of_receipt
    salt = receipt.field_salt(sealed["salt"], "held_out")
    revealed = dagcbor.encode(sealed["fields"]["held_out"])
    assert hashlib.sha256(salt + revealed).digest() == public["commitments"]["held_out"]
    assert salt != receipt.field_salt(sealed["salt"], "participants")


def test_running_the_job_again_gives_the_recorded_result(world, parts_of_receipt, shared):
    for public, sealed in (parts_of_receipt, shared):
        again = receipt.recompute(public, sealed, load=world.contents.load)
        assert again.agrees
        assert again.same_environment
        assert again.value_nano == again.recorded_nano


def test_the_description_comes_back_from_the_two_parts(parts_of_receipt, description):
    assert receipt.describe(*parts_of_receipt) == description


def test_a_result_that_cannot_be_reproduced_is_found(world, description):
    result = dagcbor.decode(jobs.perform(jobs.resolve(description, world.contents.load)))
    invented = dagcbor.encode({**result, "value_nano": result["value_nano"] + 10**8})
    public, sealed = receipt.make_receipt(
        description, invented, contribution=CONTRIBUTION, contribution_kind="data"
    )
    receipt.check(public, sealed)
    again = receipt.recompute(public, sealed, load=world.contents.load)
    assert not again.agrees
    assert again.same_environment
    assert again.recorded_nano - again.value_nano == 10**8


def test_another_environment_is_told_apart_from_a_false_receipt(world, parts_of_receipt):
    def elsewhere(job):
        result = dagcbor.decode(jobs.perform(job))
        return dagcbor.encode({**result, "environment": {**result["environment"], "torch": "9.0"}})

    again = receipt.recompute(*parts_of_receipt, load=world.contents.load, perform=elsewhere)
    assert again.agrees
    assert not again.same_environment


def test_what_is_no_result_gets_no_receipt(description):
    for data in (dagcbor.encode({}), dagcbor.encode([])):
        with pytest.raises(EvaluationError):
            receipt.make_receipt(
                description, data, contribution=CONTRIBUTION, contribution_kind="data"
            )
