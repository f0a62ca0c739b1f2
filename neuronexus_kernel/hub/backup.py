"""Backups: a hub's records and content in a folder that knows no database.

``records`` holds a file of JSON lines for each table, ``content`` and ``sealed`` are content
stores, and ``manifest.json`` says what is there, with a checksum for each file of records.  So a
backup of a hub on DuckDB can be restored to one on PostgreSQL and the other way round, and one of
an earlier version to a later one.

The records are read in one transaction, at one moment, while the hub goes on; the content is copied
afterwards.  Content is stored before it is recorded and kept from then on, so that all that these
records name is there.  A backup appears under its name when it is whole, and on the disk.

It holds password hashes and held-out data: it is for its owner alone.  The files of federations
that are being served are not in it; they end as interrupted.  Nor is what is only under way:
unfinished uploads, and the answers that are kept for requests that may be repeated.  Such a request
would be carried out anew: what it made may be later than the backup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import (
    ConflictError,
    HubUnavailableError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.hub import revisions, schema
from neuronexus_kernel.hub.database import Database, Transaction, now
from neuronexus_kernel.hub.home import Home
from neuronexus_kernel.hub.named import named_content
from neuronexus_kernel.hub.records import Backup
from neuronexus_kernel.storage import LocalStore
from neuronexus_kernel.storage.files import appearing, check_free, explained, flush

if TYPE_CHECKING:
    from neuronexus_kernel.settings import Settings

FORMAT = 1
STORES = ("content", "sealed")

_LEFT_OUT = (schema.revision, schema.replays)
_TOGETHER = 1000
_TYPES: dict[str, Any] = {
    "amount": schema.Amount(),
    "bytes": sa.LargeBinary(),
    "boolean": sa.Boolean(),
    "integer": sa.BigInteger(),
    "real": sa.Double(),
    "text": sa.Text(),
}


class _Table(msgspec.Struct):
    columns: dict[str, str]
    rows: int
    sha256: str


class _Manifest(msgspec.Struct):
    format: int
    revision: str
    created: str
    events: int
    tables: dict[str, _Table]


# -- making -----------------------------------------------------------------------------------


def back_up(database: Database, content: LocalStore, sealed: LocalStore, target: Path) -> Backup:
    """Make a backup of a hub that may be in use.

    Parameters
    ----------
    target
        A folder that does not exist yet.

    Raises
    ------
    ConflictError
        If there is something already.
    StoreError
        If something cannot be read or written; then there is no backup.
    """
    check_free(target)
    with _draft_of(target) as draft:
        created = now()

        def records(tx: Transaction) -> tuple[_Manifest, tuple[set[str], set[str]]]:
            return _write_records(tx, draft / "records", created), named_content(tx)

        with explained(target, "could not be written; there is no backup"):
            manifest, named = database.read(records)
        blocks, missing = 0, list[str]()
        for name, store, cids in zip(STORES, (content, sealed), named, strict=True):
            copy = LocalStore(draft / name)
            blocks += store.copy_to(copy)
            missing += sorted(cid for cid in cids if not copy.has_block(CID.parse(cid)))
        with explained(target, "could not be written; there is no backup"):
            # Last of all: a folder without it is no backup.
            with appearing(draft / "manifest.json", private=True) as file:
                file.write(msgspec.json.format(msgspec.json.encode(manifest)))
            flush(draft)
    return Backup(
        path=str(target),
        created=created,
        events=manifest.events,
        rows=sum(table.rows for table in manifest.tables.values()),
        blocks=blocks,
        missing=tuple(missing),
    )


@contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """Give a folder beside the target that becomes the target in the end, or disappears."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with explained(target, "could not be written; there is no backup"):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
    try:
        yield draft
        with explained(target, "could not be written; there is no backup"):
            os.rename(draft, target)
            flush(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_records(tx: Transaction, folder: Path, created: str) -> _Manifest:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt whose connection was lost
    folder.mkdir(mode=0o700)
    tables = {
        table.name: _write_table(tx, table, folder / f"{table.name}.jsonl")
        for table in schema.metadata.sorted_tables
        if table not in _LEFT_OUT
    }
    flush(folder)
    counters = schema.counters.c
    events = int(tx.scalar(sa.select(counters.value).where(counters.name == "events")))
    return _Manifest(FORMAT, schema.REVISION, created, events, tables)


def _write_table(tx: Transaction, table: sa.Table, path: Path) -> _Table:
    columns = {column.name: _kind_of(column) for column in table.columns}
    # JSON is kept as text and stays the text that it is.
    plain = sa.table(table.name, *(sa.column(name, _TYPES[kind]) for name, kind in columns.items()))
    order = [plain.c[column.name] for column in table.primary_key.columns]
    rows, digest = 0, hashlib.sha256()
    with appearing(path, private=True) as file:
        for row in tx.stream(sa.select(plain).order_by(*order)):
            line = (json.dumps([_encode(value) for value in row]) + "\n").encode()
            file.write(line)
            digest.update(line)
            rows += 1
    return _Table(columns, rows, digest.hexdigest())


def _kind_of(column: sa.Column[Any]) -> str:
    kind = column.type
    if isinstance(kind, schema.Amount):
        return "amount"
    for name, known in (
        ("boolean", sa.Boolean),
        ("integer", sa.Integer),
        ("real", sa.Double),
        ("bytes", sa.LargeBinary),
        ("text", sa.Text | schema.Json),
    ):
        if isinstance(kind, known):
            return name
    raise TypeError(f"A backup does not know the type of {column}.")


def _encode(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


# -- restoring --------------------------------------------------------------------------------


def restore(settings: Settings, source: Path) -> Backup:
    """Make the hub that the settings name from a backup; it must not have anything yet.

    Raises
    ------
    NotFoundError, InvalidInputError
        If there is no backup, or one that this program cannot read.
    ConflictError
        If the hub has records or content.
    StoreError
        If the backup is damaged, or something cannot be written; then the hub has nothing.
    HubUnavailableError
        If a hub runs there, or its database does not answer.
    """
    manifest = _read_manifest(source)
    stores = settings.storage.folder or settings.home
    home = Home(settings.home)
    draft, moved = stores / f".restoring.{os.getpid()}", list[Path]()
    try:
        for name in STORES:
            _check_no_content(stores / name)
        with explained(stores, "could not be written; nothing was restored"):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(mode=0o700, parents=True)
        blocks = sum(
            LocalStore(source / name).copy_to(LocalStore(draft / name, settings.storage))
            for name in STORES
        )
        with _target(settings) as connection:
            rows = _load(connection, source / "records", manifest)
            with explained(stores, "could not be written; nothing was restored"):
                for name in STORES:
                    shutil.rmtree(stores / name, ignore_errors=True)  # it is empty
                    os.rename(draft / name, stores / name)
                    moved.append(stores / name)
                flush(stores)
    except HubUnavailableError:
        raise  # perhaps the records were committed, and need the content
    except BaseException:
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        home.release()
    return Backup(
        path=str(source),
        created=manifest.created,
        events=manifest.events,
        rows=rows,
        blocks=blocks,
    )


def _read_manifest(source: Path) -> _Manifest:
    try:
        data = (source / "manifest.json").read_bytes()
    except OSError as error:
        raise NotFoundError(f"{source} holds no backup: {error.strerror}.") from None
    try:
        manifest = msgspec.json.decode(data, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise StoreError(f"The backup {source} is damaged: manifest.json: {error}") from None
    if manifest.format != FORMAT or manifest.revision not in revisions.known():
        raise InvalidInputError(
            f"The backup {source} was made by a newer version of NeuroNexus (format "
            f"{manifest.format}, revision {manifest.revision}); restore it with that version."
        )
    return manifest


def _check_no_content(folder: Path) -> None:
    if folder.exists():
        store = LocalStore(folder)
        if store.usage().blocks or next(store.pins(), None) is not None:
            raise ConflictError(
                f"{folder} holds content already; a backup is restored to an empty hub only."
            )


@contextmanager
def _target(settings: Settings) -> Iterator[Connection]:
    """Give a transaction on a database without tables; what is done in it stays, or nothing."""
    occupied = ConflictError(
        "The hub has records already; a backup is restored to an empty hub only. Give another "
        "folder (NEURONEXUS_HOME) or another database (NEURONEXUS_DATABASE)."
    )
    if settings.database:
        from neuronexus_kernel.hub import postgresql_database

        with postgresql_database.administered(settings.database) as connection:
            if not _clear(connection):
                raise occupied
            yield connection
        return
    path = settings.home / "hub.duckdb"
    if path.exists():
        raise occupied
    draft = path.with_name(f".{path.name}.restoring")
    draft.unlink(missing_ok=True)
    engine = sa.create_engine(f"duckdb:///{draft}")
    try:
        with engine.begin() as connection:
            yield connection
        with engine.connect() as connection:
            connection.exec_driver_sql("CHECKPOINT")
        engine.dispose()
        draft.chmod(0o600)
        os.rename(draft, path)
        flush(path.parent)
    finally:
        engine.dispose()
        draft.unlink(missing_ok=True)


def _clear(connection: Connection) -> bool:
    """Remove the tables of a hub that never had a record; return False if it has some."""
    if revisions.found(connection) is None:
        return True
    there = set(sa.inspect(connection).get_table_names())
    tables = [table for table in schema.metadata.sorted_tables if table.name in there]
    for table in tables:
        is_used = table not in (schema.revision, schema.counters)
        if is_used and connection.execute(sa.select(sa.literal(1)).select_from(table)).first():
            return False
    for table in tables:
        table.drop(connection)
    return True


def _load(connection: Connection, folder: Path, manifest: _Manifest) -> int:
    from neuronexus_kernel.hub.migrations import migrate

    migrate(connection, manifest.revision)
    rows = 0
    for name, table in manifest.tables.items():
        target = sa.table(
            name, *(sa.column(column, _TYPES[kind]) for column, kind in table.columns.items())
        )
        connection.execute(target.delete())
        rows += _load_table(connection, target, folder / f"{name}.jsonl", table)
    migrate(connection)
    # Nobody serves or measures here what was being served or measured there.
    connection.execute(schema.federations.update().values(hub=""))
    connection.execute(schema.contributions.update().values(evaluator=None))
    return rows


def _load_table(connection: Connection, target: sa.TableClause, path: Path, table: _Table) -> int:
    digest, some, count = hashlib.sha256(), list[dict[str, object]](), 0
    with explained(path, "could not be read"), path.open("rb") as file:
        for line in file:
            digest.update(line)
            some.append(_row(line, table, path))
            count += 1
            if len(some) == _TOGETHER:
                connection.execute(target.insert(), some)
                some = []
    if some:
        connection.execute(target.insert(), some)
    if (count, digest.hexdigest()) != (table.rows, table.sha256):
        raise StoreError(f"The backup is damaged: {path} is not what was written.")
    return count


def _row(line: bytes, table: _Table, path: Path) -> dict[str, object]:
    try:
        values = json.loads(line)
        return {
            name: base64.b64decode(value) if kind == "bytes" and value is not None else value
            for (name, kind), value in zip(table.columns.items(), values, strict=True)
        }
    except (ValueError, TypeError):
        raise StoreError(f"The backup is damaged: {path} holds a line that is no row.") from None
