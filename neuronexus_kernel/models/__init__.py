"""A model is data: graphs of allowed operators, and weights as plain numbers.

`Architecture.capture` turns a PyTorch module into a graph with a content address; `mlp` and
`cnn` are ready-made ones.  Importing this room does not import torch.
"""

from neuronexus_kernel.models import noise, weights
from neuronexus_kernel.models.architecture import Architecture
from neuronexus_kernel.models.zoo import cnn, mlp

__all__ = ["Architecture", "cnn", "mlp", "noise", "weights"]
