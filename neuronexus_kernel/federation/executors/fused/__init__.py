"""The fused executor: training steps compiled from the graph of the model, without autograd.

A model is a graph of known operators, so that its backward pass can be written down before the
first step (`compiler`), one rule for each operator (`rules`), with plain gradient descent folded
into the products that form the gradients (`updates`).
"""

from neuronexus_kernel.federation.executors.fused.executor import FusedExecutor
from neuronexus_kernel.federation.executors.fused.support import refusal

__all__ = ["FusedExecutor", "refusal"]
