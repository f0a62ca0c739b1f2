"""Any Flower app, in this process: a ServerApp and a ClientApp that know nothing of us.

`run` plays the SuperLink and all SuperNodes.  Every node has a context of its own, whose state
lasts from message to message; messages are answered one after another in a fixed order; each
side gets copies, as if they had travelled; and what a client raises becomes an error reply.  So an
app that works here works on a federation, and one that leans on a shared object works on neither.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation._flower import (
    SUPERLINK_NODE_ID,
    AppExitException,
    ClientApp,
    Context,
    Error,
    ErrorCode,
    Message,
    RecordDict,
    Result,
    ServerApp,
    acting_as,
    results,
)
from neuronexus_kernel.federation.grid import FIRST_NODE, LocalGrid
from neuronexus_kernel.federation.participants import whole_number

Value: TypeAlias = bool | int | float | str
Config: TypeAlias = Mapping[str, "Value | Config"]

_RUN_ID = 1
_MOST_CLIENTS = 100_000


@dataclass(frozen=True, slots=True)
class ClientFailure:
    """A message that a client did not answer.

    Attributes
    ----------
    partition_id
        Which client.
    message_type
        What it was asked, such as ``"train"``.
    reason
        What it raised.
    """

    partition_id: int
    message_type: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AppRun:
    """The outcome of `run`.

    Attributes
    ----------
    result
        What the last strategy that the ServerApp started came to: Flower's ``Result`` with
        ``arrays`` and the metrics of each round.  None if the app started no strategy.
    context
        The ServerApp's context: what its main put into ``context.state`` is there.
    nodes
        The clients' contexts, by partition id.
    failures
        Messages that clients did not answer, in order.
    messages
        How many messages were answered or failed.
    seconds
        How long it took.
    """

    result: Result | None
    context: Context
    nodes: tuple[Context, ...]
    failures: tuple[ClientFailure, ...]
    messages: int
    seconds: float

    def __repr__(self) -> str:
        rounds = 0 if self.result is None else len(self.result.train_metrics_clientapp)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"AppRun({rounds} rounds, {len(self.nodes)} clients, {self.messages} messages{failed}, "
            f"{self.seconds:.1f} s)"
        )


def run(
    server_app: ServerApp,
    client_app: ClientApp,
    clients: int = 10,
    *,
    run_config: Config | None = None,
    node_config: Config | Sequence[Config] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AppRun:
    """Run a Flower app in this process.

    Parameters
    ----------
    server_app
        With a function registered by ``@app.main()``.
    client_app
        With functions registered by ``@app.train()``, ``@app.evaluate()`` or ``@app.query()``;
        its mods and lifespan are used.
    clients
        How many nodes there are.
    run_config
        What both apps find in ``context.run_config``.  Mappings within it are flattened as Flower
        does it: ``{"server": {"rounds": 3}}`` is ``{"server.rounds": 3}``.
    node_config
        What a client finds in ``context.node_config`` besides ``partition-id`` and
        ``num-partitions``: one mapping for all, or one for each.
    seed
        Seeds Python's, numpy's and (if it is imported) torch's global generators for the run, so
        that an app that draws from them gives the same each time; they are put back afterwards.
    progress
        Show Flower's log of what happens.

    Returns
    -------
    AppRun
        With the strategy's result, the contexts and the failures.

    Raises
    ------
    InvalidInputError
        If something is no app or no config.
    EvaluationError
        If the strategy gives up, or waits for more nodes than there are.
    Exception
        What the ServerApp raises.

    Warns
    -----
    RuntimeWarning
        At the first message that a client does not answer.

    Examples
    --------
    >>> outcome = nx.federation.run(server_app, client_app, clients=10)
    >>> outcome.result.arrays.to_torch_state_dict()
    """
    count = whole_number("clients", clients, 1, _MOST_CLIENTS)
    chance = whole_number("seed", seed, 0, 2**63 - 1)
    _check_apps(server_app, client_app)
    shared = _flat("run_config", run_config or {})
    nodes = _Nodes(client_app, _node_configs(node_config, count), shared)
    grid = LocalGrid(nodes, tuple(nodes.contexts), seed=chance, reseed=False, run_id=_RUN_ID)
    context = Context(_RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(shared))
    begin = time.perf_counter()
    level = logging.INFO if progress else logging.ERROR
    with grid.session(log_level=level), _torch_seeded(chance), results() as found:
        try:
            server_app(grid=grid, context=context)
        except AppExitException as error:
            raise EvaluationError(f"The ServerApp could not go on: {error}") from error
    return AppRun(
        result=found[-1] if found else None,
        context=context,
        nodes=tuple(nodes.contexts.values()),
        failures=tuple(nodes.failures),
        messages=nodes.answered,
        seconds=time.perf_counter() - begin,
    )


class _Nodes:
    """Answers the messages of all nodes, one after another."""

    def __init__(
        self, app: ClientApp, configs: Sequence[Mapping[str, Value]], shared: Mapping[str, Value]
    ) -> None:
        self._app = app
        self.contexts = {
            FIRST_NODE + place: Context(
                _RUN_ID, FIRST_NODE + place, dict(config), RecordDict(), dict(shared)
            )
            for place, config in enumerate(configs)
        }
        self.failures: list[ClientFailure] = []
        self.answered = 0

    def __call__(self, messages: list[Message]) -> Iterator[Message]:
        """Yield the replies."""
        for message in messages:
            self.answered += 1
            try:
                yield self._answer(message)
            except Exception as error:
                yield self._failure(message, f"{type(error).__name__}: {error}")

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        arrived = copy.copy(message)
        if message.has_content():  # one content may be in the messages to all nodes
            arrived.content = copy.deepcopy(message.content)
        with acting_as(node):
            reply = self._app(arrived, self.contexts[node])
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        if reply.has_content():
            reply.content = copy.deepcopy(reply.content)
        elif reply.has_error():
            self._note(message, reply.error.reason or "no reason given")
        return reply

    def _failure(self, message: Message, reason: str) -> Message:
        self._note(message, reason)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def _note(self, message: Message, reason: str) -> None:
        partition = message.metadata.dst_node_id - FIRST_NODE
        if not self.failures:
            warnings.warn(
                f"Client {partition} failed at {message.metadata.message_type!r}: {reason}. The "
                "strategy was told; `failures` lists this and all further ones.",
                RuntimeWarning,
                stacklevel=2,
            )
        self.failures.append(ClientFailure(partition, message.metadata.message_type, reason))


def _check_apps(server_app: object, client_app: object) -> None:
    if not isinstance(server_app, ServerApp):
        raise InvalidInputError(
            f"server_app must be a flwr.serverapp.ServerApp, not a {type(server_app).__name__}."
        )
    if server_app._main is None:
        raise InvalidInputError(
            "server_app has no main function: register one with @app.main(). Flower's older form, "
            "ServerApp(server_fn=...), is deprecated and does not run here."
        )
    if not isinstance(client_app, ClientApp):
        raise InvalidInputError(
            f"client_app must be a flwr.clientapp.ClientApp, not a {type(client_app).__name__}."
        )


def _node_configs(given: Config | Sequence[Config] | None, count: int) -> list[dict[str, Value]]:
    """Return each node's config."""
    if given is None or isinstance(given, Mapping):
        each: Sequence[Config] = [given or {}] * count
    else:
        each = list(given)
    if len(each) != count:
        raise InvalidInputError(
            f"node_config has {len(each)} entries, but there are {count} clients: give one mapping "
            "for all, or one for each."
        )
    return [
        {"partition-id": place, "num-partitions": count, **_flat("node_config", config)}
        for place, config in enumerate(each)
    ]


def _flat(name: str, config: object, prefix: str = "") -> dict[str, Value]:
    """Return a config without mappings in it."""
    if not isinstance(config, Mapping):
        raise InvalidInputError(f"{name} must be a mapping, not a {type(config).__name__}.")
    flat: dict[str, Value] = {}
    for key, value in config.items():
        if not isinstance(key, str):
            raise InvalidInputError(f"{name} has the key {key!r}: keys are text.")
        if isinstance(value, Mapping):
            flat |= _flat(name, value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            flat[f"{prefix}{key}"] = value
        else:
            raise InvalidInputError(
                f"{name}[{prefix + key!r}] is a {type(value).__name__}; Flower's configs hold "
                "truth values, numbers and text."
            )
    return flat


@contextmanager
def _torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch for the length of a block, if somebody uses it."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
