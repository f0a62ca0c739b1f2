"""What must stay hidden: held-out rows, passwords and tokens."""

from __future__ import annotations

import secrets
from dataclasses import asdict

import msgspec
import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.hub.contributions import find_contribution

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def lived(new_bench, new_home, task, better_weights, hand_in):
    """A hub on which much has happened: paid, rejected, failed and sealed things."""
    bench = new_bench(new_home())
    project, ada = bench.project(task), bench.person("ada")
    theirs = ada.project(project.name)
    theirs.train(
        rounds=1,
        participants={"ada": task.private.subset(range(50))},
        progress=False,
    )
    for weights in (better_weights[-1], better_weights[0]):
        hand_in(ada, project, weights)
    theirs.submit(nx.DataContribution(task.private.subset(range(20))))
    theirs.submit(nx.HyperparameterContribution(learning_rate=5.0))
    bench.evaluate()
    yield bench
    bench.close()


def everything_a_visitor_gets(bench) -> bytes:
    """Return every byte that the interface hands to somebody who is signed in."""
    hub = bench.person(f"mallory-{secrets.token_hex(3)}").hub
    values = [*hub.accounts(), *hub.projects(), *hub.contributions(), *hub.balances()]
    values += [*hub.ledger_lines(), *hub.events(limit=10_000), hub.network(), *hub.roots()]
    for project in hub.projects():
        values += [*hub.versions(project.id), *hub.runs(project.id)]
    records = msgspec.json.encode([asdict(value) for value in values])
    return records + b"".join(hub.get(root.cid) for root in hub.roots())


def test_no_held_out_row_comes_out_of_the_hub(lived, task):
    seen = everything_a_visitor_gets(lived)
    states = {record.state for record in lived.hub.contributions()}
    assert {"rewarded", "rejected"} <= states
    held_out = task.held_out
    assert task.public.inputs[0].tobytes() in seen, "the search would find a row"
    for row, digest in zip(held_out.inputs, held_out.row_hashes(), strict=True):
        assert row.tobytes() not in seen
        assert digest not in seen
        assert digest.hex().encode() not in seen
    cid = nx.storage.cid_of(held_out.encode())
    assert str(cid).encode() not in seen
    assert cid.digest not in seen


def test_no_result_of_a_single_row_and_no_single_update_comes_out(lived):
    seen = everything_a_visitor_gets(lived)
    contents, database = lived.services.contents, lived.services.database
    for record in lived.hub.contributions():
        row = database.read(lambda tx, id=record.id: find_contribution(tx, id))
        sealed = contents.document(row.sealed_receipt, sealed=True)
        assert row.sealed_receipt.encode() not in seen
        assert sealed["salt"] not in seen
        for sides in sealed["fields"]["result"]["correct"].values():
            assert all(correct not in seen for correct in sides if len(set(correct)) > 1)
    import sqlalchemy as sa

    from neuronexus_kernel.hub import schema

    runs = database.read(lambda tx: tx.all(sa.select(schema.runs)))
    updates = [cid for run in runs for cid in run.updates]
    assert updates
    assert all(cid.encode() not in seen for cid in updates)


def test_neither_passwords_nor_tokens_are_in_the_hubs_files(bench, task):
    ada = bench.person("ada")
    session = ada.hub.create_token("notebook")
    ticket = bench.hub.visitor(session.token).ticket()
    tokens = [session.token, ticket.token, bench.hub.owner_token]
    ada.storage.add(b"anything")
    bench.close()
    files = [path for path in bench.home.rglob("*") if path.is_file()]
    assert {"hub.duckdb"} <= {path.name for path in files}
    data = b"".join(path.read_bytes() for path in files)
    assert b"ada" in data
    for secret in (PASSWORD, *tokens):
        assert secret.encode() not in data


def test_a_stranger_gets_no_bytes_of_project_content(lived):
    public = {root.cid for root in lived.hub.visitor().roots()}
    member = lived.person("grace").hub
    hidden = [root for root in member.roots() if root.visibility == "project"]
    assert hidden
    for root in hidden:
        if root.cid not in public:
            with pytest.raises(nx.errors.NotFoundError):
                lived.hub.visitor().get(root.cid)


def test_a_public_receipt_holds_commitments_and_no_exact_result(lived):
    receipts = [root for root in lived.hub.roots() if root.kind == "receipt"]
    assert receipts
    for root in receipts:
        public = dagcbor.decode(lived.hub.get(root.cid))
        assert set(public["commitments"]) == {"held_out", "participants", "result"}
        assert not {"correct", "accuracies", "bound", "dropped"} & set(public["outcome"])
        assert public["value_nano"] % 100_000 == 0


def test_digits_rows_are_not_all_alike(task):
    """Were a held-out row equal to a public one, the search above would prove nothing."""
    assert not set(task.held_out.row_hashes()) & set(task.public.row_hashes())
    assert np.unique(task.held_out.inputs, axis=0).shape[0] == len(task.held_out)
