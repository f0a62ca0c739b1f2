"""The one door to Flower: every name of it that this room uses comes through here.

Telemetry and the update check are switched off before the first import, because this product
never phones home.  `TaskIdentity`, `Run` and `SUPERLINK_NODE_ID` are Flower's internals; they are
wrapped here and in `grid` only, and Flower's version is pinned.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.app.exception import AppExitException
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SType
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "SUPERLINK_NODE_ID",
    "AppExitException",
    "Array",
    "ArrayRecord",
    "ConfigRecord",
    "Error",
    "ErrorCode",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "RecordDict",
    "Run",
    "SType",
    "Strategy",
    "TaskIdentity",
    "quiet",
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
