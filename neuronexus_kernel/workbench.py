"""The workbench: what a researcher's notebook holds.

It is thin, over one hub, and turns records into tables and objects that one can work with.
`connect` finds that hub, or starts one.
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.content import new_id
from neuronexus_kernel.contribution import put_recipe
from neuronexus_kernel.display import bar_of_bytes, card, contributions_frame, frame, metrics_text
from neuronexus_kernel.errors import AuthenticationError
from neuronexus_kernel.handles import ContributionHandle
from neuronexus_kernel.hub import records
from neuronexus_kernel.library import Storage
from neuronexus_kernel.project import Project
from neuronexus_kernel.settings import home_directory

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.datasets import Task
    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.hub import Hub

IDLE_SECONDS = 900.0
"""A hub that `connect` started ends itself after being idle for so long."""


def connect(address: str | None = None) -> Workbench:
    """Connect to a hub.

    Parameters
    ----------
    address
        URL of the hub, such as ``http://127.0.0.1:8765``.  By default ``$NEURONEXUS_HUB``; else
        the hub that is running on ``$NEURONEXUS_HOME`` (by default the platform's folder for
        user data); else one is started there in the background, which ends itself when idle.

    Returns
    -------
    Workbench
        Signed in already if ``$NEURONEXUS_TOKEN`` holds a token for ``$NEURONEXUS_HUB``, as it
        does in a dashboard's kernel.

    Raises
    ------
    HubUnavailableError
        If there is no hub at that address, or none could be started.
    """
    from neuronexus_kernel.hub.process import live_hub, start_hub
    from neuronexus_kernel.hub.remote import RemoteHub

    configured = os.environ.get("NEURONEXUS_HUB")
    token = None
    if address is None and configured:
        address = configured
    if address is not None:
        if configured and address.rstrip("/") == configured.rstrip("/"):
            token = os.environ.get("NEURONEXUS_TOKEN")
    else:
        home = home_directory()
        found = live_hub(home) or start_hub(home, idle_seconds=IDLE_SECONDS)
        address = found.address
    hub = RemoteHub(address, token)
    hub.whoami()
    return Workbench(hub)


class Workbench:
    """A researcher's view of one hub.

    Parameters
    ----------
    hub
        The hub; `connect` finds one.

    Attributes
    ----------
    hub : Hub
        The hub's own interface, for what the workbench does not show.
    storage : Storage
        Content by address.
    tokens : TokenView
        NXS: balance and history.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.storage = Storage(hub)
        self.tokens = TokenView(hub)

    def __repr__(self) -> str:
        return f"Workbench({self.hub.address}, {self.user or 'not signed in'})"

    def _repr_html_(self) -> str:
        user = self.user
        rows = {"hub": self.hub.address, "signed in as": user or "nobody"}
        if user is not None:
            rows["balance"] = f"{self.tokens.balance()} NXS"
        return card("NeuroNexus workbench", rows)

    # -- accounts --------------------------------------------------------------------------

    @property
    def user(self) -> str | None:
        """Name of the signed-in account, or None."""
        account = self.hub.whoami()
        return None if account is None else account.name

    def register(self, name: str, password: str) -> Workbench:
        """Make an account and sign in as it.

        Raises
        ------
        InvalidInputError
            If the name is not 2 to 32 of ``a-z 0-9 - _``, or the password is weak.
        ConflictError
            If the name is taken.
        """
        self.hub.register(name, password)
        return self.login(name, password)

    def login(self, name: str, password: str) -> Workbench:
        """Sign in.

        Raises
        ------
        AuthenticationError
            If the name and the password do not match.
        """
        self.hub.login(name, password)
        return self

    def logout(self) -> None:
        """Sign out."""
        self.hub.logout()

    # -- projects --------------------------------------------------------------------------

    def create_project(
        self, name: str, *, task: Task, recipe: Recipe, description: str = "", seed: int = 0
    ) -> Project:
        """Make a project and become its owner.

        The task's public and validation splits are stored for everyone, its held-out split is
        sealed on the hub, and its private part stays with you.

        Parameters
        ----------
        name
            1 to 64 of ``a-z 0-9 . - _``.
        task
            What is to be learnt.
        recipe
            The first head recipe.
        description
            A sentence for others.
        seed
            Decides the first weights.

        Raises
        ------
        ConflictError
            If the name is taken.
        ArchitectureError, RecipeError
            If the recipe's architecture or loss does not fit the task.
        """
        from neuronexus_kernel.federation.weights import check_data, check_loss
        from neuronexus_kernel.models import weights

        check_data(recipe.architecture, task.public, classes=task.classes)
        check_loss(recipe, task.kind)
        initial = weights.serialize(recipe.architecture.initial_weights(seed))
        new = records.NewProject(
            id=new_id(),
            name=name,
            description=description,
            input_shape=task.input_shape,
            classes=task.classes,
            metric=task.metric,
            kind=task.kind,
            output_shape=task.output_shape,
            public=self.hub.put(task.public.encode(), name=f"{name} public", kind="dataset").cid,
            validation=self.hub.put(
                task.validation.encode(), name=f"{name} validation", kind="dataset"
            ).cid,
            held_out=self.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed").cid,
            recipe=put_recipe(self.hub, recipe),
            weights=self.hub.put(initial, name="initial weights", kind="weights").cid,
        )
        return Project(self.hub, self.hub.create_project(new))

    def import_project(self, path: str | os.PathLike[str], *, name: str = "") -> Project:
        """Make a project of a file that `Project.export` wrote, and become its owner here.

        Versions, runs and decided contributions come with it.  Accounts of the other hub are
        named ``name@origin`` here, and what they earned there is no part of this hub's ledger.

        Parameters
        ----------
        path
            The file.
        name
            Of the project here; by default the one that it had.

        Raises
        ------
        ConflictError
            If the project is here already, or its name is taken by another.
        NotFoundError
            If there is no such file, or the held-out split is neither in it nor sealed on this
            hub; the message says how to seal it.
        ForbiddenError
            If there is sealed content in it, and you are no operator.
        StoreError, InvalidInputError, RecipeError, ArchitectureError, DatasetError
            If the file is damaged or does not fit together; then nothing was imported.
        """
        from neuronexus_kernel.archives import import_project, size_of

        source = Path(path).expanduser()
        with bar_of_bytes(f"importing {source.name}", size_of(source)) as told:
            return Project(self.hub, import_project(self.hub, source, name=name, progress=told))

    def project(self, name: str) -> Project:
        """Open a project by name.

        Raises
        ------
        NotFoundError
            If there is none; the message lists those there are.
        """
        return Project(self.hub, self.hub.project(name))

    def projects(self) -> pd.DataFrame:
        """Return all projects, one row each, oldest first."""
        rows = [
            {
                "name": project.name,
                "owner": project.owner,
                "head": project.head.number,
                "metrics": metrics_text(project.head.metrics, project.metric),
                "description": project.description,
                "created": project.created,
            }
            for project in self.hub.projects()
        ]
        return frame(rows, ["name", "owner", "head", "metrics", "description", "created"])

    # -- looking ---------------------------------------------------------------------------

    def contribution(self, contribution: str) -> ContributionHandle:
        """Return a contribution by id, for example to confirm one's part in it."""
        return ContributionHandle(self.hub, self.hub.contribution(contribution))

    def contributions(self) -> pd.DataFrame:
        """Return all contributions, one row each, oldest first."""
        return contributions_frame(self.hub.contributions())

    def network(self) -> pd.DataFrame:
        """Return the members of the network, one row each; sums are in ``.attrs``."""
        network = self.hub.network()
        columns = ["name", "role", "online", "training", "contributions", "rewarded", "balance"]
        rows = [{name: getattr(node, name) for name in columns} for node in network.nodes]
        table = frame(rows, columns)
        sums = ["projects", "runs", "active_runs", "versions", "contributions", "minted"]
        table.attrs.update({name: getattr(network, name) for name in sums})
        return table

    def events(self, since: int = 0) -> pd.DataFrame:
        """Return what happened after event `since`, one row each, oldest first."""
        columns = ["seq", "time", "kind", "subject", "data"]
        rows: list[dict[str, object]] = []
        while page := self.hub.events(since):
            rows += [{name: getattr(event, name) for name in columns} for event in page]
            since = page[-1].seq
        return frame(rows, columns)

    def close(self) -> None:
        """Let go of the connections to the hub."""
        self.hub.close()


