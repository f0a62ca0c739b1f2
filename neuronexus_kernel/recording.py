"""A training run in this process, recorded on the hub as it happens.

With a checkpoint a run may be killed and begun again.  The checkpoint notes which run of the hub
it is and what that run began with, so that the call after a crash goes on with both: the rounds
in the checkpoint that the hub has not heard of are recorded first, and none is recorded twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, cast

from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.handles import TrainingRun, load_recipe
from neuronexus_kernel.hub import records

if TYPE_CHECKING:
    import numpy as np

    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.federation.checkpoint import Checkpoint
    from neuronexus_kernel.federation.result import RoundReport, TrainingResult
    from neuronexus_kernel.hub import Hub

OnRound = Callable[["RoundReport"], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a run began with: the project's head may have moved when the run goes on.

    Attributes
    ----------
    project, run
        Ids on the hub.
    recipe, architecture
        CIDs of how it trains, and of what.
    weights
        CID of the weights it started from; None for fresh ones.
    dataset
        CID of the project's public training split.
    """

    project: str
    run: str
    recipe: str
    architecture: str
    weights: str | None
    dataset: str

    @classmethod
    def noted(cls, store: Checkpoint) -> Beginning | None:
        """Return what a checkpoint notes, or None.

        Raises
        ------
        StoreError
            If the note is something else.
        """
        if store.note is None:
            return None
        note = cast("dict[str, str]", store.note)
        try:
            return cls(**{field.name: note[field.name] for field in fields(cls)})
        except KeyError as error:
            raise StoreError(
                f"The note of the checkpoint {store} does not say {error}: name another folder "
                "to begin anew."
            ) from None

    def starting_weights(self, hub: Hub, recipe: Recipe) -> dict[str, np.ndarray] | None:
        """Return the weights that it starts from, if they fit a recipe; None for fresh ones."""
        from neuronexus_kernel.models import weights as weights_format

        if self.weights is None or str(recipe.architecture.cid) != self.architecture:
            return None
        shapes = recipe.architecture.parameter_shapes
        return weights_format.deserialize(hub.get(self.weights), shapes)


def beginning(
    hub: Hub, project: records.Project, store: Checkpoint | None, recipe: Recipe | None
) -> Beginning:
    """Return what a run begins with now, or what the run of a checkpoint began with.

    Parameters
    ----------
    hub, project
        Where it is recorded.
    store
        Its checkpoint, if it has one.
    recipe
        How to train; by default the head recipe.

    Raises
    ------
    InvalidInputError
        If the checkpoint is of a run of another project.
    """
    noted = None if store is None or store.run is None else Beginning.noted(store)
    if noted is None:
        return _beginning_now(hub, project, recipe)
    if noted.project != project.id:
        raise InvalidInputError(
            f"The checkpoint {store} is of a run of another project than {project.name}: "
            "name another folder."
        )
    return noted


def _beginning_now(hub: Hub, project: records.Project, recipe: Recipe | None) -> Beginning:
    chosen = load_recipe(hub, project.recipe) if recipe is None else recipe
    architecture = chosen.architecture.cid
    same = load_recipe(hub, project.head.recipe).architecture.cid == architecture
    return Beginning(
        project=project.id,
        run=new_id(),
        recipe=str(chosen.cid),
        architecture=str(architecture),
        weights=project.head.weights if same else None,
        dataset=project.public,
    )


class Recording:
    """One run on its way to the hub's records.

    Parameters
    ----------
    hub
        Where it is recorded.
    new
        The run as it would be recorded anew.
    store
        Its checkpoint, open, if it has one.
    beginning
        What it begins, or began, with.
    """

    def __init__(
        self, hub: Hub, new: records.NewRun, store: Checkpoint | None, beginning: Beginning
    ) -> None:
        self._hub = hub
        self._new = new
        self._store = store
        self._beginning = beginning
        self._run: records.Run | None = None
        self._closed = False

    def follow(self, train: Callable[..., TrainingResult], on_round: OnRound | None) -> TrainingRun:
        """Train, record what happens, and return the run.

        Parameters
        ----------
        train
            `federation.train`, which takes `on_start` and `on_round`.
        on_round
            Called after each round is recorded.
        """

        def record(report: RoundReport) -> object:
            self._record(report)
            return None if on_round is None else on_round(report)

        result: TrainingResult | None = None
        try:
            result = train(on_start=self._start, on_round=record)
        finally:
            self._finish(result)
        assert self._run is not None, "train calls on_start"
        return TrainingRun(self._hub, self._run, result)

    def _start(self, reports: tuple[RoundReport, ...]) -> None:
        """Begin the run on the hub, or go on with it, and record what it has not heard of."""
        known = self._known()
        if known is not None and _is_over(known):
            if reports and reports[-1].round >= self._new.rounds:
                self._run, self._closed = known, True
                return
            self._beginning = replace(self._beginning, run=new_id())
        if self._store is not None:
            self._store.write_note(asdict(self._beginning))
        self._run = self._hub.start_run(replace(self._new, id=self._beginning.run))
        heard = {entry.round for entry in self._run.history}
        for report in reports:
            if report.round not in heard:
                self._record(report)

    def _known(self) -> records.Run | None:
        """Return the run as the hub knows it; end one whose call was killed as it began."""
        noted = None if self._store is None else Beginning.noted(self._store)
        if noted is None:
            return None
        try:
            known = self._hub.run(noted.run)
        except NotFoundError:
            return None
        if noted != self._beginning and known.state == "running":
            self._hub.finish_run(known.id, records.RunResult(state="interrupted", weights=None))
        return known if noted == self._beginning else None

    def _record(self, report: RoundReport) -> None:
        assert self._run is not None
        self._hub.record_round(
            self._run.id,
            records.Round(
                round=report.round,
                loss=_finite(report.loss),
                accuracy=_finite(report.accuracy),
                seconds=report.seconds,
                clients=report.clients,
            ),
        )

    def _finish(self, result: TrainingResult | None) -> None:
        if self._run is not None and not self._closed:
            self._run = self._hub.finish_run(self._run.id, self._outcome(result))

    def _outcome(self, result: TrainingResult | None) -> records.RunResult:
        if result is None or len(result.reports) < 2:
            return records.RunResult(state="interrupted", weights=None)
        from neuronexus_kernel.models import weights as weights_format

        weights = self._hub.put(
            weights_format.serialize(result.arrays), name="weights", kind="weights"
        )
        updates = [
            self._hub.put(update.encode(), kind="update", visibility="sealed").cid
            for update in result.updates
        ]
        return records.RunResult(
            state="interrupted" if result.interrupted else "finished",
            weights=weights.cid,
            updates=tuple(updates),
            plan=cast("dict[str, records.JSON]", result.plan),
        )


def _is_over(run: records.Run) -> bool:
    """Tell whether a run will not change any more: somebody may have contributed it."""
    return run.state == "finished" or run.version is not None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
