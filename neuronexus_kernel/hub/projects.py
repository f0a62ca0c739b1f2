"""Projects and the immutable history of their model versions.

A project has two heads: the head recipe, changed by accepted code and hyperparameters, and the
head version, changed only by weights that beat it on the held-out split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content import check_id, is_id, new_id
from neuronexus_kernel.datasets import METRIC_OF, Dataset
from neuronexus_kernel.errors import (
    ConflictError,
    DatasetError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from neuronexus_kernel.federation.weights import check_data, check_loss
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.records import Account, NewProject, Project, Version
from neuronexus_kernel.models import weights as weights_format

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Projects:
    """The projects of one hub.

    Parameters
    ----------
    database, contents
        Where records and content are kept.
    """

    def __init__(self, database: Database, contents: Contents) -> None:
        self._database = database
        self._contents = contents

    def create(self, actor: Account, new: NewProject) -> Project:
        """Make a project after checking that its parts fit together; see `Hub.create_project`."""
        self.check(new)

        def change(tx: Transaction) -> Project:
            projects = schema.projects
            known = tx.first(
                sa.select(projects).where(
                    sa.or_(projects.c.id == new.id, projects.c.name == new.name)
                )
            )
            if known is not None:
                if known.id == new.id and known.owner == actor.name:
                    return self._record(tx, known)
                raise ConflictError(
                    f"There is a project {new.name!r} already: open it with "
                    f"`wb.project({new.name!r})`, or choose another name."
                )
            head = add_version(
                tx,
                project=new.id,
                weights=new.weights,
                recipe=new.recipe,
                parent=None,
                author=actor.name,
                run=None,
                metrics={},
            )
            values = {
                "id": new.id,
                "name": new.name,
                "description": new.description,
                "owner": actor.name,
                "input_shape": list(new.input_shape),
                "classes": new.classes,
                "metric": new.metric,
                "kind": new.kind,
                "output_shape": list(new.output_shape or (new.classes,)),
                "public": new.public,
                "validation": new.validation,
                "held_out": new.held_out,
                "recipe": new.recipe,
                "head": head,
                "created": tx.time,
            }
            tx.execute(projects.insert().values(**values))
            tx.emit(
                "project.created",
                new.id,
                new.id,
                name=new.name,
                owner=actor.name,
                metric=new.metric,
            )
            return self._record(tx, find_project(tx, new.id))

        return self._database.write(change)

    def get(self, name: str) -> Project:
        """Return a project by name or id."""
        return self._database.read(lambda tx: self._record(tx, find_project(tx, name)))

    def all(self) -> list[Project]:
        """Return all projects, oldest first."""
        query = sa.select(schema.projects).order_by(schema.projects.c.created)
        return self._database.read(lambda tx: [self._record(tx, row) for row in tx.all(query)])

    def versions(self, name: str) -> list[Version]:
        """Return a project's versions, oldest first."""
        versions = schema.versions

        def query(tx: Transaction) -> list[Version]:
            project = find_project(tx, name)
            rows = tx.all(
                sa.select(versions)
                .where(versions.c.project == project.id)
                .order_by(versions.c.number)
            )
            return [version_record(row, project.head) for row in rows]

        return self._database.read(query)

    def _record(self, tx: Transaction, row: sa.Row[Any]) -> Project:
        return Project(
            id=row.id,
            name=row.name,
            description=row.description,
            owner=row.owner,
            input_shape=tuple(row.input_shape),
            classes=row.classes,
            metric=row.metric,
            public=row.public,
            validation=row.validation,
            recipe=row.recipe,
            head=find_version(tx, row.head, head=row.head),
            created=row.created,
            kind=row.kind,
            output_shape=tuple(row.output_shape),
        )

    def check(self, new: NewProject) -> None:
        """Check that the parts of a project fit together; see `Hub.create_project`."""
        check_id(new.id)
        check_name(new.name)
        self.check_model(new, new.recipe, new.weights)
        self.check_data(new)

    def check_model(self, new: NewProject, recipe: str, *weights: str) -> None:
        """Check that a recipe fits the task of a project, and weights the recipe."""
        made = self._contents.recipe(recipe)
        made.architecture.check_task(new.input_shape, tuple(new.output_shape) or new.classes)
        check_loss(made, new.kind)
        for cid in weights:
            weights_format.deserialize(
                self._contents.bytes_of(cid), made.architecture.parameter_shapes
            )

    def check_data(self, new: NewProject) -> None:
        """Check that the splits of a project are of one task, and fit its recipe."""
        recipe = self._contents.recipe(new.recipe)
        public = self._contents.dataset(new.public)
        _check_description(new, public)
        check_data(recipe.architecture, public, classes=public.classes)
        check_fits(self._contents.dataset(new.validation), public, "The validation split")
        check_fits(self._contents.dataset(new.held_out, sealed=True), public, "The held_out split")


