"""A model is data: graphs of allowed operators, and weights as plain numbers.

`Architecture.capture` turns a PyTorch module into a graph with a content address; `mlp`, `cnn`,
`resnet8` and `transformer_lm` are ready-made ones; `diff` says what changed from one to another.
Importing this room does not import torch.
"""

from neuronexus_kernel.models import noise, weights
from neuronexus_kernel.models.architecture import Architecture
from neuronexus_kernel.models.diff import diff
from neuronexus_kernel.models.zoo import cnn, mlp, resnet8, transformer_lm

__all__ = ["Architecture", "cnn", "diff", "mlp", "noise", "resnet8", "transformer_lm", "weights"]