class TokenView:
    """NXS in a researcher's hands.

    Parameters
    ----------
    hub
        The hub whose ledger is read.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def balance(self, account: str | None = None) -> Decimal:
        """Return how many NXS an account holds, exactly; by default the signed-in one."""
        return Decimal(self._hub.balance(self._name(account)).balance)

    def balances(self) -> pd.DataFrame:
        """Return what every account holds."""
        rows = [
            {"account": each.account, "balance": Decimal(each.balance)}
            for each in self._hub.balances()
        ]
        return frame(rows, ["account", "balance"])

    def history(self, account: str | None = None) -> pd.DataFrame:
        """Return an account's ledger postings, one row each; by default the signed-in one's."""
        columns = ["index", "time", "kind", "amount", "contribution", "leaf"]
        rows = [
            {**{name: getattr(line, name) for name in columns}, "amount": Decimal(line.amount)}
            for line in self._hub.ledger_lines(account=self._name(account))
        ]
        return frame(rows, columns).set_index("index")

    def verify(self) -> records.LedgerStatus:
        """Recompute every hash, sum and root of the ledger, and return what was found."""
        return self._hub.verify_ledger()

    def _name(self, account: str | None) -> str:
        if account is not None:
            return account
        signed_in = self._hub.whoami()
        if signed_in is None:
            raise AuthenticationError("Sign in, or name an account: `balance('ada')`.")
        return signed_in.name
