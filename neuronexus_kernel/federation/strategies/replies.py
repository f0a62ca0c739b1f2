"""What a reply holds: said once, for the client that writes it and the server that reads it.

A training reply holds its arrays under the names of the records that came with the message, and
one record of metrics.  When clients of one process are summed before they answer, one of them
answers for all, and the others' replies only say who did.
"""

from __future__ import annotations

from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)

METRICS = "metrics"
"""Name of the record of metrics."""

TRAIN_METRICS = ("num-examples", "train_loss", "steps", "clients")
"""Examples trained on, their mean loss, steps taken, and how many clients the reply stands for.

A reply for several clients has the sums, and the mean loss weighted by examples.
"""

EVALUATE_METRICS = ("num-examples", "loss", "accuracy")

_ANSWERED, _BY = "answered", "by"


def answered(message: Message, node: int) -> Message:
    """Return the reply of a node whose update is in another node's reply."""
    return Message(RecordDict({_ANSWERED: ConfigRecord({_BY: node})}), reply_to=message)


def answered_by(content: RecordDict) -> int | None:
    """Return the node that answered in place of this one, if one did."""
    record = content.get(_ANSWERED)
    node = record.get(_BY) if isinstance(record, ConfigRecord) else None
    return node if isinstance(node, int) else None


def take_record(content: RecordDict, name: str) -> ArrayRecord:
    """Take an array record out of a reply that was checked."""
    record = content.pop(name)
    assert isinstance(record, ArrayRecord)
    return record


def array_record(content: RecordDict) -> ArrayRecord:
    """Return the one array record of a reply that was checked."""
    return next(iter(content.array_records.values()))


def metric(content: RecordDict, name: str) -> float:
    """Return a number of the one metric record of a reply that was checked."""
    record: MetricRecord = next(iter(content.metric_records.values()))
    value = record[name]
    assert isinstance(value, (int, float))
    return float(value)
