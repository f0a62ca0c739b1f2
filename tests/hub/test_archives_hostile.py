"""Archives that lie, are damaged or reach for what is not theirs: nothing of them is taken in."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import chain

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neuronexus_kernel as nx
from neuronexus_kernel.content import CID, dagcbor, new_id
from neuronexus_kernel.content.cid import DAG_CBOR, encode_varint
from neuronexus_kernel.errors import (
    ArchitectureError,
    ConflictError,
    ContentError,
    DatasetError,
    ForbiddenError,
    InvalidInputError,
    NeuroNexusError,
    QuotaError,
    RecipeError,
    StoreError,
)
from neuronexus_kernel.hub import archive_documents, archived, schema
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.settings import Settings
from neuronexus_kernel.storage.car import encode_car, read_car
from neuronexus_kernel.storage.dag import links_of

PASSWORD = "correct horse battery"
TABLES = (
    "projects",
    "imported_payments",
    "versions",
    "runs",
    "rounds",
    "contributions",
    "shares",
    "roots",
    "titles",
    "events",
)

put = msgspec.structs.replace


class Forger:
    """An archive taken apart, to be changed and put together again."""

    def __init__(self, car: bytes) -> None:
        (root,), found = read_car(io.BytesIO(car))
        blocks = dict(found)
        self.root = root
        self.archive, documents = archive_documents.decode(root, blocks.__getitem__)
        self.content = {cid: block for cid, block in blocks.items() if cid not in documents}

    def change(self, **fields: object) -> Forger:
        """Change fields of the archive itself."""
        self.archive = put(self.archive, **fields)
        return self

    def project(self, **fields: object) -> Forger:
        """Change fields of the project."""
        return self.change(project=put(self.archive.project, **fields))

    def every(self, table: str, **fields: object) -> Forger:
        """Change fields of all records of a table; a function makes the value of each."""
        return self.change(
            **{
                table: [
                    put(
                        each,
                        **{n: f(each) if callable(f) else f for n, f in fields.items()},
                    )
                    for each in getattr(self.archive, table)
                ]
            }
        )

    def add(
        self, data: bytes | object, *, visibility: str | None = "public", kind: str = ""
    ) -> str:
        """Add content, listed if it has a visibility; return its CID."""
        codec = DAG_CBOR if not isinstance(data, bytes) else 0x55
        block = data if isinstance(data, bytes) else dagcbor.encode(data)
        cid = CID.of(block, codec)
        self.content[cid] = block
        if visibility is not None:
            owner = self.archive.project.owner
            entry = archived.Content(
                root=str(cid), visibility=visibility, name="", kind=kind, owner=owner, license=""
            )
            self.change(contents=[*self.archive.contents, entry])
        return str(cid)

    def drop(self, cid: str) -> Forger:
        """Leave content out that the records still name."""
        del self.content[CID.parse(cid)]
        return self

    def car(self) -> bytes:
        """Put it together again."""
        documents = archive_documents.encode(self.archive)
        return b"".join(encode_car([documents[0][0]], chain(documents, self.content.items())))


@pytest.fixture
def forger(archive: bytes) -> Forger:
    return Forger(archive)


@pytest.fixture(scope="module")
def target(new_bench, new_home, task) -> Iterator[object]:
    """A hub that has a project of its own, into which nothing that is refused may come."""
    bench = new_bench(new_home())
    made = bench.project(task, "their-own")
    made.train(rounds=1, progress=False)
    bench.project(task, "taken")
    wb = bench.person("mallory")
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    bench.mallory = wb.hub
    bench.own = made
    yield bench
    bench.close()


def counts(bench) -> dict[str, int]:
    """Return how many rows each table has that an import writes to, and how many events."""

    def query(tx) -> dict[str, int]:
        tables = schema.metadata.tables
        return {
            name: tx.scalar(sa.select(sa.func.count()).select_from(tables[name])) for name in TABLES
        }

    return bench.services.database.read(query)


def refused(bench, car: bytes, *errors: type[NeuroNexusError], name: str = "", match: str = ""):
    """See that an archive is refused, and that nothing was recorded."""
    before = counts(bench)
    with pytest.raises(errors or NeuroNexusError, match=match):
        bench.mallory.import_project(io.BytesIO(car), name=name)
    assert counts(bench) == before


def test_an_archive_that_was_taken_apart_and_put_together_is_taken_in(bench, task, archive, forger):
    assert forger.car() == archive
    wb = bench.person("grace")
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    assert wb.hub.import_project(io.BytesIO(forger.car())).name == "digits"


# -- the file ---------------------------------------------------------------------------------


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(target, archive, place, bit):
    damaged = bytearray(archive)
    damaged[int(place * len(archive))] ^= 1 << bit
    refused(target, bytes(damaged), StoreError, ContentError, InvalidInputError)


def test_a_flipped_bit_in_each_of_the_first_bytes_is_found(target, archive):
    """The header and the first document: what decides how the rest is read."""
    for place in range(120):
        damaged = bytearray(archive)
        damaged[place] ^= 1
        refused(target, bytes(damaged), StoreError, ContentError, InvalidInputError)


def test_a_file_that_is_cut_off_anywhere_is_refused(target, archive):
    for place in [*range(0, len(archive) - 1, 1499), len(archive) - 1]:
        refused(target, archive[:place], StoreError, InvalidInputError)


def test_a_file_with_more_behind_it_is_refused(target, archive):
    more = CID.of(b"more")
    section = bytes(more) + b"more"
    for tail in (b"\0", bytes(100), encode_varint(len(section)) + section):
        refused(target, archive + tail, StoreError)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (b"no document", InvalidInputError),
        ({"format": "neuronexus/receipt@1"}, InvalidInputError),
        ({"format": archive_documents.FORMAT}, InvalidInputError),
        ([], InvalidInputError),
        ({"format": archive_documents.FORMAT, "project": [], "versions": 1}, InvalidInputError),
    ],
)
def test_another_car_file_is_no_archive(target, document, error):
    codec = 0x55 if isinstance(document, bytes) else DAG_CBOR
    block = document if isinstance(document, bytes) else dagcbor.encode(document)
    cid = CID.of(block, codec)
    refused(target, b"".join(encode_car([cid], [(cid, block)])), error)


def test_an_archive_has_one_root(target, forger):
    documents = archive_documents.encode(forger.archive)
    roots = [documents[0][0], documents[1][0]]
    car = b"".join(encode_car(roots, chain(documents, forger.content.items())))
    refused(target, car, InvalidInputError, match="one root")


def test_a_link_is_a_link_and_nothing_that_looks_like_one(target, forger):
    documents = dict(archive_documents.encode(forger.archive))
    root, block = next(iter(documents.items()))
    node = dagcbor.decode(block)
    cid = node["project"]["public"]
    for odd in (
        str(cid),
        bytes(cid),
        {"codec": cid.codec, "digest": cid.digest, "hash_code": cid.hash_code, "version": 1},
        [cid],
        None,
    ):
        changed = dagcbor.encode({**node, "project": {**node["project"], "public": odd}})
        first = (CID.of(changed, DAG_CBOR), changed)
        rest = [each for each in documents.items() if each[0] != root]
        car = b"".join(encode_car([first[0]], chain([first], rest, forger.content.items())))
        refused(target, car, InvalidInputError)


def test_more_than_the_hub_takes_is_refused(tmp_path, archive, sealed_archive):
    hub = LocalHub.open(Settings(home=tmp_path, archive_limit=len(archive) // 2))
    hub.register("mallory", PASSWORD)
    hub.login("mallory", PASSWORD)
    try:
        with pytest.raises(StoreError, match="more than"):
            hub.import_project(io.BytesIO(archive))
        assert hub.projects() == hub.roots() == []
    finally:
        hub.close()


def test_an_object_above_the_hubs_limit_is_refused(tmp_path, task, archive):
    hub = LocalHub.open(Settings(home=tmp_path, upload_limit=10_000))
    hub.register("mallory", PASSWORD)
    hub.login("mallory", PASSWORD)
    hub._services.contents._limit = 10**6
    hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    hub._services.contents._limit = 10_000
    try:
        with pytest.raises(QuotaError, match="accepts 10,000 at most"):
            hub.import_project(io.BytesIO(archive))
        assert hub.projects() == hub.roots() == []
    finally:
        hub.close()


# -- content ----------------------------------------------------------------------------------


def test_content_that_is_missing_is_not_taken_from_elsewhere(target, forger):
    """Also where it is on this hub: an archive must not tell what is here."""
    validation = forger.archive.project.validation
    assert target.mallory.get(validation)
    refused(target, forger.drop(validation).car(), StoreError, match="incomplete")


def test_a_block_that_nothing_needs_is_refused(target, forger):
    forger.add(b"something that comes along", visibility=None)
    refused(target, forger.car(), StoreError, match="belong to nothing")


@pytest.mark.parametrize("visibility", ["public", "project"])
def test_content_that_no_record_names_is_refused(target, forger, visibility):
    forger.add(b"something that comes along", visibility=visibility)
    refused(target, forger.car(), InvalidInputError, match="named by no record")


def test_what_the_records_name_must_be_readable(target, forger):
    head = forger.archive.versions[-1].weights
    for visibility in ("sealed", None):
        kept = [
            each if each.root != head else put(each, visibility=visibility)
            for each in forger.archive.contents
            if visibility or each.root != head
        ]
        refused(target, Forger(forger.car()).change(contents=kept).car(), InvalidInputError)


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (lambda f: f.project(public=f.add(b"no data set")), DatasetError),
        (lambda f: f.project(validation=f.add(_data(shape=9).encode())), DatasetError),
        (lambda f: f.project(public=f.add(_data(classes=3).encode())), NeuroNexusError),
        (lambda f: f.project(recipe=f.add(b"no recipe")), RecipeError),
        (lambda f: f.project(recipe=f.add({"architecture": "none"})), RecipeError),
        (lambda f: f.project(recipe=_recipe(f, nx.models.mlp(64, (4,), 3))), ArchitectureError),
        (lambda f: f.project(recipe=_recipe(f, nx.models.mlp(9, (4,), 10))), ArchitectureError),
        (lambda f: f.project(recipe=_recipe(f, None)), InvalidInputError),
        (lambda f: f.every("versions", weights=f.add(b"no weights")), ArchitectureError),
        (
            lambda f: f.every("versions", recipe=_recipe(f, nx.models.mlp(64, (), 10))),
            NeuroNexusError,
        ),
        (lambda f: f.every("runs", recipe=_recipe(f, nx.models.mlp(9, (), 10))), ArchitectureError),
        (lambda f: f.every("contributions", payload=f.add(b"no payload")), ContentError),
        (lambda f: f.every("contributions", payload=f.add({"kind": "magic"})), InvalidInputError),
        (lambda f: f.every("contributions", receipt=f.add({"value_nano": 1})), InvalidInputError),
        (lambda f: f.project(classes=9), InvalidInputError),
        (lambda f: f.project(input_shape=[8, 8]), NeuroNexusError),
        (lambda f: f.project(metric="r2"), InvalidInputError),
        (lambda f: f.project(kind="regression", output_shape=[1]), NeuroNexusError),
        (lambda f: f.project(kind="magic"), NeuroNexusError),
    ],
)
def test_a_project_that_could_not_be_made_here_is_refused(target, forger, forge, error):
    forge(forger)
    _forget_unnamed(forger)
    refused(target, forger.car(), error)


def _data(shape: int = 64, classes: int = 10) -> nx.Dataset:
    rng = np.random.default_rng(0)
    return nx.Dataset(rng.random((20, shape)), np.arange(20) % classes, classes=classes)


def _recipe(forger: Forger, architecture: nx.Architecture | None) -> str:
    """Add a recipe, without its architecture if that is None."""
    made = nx.Recipe(architecture or nx.models.mlp(64, (5,), 10))
    if architecture is not None:
        forger.add(made.architecture.to_dict())
    return forger.add(made.to_dict())


def _forget_unnamed(forger: Forger) -> None:
    """Leave out what a changed record no longer names, so that this is not what is refused."""
    archive = forger.archive
    project = archive.project
    names = {project.public, project.validation, project.recipe}
    for each in archive.versions:
        names |= {each.weights, each.recipe}
    names |= {each.recipe for each in archive.runs}
    for each in archive.contributions:
        names |= {each.payload, each.receipt}
    todo = [CID.parse(name) for name in names]
    seen: set[CID] = set()
    while todo:
        cid = todo.pop()
        if cid in forger.content and cid not in seen:
            seen.add(cid)
            todo += links_of(cid, forger.content[cid])
    forger.content = {cid: block for cid, block in forger.content.items() if cid in seen}
    forger.change(contents=[each for each in archive.contents if CID.parse(each.root) in seen])


# -- records ----------------------------------------------------------------------------------


def _first(table: str, **fields: object) -> Callable[[Forger], Forger]:
    """Change fields of the first record of a table."""

    def forge(forger: Forger) -> Forger:
        first, *rest = getattr(forger.archive, table)
        return forger.change(**{table: [put(first, **fields), *rest]})

    return forge


def _twice(table: str) -> Callable[[Forger], Forger]:
    return lambda f: f.change(**{table: [*getattr(f.archive, table), getattr(f.archive, table)[0]]})


RECORDS: dict[str, Callable[[Forger], object]] = {
    "an id that is none": lambda f: f.project(id="../../etc/passwd"),
    "an owner with a tag": lambda f: f.project(owner="<script>alert(1)</script>"),
    "a name with a tag": lambda f: f.project(name="<img src=x onerror=alert(1)>"),
    "a name that reads like an id": lambda f: f.project(name=new_id()),
    "an author of this hub's making": lambda f: f.every("versions", author="nx:owner@here"),
    "an author with capitals": lambda f: f.every("contributions", author="Ada"),
    "an author with a line break": lambda f: f.every("contributions", author="ada\n"),
    "an origin that is none": lambda f: f.change(origin="<b>hub</b>"),
    "a time that is none": lambda f: f.project(created="2026-02-31T00:00:00.000000Z"),
    "a time that is text": lambda f: f.every("runs", created="yesterday"),
    "a time to come": lambda f: f.every("versions", created="2999-01-01T00:00:00.000000Z"),
    "a time before all this": lambda f: f.every("runs", created="0001-01-01T00:00:00.000000Z"),
    "a head that is not there": lambda f: f.project(head=new_id()),
    "a head of another project": lambda f: f.project(head=f.archive.project.id),
    "no versions": lambda f: f.change(versions=[]),
    "a number too much": lambda f: f.every("versions", number=lambda v: v.number + 1),
    "the last number of all": _first("versions", number=2**31 - 1),
    "a number above the column": _first("versions", number=2**40),
    "a number below zero": _first("versions", number=-1),
    "a parent that is not there": lambda f: f.every("versions", parent=new_id()),
    "a run that is not there": lambda f: f.every("versions", run=new_id()),
    "a run that made another version": lambda f: f.every("versions", run=f.archive.runs[-1].id),
    "a version of another run": lambda f: f.every("runs", version=f.archive.versions[-1].id),
    "a metric that is text": lambda f: f.every("versions", metrics={"accuracy": "high"}),
    "a version twice": _twice("versions"),
    "a run twice": _twice("runs"),
    "a round twice": _twice("rounds"),
    "a contribution twice": _twice("contributions"),
    "a share twice": _twice("shares"),
    "content twice": _twice("contents"),
    "a payment twice": _twice("payments"),
    "a running run": _first("runs", state="running"),
    "a state that is none": _first("contributions", state="submitted"),
    "a kind that is none": _first("contributions", kind="magic"),
    "no rounds": _first("runs", rounds=0),
    "more clients than there are": _first("runs", clients=1, clients_per_round=2),
    "a participant twice": _first("runs", participants=["ada", "ada"]),
    "a crowd of participants": _first("runs", participants=[f"ada-{n}" for n in range(13)]),
    "a seed above the column": _first("runs", seed=2**64 - 1),
    "a plan that is no JSON": _first("runs", plan="{"),
    "a plan that is a list": _first("runs", plan="[]"),
    "a plan that is deep": _first("runs", plan='{"a":' * 500 + "1" + "}" * 500),
    "a plan that is a bomb": _first("runs", plan='{"a":' * 100_000),
    "a plan with a number that is none": _first("runs", plan='{"a": NaN}'),
    "updates of nobody": _first("runs", updates=[str(nx.storage.cid_of(b"update"))]),
    "a round after the last": _first("rounds", round=10**6),
    "a round of no run": _first("rounds", run=new_id()),
    "a note without an end": _first("contributions", note="n" * 2001),
    "no decision": _first("contributions", decided=None),
    "no value": _first("contributions", value=None),
    "no receipt": _first("contributions", receipt=None),
    "a sealed receipt": _first("contributions", sealed_receipt=str(nx.storage.cid_of(b"seal"))),
    "a share of no contribution": _first("shares", contribution=new_id()),
    "a share above one": _first("shares", weight=10**9 + 1),
    "a reward below zero": _first("shares", reward="-1"),
    "a reward that is no number": _first("shares", reward="1e9"),
    "a reward above all there is": lambda f: f.every("shares", reward="21000001"),
    "a share that was minted, not confirmed": lambda f: f.every("shares", confirmed=False),
    "rewards that nobody paid": lambda f: f.every(
        "shares", reward=lambda s: "1000" if s.minted else s.reward
    ),
    "rewards without a ledger": lambda f: f.change(payments=[]),
    "rewards that were never minted": lambda f: f.every("shares", minted=False),
    "a payment that is none": _first("payments", data=b"12345"),
    "a payment of another hub": _first("payments", origin="f" * 12),
    "a claim to be sealed": lambda f: f.change(sealed=True),
    "another held-out split": lambda f: f.project(commitment=bytes(32)),
    "a short commitment": lambda f: f.project(commitment=b""),
    "a held-out split by name": lambda f: f.project(held_out=str(nx.storage.cid_of(b"rows"))),
    "a sight that is none": _first("contents", visibility="secret"),
    "a name without an end": _first("contents", name="n" * 201),
    "an owner that is none": _first("contents", owner="a b"),
}


@pytest.mark.parametrize("lie", RECORDS)
def test_a_record_that_lies_is_refused(target, forger, lie):
    RECORDS[lie](forger)
    refused(target, forger.car())


def test_a_record_with_a_field_more_or_less_is_refused(target, forger):
    documents = dict(archive_documents.encode(forger.archive))
    for cid, block in list(documents.items()):
        node = dagcbor.decode(block)
        rows = node if isinstance(node, list) else [node["project"]]
        for changed in ({**rows[0], "admin": True}, dict(list(rows[0].items())[1:]), {}, 7):
            page = [changed, *rows[1:]] if node is rows else {**node, "project": changed}
            refused(target, _with_document(forger, documents, cid, page), InvalidInputError)


def _with_document(forger: Forger, documents: dict[CID, bytes], old: CID, node: object) -> bytes:
    """Return the archive with one of its documents exchanged, and all links to it."""
    block = dagcbor.encode(node)
    new = CID.of(block, DAG_CBOR)
    changed = {new if cid == old else cid: documents[cid] for cid in documents}
    changed[new] = block
    first = next(iter(changed))
    if new != first:
        root = dagcbor.decode(documents[next(iter(documents))])
        root = {
            name: [new if link == old else link for link in value]
            if isinstance(value, list)
            else value
            for name, value in root.items()
        }
        del changed[first]
        block = dagcbor.encode(root)
        first = CID.of(block, DAG_CBOR)
        changed = {first: block, **changed}
    return b"".join(encode_car([first], chain(changed.items(), forger.content.items())))


def test_more_records_than_a_hub_takes_are_refused(target, forger, monkeypatch):
    monkeypatch.setattr(archive_documents, "MOST_ROWS", 10)
    refused(target, forger.car(), InvalidInputError, match="more than 10 records")


def test_ids_of_others_are_not_taken(target, forger):
    own, hub = target.own, target.mallory
    version, run = hub.versions("their-own")[-1].id, hub.runs("their-own")[-1].id
    as_own = Forger(forger.car()).project(id=own.record.id)
    refused(target, as_own.car(), ConflictError, match="already, as 'their-own'")
    for table, taken in (("runs", run), ("versions", version)):
        changed = Forger(forger.car())
        _rename(changed, table, taken)
        refused(target, changed.car(), ConflictError, match=f"{taken}, which is that of another")
    assert hub.run(run).project == own.record.id


def _rename(forger: Forger, table: str, taken: str) -> None:
    """Give the last record of a table another id, everywhere."""
    old = getattr(forger.archive, table)[-1].id

    def renamed(value: object) -> object:
        return taken if value == old else value

    for name in ("versions", "runs", "rounds", "contributions"):
        fields = {
            "versions": ("id", "parent", "run"),
            "runs": ("id", "version"),
            "rounds": ("run",),
        }
        forger.change(
            **{
                name: [
                    put(each, **{n: renamed(getattr(each, n)) for n in fields.get(name, ("id",))})
                    for each in getattr(forger.archive, name)
                ]
            }
        )
    forger.project(head=renamed(forger.archive.project.head))


def test_a_taken_name_is_refused_before_anything_is_stored(target, archive):
    blocks = target.services.contents._content.usage().blocks
    refused(target, archive, ConflictError, name="taken", match="`name=`")
    assert target.services.contents._content.usage().blocks == blocks


def test_sealed_content_of_a_member_is_refused_unseen(target, sealed_archive):
    sealed = target.services.contents._sealed.usage().blocks
    refused(target, sealed_archive, ForbiddenError)
    assert target.services.contents._sealed.usage().blocks == sealed


def test_a_promise_from_elsewhere_spends_nothing_here(bench, task, forger, hand_in, better_weights):
    """Who says that all tokens there will ever be are promised already takes them from nobody."""
    shares = [
        put(each, reward="20000000") if not each.minted and each.reward != "0" else each
        for each in forger.archive.shares
    ]
    assert shares != forger.archive.shares
    wb = bench.person("grace")
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    wb.hub.import_project(io.BytesIO(forger.change(shares=shares).car()))
    project = bench.project(task, "their-own")
    ada = bench.person("ada")
    contribution = hand_in(ada, project, better_weights[-1])
    bench.evaluate()
    record = bench.hub.contribution(contribution.id)
    assert record.state == "rewarded"
    assert float(record.reward) == pytest.approx(10_000 * record.value)


def test_what_people_wrote_is_shown_as_text(bench, task, forger):
    evil = "<script>alert(1)</script>"
    forger.every("contributions", note=evil, reason=evil).project(description=evil)
    wb = bench.person("grace")
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    wb.hub.import_project(io.BytesIO(forger.car()))
    project = wb.project("digits")
    handles = [wb.contribution(each.id) for each in wb.hub.contributions()]
    shown = [project._repr_html_(), wb.projects()._repr_html_(), wb.contributions()._repr_html_()]
    shown += [each._repr_html_() for each in handles]
    assert any("&lt;script" in text for text in shown)
    assert not any("<script" in text for text in shown)
