"""Whole projects in one file, records and content: taken out of a hub, and into another.

Who may take a project out is told by the role: its owner or an operator gets public and project
content, an operator also what is sealed.  What the file must not hold is not read at all.

Whoever takes a project in owns it here.  Accounts of another hub are none of this one: authors
and participants are recorded as ``name@origin``, which nobody can register.  What they were paid
there is history; this hub's ledger and balances know nothing of it.  Content is stored first, then
all that a project and its runs must fulfil is checked as if it were recorded here, and then all
records are written in one transaction: a project is here whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, BinaryIO

import sqlalchemy as sa

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
    StoreError,
)
from neuronexus_kernel.hub import archive_checks, archive_documents, archive_rows, archived, schema
from neuronexus_kernel.hub.archive_blocks import ArchiveFile, blocks_of, opened
from neuronexus_kernel.hub.archived import Archive, Content
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.maintainers import check_maintainer
from neuronexus_kernel.hub.projects import Projects, check_name, find_project
from neuronexus_kernel.hub.records import Account, NewProject, Project, Root
from neuronexus_kernel.hub.signins import OWNER
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.dag import Limits, key_of

MOST_BLOCKS = 1 << 18
"""Blocks of an archive that is taken in; those of a file have 1 MiB each, except for the last."""


class Archives:
    """Takes projects out of one hub, and others into it.

    Parameters
    ----------
    database, contents, projects
        Where records and content are kept.
    limit
        Bytes of the largest archive that is taken in.
    """

    def __init__(
        self, database: Database, contents: Contents, projects: Projects, *, limit: int
    ) -> None:
        self._database = database
        self._contents = contents
        self._projects = projects
        self._limits = Limits(blocks=MOST_BLOCKS, size=limit)

    # -- out -------------------------------------------------------------------------------

    def export(self, actor: Account, project: str, *, sealed: bool) -> Iterator[bytes]:
        """Give a project's archive piece by piece; see `Hub.export_project`.

        What is refused is refused before the first piece.
        """

        def query(tx: Transaction) -> Archive:
            row = find_project(tx, project)
            check_maintainer(tx, actor, row, "export it")
            if sealed and actor.role != "operator":
                raise ForbiddenError(
                    "Only an operator of the hub may export sealed content. Export the project "
                    "without it: whoever has the held-out split can import it."
                )
            return archive_rows.collect(tx, row, self._block, sealed=sealed)

        archive = self._database.read(query)
        documents = archive_documents.encode(archive)
        known = {key_of(cid) for cid, _ in documents}
        content = blocks_of(archive.contents, lambda hidden: partial(self._block, sealed=hidden))
        # Somebody may have stored the very bytes of such a document.
        besides = (each for each in content if key_of(each[0]) not in known)
        return encode_car([documents[0][0]], chain(documents, besides))

    def _block(self, cid: CID, *, sealed: bool = False) -> bytes:
        try:
            return self._contents.block(cid, sealed=sealed)
        except NotFoundError:
            raise StoreError(
                f"The block {cid} of recorded content is missing. Repair the store first: "
                "`neuronexus verify --repair GATEWAY`."
            ) from None

    # -- in --------------------------------------------------------------------------------

    def take_in(self, actor: Account, stream: BinaryIO, *, name: str) -> Project:
        """Make a project of an archive; see `Hub.import_project`."""
        if actor.name == OWNER.name:
            raise AuthenticationError(
                "Sign in with an account of your own: it will own the project here."
            )
        with opened(stream, self._limits) as file:
            archive, documents = archive_documents.decode(file.root, file.document)
            if archive.sealed and actor.role != "operator":
                raise ForbiddenError(
                    "The archive holds sealed content, which only an operator may import. Have "
                    "it exported without."
                )
            archive = archived.adopted(archive)
            name = name or archive.project.name
            check_name(name)
            archive_checks.check(archive)
            file.check(documents, archive.contents)
            archive_checks.check_documents(archive, file.document)
            self._database.read(lambda tx: archive_rows.check_free(tx, archive, name))
            held_out = self._held_out(archive)
            self._store(file, archive)
        roots = [self._root(content) for content in archive.contents]
        self._check_content(archive, name, held_out)
        for content in archive.contents:
            self._contents.keep_whole(
                CID.parse(content.root), sealed=content.visibility == "sealed"
            )

        def change(tx: Transaction) -> None:
            archive_rows.check_free(tx, archive, name)
            self._contents.record_all(tx, roots)
            archive_rows.write(tx, archive, name=name, owner=actor.name, held_out=held_out)

        self._database.write(change)
        return self._projects.get(archive.project.id)

    def _held_out(self, archive: Archive) -> str:
        """Return the CID of the held-out split, which comes along or is sealed here already."""
        project = archive.project
        if project.held_out is not None:
            if archived.commitment(project.id, project.held_out) != project.commitment:
                raise InvalidInputError("The archive names two different held-out splits.")
            return project.held_out
        roots = schema.roots.c
        sealed = sa.select(roots.cid).where(roots.visibility == "sealed")
        for row in self._database.read(lambda tx: tx.all(sealed)):
            if archived.commitment(project.id, row.cid) == project.commitment:
                return str(row.cid)
        raise NotFoundError(
            "The archive holds no sealed content, and the project's held-out split is not on this "
            "hub. Store it first, then import again: `hub.put(task.held_out.encode(), "
            'kind="dataset", visibility="sealed")`; it must be the same rows in the same order. '
            "Or have an operator of the other hub export the project with sealed content, and "
            "one of this hub import it."
        )

    def _store(self, file: ArchiveFile, archive: Archive) -> None:
        """Store the content of an archive; nothing keeps it yet."""
        by_store: dict[bool, list[Content]] = defaultdict(list)
        for content in archive.contents:
            by_store[content.visibility == "sealed"].append(content)
        for sealed, contents in by_store.items():
            roots = [CID.parse(root) for root in dict.fromkeys(each.root for each in contents)]
            files = [root for root in roots if root.codec != DAG_CBOR]
            if files:
                self._contents.take(files, file.blocks_of(files), sealed=sealed)
            for root in roots:
                if root.codec == DAG_CBOR:
                    node = dagcbor.decode(file.document(root))
                    self._contents.put_node(node, sealed=sealed, pin=False)

    def _root(self, content: Content) -> Root:
        """Return what is to be recorded of some content, which is stored."""
        size = self._contents.size(CID.parse(content.root), sealed=content.visibility == "sealed")
        if size > self._contents.limit:
            raise QuotaError(
                f"The archive holds an object of {size:,} bytes ({content.root}); this hub "
                f"accepts {self._contents.limit:,} at most."
            )
        return Root(
            cid=content.root,
            name=content.name,
            kind=content.kind,
            visibility=content.visibility,
            size=size,
            owner=content.owner,
            created="",
            license=content.license,
        )

    def _check_content(self, archive: Archive, name: str, held_out: str) -> None:
        """Check what a project, its runs and its contributions must be made of."""
        project = archive.project
        head = next(each for each in archive.versions if each.id == project.head)
        new = NewProject(
            id=project.id,
            name=name,
            input_shape=tuple(project.input_shape),
            classes=project.classes,
            metric=project.metric,
            public=project.public,
            validation=project.validation,
            held_out=held_out,
            recipe=project.recipe,
            weights=head.weights,
            kind=project.kind,
            output_shape=tuple(project.output_shape),
        )
        self._projects.check_data(new)
        models: dict[str, dict[str, None]] = {project.recipe: {}}
        for run in archive.runs:
            models.setdefault(run.recipe, {})
        for version in archive.versions:
            models.setdefault(version.recipe, {})[version.weights] = None
        for recipe, weights in models.items():
            self._projects.check_model(new, recipe, *weights)
        for contribution in archive.contributions:
            self._check_document(contribution.payload, kind=contribution.kind)
            if contribution.receipt is not None:
                told = {"id": contribution.id, "kind": contribution.kind}
                self._check_document(contribution.receipt, contribution=told)

    def _check_document(self, cid: str, **expected: Any) -> None:
        document = self._contents.document(cid)
        for field, value in expected.items():
            if document.get(field) != value:
                raise InvalidInputError(
                    f"The archive's document {cid} is of another contribution: its {field} is "
                    f"{document.get(field)!r}, not {value!r}."
                )
