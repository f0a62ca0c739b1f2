"""A real PostgreSQL server of its own, in a temporary folder, on a Unix socket."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import sqlalchemy as sa

_OPTIONS = "-c listen_addresses='' -c max_connections=200 -c shared_buffers=32MB"


def programs() -> Path | None:
    """Return the folder of the newest installed server, or None when there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    return next((path for path in reversed(folders) if (path / "postgres").exists()), None)


def why_not() -> str | None:
    """Say why no server can be started here, or return None."""
    if programs() is None:
        return "no PostgreSQL server is installed"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv to run it as another user"
    return None


class Cluster:
    """A running server with as many databases as one likes.

    Parameters
    ----------
    durable
        Whether to flush what is written: needed where the time counts, as no machine fails here.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._fsync = "on" if durable else "off"
        self._folder = Path(tempfile.mkdtemp(prefix="nx-pg-"))
        self._data = self._folder / "data"
        self._numbers = itertools.count()
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            self._as_user += ["--clear-groups"]
        self._run(
            "initdb", "-A", "trust", "-U", "nx", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"
        )
        self.start()

    def new_database(self) -> str:
        """Return the address of a new, empty database."""
        name = f"hub{next(self._numbers)}"
        admin = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        admin.dispose()
        return self._url(name)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"{_OPTIONS} -c fsync={self._fsync} -c unix_socket_directories='{self._folder}'"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """End the server: ``"fast"``, or ``"immediate"`` as a crash would."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def close(self) -> None:
        """End the server and remove all that it had."""
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://nx@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        found = programs()
        assert found is not None
        command = [*self._as_user, str(found / program), "-D", str(self._data), *arguments]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError("there is no user postgres or nobody")
