"""Data sets: labelled rows, where they come from, how they are shared out, what a task is."""

from neuronexus_kernel.datasets import curation, partition
from neuronexus_kernel.datasets.dataset import Dataset
from neuronexus_kernel.datasets.partition import Partition
from neuronexus_kernel.datasets.sources import digits, mnist
from neuronexus_kernel.datasets.task import METRICS, Task

__all__ = ["METRICS", "Dataset", "Partition", "Task", "curation", "digits", "mnist", "partition"]
