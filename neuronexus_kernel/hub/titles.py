"""Names that accounts give to content: each has immutable versions, numbered from 1.

A CID never changes what it names, so what people call "the data set" is a row of CIDs.  Storing
other content under a name of one's own adds a version to it; storing the same again does not.
Sealed content has no names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Transaction
from neuronexus_kernel.hub.records import Root


def entitle(tx: Transaction, root: Root) -> None:
    """Make a root the newest version of its name, unless it is that already."""
    titles = schema.titles
    if not root.name or root.visibility == "sealed":
        return
    newest = tx.first(
        sa.select(titles)
        .where(titles.c.owner == root.owner, titles.c.name == root.name)
        .order_by(titles.c.number.desc())
        .limit(1)
    )
    said = (root.cid, root.visibility, root.license)
    if newest is not None and (newest.cid, newest.visibility, newest.license) == said:
        return
    tx.execute(
        titles.insert().values(
            owner=root.owner,
            name=root.name,
            number=1 if newest is None else newest.number + 1,
            cid=root.cid,
            visibility=root.visibility,
            license=root.license,
            created=tx.time,
        )
    )


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
