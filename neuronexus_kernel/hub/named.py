"""Which content the records name: what must be in the stores of a hub, and in a backup."""

from __future__ import annotations

import sqlalchemy as sa

from neuronexus_kernel.content import Visibility
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Transaction


def named_content(tx: Transaction) -> tuple[set[str], set[str]]:
    """Return the CIDs that the records name: in the open store, and in the sealed one."""
    roots, runs = schema.roots.c, schema.runs.c
    is_sealed = roots.visibility == str(Visibility.SEALED)
    projects, versions, contributions = (
        schema.projects.c,
        schema.versions.c,
        schema.contributions.c,
    )
    content, sealed = set[str](), set[str]()
    for column in (
        projects.public,
        projects.validation,
        projects.recipe,
        versions.weights,
        versions.recipe,
        runs.recipe,
        contributions.payload,
        contributions.receipt,
    ):
        content |= _values(tx, sa.select(column))
    content |= _values(tx, sa.select(roots.cid).where(~is_sealed))
    sealed |= _values(tx, sa.select(projects.held_out))
    sealed |= _values(tx, sa.select(contributions.sealed_receipt))
    sealed |= _values(tx, sa.select(roots.cid).where(is_sealed))
    for row in tx.all(sa.select(runs.updates)):
        sealed |= set(row.updates)
    return content, sealed


def _values(tx: Transaction, query: sa.Select[tuple[str | None]]) -> set[str]:
    return {row[0] for row in tx.all(query.distinct()) if row[0]}
