"""A SuperNode that trains as it is told, but lies about the result: says the environment how."""

from __future__ import annotations

import os

import numpy as np

from neuronexus_kernel.federation._flower import Array, ArrayRecord, Message, RecordDict
from neuronexus_kernel.federation.deployment import supernode_process
from neuronexus_kernel.federation.deployment.node import Node

LIES = {
    "nan": lambda values: np.full_like(values, np.nan),
    "shape": lambda values: np.concatenate([values.ravel(), [1.0]]).astype(values.dtype),
    "type": lambda values: values.astype(np.complex64),
    "large": lambda values: values + np.float32(1e8),
}


class LyingNode(Node):
    def answer(self, message: Message, state: RecordDict) -> Message:
        reply = super().answer(message, state)
        (key,) = reply.content.array_records
        lie = LIES[os.environ["LIE"]]
        record = ArrayRecord()
        for name, array in reply.content.array_records[key].items():
            record[name] = Array(lie(array.numpy()))
        reply.content[key] = record
        return reply


if __name__ == "__main__":
    supernode_process.Node = LyingNode  # type: ignore[misc]
    supernode_process.main()
