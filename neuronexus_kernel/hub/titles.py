"""Names that accounts give to content: each has immutable versions, numbered from 1.

A CID never changes what it names, so what people call "the data set" is a row of CIDs.  Storing
other content under a name of one's own adds a version to it; storing the same again does not.
Sealed content has no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Transaction, portions
from neuronexus_kernel.hub.records import Root


def entitle_all(tx: Transaction, roots: Sequence[Root]) -> None:
    """Make each root the newest version of its name, unless it is that already."""
    named = [root for root in roots if root.name and root.visibility != "sealed"]
    newest = _newest(tx, named)
    rows = []
    for root in named:
        title = (root.owner, root.name)
        number, *said = newest.get(title, (0,))
        if said != [root.cid, root.visibility, root.license]:
            newest[title] = (number + 1, root.cid, root.visibility, root.license)
            rows.append(
                {
                    "owner": root.owner,
                    "name": root.name,
                    "number": number + 1,
                    "cid": root.cid,
                    "visibility": root.visibility,
                    "license": root.license,
                    "created": tx.time,
                }
            )
    tx.insert(schema.titles, rows)


def _newest(tx: Transaction, roots: Sequence[Root]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return the newest versions of the names of some roots: number, CID, visibility, license."""
    titles = schema.titles.c
    found: dict[tuple[str, str], tuple[Any, ...]] = {}
    owners = list({root.owner for root in roots})
    for some in portions(list({root.name for root in roots})):
        wanted = titles.owner.in_(owners) & titles.name.in_(some)
        last = (
            sa.select(titles.owner, titles.name, sa.func.max(titles.number).label("number"))
            .where(wanted)
            .group_by(titles.owner, titles.name)
            .subquery()
        )
        same = (
            (titles.owner == last.c.owner)
            & (titles.name == last.c.name)
            & (titles.number == last.c.number)
        )
        for row in tx.all(sa.select(schema.titles).join(last, same)):
            found[row.owner, row.name] = (row.number, row.cid, row.visibility, row.license)
    return found


def described(tx: Transaction, root: Root) -> Root:
    """Return a root with the number and the license of the first title that its owner gave it."""
    titles = schema.titles
    first = tx.first(
        sa.select(titles)
        .where(titles.c.owner == root.owner, titles.c.name == root.name)
        .where(titles.c.cid == root.cid, titles.c.visibility == root.visibility)
        .order_by(titles.c.number)
        .limit(1)
    )
    return root if first is None else replace(root, number=first.number, license=first.license)


def titled_roots() -> sa.Select[Any]:
    """Select all roots, each with the first title that its owner gave it, if any."""
    titles, roots = schema.titles, schema.roots
    told = (titles.c.owner, titles.c.name, titles.c.cid, titles.c.visibility)
    first = sa.select(*told, sa.func.min(titles.c.number).label("number")).group_by(*told)
    found = first.subquery()
    same = (
        (found.c.owner == roots.c.owner)
        & (found.c.name == roots.c.name)
        & (found.c.cid == roots.c.cid)
        & (found.c.visibility == roots.c.visibility)
    )
    this = (
        (titles.c.owner == found.c.owner)
        & (titles.c.name == found.c.name)
        & (titles.c.number == found.c.number)
    )
    return (
        sa.select(roots, titles.c.number, titles.c.license)
        .outerjoin(found, same)
        .outerjoin(titles, this)
    )


def versions(owner: str, name: str) -> sa.Select[Any]:
    """Select the titles of a name, each with kind and size of its root, the oldest first."""
    titles, roots = schema.titles, schema.roots
    return (
        sa.select(titles, roots.c.kind, roots.c.size)
        .join(roots, (roots.c.cid == titles.c.cid) & (roots.c.visibility == titles.c.visibility))
        .where(titles.c.owner == owner, titles.c.name == name)
        .order_by(titles.c.number)
    )
