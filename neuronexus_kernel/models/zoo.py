"""Ready-made architectures, those of the papers we compare with.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of
deep networks from decentralized data", AISTATS 2017 (arXiv 1602.05629), section 3.  The graphs
are written down directly, so making one takes no torch and no time.
"""

from __future__ import annotations

from collections.abc import Sequence

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.architecture import Architecture
from neuronexus_kernel.models.graph import INPUT, GraphBuilder
from neuronexus_kernel.models.operators import Shape
from neuronexus_kernel.models.operators.arguments import Sizes, Whole

_SIZE = Whole()


def mlp(inputs: int, hidden: Sequence[int], classes: int) -> Architecture:
    """Return a multi-layer perceptron: flatten, then linear layers with ReLU between them.

    ``mlp(784, (200, 200), 10)`` is the 2NN of McMahan et al. (199,210 parameters).

    Parameters
    ----------
    inputs
        Number of elements of an example; it may have any shape, since it is flattened.
    hidden
        Width of each hidden layer; may be empty.
    classes
        Number of outputs.

    Raises
    ------
    ArchitectureError
        If a size is not a whole number above zero, or the network is too large.
    """
    size = _SIZE.parse("inputs", inputs)
    widths = Sizes(least=0, most=100).parse("hidden", tuple(hidden))
    graph = GraphBuilder((size,))
    last = graph.add("flatten", INPUT)
    for width in widths:
        last = graph.add("linear", last, out_features=width)
        last = graph.add("relu", last)
    last = graph.add("linear", last, out_features=_SIZE.parse("classes", classes))
    return Architecture((size,), tuple(graph.nodes), last)


def cnn(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    *,
    channels: Sequence[int] = (32, 64),
    kernel_size: int = 5,
    hidden: int = 512,
) -> Architecture:
    """Return the convolutional network of McMahan et al.: 1,663,370 parameters for MNIST.

    For each of `channels` a convolution that keeps the image's size, ReLU and 2 x 2 max pooling;
    then a linear layer of `hidden` with ReLU, and one of `classes`.  The paper leaves the padding
    open; its parameter count says that 28 x 28 images are padded.

    Parameters
    ----------
    input_shape
        (channels, height, width), or (height, width) for one channel.  Examples may also come as
        flat rows or without the channel: the graph begins by reshaping.
    classes
        Number of outputs.
    channels
        Output channels of each convolution.
    kernel_size
        Side of the convolutions' windows; odd.
    hidden
        Width of the hidden linear layer.

    Raises
    ------
    ArchitectureError
        If a size is not a whole number above zero, or the image is too small for the poolings.
    """
    given = Sizes(least=2, most=3).parse("input_shape", tuple(input_shape))
    shape: Shape = given if len(given) == 3 else (1, *given)
    side = _SIZE.parse("kernel_size", kernel_size)
    if side % 2 == 0:
        raise ArchitectureError(f"'kernel_size' must be odd, not {side}.")
    widths = Sizes(least=1, most=10).parse("channels", tuple(channels))
    if min(shape[1:]) < 2 ** len(widths):
        raise ArchitectureError(
            f"Images of {shape[1]} x {shape[2]} are too small to be halved {len(widths)} times; "
            f"use {2 ** len(widths)} x {2 ** len(widths)} at least, or fewer channels."
        )
    graph = GraphBuilder(shape)
    last = graph.add("reshape", INPUT, sizes=shape)
    for width in widths:
        last = graph.add(
            "conv2d",
            last,
            out_channels=width,
            kernel_size=(side, side),
            padding=(side // 2, side // 2),
        )
        last = graph.add("relu", last)
        last = graph.add("max_pool2d", last, kernel_size=(2, 2), stride=(2, 2))
    last = graph.add("flatten", last)
    last = graph.add("linear", last, out_features=_SIZE.parse("hidden", hidden))
    last = graph.add("relu", last)
    last = graph.add("linear", last, out_features=_SIZE.parse("classes", classes))
    return Architecture(shape, tuple(graph.nodes), last)
