"""What a contribution holds, checked by its kind when it is submitted.

A mistake is told at once and nothing is submitted then.  The check ends in a text that names what
is contributed, by which the hub knows the same thing again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.datasets import Dataset, curation
from neuronexus_kernel.errors import (
    ConflictError,
    DatasetError,
    ForbiddenError,
    InvalidInputError,
)
from neuronexus_kernel.federation.recipe import HYPERPARAMETERS, TECHNIQUE
from neuronexus_kernel.federation.weights import check_data, check_loss
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.database import Database
from neuronexus_kernel.hub.projects import check_fits
from neuronexus_kernel.hub.records import Account, NewContribution
from neuronexus_kernel.hub.runs import find_run

Payload = Mapping[str, dagcbor.Node]


class Payloads:
    """Checks what is submitted to the projects of one hub.

    Parameters
    ----------
    database, contents
        Where records and content are kept.
    """

    def __init__(self, database: Database, contents: Contents) -> None:
        self._database = database
        self._contents = contents

    def check(
        self, actor: Account, new: NewContribution, payload: Payload, project: sa.Row[Any]
    ) -> str:
        """Check a payload by its kind; return what is contributed, as text to compare by.

        Raises
        ------
        InvalidInputError, ArchitectureError, RecipeError, DatasetError
            If it is malformed or does not fit the project.
        ConflictError
            If it changes nothing.
        ForbiddenError
            If it is somebody else's run.
        """
        if payload.get("kind") != new.kind:
            raise InvalidInputError(
                f"The payload is of kind {payload.get('kind')!r}, not {new.kind!r}."
            )
        if new.kind == "code":
            return self._code(payload, project)
        if new.kind == "hyperparameters":
            return self._changes(payload, project)
        if new.kind == "data":
            return self._data(payload, project)
        if new.kind == "compute":
            return self._run(actor, payload, project)
        raise InvalidInputError(
            f"kind is code, compute, data or hyperparameters, not {new.kind!r}."
        )

    def _code(self, payload: Payload, project: sa.Row[Any]) -> str:
        head = self._contents.recipe(project.recipe)
        changes = changed_recipe_fields(self._contents, "code", payload)
        changed = head.with_changes(**changes)
        public = self._contents.dataset(project.public)
        check_data(changed.architecture, public, classes=project.classes)
        check_loss(changed, project.kind)
        if changed.cid == head.cid:
            if set(changes) == {"architecture"}:
                raise ConflictError("The head recipe has this very architecture already.")
            raise ConflictError("The head recipe does this already.")
        parts = [str(changes.pop("architecture").cid)] if "architecture" in changes else []
        parts += [str(dagcbor.cid_of(changes))] if changes else []
        return f"code:{':'.join(parts)}"

    def _changes(self, payload: Payload, project: sa.Row[Any]) -> str:
        changes = changed_recipe_fields(self._contents, "hyperparameters", payload)
        head = self._contents.recipe(project.recipe)
        changed = head.with_changes(**changes)
        check_loss(changed, project.kind)
        if changed.cid == head.cid:
            raise ConflictError("The head recipe has these very values already.")
        return f"hyperparameters:{dagcbor.cid_of(changes)}"

    def _data(self, payload: Payload, project: sa.Row[Any]) -> str:
        cid = linked(payload, "dataset")
        dataset, public = self._contents.dataset(cid), self._contents.dataset(project.public)
        check_fits(dataset, public, "The data set")
        check_new_rows(dataset, public)
        return f"data:{cid}"

    def _run(self, actor: Account, payload: Payload, project: sa.Row[Any]) -> str:
        run = self._database.read(lambda tx: find_run(tx, str(payload.get("run"))))
        if run.author != actor.name:
            raise ForbiddenError(f"The run {run.id} belongs to {run.author}.")
        if run.project != project.id:
            raise InvalidInputError(f"The run {run.id} is of another project.")
        if run.version is None:
            raise InvalidInputError(f"The run {run.id} is {run.state} and has made no model yet.")
        return f"compute:{run.id}"


def linked(payload: Payload, name: str) -> str:
    """Return the CID that a payload links to under `name`.

    Raises
    ------
    InvalidInputError
        If there is no link.
    """
    link = payload.get(name)
    if not isinstance(link, CID):
        raise InvalidInputError(f"The payload has no link {name!r}.")
    return str(link)


def changed_recipe_fields(contents: Contents, kind: str, payload: Payload) -> dict[str, Any]:
    """Return what a contribution of code or hyperparameters changes in the head recipe.

    Code is ``{"architecture": link}``, ``{"changes": {field: value}}`` with fields of
    `federation.TECHNIQUE`, or both; hyperparameters are ``{"changes": {field: value}}``.

    Raises
    ------
    InvalidInputError
        If it names nothing to change, or a field that is not of its kind.
    """
    changes: dict[str, Any] = {}
    if "changes" in payload or kind == "hyperparameters":
        given = payload.get("changes")
        if not isinstance(given, dict) or not given:
            raise InvalidInputError("The payload names no recipe field to change.")
        known = TECHNIQUE if kind == "code" else HYPERPARAMETERS
        odd = sorted(set(given) - set(known))
        if odd:
            raise InvalidInputError(f"A contribution of {kind} cannot change {odd[0]!r}.")
        changes.update(given)
    if kind == "code" and ("architecture" in payload or not changes):
        changes["architecture"] = contents.architecture(linked(payload, "architecture"))
    return changes


def check_new_rows(dataset: Dataset, public: Dataset) -> None:
    """Refuse rows that are public already.

    Raises
    ------
    DatasetError
        If a row is one of the public ones or repeats another; the message says which.
    """
    double = curation.duplicates(dataset, set(public.row_hashes()))
    if double.any():
        raise DatasetError(
            f"{int(double.sum())} of {len(dataset)} rows are exact duplicates of public rows "
            f"or of each other (first: row {int(double.argmax())}). Leave them out: "
            "only new examples can improve a model."
        )
