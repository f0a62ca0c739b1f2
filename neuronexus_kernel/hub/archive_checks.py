"""What must hold between the records of an archive, which may come from anybody.

A hub that wrote an archive kept these rules in every transaction; here they are looked at again,
so that what an archive brings is as sound as what was recorded here.  What an archive says of
other hubs is not proved by that: who made a version there, and what was paid, is their word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.errors import InvalidInputError, LedgerError, RecipeError
from neuronexus_kernel.hub.archived import Archive, Contribution, Run, foreign
from neuronexus_kernel.hub.runs import MAX_PARTICIPANTS
from neuronexus_kernel.ledger import CAP, Entry, parse_nxs
from neuronexus_kernel.storage.dag import Fetch, Links, links_of

_FIRST = "2020-01-01"
_DEPTH = 64
_CONTRIBUTED = ("architecture", "dataset")


def check(archive: Archive) -> None:
    """Check an archive's records, its accounts named as here; see `archived.adopted`.

    Raises
    ------
    InvalidInputError
        If something does not fit together; the message says what.
    """
    _check_times(archive)
    _check_ids(archive)
    _check_versions(archive)
    _check_runs(archive)
    _check_rounds(archive)
    for contribution in archive.contributions:
        _check_contribution(contribution)
    _check_shares(archive)
    _check_payments(archive)
    _check_contents(archive)


def plan_of(run: Run) -> dict[str, Any]:
    """Return the plan of a run.

    Raises
    ------
    InvalidInputError
        If it is no JSON object, or nested so deep that reading it again may fail.
    """
    try:
        plan = msgspec.json.decode(run.plan, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _wrong(f"the plan of the run {run.id} is no JSON object: {error}") from None
    level: list[Any] = [plan]
    for _ in range(_DEPTH):
        lists = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for values in lists for each in values if isinstance(each, (dict, list))]
    if level:
        raise _wrong(f"the plan of the run {run.id} is nested deeper than {_DEPTH} levels")
    return plan


def named(archive: Archive) -> Iterator[CID]:
    """Give what the records name and is for visitors to read; the same CID twice perhaps."""
    project = archive.project
    names = [project.public, project.validation, project.recipe]
    for version in archive.versions:
        names += [version.recipe, version.weights]
    names += [run.recipe for run in archive.runs]
    names += [each.payload for each in archive.contributions]
    names += [each.receipt for each in archive.contributions if each.receipt is not None]
    return map(CID.parse, names)


def sealed(archive: Archive) -> Iterator[CID]:
    """Give what the records name and is sealed."""
    names = [archive.project.held_out]
    for run in archive.runs:
        names += run.updates
    names += [each.sealed_receipt for each in archive.contributions]
    return (CID.parse(name) for name in names if name is not None)


def architectures(archive: Archive, fetch: Fetch) -> Iterator[CID]:
    """Give the architectures of all recipes that the records name.

    Raises
    ------
    RecipeError
        If a recipe is none.
    """
    project = archive.project
    recipes = [project.recipe, *(each.recipe for each in archive.versions)]
    recipes += [each.recipe for each in archive.runs]
    for cid in map(CID.parse, dict.fromkeys(recipes)):
        document = dagcbor.decode(fetch(cid)) if cid.codec == DAG_CBOR else None
        link = document.get("architecture") if isinstance(document, dict) else None
        if not isinstance(link, CID):
            raise RecipeError(f"The recipe {cid} has no link to an architecture.")
        yield link


def links_below(archive: Archive) -> Links:
    """Return what tells which content a document takes along, if that is recorded.

    It is all that it links to, but of a contribution's payload, which is anybody's, what is
    contributed and nothing else.
    """
    payloads = {CID.parse(each.payload) for each in archive.contributions}

    def links(cid: CID, block: bytes) -> list[CID]:
        if cid.codec != DAG_CBOR:
            return []
        if cid not in payloads:
            return links_of(cid, block)
        node = dagcbor.decode(block)
        contributed = [node.get(name) for name in _CONTRIBUTED] if isinstance(node, dict) else []
        return [link for link in contributed if isinstance(link, CID)]

    return links


def check_documents(archive: Archive, fetch: Fetch) -> None:
    """Check that all content is named, by the records or by a document that comes along.

    Raises
    ------
    InvalidInputError
        If something is not, or the architecture of a recipe does not come along.
    """
    there = _roots(archive, sealed=False)
    todo = [*named(archive), *architectures(archive, fetch)]
    if not there.issuperset(todo):
        raise _wrong("the architecture of a recipe is not in it")
    seen, links = set[CID](), links_below(archive)
    while todo:
        cid = todo.pop()
        if cid in seen or cid not in there:
            continue
        seen.add(cid)
        if cid.codec == DAG_CBOR:
            todo += links(cid, fetch(cid))
    odd = [*(there - seen), *(_roots(archive, sealed=True) - set(sealed(archive)))]
    if odd:
        raise _wrong(f"the content {min(map(str, odd))} is named by no record")


def _roots(archive: Archive, *, sealed: bool) -> set[CID]:
    """Return the roots that come along and are sealed, or those that are not."""
    roots = (each for each in archive.contents if (each.visibility == "sealed") is sealed)
    return {CID.parse(content.root) for content in roots}


def _wrong(what: str) -> InvalidInputError:
    return InvalidInputError(
        f"The archive contradicts itself: {what}. Have it exported again from the hub that it "
        "came from."
    )


def _check_times(archive: Archive) -> None:
    """Check that times are real and not ahead: tables are sorted and shown by them."""
    last = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    times = [archive.project.created]
    times += [each.created for each in archive.versions]
    times += [each.created for each in archive.runs]
    times += [each.created for each in archive.contributions]
    times += [each.decided for each in archive.contributions if each.decided is not None]
    for text in times:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise _wrong(f"{text} is no time") from None
        if not _FIRST <= text <= last:
            raise _wrong(f"{text} is not a time at which this can have happened")


def _check_ids(archive: Archive) -> None:
    for what in ("versions", "runs", "contributions"):
        _check_once((each.id for each in getattr(archive, what)), f"ids of {what}")
    _check_once(((each.run, each.round) for each in archive.rounds), "rounds of a run")
    _check_once(((each.contribution, each.account) for each in archive.shares), "shares")
    _check_once(((each.root, each.visibility) for each in archive.contents), "contents")


def _check_once(keys: Iterable[object], what: str) -> None:
    key, count = max(Counter(keys).items(), key=lambda item: item[1], default=(None, 1))
    if count > 1:
        raise _wrong(f"of its {what} one is there {count} times: {key}")


def _check_versions(archive: Archive) -> None:
    versions = {version.id: version for version in archive.versions}
    runs = {run.id: run for run in archive.runs}
    numbers = sorted(version.number for version in archive.versions)
    if numbers != list(range(len(numbers))):
        raise _wrong("its versions are not numbered 0, 1, 2 and so on")
    if archive.project.head not in versions:
        raise _wrong("the head is none of its versions")
    for version in archive.versions:
        if version.parent is not None and version.parent not in versions:
            raise _wrong(f"version {version.number} comes from one that is not there")
        if version.run is not None and (
            version.run not in runs or runs[version.run].version != version.id
        ):
            raise _wrong(f"version {version.number} comes from a run that has not made it")


def _check_runs(archive: Archive) -> None:
    made_by = {version.id: version.run for version in archive.versions}
    for run in archive.runs:
        if run.clients_per_round > run.clients:
            raise _wrong(f"the run {run.id} trains more clients than there are")
        people = run.participants
        if len(people) > MAX_PARTICIPANTS or len(set(people)) < len(people):
            raise _wrong(f"the run {run.id} names too many participants, or one of them twice")
        if run.version is not None and made_by.get(run.version) != run.id:
            raise _wrong(f"the version of the run {run.id} is not there")
        plan_of(run)


def _check_rounds(archive: Archive) -> None:
    rounds = {run.id: run.rounds for run in archive.runs}
    for each in archive.rounds:
        if each.round > rounds.get(each.run, -1):
            raise _wrong(f"round {each.round} belongs to no run, or comes after its end")


def _check_contribution(contribution: Contribution) -> None:
    measured = (contribution.value, contribution.receipt, contribution.against)
    if contribution.state == "failed":
        is_whole = contribution.reason is not None
    else:
        is_whole = None not in measured
    if not is_whole or contribution.decided is None:
        raise _wrong(
            f"the contribution {contribution.id} is {contribution.state}, and does not say by what"
        )


def _check_shares(archive: Archive) -> None:
    states = {each.id: each.state for each in archive.contributions}
    minted = set()
    for share in archive.shares:
        if share.contribution not in states:
            raise _wrong(f"a share of {share.account} is in no contribution")
        units = parse_nxs(share.reward)
        if units > CAP or (units and states[share.contribution] not in ("accepted", "rewarded")):
            raise _wrong(f"a share of {share.reward} NXS was never earned")
        if share.minted:
            minted.add(share.contribution)
            if not share.confirmed or not units:
                raise _wrong(f"a share of {share.account} was minted, but not earned or confirmed")
    if minted != {id for id, state in states.items() if state == "rewarded"}:
        raise _wrong("what is rewarded and what was minted are not the same")


def _check_payments(archive: Archive) -> None:
    """Check that the entries pay exactly the shares that are said to have been minted."""
    paid: dict[tuple[object, str], int] = defaultdict(int)
    for payment in archive.payments:
        try:
            entry = Entry.decode(payment.data)
        except LedgerError as error:
            raise _wrong(f"an entry of a ledger is malformed ({error})") from None
        for posting in entry.postings:
            if posting.amount > 0:
                account = foreign(posting.account, payment.origin)
                paid[entry.memo.get("contribution"), account] += posting.amount
    minted = {
        (share.contribution, share.account): parse_nxs(share.reward)
        for share in archive.shares
        if share.minted
    }
    if paid != minted:
        raise _wrong("the entries of the ledger are not those of the shares that were minted")


def _check_contents(archive: Archive) -> None:
    """Check that what the records name comes along, each with a visibility that it may have."""
    missing = set(named(archive)) - _roots(archive, sealed=False)
    if missing:
        raise _wrong(f"its records name {min(map(str, missing))}, which is not in it")
    hidden, lies = set(sealed(archive)), _roots(archive, sealed=True)
    if not archive.sealed and (hidden or lies):
        raise _wrong("it says that nothing sealed is in it, and names some")
    if archive.sealed and (archive.project.held_out is None or hidden - lies):
        raise _wrong("it says that all sealed content is in it, and some is missing")
