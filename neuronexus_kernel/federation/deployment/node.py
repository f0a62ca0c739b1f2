"""One lab: its data, its executor, and what it keeps between rounds.

It answers the messages that a cohort in one process would answer, by the same code, with its
partition id as the address of its randomness: so its update is the one that it would have sent
from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.errors import DatasetError, InvalidInputError
from neuronexus_kernel.federation._flower import Error, ErrorCode, Message, RecordDict
from neuronexus_kernel.federation.client_app import CohortApp
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.threads import torch_threads

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

PARTITION = "partition-id"
"""Entry of a message's config that tells a node its partition id."""


class Node:
    """A lab that takes part with one data set.

    Parameters
    ----------
    dataset
        Its examples.
    partition
        Its partition id; None to be told it by the messages.
    executor
        ``"auto"``, or the name of an executor.
    """

    def __init__(
        self, dataset: Dataset, *, partition: int | None = None, executor: str = "auto"
    ) -> None:
        self._dataset = dataset
        self._partition = partition
        self._executor = Planned(executor)
        self._apps: dict[tuple[int, int, int], CohortApp] = {}

    def answer(self, message: Message, state: RecordDict) -> Message:
        """Train or evaluate as a message asks.

        Parameters
        ----------
        message
            From a strategy.
        state
            Flower's record of this node, in which what the strategy lets a client keep from
            round to round is kept.

        Returns
        -------
        Message
            The reply; an error that says why, if there is no other.
        """
        try:
            _check_arrays(message)
            partition = self._partition_in(message)
            app = self._app(message, partition)
            if partition not in app.states:
                app.load_state(partition, state)
            (reply,) = app([message])
            app.save_state(partition, state)
        except Exception as error:  # a lab that stumbles loses its update, not its place
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        return reply

    def _app(self, message: Message, partition: int) -> CohortApp:
        """Return what answers the messages of one run: what clients keep belongs to a run."""
        node = message.metadata.dst_node_id
        key = (message.metadata.run_id, node, partition)
        if key not in self._apps:
            client = Client(partition, self._dataset)
            self._apps = {key: CohortApp({node: client}, self._executor)}
        return self._apps[key]

    def _partition_in(self, message: Message) -> int:
        for config in message.content.config_records.values():
            told = config.get(PARTITION, self._partition)
            if isinstance(told, int) and self._partition in (None, told):
                return told
        raise InvalidInputError(
            "The message does not say which partition this node is, or names another one than its "
            f"own, {self._partition}."
        )


class Planned:
    """An executor for one client, planned when the first recipe is seen.

    Parameters
    ----------
    executor
        ``"auto"``, or the name of an executor.
    """

    def __init__(self, executor: str) -> None:
        self._asked = executor

    @property
    def name(self) -> str:
        """What was asked for."""
        return self._asked

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train the one client of a cohort."""
        plan = make_plan(
            cohort.recipe,
            clients=1,
            executor=self._asked,
            dtype=_dtype(cohort),
            corrections=bool(cohort.corrections),
            own=bool(cohort.own),
        )
        with torch_threads(plan.threads):
            return make_executor(plan).train(cohort)


def load_data(path: Path) -> Dataset:
    """Read a lab's data from a local file.

    Parameters
    ----------
    path
        A NumPy ``.npz`` archive with the arrays ``inputs`` and ``labels``; a ``.csv`` or
        ``.parquet`` table with a column ``label``, all other columns being inputs in their order;
        or the bytes that `Dataset.encode` wrote, under any other name.

    Raises
    ------
    DatasetError
        If the file cannot be read or holds something else.
    """
    from neuronexus_kernel.datasets import Dataset

    try:
        if path.suffix == ".npz":
            return _from_archive(path)
        if path.suffix in (".csv", ".parquet"):
            return _from_table(path)
        return Dataset.decode(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"The data file {path} cannot be read: {error}") from None


def _check_arrays(message: Message) -> None:
    """Check that a message holds finite real numbers; names and shapes are checked later."""
    for record in message.content.array_records.values():
        for name, array in record.items():
            values = array.numpy()
            if values.dtype not in (np.float32, np.float64) or not np.isfinite(values).all():
                raise InvalidInputError(f"The message's {name!r} holds no finite real numbers.")


def _from_archive(path: Path) -> Dataset:
    from neuronexus_kernel.datasets import Dataset

    try:
        with np.load(path, allow_pickle=False) as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
            classes = int(arrays["classes"]) if "classes" in arrays else None
    except (KeyError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{path} must be an .npz archive with the arrays 'inputs' and 'labels': {error}"
        ) from None
    return Dataset(inputs, labels, classes=classes, name=path.stem)


def _from_table(path: Path) -> Dataset:
    import pandas as pd

    from neuronexus_kernel.datasets import Dataset

    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        labels = table.pop("label").to_numpy()
        inputs = table.to_numpy(np.float32)
    except (KeyError, ValueError, ImportError) as error:
        raise DatasetError(
            f"{path} must be a table of numbers with a column 'label': {error}"
        ) from None
    return Dataset(inputs, labels, name=path.stem)


def _dtype(cohort: Cohort) -> str:
    return str(next(iter(cohort.weights.values())).dtype)
