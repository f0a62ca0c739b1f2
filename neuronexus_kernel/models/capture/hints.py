"""What to write instead of things that people commonly try and that cannot be captured."""

from __future__ import annotations

from collections.abc import Mapping

from neuronexus_kernel.models.operators import OPERATORS

_CURVES = "use ReLU, LeakyReLU, GELU, ELU, SiLU, Softplus, Tanh or Sigmoid"
_RECURRENT = "use nn.LSTM or nn.GRU over the whole sequence"
_DECIDING = (
    "what depends on the values of a tensor differs from input to input; use F.relu, torch.clamp "
    "or a product with a sigmoid"
)
_RANDOM = "random numbers differ from call to call; use nn.Dropout for noise in training"
_VALUES = "the values of tensors are not known while capturing; compute with tensors"
_LAST = "return the scores; what is computed from them belongs to the evaluation"
_LOSS = "return the scores; the recipe names the loss"
_IMAGE3D = "networks on volumes are not supported; fold one dimension into the channels"
_PADDING = "pad with zeros: padding=1, or F.pad(x, ...)"

HINTS: Mapping[str, str] = {
    "PReLU": "its slope is trained, which is not supported; use nn.LeakyReLU or nn.GELU",
    "prelu": "its slope is trained, which is not supported; use F.leaky_relu or F.gelu",
    "RReLU": "its slope is random; use nn.LeakyReLU",
    "CELU": _CURVES,
    "Threshold": _CURVES,
    "Hardshrink": _CURVES,
    "Softshrink": _CURVES,
    "Tanhshrink": _CURVES,
    "AlphaDropout": "use nn.Dropout",
    "FeatureAlphaDropout": "use nn.Dropout",
    "alpha_dropout": "use F.dropout(x, p, training=self.training)",
    "Dropout3d": "use nn.Dropout or nn.Dropout2d",
    "RNN": _RECURRENT,
    "RNNCell": _RECURRENT,
    "LSTMCell": _RECURRENT,
    "GRUCell": _RECURRENT,
    "Transformer": "use nn.TransformerEncoder; a network takes one tensor",
    "Conv3d": _IMAGE3D,
    "ConvTranspose1d": "use nn.ConvTranspose2d with a window of height 1, or nn.Upsample",
    "ConvTranspose3d": _IMAGE3D,
    "MaxPool3d": _IMAGE3D,
    "AvgPool3d": _IMAGE3D,
    "AdaptiveAvgPool3d": _IMAGE3D,
    "AdaptiveMaxPool3d": _IMAGE3D,
    "SyncBatchNorm": "use nn.BatchNorm2d",
    "LocalResponseNorm": "use nn.GroupNorm or nn.BatchNorm2d",
    "CrossMapLRN2d": "use nn.GroupNorm or nn.BatchNorm2d",
    "Bilinear": "use nn.Linear on torch.cat of both, or a product of two nn.Linear",
    "EmbeddingBag": "use nn.Embedding and x.mean(1)",
    "ReflectionPad2d": _PADDING,
    "ReplicationPad2d": _PADDING,
    "CircularPad2d": _PADDING,
    "LPPool2d": "use nn.AvgPool2d or nn.MaxPool2d",
    "FractionalMaxPool2d": "use nn.MaxPool2d",
    "MaxUnpool2d": "use nn.Upsample or nn.ConvTranspose2d",
    "PixelShuffle": "use nn.ConvTranspose2d, or reshape and permute",
    "UpsamplingBilinear2d": "use nn.Upsample(mode='nearest') or nn.ConvTranspose2d",
    "CrossEntropyLoss": _LOSS,
    "MSELoss": _LOSS,
    "BCELoss": _LOSS,
    "NLLLoss": _LOSS,
    "cross_entropy": _LOSS,
    "mse_loss": _LOSS,
    "nll_loss": _LOSS,
    "einsum": "use @ with transpose and reshape",
    "tensordot": "use @ with reshape",
    "outer": "use x.unsqueeze(-1) * y.unsqueeze(-2)",
    "cumsum": "use @ with a constant torch.tril(torch.ones(T, T))",
    "cumprod": "use exp of a sum of logarithms",
    "maximum": "use a + F.relu(b - a)",
    "minimum": "use a - F.relu(a - b)",
    "argmax": _LAST,
    "argmin": _LAST,
    "topk": _LAST,
    "sort": "the order depends on the values; use pooling or attention",
    "gather": "which elements are taken depends on the values; use attention or nn.Embedding",
    "index_select": "use slices, or nn.Embedding for a table",
    "scatter": "use products with constants",
    "one_hot": "use nn.Embedding",
    "long": "give the network an input of tokens: torch.zeros(1, T, dtype=torch.long)",
    "int": "give the network an input of tokens: torch.zeros(1, T, dtype=torch.long)",
    "bool": _DECIDING,
    "gt": _DECIDING,
    "lt": _DECIDING,
    "ge": _DECIDING,
    "le": _DECIDING,
    "eq": _DECIDING,
    "ne": _DECIDING,
    "sign": _DECIDING,
    "round": _DECIDING,
    "floor": _DECIDING,
    "nonzero": _DECIDING,
    "item": _VALUES,
    "tolist": _VALUES,
    "numpy": _VALUES,
    "detach": "it stops the gradient, so training would differ; leave it out",
    "requires_grad_": "whether parameters are trained is for the recipe; leave it out",
    "half": "the network runs in the precision it is given; leave it out",
    "double": "the network runs in the precision it is given; leave it out",
    "bfloat16": "the network runs in the precision it is given; leave it out",
    "bernoulli": _RANDOM,
    "rand_like": _RANDOM,
    "randn_like": _RANDOM,
    "repeat_interleave": "use unsqueeze, expand and reshape",
    "flip": "order the data, or use nn.LSTM(bidirectional=True)",
    "roll": "use slices and torch.cat",
    "sin": "compute tables of sines in __init__ and keep them with self.register_buffer",
    "cos": "compute tables of cosines in __init__ and keep them with self.register_buffer",
    "erf": "use F.gelu",
    "unfold": "cut patches with nn.Conv2d(kernel_size=p, stride=p), or with reshape and permute",
    "Unfold": "cut patches with nn.Conv2d(kernel_size=p, stride=p), or with reshape and permute",
    "Fold": "use nn.ConvTranspose2d",
    "pack_padded_sequence": "make all sequences equally long",
    "floordiv": "keep the batch as a dimension of its own",
    "mod": "keep the batch as a dimension of its own",
    "copy_": "use the value itself; a network keeps no state but that of nn.BatchNorm2d",
}


def hint(name: str) -> str:
    """Return what to write instead of `name`."""
    short = name.rpartition(".")[2].rpartition(" ")[2]
    return HINTS.get(short, f"the allowed operators are: {', '.join(OPERATORS)}")