def check_name(name: str) -> None:
    """Refuse what is no name of a project; one that reads like an id could pass for another."""
    if not _NAME.fullmatch(name) or is_id(name):
        raise InvalidInputError(
            f"{name!r} is not a project name: use 1 to 64 of a-z, 0-9, '.', '-' and '_', and not "
            "the form of an id."
        )


def check_maintainer(actor: Account, project: sa.Row[Any], what: str) -> None:
    """Refuse whoever neither owns a project nor operates the hub.

    Parameters
    ----------
    what
        What they may not do, as in "may export it".
    """
    if actor.role != "operator" and actor.name != project.owner:
        raise ForbiddenError(
            f"Only {project.owner}, who owns the project, or an operator may {what}."
        )


def _check_description(new: NewProject, public: Dataset) -> None:
    """Check that a project's record says what its public split is."""
    told = {
        "kind": new.kind,
        "input_shape": tuple(new.input_shape),
        "classes": new.classes,
        "output_shape": tuple(new.output_shape) or (new.classes,),
        "metric": new.metric,
    }
    is_so = {
        "kind": public.kind,
        "input_shape": public.input_shape,
        "classes": public.classes,
        "output_shape": public.output_shape,
        "metric": METRIC_OF[public.kind],
    }
    for name, value in told.items():
        if value != is_so[name]:
            raise InvalidInputError(
                f"{name} is {value!r}, but that of the public split is {is_so[name]!r}."
            )


def check_fits(dataset: Dataset, like: Dataset, what: str) -> None:
    """Check that a data set is of the same task as another.

    Raises
    ------
    DatasetError
        If it is not; the message says what differs.
    """
    if dataset.kind != like.kind:
        raise DatasetError(
            f"{what} is for {dataset.kind}, but the task is {like.kind}; "
            f"give kind={like.kind!r} if its labels mean the same."
        )
    if dataset.input_shape != like.input_shape:
        raise DatasetError(
            f"{what} has rows of shape {dataset.input_shape}, but the task has "
            f"{like.input_shape}; reshape the inputs."
        )
    if dataset.classes != like.classes:
        raise DatasetError(
            f"{what} has {dataset.classes} classes, but the task has {like.classes}; "
            f"give classes={like.classes} if its labels mean the same."
        )
    if dataset.vocabulary != like.vocabulary:
        raise DatasetError(
            f"{what} has {dataset.vocabulary} tokens, but the task has {like.vocabulary}; "
            f"give vocabulary={like.vocabulary} if its inputs mean the same."
        )
    if dataset.output_shape != like.output_shape:
        raise DatasetError(
            f"{what} has labels of shape {dataset.output_shape}, but the task has "
            f"{like.output_shape}."
        )


def find_project(tx: Transaction, name: str) -> sa.Row[Any]:
    """Return a project's row by name or id.

    Raises
    ------
    NotFoundError
        If there is none; the message lists those there are.
    """
    projects = schema.projects
    row = tx.first(
        sa.select(projects).where(sa.or_(projects.c.name == name, projects.c.id == name))
    )
    if row is None:
        names = [found.name for found in tx.all(sa.select(projects.c.name).limit(10))]
        there = f"there are {', '.join(sorted(names))}" if names else "there is none yet"
        raise NotFoundError(f"There is no project {name!r}; {there}.")
    return row


def find_version(tx: Transaction, version: str, *, head: str) -> Version:
    """Return a version by id; `head` is the id of its project's head version."""
    row = tx.first(sa.select(schema.versions).where(schema.versions.c.id == version))
    if row is None:
        raise NotFoundError(f"There is no model version {version}.")
    return version_record(row, head)


def version_record(row: sa.Row[Any], head: str | None) -> Version:
    """Return the record of a version's row."""
    return Version(
        id=row.id,
        project=row.project,
        number=row.number,
        weights=row.weights,
        recipe=row.recipe,
        parent=row.parent,
        author=row.author,
        run=row.run,
        metrics=row.metrics,
        head=row.id == head,
        created=row.created,
    )


def add_version(
    tx: Transaction,
    *,
    project: str,
    weights: str,
    recipe: str,
    parent: str | None,
    author: str,
    run: str | None,
    metrics: Mapping[str, float],
) -> str:
    """Add a version with the project's next number, and return its id."""
    versions = schema.versions
    last = tx.scalar(sa.select(sa.func.max(versions.c.number)).where(versions.c.project == project))
    number = 0 if last is None else int(last) + 1
    version = new_id()
    tx.execute(
        versions.insert().values(
            id=version,
            project=project,
            number=number,
            weights=weights,
            recipe=recipe,
            parent=parent,
            author=author,
            run=run,
            metrics=dict(metrics),
            created=tx.time,
        )
    )
    tx.emit(
        "version.created",
        version,
        project,
        number=number,
        author=author,
        accuracy=metrics.get("accuracy"),
    )
    return version
