"""One lab: its data, its executor, and what it keeps between rounds.

It answers the messages that a cohort in one process would answer, by the same code, with its
partition id as the address of its randomness: so its update is the one that it would have sent
from there.  What it keeps (`memory`) lies in the record that it is called with, so that whoever
holds the record can put it where it outlives the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from neuronexus_kernel.errors import DatasetError, InvalidInputError
from neuronexus_kernel.federation._flower import (
    ConfigRecord,
    Error,
    ErrorCode,
    Message,
    MessageType,
    RecordDict,
)
from neuronexus_kernel.federation.client_app import CohortApp
from neuronexus_kernel.federation.deployment.memory import FORGOTTEN, ForgottenError, Memory
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.federation.strategies.client import RULE

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

PARTITION = "partition-id"
"""Entry of a message's config that tells a node its partition id."""

RUN = "run"
"""Entry of a message's config that names the run, also after it was interrupted."""

COUNTED = "counted"
"""Entry of a message's config: the last round in which the node's update went into the model."""

DTYPE = "dtype"
"""Entry of a message's config: the number type to train in.

Some strategies average float32 models to a float64 one, which does not mean that labs train so.
"""

MEMORY = "neuronexus"
"""Name of our record among a node's own."""

MEMORY_FILE = "memory.cbor"
"""Name of the file in a node's folder that holds what it keeps."""

_BYTES = "memory"
_T = TypeVar("_T")


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
        self._executor = executor
        self._apps: dict[tuple[int, int, int, str], CohortApp] = {}

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
            config = _config(message)
            partition = self._partition_in(config)
            app = self._app(message, partition, _entry(config, DTYPE, str))
            if config.get(RULE) is not None:
                return _remembering(app, partition, message, config, state)
            (reply,) = app([message])
        except ForgottenError as error:
            return Message(Error(FORGOTTEN, str(error)), reply_to=message)
        except Exception as error:  # a lab that stumbles loses its update, not its place
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        return reply

    def _app(self, message: Message, partition: int, dtype: str) -> CohortApp:
        """Return what answers the messages of one run."""
        node = message.metadata.dst_node_id
        key = (message.metadata.run_id, node, partition, dtype)
        if key not in self._apps:
            client = Client(partition, self._dataset)
            executor = Planned(self._executor, dtype)
            self._apps = {key: CohortApp({node: client}, executor)}
        return self._apps[key]

    def _partition_in(self, config: ConfigRecord) -> int:
        told = config.get(PARTITION, self._partition)
        if isinstance(told, int) and self._partition in (None, told):
            return told
        raise InvalidInputError(
            "The message does not say which partition this node is, or names another one than its "
            f"own, {self._partition}."
        )


def remembered(state: RecordDict) -> bytes:
    """Return what a node keeps, as bytes; empty if it keeps nothing."""
    record = state.get(MEMORY)
    data = record.get(_BYTES) if isinstance(record, ConfigRecord) else None
    return data if isinstance(data, bytes) else b""


def remember(state: RecordDict, data: bytes) -> None:
    """Put bytes that `remembered` returned into a node's record."""
    state[MEMORY] = ConfigRecord({_BYTES: data})


def _remembering(
    app: CohortApp, partition: int, message: Message, config: ConfigRecord, state: RecordDict
) -> Message:
    """Answer a message of a strategy that has clients keep something.

    Raises
    ------
    ForgottenError
        If what this node should have kept is not in its record.
    """
    run, counted = _entry(config, RUN, str), _entry(config, COUNTED, int)
    memory = Memory.decode(remembered(state))
    kept = memory.recall(run, counted)
    app.states = {partition: {purpose: dict(arrays) for purpose, arrays in kept.items()}}
    (reply,) = app([message])
    if message.metadata.message_type == MessageType.TRAIN and not reply.has_error():
        round = _entry(config, "server-round", int)
        remember(state, memory.after(run, counted, round, app.states[partition]).encode())
    return reply


def _config(message: Message) -> ConfigRecord:
    return next(iter(message.content.config_records.values()), ConfigRecord())


def _entry(config: ConfigRecord, name: str, kind: type[_T]) -> _T:
    value = config.get(name)
    if not isinstance(value, kind):
        raise InvalidInputError(f"The message's config holds no {kind.__name__} named {name!r}.")
    return value


class Planned:
    """An executor for one client, planned when the first recipe is seen.

    Parameters
    ----------
    executor
        ``"auto"``, or the name of an executor.
    dtype
        Number type of the training.
    """

    def __init__(self, executor: str, dtype: str) -> None:
        self._asked = executor
        self._dtype = dtype

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
            dtype=self._dtype,
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
