"""Measured, then paid: once, against the head that is, whatever goes wrong on the way."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from decimal import Decimal

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.errors import ConflictError, EvaluationError, QuotaError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.contributions import Verdict, find_contribution
from neuronexus_kernel.hub.projects import add_version
from neuronexus_kernel.hub.runs import find_run
from neuronexus_kernel.ledger import parse_nxs, reward
from neuronexus_kernel.settings import EvaluationLimits
from neuronexus_kernel.valuation import receipt


def states(bench, *contributions):
    return [bench.hub.contribution(each.id).state for each in contributions]


# -- compare and swap -------------------------------------------------------------------------


def test_what_was_measured_against_an_old_head_is_measured_again(
    open_bench, inline, task, better_weights, hand_in
):
    """The head moves during the first measuring; the second one counts, against the new head."""
    executor = inline()
    bench = open_bench(executor=executor)
    project, ada, grace = bench.project(task), bench.person("ada"), bench.person("grace")
    good = hand_in(ada, project, better_weights[-1])
    alike = {name: array + np.float32(1e-6) for name, array in better_weights[-1].items()}
    better_first = hand_in(grace, project, alike, note="all but the same weights")
    moves = [better_weights[-1]]

    def move_the_head():
        if moves:
            moves.pop()
            accept(bench, better_first)

    executor.before = move_the_head
    bench.evaluate()
    assert executor.calls == 2
    assert states(bench, good) == ["rejected"], "weights that are alike are no improvement any more"
    assert ada.tokens.balance() == 0
    assert grace.tokens.balance() == 100, "paid once"
    assert bench.hub.verify_ledger().entries == 1
    kinds = [e.kind for e in bench.hub.events() if e.subject == good.id]
    assert kinds == [
        f"contribution.{s}"
        for s in ("submitted", "evaluating", "submitted", "evaluating", "rejected")
    ]
    assert bench.hub.verify_ledger().ok


def accept(bench, contribution):
    """Accept and pay a contribution, as another evaluation would have done meanwhile."""
    contributions = bench.services.contributions
    cid = bench.services.contents.put_node({})
    verdict = Verdict(value_nano=10**7, reason=None, receipt=cid, sealed_receipt=cid)

    def change(tx):
        row = find_contribution(tx, contribution.id)
        payload = bench.services.contents.document(row.payload)
        version = find_run(tx, payload["run"]).version
        projects = schema.projects
        tx.execute(projects.update().where(projects.c.id == row.project).values(head=version))
        contributions.accept(tx, row, verdict, against="")

    bench.services.database.write(change)


def test_a_head_that_never_rests_ends_the_attempts(
    open_bench, inline, task, better_weights, hand_in
):
    executor = inline()
    bench = open_bench(executor=executor)
    project = bench.project(task)
    contribution = hand_in(bench.person("ada"), project, better_weights[0])

    def move_the_head():
        record = project.record

        def change(tx):
            version = add_version(
                tx,
                project=record.id,
                weights=record.head.weights,
                recipe=record.recipe,
                parent=None,
                author="ada",
                run=None,
                metrics={},
            )
            projects = schema.projects
            tx.execute(projects.update().where(projects.c.id == record.id).values(head=version))

        bench.services.database.write(change)

    executor.before = move_the_head
    bench.evaluate()
    record = bench.hub.contribution(contribution.id)
    assert (record.state, executor.calls) == ("failed", 5)
    assert "head moved during each of 5" in str(record.reason)


def test_rows_that_became_public_meanwhile_are_not_paid_again(bench, task):
    """A data set was new when it was handed in; most of its rows are not when it is measured."""
    project, grace = bench.project(task), bench.person("grace")
    contribution = grace.project(project.name).submit(nx.DataContribution(task.private))
    joined = task.public.concat(task.private.subset(range(1, 180)))
    cid = bench.services.contents.add(joined.encode())
    projects = schema.projects
    bench.services.database.write(lambda tx: tx.execute(projects.update().values(public=cid)))
    bench.evaluate()
    assert contribution.state == "failed"
    assert "179 of 180 rows are exact duplicates" in str(contribution.reason)
    assert project.record.public == cid
    assert grace.tokens.balance() == 0
    assert bench.executor.calls == 0


def test_an_architecture_and_a_technique_are_measured_together(bench, task):
    slow = nx.Recipe(nx.models.mlp(64, (16,), 10), learning_rate=0.003)
    project = bench.person("owner").create_project("slow", task=task, recipe=slow)
    wider = nx.models.mlp(64, (32,), 10)
    alan = bench.person("alan").project("slow")
    both = alan.submit(nx.CodeContribution(wider, optimiser="adam", note="wider, with adam"))
    bench.evaluate()
    assert both.state == "rewarded"
    expected = slow.with_changes(architecture=wider, optimiser="adam")
    assert project.recipe.cid == expected.cid


# -- the queue --------------------------------------------------------------------------------


def test_what_was_being_measured_when_the_hub_ended_is_measured_again(
    open_bench, task, better_weights, hand_in
):
    """`stop` during an evaluation leaves it in the queue, and the next start takes it up."""
    executor = Stuck()
    bench = open_bench(executor=executor)
    contribution = hand_in(bench.person("ada"), bench.project(task), better_weights[-1])
    bench.services.evaluator.start()
    assert executor.called.wait(60)
    bench.close()
    again = open_bench()
    assert states(again, contribution) == ["evaluating"]
    assert again.hub.busy
    again.evaluate()
    assert states(again, contribution) == ["rewarded"]
    assert again.hub.verify_ledger().entries == 1


class Stuck(Executor):
    """Ends no call before it is shut down, as a child process that computes for long."""

    def __init__(self):
        self.called, self.future = threading.Event(), Future()

    def submit(self, fn, /, *args, **kwargs):
        self.called.set()
        return self.future

    def shutdown(self, wait=True, *, cancel_futures=False):
        if not self.future.done():
            self.future.set_exception(EvaluationError("Its process was ended."))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError("a secret of the hub"), "The hub made a mistake (ZeroDivisionError)"),
        (EvaluationError("It took too long."), "It took too long."),
    ],
)
def test_an_error_of_the_executor_fails_one_and_the_queue_goes_on(
    open_bench, inline, task, better_weights, hand_in, error, reason
):
    errors = [error]

    def fail_once():
        if errors:
            raise errors.pop()

    bench = open_bench(executor=inline(fail_once))
    ada, project = bench.person("ada"), bench.project(task)
    first, second = (hand_in(ada, project, weights) for weights in better_weights[2:])
    bench.evaluate()
    assert states(bench, first, second) == ["failed", "rewarded"]
    told = bench.hub.contribution(first.id).reason
    assert told.startswith(reason)
    assert "secret" not in told


def test_a_result_that_is_none_fails_and_the_queue_goes_on(
    open_bench, task, better_weights, hand_in
):
    class Liar(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(dagcbor.encode({"value_nano": 10**9, "kind": "weights"}))
            return future

    bench = open_bench(executor=Liar())
    contribution = hand_in(bench.person("ada"), bench.project(task), better_weights[-1])
    bench.evaluate()
    record = bench.hub.contribution(contribution.id)
    assert (record.state, record.reward) == ("failed", "0")
    assert "KeyError" in record.reason
    assert bench.hub.verify_ledger().entries == 0


def test_a_day_has_so_many_evaluations(open_bench, task):
    bench = open_bench(limits=EvaluationLimits(per_day=2))
    project, ada, grace = bench.project(task), bench.person("ada"), bench.person("grace")
    theirs = ada.project(project.name)
    for rate in (0.2, 0.3):
        theirs.submit(nx.HyperparameterContribution(learning_rate=rate))
    with pytest.raises(QuotaError, match=r"2 evaluations of 24 hours.*NEURONEXUS_EVAL"):
        theirs.submit(nx.HyperparameterContribution(learning_rate=0.4))
    assert len(bench.hub.contributions()) == 2
    grace.project(project.name).submit(nx.HyperparameterContribution(learning_rate=0.4))


def test_two_people_who_submit_the_same_at_once_make_one_contribution(bench, task):
    project = bench.project(task)
    people = [bench.person(f"person-{number}").project(project.name) for number in range(4)]
    outcomes: list[object] = []
    gate = threading.Barrier(len(people))

    def submit(theirs):
        gate.wait()
        try:
            outcomes.append(theirs.submit(nx.HyperparameterContribution(learning_rate=0.2)))
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=submit, args=(theirs,)) for theirs in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 3
    assert len(bench.hub.contributions()) == 1


# -- content that is corrupt -------------------------------------------------------------------


def test_a_contribution_whose_content_is_corrupt_fails_and_the_queue_goes_on(bench, task):
    project, ada = bench.project(task), bench.person("ada")
    theirs = ada.project(project.name)
    broken = theirs.submit(nx.DataContribution(task.private.subset(range(100))))
    whole = theirs.submit(nx.DataContribution(task.private.subset(range(100, 180))))
    cid = str(dagcbor.decode(bench.hub.get(broken.record.payload))["dataset"])
    spoil(bench.home / "content", cid)
    with pytest.raises(nx.errors.StoreError, match=cid):
        ada.hub.get(cid)
    bench.evaluate()
    assert broken.state == "failed"
    assert f"Block {cid} is corrupt" in str(broken.reason)
    assert whole.state in ("rewarded", "rejected")


def test_a_corrupt_held_out_split_fails_without_being_named(bench, task, better_weights, hand_in):
    project = bench.project(task)
    cid = str(nx.storage.cid_of(task.held_out.encode()))
    spoil(bench.home / "sealed", cid)
    contribution = hand_in(bench.person("ada"), project, better_weights[-1])
    bench.evaluate()
    record = bench.hub.contribution(contribution.id)
    assert record.state == "failed"
    assert "missing or corrupt" in record.reason
    assert cid not in record.reason


def spoil(store, cid):
    """Flip a bit of a block on disk."""
    (path,) = (path for path in store.rglob(cid) if path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- receipts ---------------------------------------------------------------------------------


@pytest.fixture
def paid(bench, task, better_weights, hand_in):
    """A paid contribution: the bench, its record, its receipt's two parts."""
    contribution = hand_in(bench.person("ada"), bench.project(task), better_weights[-1])
    bench.evaluate()
    row = sealed_receipt(bench, contribution.id)
    contents = bench.services.contents
    return (
        bench,
        bench.hub.contribution(contribution.id),
        contents.document(row.receipt),
        contents.document(row.sealed_receipt, sealed=True),
    )


