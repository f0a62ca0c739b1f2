"""What a notebook holds of training on many machines: a federation served, a node joined.

`FederationHandle` watches a federation that the hub serves.  `NodeHandle` holds a node of one's
own: a process on this machine, beside the data, which ends with the notebook's kernel.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.display import card
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    DatasetError,
    NotFoundError,
)
from neuronexus_kernel.handles import TrainingRun
from neuronexus_kernel.hub import records

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.deployment.supernode import SuperNode
    from neuronexus_kernel.hub import Hub

POLL_SECONDS = 0.5
ACTIVE = ("waiting", "training")


class FederationHandle:
    """A federation that a hub serves.

    Parameters
    ----------
    hub
        The hub.
    record
        Its record as it was started.
    """

    def __init__(self, hub: Hub, record: records.Federation) -> None:
        self._hub = hub
        self._record = record

    def __repr__(self) -> str:
        record = self.record
        here = f"{len(record.connected)} of {record.nodes} nodes at {record.address}"
        return f"FederationHandle({record.state}, {here})"

    def _repr_html_(self) -> str:
        record = self.record
        rows = {
            "state": record.state,
            "address": record.address,
            "nodes": f"{len(record.connected)} of {record.nodes} connected",
            "joined": ", ".join(record.accounts),
            "rounds": f"{self._rounds(record.run)} of {record.rounds}" if record.run else None,
            "problem": record.problem,
            "resumable": "yes, with resume()" if record.resumable else None,
        }
        return card("Federation", rows)

    @property
    def record(self) -> records.Federation:
        """The federation as the hub has it now."""
        self._record = self._hub.federation(self._record.id)
        return self._record

    @property
    def id(self) -> str:
        """Its id on the hub."""
        return self._record.id

    @property
    def state(self) -> str:
        """waiting (for nodes), training, finished, interrupted or failed."""
        return self.record.state

    @property
    def address(self) -> str:
        """Where its SuperLink listens."""
        return self._record.address

    @property
    def nodes(self) -> tuple[str, ...]:
        """The accounts whose nodes are connected now."""
        return self.record.connected

    @property
    def problem(self) -> str | None:
        """Why it failed."""
        return self.record.problem

    @property
    def run(self) -> TrainingRun | None:
        """The training run that it became; None before training begins."""
        run = self.record.run
        return None if run is None else TrainingRun(self._hub, self._hub.run(run), None)

    @property
    def history(self) -> pd.DataFrame:
        """One row a round so far: round, loss, the project's metric, seconds, clients."""
        run = self.run
        if run is None:
            raise NotFoundError("Training has not begun: nodes are still missing.")
        return run.history

    def wait(self, timeout: float | None = None, *, progress: bool = True) -> FederationHandle:
        """Wait until it is over, and return it.

        Interrupting the wait changes nothing: the hub goes on.

        Raises
        ------
        TimeoutError
            If it is not over in time.
        """
        from tqdm.auto import tqdm

        until = None if timeout is None else time.monotonic() + timeout
        with tqdm(total=self._record.rounds, unit="round", disable=not progress) as bar:
            while (record := self.record).state in ACTIVE:
                self._show(bar, record)
                if until is not None and time.monotonic() > until:
                    raise TimeoutError(f"The federation is still {record.state}: {self!r}.")
                time.sleep(POLL_SECONDS)
            self._show(bar, record)
        return self

    def stop(self) -> FederationHandle:
        """End it after its last full round, and return it; `resume` goes on with it."""
        self._record = self._hub.stop_federation(self._record.id)
        return self

    def resume(self) -> FederationHandle:
        """Go on with it after its last full round, if it ended early, and return it.

        It may have been stopped, have failed, or the hub may have been killed.  The hub serves
        it at the same address and waits for the same accounts; nodes that still run come back by
        themselves, the others join again, from the machines and accounts that they were on.  It
        ends with the weights of a federation that was never interrupted.

        It can be resumed until its project is served anew, and for 30 days.

        Raises
        ------
        ForbiddenError
            If you neither own the project nor operate the hub.
        ConflictError
            If it is finished or can no longer be resumed; the message says why.
        """
        self._record = self._hub.resume_federation(self._record.id)
        return self

    def _show(self, bar: object, record: records.Federation) -> None:
        from tqdm.auto import tqdm

        assert isinstance(bar, tqdm)
        if record.run is None:
            bar.set_description_str(f"{len(record.connected)} of {record.nodes} nodes")
            return
        run = self._hub.run(record.run)
        if run.history and run.history[-1].accuracy is not None:
            bar.set_postfix({run.metric: f"{run.history[-1].accuracy:.4f}"}, refresh=False)
        bar.set_description_str(record.state)
        bar.update(self._rounds(record.run) - bar.n)

    def _rounds(self, run: str) -> int:
        """Return how many rounds are over; round 0 is the measurement before training."""
        return sum(entry.round > 0 for entry in self._hub.run(run).history)


