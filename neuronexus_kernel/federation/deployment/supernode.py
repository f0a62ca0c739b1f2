"""Starting and ending a SuperNode: a child process beside a lab's private data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.federation.deployment.child import Child, last_report
from neuronexus_kernel.federation.deployment.tls import write_private

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

START_SECONDS = 90.0
FINAL_STATES = frozenset({"stopped", "ended", "refused", "lost"})

_POLL_SECONDS = 0.1


class SuperNode:
    """A running SuperNode.

    Parameters
    ----------
    folder
        For its log and reports, for data given as a `Dataset`, and for what the node keeps
        between rounds; made if missing.  A node that comes back finds there who it was.
    data
        The lab's examples, or the local file that holds them; see `node.load_data`.
    address
        ``HOST:PORT`` of the SuperLink.
    authority
        Certificate of the SuperLink's authority, PEM.
    key
        File of the node's private key; its public half is registered with the SuperLink.
    partition
        Partition id of this lab in the run; by default the SuperLink's messages tell it.
    executor
        ``"auto"``, or the name of an executor.
    """

    def __init__(
        self,
        folder: Path,
        data: Dataset | Path,
        *,
        address: str,
        authority: bytes,
        key: Path,
        partition: int | None = None,
        executor: str = "auto",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._copy: Path | None = None
        if isinstance(data, Path):
            source = data.resolve()
        else:
            source = self._copy = folder / "data.dataset"
            write_private(source, data.encode())
        self._child = Child(
            "neuronexus_kernel.federation.deployment.supernode_process",
            {
                "address": address,
                "authority": authority.decode(),
                "data": str(source),
                "executor": executor,
                "key": str(key),
                "partition": partition,
                "previous": last_report(folder, "supernode").get("node"),
            },
            folder=folder,
            name="supernode",
        )

    def __repr__(self) -> str:
        return f"SuperNode({self.state!r}, pid={self.pid})"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.alive

    @property
    def state(self) -> str:
        """connecting, waiting, training; or how it ended: stopped, ended, refused or lost."""
        state = str(self._child.report.get("state", "connecting"))
        if not self.alive and state not in FINAL_STATES:
            return "lost"
        return state

    @property
    def reason(self) -> str:
        """Why it was refused or lost, or why it is connecting again; else empty."""
        told = str(self._child.report.get("reason", ""))
        return told or (self._child.tail() if self.state == "lost" else "")

    @property
    def answered(self) -> int:
        """How many messages it has answered."""
        return int(str(self._child.report.get("answered", 0)))

    @property
    def log(self) -> Path:
        """Its log."""
        return self._child.log

    def wait_until_connected(self, timeout: float = START_SECONDS) -> None:
        """Wait until the SuperLink has let it in.

        Raises
        ------
        HubUnavailableError
            If it was refused, or is still outside after `timeout` seconds; the message says why.
        """
        until = time.monotonic() + timeout
        while (state := self.state) == "connecting" and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        if state not in ("waiting", "training", "ended"):
            raise HubUnavailableError(f"The node could not join ({state}). {self.reason}")

    def wait(self, timeout: float | None = None) -> str:
        """Wait until it has ended, and return how.

        Raises
        ------
        TimeoutError
            If it has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self.alive:
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"The node is still {self.state} after {timeout:g} seconds.")
            time.sleep(_POLL_SECONDS)
        self.stop()
        return self.state

    def stop(self) -> None:
        """End it, and remove the copy of the data that was made for it."""
        self._child.stop()
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)