def sealed_receipt(bench, contribution):
    return bench.services.database.read(lambda tx: find_contribution(tx, contribution))


def loader(bench, **replaced):
    contents = bench.services.contents

    def load(cid: CID) -> bytes:
        if str(cid) in replaced:
            return replaced[str(cid)]
        try:
            return contents.bytes_of(str(cid))
        except nx.errors.NotFoundError:
            return contents.bytes_of(str(cid), sealed=True)

    return load


def test_a_paid_value_can_be_recomputed_from_the_stores(paid):
    bench, record, public, sealed = paid
    found = receipt.recompute(public, sealed, load=loader(bench))
    assert found.agrees
    assert found.same_environment
    assert found.value_nano == found.recorded_nano
    assert receipt.counted(found.value_nano) == public["value_nano"]
    units = reward(public["value_nano"], minted=0)
    assert parse_nxs(record.reward) == units > 0
    assert Decimal(str(record.value)) == Decimal(public["value_nano"]).scaleb(-9)


def test_recomputing_tells_that_the_weights_were_others(paid, better_weights):
    from neuronexus_kernel.models import weights

    bench, _, public, sealed = paid
    candidate = str(public["compared"]["candidate"]["weights"])
    worse = {candidate: weights.serialize(better_weights[0])}
    found = receipt.recompute(public, sealed, load=loader(bench, **worse))
    assert found.same_environment
    assert not found.agrees


def test_a_receipt_with_another_value_is_refused(paid):
    bench, _, public, sealed = paid
    with pytest.raises(nx.errors.ContentError, match="value"):
        receipt.recompute({**public, "value_nano": 10**9}, sealed, load=loader(bench))
