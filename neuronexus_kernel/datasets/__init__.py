"""Data sets: labelled rows, where they come from, how they are shared out, what a task is."""

from neuronexus_kernel.datasets import curation, partition
from neuronexus_kernel.datasets.checking import KINDS
from neuronexus_kernel.datasets.dataset import Dataset
from neuronexus_kernel.datasets.partition import Partition
from neuronexus_kernel.datasets.sources import diabetes, digits, mnist, text
from neuronexus_kernel.datasets.task import METRIC_OF, METRICS, Task, describe_outputs

__all__ = [
    "KINDS",
    "METRICS",
    "METRIC_OF",
    "Dataset",
    "Partition",
    "Task",
    "curation",
    "describe_outputs",
    "diabetes",
    "digits",
    "mnist",
    "partition",
    "text",
]
