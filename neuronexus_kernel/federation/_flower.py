"""The one door to Flower: every name of it that this room uses comes through here.

Telemetry and the update check are switched off before the first import, because this product
never phones home.  `TaskIdentity`, `Run` and `SUPERLINK_NODE_ID` are Flower's internals; they are
wrapped here and in `grid` only, and Flower's version is pinned.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.app.exception import AppExitException
from flwr.app.message.typeddict import TypedDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SType
from flwr.serverapp import Grid, ServerApp, strategy
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "SUPERLINK_NODE_ID",
    "AppExitException",
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "ErrorCode",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "RecordDict",
    "Result",
    "Run",
    "SType",
    "ServerApp",
    "Strategy",
    "TaskIdentity",
    "TypedDict",
    "acting_as",
    "quiet",
    "results",
    "strategy",
]


@contextmanager
def quiet(level: int) -> Iterator[None]:
    """Let Flower's logger pass messages of this level and above only, then restore it."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(max(level, before))
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def acting_as(node: int) -> Iterator[None]:
    """Let this process be a node, as a ClientApp's process is, then what it was before."""
    before = TaskIdentity._node_id
    TaskIdentity.node_id = node
    try:
        yield
    finally:
        TaskIdentity.node_id = before


@contextmanager
def results() -> Iterator[list[Result]]:
    """Yield a list to which each strategy that ends within the block adds its result.

    A ServerApp's main returns nothing, and most apps keep the result to themselves.
    """
    found: list[Result] = []
    start: Callable[..., Result] = Strategy.start

    @wraps(start)
    def noting(self: Strategy, *args: object, **options: object) -> Result:
        result = start(self, *args, **options)
        found.append(result)
        return result

    Strategy.start = noting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Strategy.start = start  # type: ignore[method-assign]