class NodeHandle:
    """A node of one's own in a federation.

    Parameters
    ----------
    membership
        What the hub said when the node joined.
    node
        The process.
    """

    def __init__(self, membership: records.Membership, node: SuperNode) -> None:
        self._membership = membership
        self._node = node

    def __repr__(self) -> str:
        return f"NodeHandle({self._membership.account!r}, {self.state}, {self.answered} answered)"

    def _repr_html_(self) -> str:
        rows = {
            "account": self._membership.account,
            "state": self.state,
            "federation": self._membership.federation.address,
            "messages answered": self.answered,
            "problem": self.problem,
        }
        return card("Node", rows)

    @property
    def state(self) -> str:
        """connecting, waiting, training; or how it ended: stopped, ended, refused or lost."""
        return self._node.state

    @property
    def answered(self) -> int:
        """How many messages it has answered."""
        return self._node.answered

    @property
    def problem(self) -> str | None:
        """Why it was refused or lost, or cannot reach the federation now."""
        return self._node.reason or None

    @property
    def log(self) -> Path:
        """File in which the node writes down what it does."""
        return self._node.log

    def wait(self, timeout: float | None = None) -> NodeHandle:
        """Wait until the federation is over, and return this.

        Raises
        ------
        TimeoutError
            If it is not over in time.
        """
        self._node.wait(timeout)
        return self

    def stop(self) -> NodeHandle:
        """End the node, and return this; the federation goes on without it."""
        self._node.stop()
        return self


def find(hub: Hub, project: records.Project, federation: str | None) -> FederationHandle:
    """Return a project's federation by its id; without one, the last that was served.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    known = hub.federations(project.id)
    found = [entry for entry in known if federation in (None, entry.id)]
    if not found:
        raise NotFoundError(
            f"{project.name} has no federation{f' {federation}' if federation else ''}: "
            "`project.serve(...)` starts one."
        )
    return FederationHandle(hub, found[-1])


def join(
    hub: Hub,
    project: records.Project,
    data: Dataset | Path,
    *,
    federation: str | None,
    executor: str,
    home: Path,
) -> NodeHandle:
    """Take part in a project's federation with data that stay here.

    Parameters
    ----------
    hub, project
        Where the federation is.
    data
        The data, or the file that holds them.
    federation
        Its id; by default the one that is active.
    executor
        How to train.
    home
        Folder for the node's key, log and files.

    Raises
    ------
    AuthenticationError
        If nobody is signed in.
    NotFoundError
        If no federation is active.
    ConflictError
        If the hub serves another version of the app than the one installed here.
    DatasetError
        If the data do not fit the project.
    """
    from neuronexus_kernel.federation.deployment.fab import build
    from neuronexus_kernel.federation.deployment.supernode import SuperNode
    from neuronexus_kernel.federation.deployment.tls import make_node_key

    account = hub.whoami()
    if account is None:
        raise AuthenticationError("Sign in first: `wb.login(name, password)`.")
    record = hub.federation(federation) if federation else _active(hub, project)
    if record.app != build().sha256:
        raise ConflictError(
            "The federation runs another version of NeuroNexus than the one installed here, and "
            "a node runs installed code only: install the hub's version."
        )
    _check_data(data, project)
    key = home / f"{account.name}.key"
    public = make_node_key(key)
    membership = hub.join_federation(record.id, public.decode())
    _forget(hub, project, home)
    node = SuperNode(
        home / record.id / account.name,
        data,
        address=membership.federation.address,
        authority=membership.authority.encode(),
        key=key,
        executor=executor,
    )
    try:
        node.wait_until_connected()
    except BaseException:
        node.stop()
        raise
    return NodeHandle(membership, node)


def _active(hub: Hub, project: records.Project) -> records.Federation:
    active = [entry for entry in hub.federations(project.id) if entry.state in ACTIVE]
    if not active:
        raise NotFoundError(
            f"No federation of {project.name} is active: ask {project.owner} to start one with "
            "`project.serve(...)`."
        )
    return active[-1]


def _forget(hub: Hub, project: records.Project, home: Path) -> None:
    """Remove what nodes kept between the rounds of federations that will not go on."""
    from neuronexus_kernel.federation.deployment.node import MEMORY_FILE

    for entry in hub.federations(project.id):
        if entry.state not in ACTIVE and not entry.resumable:
            for memory in (home / entry.id).glob(f"*/{MEMORY_FILE}"):
                memory.unlink(missing_ok=True)


def _check_data(data: Dataset | Path, project: records.Project) -> None:
    """Check data before anything is registered: a node that cannot train is of no use."""
    from neuronexus_kernel.federation.deployment.node import load_data

    dataset = load_data(data) if isinstance(data, Path) else data
    if dataset.input_shape != tuple(project.input_shape):
        raise DatasetError(
            f"The data have rows of shape {dataset.input_shape}, but the project's have "
            f"{tuple(project.input_shape)}; reshape the inputs."
        )
    if dataset.kind != project.kind:
        raise DatasetError(
            f"The data are for {dataset.kind}, but the project is for {project.kind}."
        )
