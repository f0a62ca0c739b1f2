"""A project in a researcher's hands: train it, contribute to it, look at its history.

These objects are thin: they hold a hub and a record, fetch what they are asked for, and run the
training here, in the notebook's own process, on data that stays here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel import recording, sessions
from neuronexus_kernel.content import dagcbor, new_id
from neuronexus_kernel.contribution import AnyContribution, payload_of, put_recipe
from neuronexus_kernel.display import (
    bar_of_bytes,
    card,
    contributions_frame,
    frame,
    metrics_text,
    named_metrics,
)
from neuronexus_kernel.errors import AuthenticationError, InvalidInputError
from neuronexus_kernel.handles import ContributionHandle, ModelVersion, TrainingRun, load_recipe
from neuronexus_kernel.hub import records
from neuronexus_kernel.sessions import FederationHandle, NodeHandle
from neuronexus_kernel.settings import home_directory

if TYPE_CHECKING:
    import pandas as pd
    from flwr.serverapp.strategy import Strategy

    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.datasets.partition import Partition
    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.federation.result import RoundReport
    from neuronexus_kernel.hub import Hub


class Project:
    """A model under co-development, as the signed-in researcher sees it.

    Parameters
    ----------
    hub
        The hub that keeps it.
    record
        Its record.
    """

    def __init__(self, hub: Hub, record: records.Project) -> None:
        self.hub = hub
        self._record = record
        self._recipes: dict[str, Recipe] = {}
        self._datasets: dict[str, Dataset] = {}

    def __repr__(self) -> str:
        head = self.head
        return f"Project({self.name!r}, head=version {head.number}, recipe={self._record.recipe})"

    def _repr_html_(self) -> str:
        from neuronexus_kernel.datasets import describe_outputs

        record = self.record
        rows = {
            "head": f"version {record.head.number} by {record.head.author}",
            "metrics": metrics_text(record.head.metrics, record.metric),
            "head recipe": record.recipe,
            "task": f"{record.metric}, inputs {record.input_shape}, "
            + describe_outputs(record.kind, record.classes, record.output_shape),
            "owner": record.owner,
        }
        return card(f"Project {record.name}", rows)

    @property
    def name(self) -> str:
        """The project's name."""
        return self._record.name

    @property
    def record(self) -> records.Project:
        """The project as the hub has it now."""
        self._record = self.hub.project(self._record.id)
        return self._record

    @property
    def recipe(self) -> Recipe:
        """The head recipe."""
        return self._load_recipe(self.record.recipe)

    @property
    def head(self) -> ModelVersion:
        """The head version: the best model so far."""
        record = self.record
        return ModelVersion(self.hub, record.head, metric=record.metric)

    @property
    def public(self) -> Dataset:
        """The public training split; accepted data joins it."""
        return self._load_dataset(self.record.public)

    @property
    def validation(self) -> Dataset:
        """The public validation split, on which curves are drawn."""
        return self._load_dataset(self.record.validation)

    def versions(self) -> pd.DataFrame:
        """Return the history of model versions, one row each, oldest first."""
        versions = self.hub.versions(self._record.id)
        metrics = {v.id: named_metrics(v.metrics, self._record.metric) for v in versions}
        measured = list(dict.fromkeys(name for named in metrics.values() for name in named))
        columns = ["version", "author", *measured, "head", "weights", "recipe", "created"]
        rows = [
            {
                "version": version.number,
                "author": version.author,
                "head": version.head,
                "weights": version.weights,
                "recipe": version.recipe,
                "created": version.created,
                **metrics[version.id],
            }
            for version in versions
        ]
        return frame(rows, columns).set_index("version")

    def runs(self) -> pd.DataFrame:
        """Return the training runs, one row each, oldest first."""
        metric = self._record.metric
        rows = [
            {
                "run": run.id,
                "author": run.author,
                "state": run.state,
                "rounds": len([entry for entry in run.history if entry.round > 0]),
                "clients": run.clients,
                "participants": ", ".join(run.participants),
                metric: run.history[-1].accuracy if run.history else None,
                "version": run.version.number if run.version else None,
                "created": run.created,
            }
            for run in self.hub.runs(self._record.id)
        ]
        columns = ["run", "author", "state", "rounds", "clients", "participants", metric]
        columns += ["version", "created"]
        return frame(rows, columns)

    def contributions(self) -> pd.DataFrame:
        """Return the contributions to this project, one row each, oldest first."""
        return contributions_frame(self.hub.contributions(project=self._record.id))

    def train(
        self,
        *,
        rounds: int = 10,
        partition: Partition | None = None,
        dataset: Dataset | None = None,
        participants: Mapping[str, Dataset] | None = None,
        clients_per_round: int | None = None,
        recipe: Recipe | None = None,
        strategy: Strategy | None = None,
        executor: str = "auto",
        seed: int = 0,
        plan: Mapping[str, object] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        on_round: Callable[[RoundReport], object] | None = None,
        progress: bool = True,
    ) -> TrainingRun:
        """Train federatedly in this process, and record the run on the hub.

        Training starts from the head's weights where the architecture is the head's, else from
        fresh weights.  Interrupting it (the notebook's stop button) ends the run after the last
        whole round and keeps what was reached.

        Parameters
        ----------
        rounds
            Communication rounds.
        partition
            How the data is dealt to clients; by default evenly among 10.
        dataset
            The data to deal; by default the project's public training split.
        participants
            Data sets by account, instead of `dataset` and `partition`: each account is a
            client, and shares what the run earns once it confirms its part.
        clients_per_round
            Clients that train in a round; by default the recipe's `cohort_size`, or all.
        recipe
            By default the head recipe.
        strategy
            A Flower strategy to use instead of the recipe's.
        executor
            How the cohort is trained: see `federation.train`.
        seed
            Decides client sampling, batch order and dropout.
        plan
            The `plan` of an earlier run, to execute this one in the same way instead of by
            `executor`.
        checkpoint
            A folder in which every full round is saved.  If this process is killed, the same call
            goes on after the last saved round, from the recipe, weights and data that the run
            began with even if the project's head has moved, and ends with bitwise the weights of
            a run that was never stopped.  `rounds` alone may be larger than before.

            On the hub it stays one run, each round recorded once, whether the process was killed
            or an error ended it.  A run that has made its version, because it finished or you
            stopped it, does not change any more: going on from it is a new run, recorded with all
            its rounds, and where no round is left to train, that run itself is returned.
        on_round
            Called with a `RoundReport` after each round; returning True ends the run there.
        progress
            Show a progress bar.

        Returns
        -------
        TrainingRun
            With `history`, `plan`, `model` and, once recorded, `version`.

        Raises
        ------
        InvalidInputError, RecipeError, DatasetError, ArchitectureError
            If something does not fit, or the checkpoint is of another run; nothing has been
            trained or recorded then.
        NotFoundError
            If a participant has no account.
        ConflictError
            If another process trains with the checkpoint now.
        StoreError
            If the checkpoint cannot be read or written.
        """
        from neuronexus_kernel import federation
        from neuronexus_kernel.federation.checkpoint import opened

        if participants is not None and (partition is not None or dataset is not None):
            raise InvalidInputError("Give either participants, or dataset and partition.")
        with opened(checkpoint) as store:
            beginning = recording.beginning(self.hub, self.record, store, recipe)
            recipe = self._load_recipe(beginning.recipe) if recipe is None else recipe
            clients = self._clients(participants, dataset, partition, beginning)
            new = records.NewRun(
                id=beginning.run,
                project=self._record.id,
                recipe=put_recipe(self.hub, recipe),
                rounds=rounds,
                clients=len(clients),
                clients_per_round=clients_per_round or recipe.cohort_size or len(clients),
                participants=tuple(clients) if isinstance(clients, dict) else (),
                seed=seed,
            )
            train = partial(
                federation.train,
                recipe,
                clients,
                rounds=rounds,
                clients_per_round=clients_per_round,
                strategy=strategy,
                executor=executor,
                seed=seed,
                validation=self.validation,
                initial_weights=beginning.starting_weights(self.hub, recipe),
                keep_updates=participants is not None,
                plan=plan,
                checkpoint=store,
                progress=progress,
            )
            return recording.Recording(self.hub, new, store, beginning).follow(train, on_round)

    def serve(
        self,
        *,
        nodes: int,
        rounds: int = 10,
        recipe: Recipe | None = None,
        clients_per_round: int = 0,
        seed: int = 0,
        address: str = "",
    ) -> FederationHandle:
        """Have the hub serve the project to other machines; its maintainers may.

        The hub starts a Flower SuperLink with TLS and waits until `nodes` accounts have joined,
        each from its own machine with `join`; then it trains, and records the run as one of
        yours.  Training starts from the head's weights where the architecture is the head's, else
        from fresh weights.  Should it end early, or the hub be killed, `federation` finds it and
        `FederationHandle.resume` goes on with it, until the project is served anew.

        Parameters
        ----------
        nodes
            How many accounts take part.
        rounds
            Communication rounds.
        recipe
            By default the head recipe.
        clients_per_round
            Nodes that train in a round; 0 for all.
        seed
            Decides the sampling of nodes, batch order and dropout.
        address
            ``HOST:PORT`` to listen on, for operators; by default as the hub is set up.

        Raises
        ------
        ForbiddenError
            If you neither own the project nor operate the hub.
        ConflictError
            If the project has a federation already.
        """
        recipe = self.recipe if recipe is None else recipe
        head = self.head
        weights = head.cid
        if head.recipe.architecture.cid != recipe.architecture.cid:
            from neuronexus_kernel.models import weights as weights_format

            fresh = recipe.architecture.initial_weights(seed)
            data = weights_format.serialize(fresh)
            weights = self.hub.put(data, name="weights", kind="weights").cid
        new = records.NewFederation(
            id=new_id(),
            project=self._record.id,
            recipe=put_recipe(self.hub, recipe),
            weights=weights,
            rounds=rounds,
            nodes=nodes,
            clients_per_round=clients_per_round or recipe.cohort_size,
            seed=seed,
            address=address,
        )
        return FederationHandle(self.hub, self.hub.start_federation(new))

    def federation(self, federation: str | None = None) -> FederationHandle:
        """Return a federation of the project: by its id, or the last one that was served.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        return sessions.find(self.hub, self.record, federation)

    def join(
        self,
        data: Dataset | Path | str,
        *,
        federation: str | None = None,
        executor: str = "auto",
    ) -> NodeHandle:
        """Take part in the project's federation with data that stay on this machine.

        A node is started here and registered under the signed-in account, so that its updates
        have an owner.  It runs the installed version of this package only, and ends with this
        process.

        Parameters
        ----------
        data
            The data, or the path of a file that holds them: ``.npz`` (arrays ``inputs`` and
            ``labels``), ``.csv`` or ``.parquet`` (a column ``label``), or what `Dataset.encode`
            wrote.
        federation
            Id of the federation; by default the project's active one.
        executor
            How to train: ``"auto"``, or the name of an executor.

        Raises
        ------
        NotFoundError
            If no federation of the project is active.
        ConflictError
            If the hub serves another version of the app, or no seat is left.
        DatasetError
            If the data do not fit the project.
        """
        place = Path(data) if isinstance(data, str | Path) else data
        home = home_directory() / "nodes"
        return sessions.join(
            self.hub, self.record, place, federation=federation, executor=executor, home=home
        )

    def export(self, path: str | os.PathLike[str], *, sealed: bool = False) -> Path:
        """Write the whole project, records and content, into one file, and return where it is.

        It is a CAR file; `Workbench.import_project` makes the project again on another hub.  The
        same project gives the same file.  Contributions that wait to be measured and federations
        are left out.

        Parameters
        ----------
        path
            Where the file shall lie.  Nothing that exists is overwritten, and it appears whole or
            not at all.
        sealed
            For operators: with the held-out split, the updates of participants and the sealed
            parts of receipts.  Then only you can read the file.

        Raises
        ------
        ForbiddenError
            If you neither own the project nor operate the hub.
        ConflictError
            If something lies there already.
        """
        from neuronexus_kernel.archives import export_project

        target = Path(path).expanduser()
        with bar_of_bytes(f"exporting {self.name}", None) as told:
            return export_project(self.hub, self._record.id, target, sealed=sealed, progress=told)

    def submit(self, contribution: AnyContribution) -> ContributionHandle:
        """Hand in a contribution; the hub measures it and pays for what it improved.

        Raises
        ------
        ArchitectureError, RecipeError, DatasetError
            If it does not fit the project; nothing is submitted then.
        ConflictError
            If the same was submitted before.
        """
        account = self.hub.whoami()
        if account is None:
            raise AuthenticationError("Sign in first: `wb.login(name, password)`.")
        payload = payload_of(contribution, self, account.name)
        root = self.hub.put(
            dagcbor.encode(payload), name=contribution.note, kind="contribution", codec="dag-cbor"
        )
        new = records.NewContribution(
            id=new_id(),
            project=self._record.id,
            kind=contribution.kind,
            payload=root.cid,
            note=contribution.note,
        )
        return ContributionHandle(self.hub, self.hub.submit(new))

    def _clients(
        self,
        participants: Mapping[str, Dataset] | None,
        dataset: Dataset | None,
        partition: Partition | None,
        beginning: recording.Beginning,
    ) -> list[Dataset] | dict[str, Dataset]:
        """Return who trains: the participants by name, or one data set a client."""
        from neuronexus_kernel.datasets.partition import iid

        if participants is not None:
            return dict(participants)
        pool = self._load_dataset(beginning.dataset) if dataset is None else dataset
        return pool.partition(iid(10) if partition is None else partition)

    def _load_recipe(self, cid: str) -> Recipe:
        if cid not in self._recipes:
            self._recipes[cid] = load_recipe(self.hub, cid)
        return self._recipes[cid]

    def _load_dataset(self, cid: str) -> Dataset:
        if cid not in self._datasets:
            from neuronexus_kernel.datasets import Dataset

            self._datasets[cid] = Dataset.decode(self.hub.get(cid))
        return self._datasets[cid]
