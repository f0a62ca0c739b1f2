"""What a notebook holds after it asked for something: a model version, a run, a contribution.

Each is a record of the hub with what one wants to do with it: build the model, draw the history,
wait for the verdict.
"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.display import card, frame, metrics_text, named_metrics
from neuronexus_kernel.errors import InvalidInputError, RecipeError
from neuronexus_kernel.hub import records
from neuronexus_kernel.hub.records import FINAL_STATES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.federation.result import TrainingResult
    from neuronexus_kernel.hub import Hub

POLL_SECONDS = 0.2


def load_recipe(hub: Hub, cid: str) -> Recipe:
    """Return the recipe that the hub keeps under a CID, with its architecture."""
    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.models import Architecture

    document = dagcbor.decode(hub.get(cid))
    link = document.get("architecture") if isinstance(document, dict) else None
    if not isinstance(link, CID):
        raise RecipeError(f"{cid} is not a recipe: it has no link to an architecture.")
    return Recipe.from_dict(document, Architecture.decode(hub.get(str(link))))


class ModelVersion:
    """One version of a project's model.

    Parameters
    ----------
    hub
        The hub that keeps it.
    record
        Its record.
    metric
        What its project measures.
    """

    def __init__(self, hub: Hub, record: records.Version, *, metric: str = "accuracy") -> None:
        self._hub = hub
        self._metric = metric
        self.record = record

    def __repr__(self) -> str:
        head = ", head" if self.record.head else ""
        return f"ModelVersion({self.number}{head}, {metrics_text(self.metrics) or 'not trained'})"

    def _repr_html_(self) -> str:
        record = self.record
        rows = {
            "author": record.author,
            "metrics": metrics_text(self.metrics),
            "weights": record.weights,
            "recipe": record.recipe,
        }
        return card(f"Version {record.number}{' (head)' if record.head else ''}", rows)

    @property
    def number(self) -> int:
        """Its number within the project, from 0."""
        return self.record.number

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of it, by name.

        The project's metric, such as ``accuracy``, and ``loss`` are of the validation split,
        ``held_out_accuracy`` is of the held-out one.
        """
        return named_metrics(self.record.metrics, self._metric)

    @property
    def cid(self) -> str:
        """CID of the weights."""
        return self.record.weights

    @property
    def recipe(self) -> Recipe:
        """The recipe that made it."""
        return load_recipe(self._hub, self.record.recipe)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights by parameter name."""
        from neuronexus_kernel.models import weights as weights_format

        shapes = self.recipe.architecture.parameter_shapes
        return weights_format.deserialize(self._hub.get(self.record.weights), shapes)

    @property
    def model(self) -> nn.Module:
        """The model, ready to use, in evaluation mode."""
        import torch

        module = self.recipe.architecture.build()
        module.load_state_dict({name: torch.tensor(a) for name, a in self.weights.items()})
        return module.eval()


class TrainingRun:
    """A training run of `Project.train`.

    Parameters
    ----------
    hub
        The hub that recorded it.
    record
        Its record.
    result
        What the training in this process returned; None if it ended before its first round.
    """

    def __init__(self, hub: Hub, record: records.Run, result: TrainingResult | None) -> None:
        self._hub = hub
        self.record = record
        self.result = result

    def __repr__(self) -> str:
        record = self.record
        last = record.history[-1].accuracy if record.history else None
        reached = "" if last is None else f", {record.metric} {last:.4f}"
        return f"TrainingRun({record.state} after {self._rounds} rounds{reached})"

    def _repr_html_(self) -> str:
        record, version = self.record, self.version
        rows = {
            "state": record.state,
            "rounds": self._rounds,
            "clients": f"{record.clients_per_round} of {record.clients} a round",
            "participants": ", ".join(record.participants),
            "executor": record.plan.get("executor"),
            "version": version.number if version else None,
            "metrics": metrics_text(version.metrics) if version else "",
        }
        return card("Training run", rows)

    @property
    def id(self) -> str:
        """Its id on the hub."""
        return self.record.id

    @property
    def plan(self) -> dict[str, object]:
        """How it was executed: `Project.train` does the same again with ``plan=``."""
        return dict(self.record.plan)

    @property
    def history(self) -> pd.DataFrame:
        """One row a round: round, loss, the project's metric, seconds, clients.

        Round 0 is the start.  Where classes are learnt the metric is ``accuracy``.
        """
        metric = self.record.metric
        columns = ["round", "loss", metric, "seconds", "clients"]
        rows = [
            {
                "round": entry.round,
                "loss": entry.loss,
                metric: entry.accuracy,
                "seconds": entry.seconds,
                "clients": len(entry.clients),
            }
            for entry in self.record.history
        ]
        return frame(rows, columns)

    @property
    def version(self) -> ModelVersion | None:
        """The model version that it made; None if it ended before its first round."""
        record = self.record
        if record.version is None:
            return None
        return ModelVersion(self._hub, record.version, metric=record.metric)

    @property
    def model(self) -> nn.Module:
        """The trained model, in evaluation mode."""
        if self.version is None:
            raise InvalidInputError("The run ended before its first round and made no model.")
        return self.version.model

    @property
    def _rounds(self) -> int:
        return sum(entry.round > 0 for entry in self.record.history)


class ContributionHandle:
    """A contribution on its way through measurement to its reward.

    Parameters
    ----------
    hub
        The hub that measures it.
    record
        Its record as it was submitted.
    """

    def __init__(self, hub: Hub, record: records.Contribution) -> None:
        self._hub = hub
        self._record = record

    def __repr__(self) -> str:
        record = self.record
        value = "" if record.value is None else f", value {record.value:+.4f}"
        return f"Contribution({record.kind}, {record.state}{value}, reward {record.reward} NXS)"

    def _repr_html_(self) -> str:
        record = self.record
        rows = {
            "state": record.state,
            "value": None if record.value is None else f"{record.value:+.4f} (lower 90 % bound)",
            "reward": f"{record.reward} NXS",
            "reason": record.reason,
            "receipt": record.receipt,
        }
        return card(f"{record.kind.capitalize()} by {record.author}", rows)

    @property
    def record(self) -> records.Contribution:
        """The contribution as the hub has it now."""
        self._record = self._hub.contribution(self._record.id)
        return self._record

    @property
    def id(self) -> str:
        """Its id on the hub."""
        return self._record.id

    @property
    def state(self) -> str:
        """submitted, evaluating, accepted, rejected, failed or rewarded."""
        return self.record.state

    @property
    def value(self) -> float | None:
        """Lower 90 % bound of the improvement on held-out data; None before it is measured."""
        return self.record.value

    @property
    def reward(self) -> Decimal:
        """NXS minted for it so far, to all who took part."""
        return Decimal(self.record.reward)

    @property
    def reason(self) -> str | None:
        """Why it was rejected or failed."""
        return self.record.reason

    @property
    def receipt(self) -> str | None:
        """CID of what is needed to recompute its value."""
        return self.record.receipt

    @property
    def shares(self) -> pd.DataFrame:
        """Who has which part of the reward, and whether it is confirmed and minted."""
        columns = ["account", "fraction", "reward", "confirmed", "minted"]
        rows = [{name: getattr(share, name) for name in columns} for share in self.record.shares]
        return frame(rows, columns)

    def wait(self, timeout: float | None = None, *, progress: bool = True) -> ContributionHandle:
        """Wait until it is decided, and return it.

        Parameters
        ----------
        timeout
            Seconds to wait at most; by default as long as it takes.  Interrupting the wait
            changes nothing: the hub goes on measuring.
        progress
            Show what is happening.

        Raises
        ------
        TimeoutError
            If it is not decided in time.
        """
        from tqdm.auto import tqdm

        started = time.monotonic()
        form = "{desc} [{elapsed}]"
        with tqdm(bar_format=form, disable=not progress, leave=False) as bar:
            while (state := self.state) not in FINAL_STATES:
                bar.set_description_str(f"{self._record.kind} contribution: {state}")
                if timeout is not None and time.monotonic() - started > timeout:
                    raise TimeoutError(f"The contribution is still {state} after {timeout:g} s.")
                time.sleep(POLL_SECONDS)
        return self

    def confirm(self) -> ContributionHandle:
        """Confirm the signed-in account's part, so that it is paid."""
        self._record = self._hub.confirm(self._record.id)
        return self
