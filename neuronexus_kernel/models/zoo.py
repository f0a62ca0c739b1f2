"""Ready-made architectures, those of the papers we compare with.

Sources: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of
deep networks from decentralized data", AISTATS 2017 (arXiv 1602.05629), section 3, for `mlp` and
`cnn`; He, Zhang, Ren, Sun 2016 (arXiv 1512.03385), section 4.2, for `resnet8`; Radford et al.,
"Language models are unsupervised multitask learners", 2019, for `transformer_lm`.  The graphs are
written down directly, so making one takes no torch and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.architecture import Architecture
from neuronexus_kernel.models.graph import INPUT, GraphBuilder
from neuronexus_kernel.models.operators import Shape
from neuronexus_kernel.models.operators.arguments import Choice, Sizes, Whole

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


def resnet8(
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    *,
    norm: Literal["batch", "group"] = "batch",
    width: int = 16,
) -> Architecture:
    """Return a residual network of eight layers: 78,042 parameters for CIFAR-10.

    A convolution, three residual blocks of two convolutions each, the last two of which halve the
    image and double the channels (with a 1 x 1 convolution on the shortcut), average pooling over
    the image, and a linear layer.  Each convolution is followed by a normalisation.

    Parameters
    ----------
    input_shape
        (channels, height, width) of an image.
    classes
        Number of outputs.
    norm
        ``"batch"``: batch norm.  ``"group"``: group norm with 8 groups, which mixes no examples
        and keeps no statistics, so that clients with different data disagree less.
    width
        Channels of the first convolution; a multiple of 8 for group norm.

    Raises
    ------
    ArchitectureError
        If a size is not a whole number above zero, or `norm` is unknown.
    """
    shape = Sizes(least=3, most=3).parse("input_shape", tuple(input_shape))
    kind = Choice(("batch", "group")).parse("norm", norm)
    channels = _SIZE.parse("width", width)
    graph = GraphBuilder(shape)

    def convolve(x: str, out: int, side: int, stride: int) -> str:
        """Add a convolution without bias and its normalisation."""
        x = graph.add(
            "conv2d",
            x,
            out_channels=out,
            kernel_size=(side, side),
            stride=(stride, stride),
            padding=(side // 2, side // 2),
            bias=False,
        )
        if kind == "batch":
            return graph.add("batch_norm", x)
        return graph.add("group_norm", x, num_groups=8)

    last = graph.add("relu", convolve(INPUT, channels, 3, 1))
    for out, stride in ((channels, 1), (2 * channels, 2), (4 * channels, 2)):
        inner = graph.add("relu", convolve(last, out, 3, stride))
        inner = convolve(inner, out, 3, 1)
        shortcut = last if stride == 1 else convolve(last, out, 1, stride)
        last = graph.add("relu", graph.add("add", inner, shortcut))
    last = graph.add("flatten", graph.add("adaptive_avg_pool2d", last, output_size=(1, 1)))
    last = graph.add("linear", last, out_features=_SIZE.parse("classes", classes))
    return Architecture(shape, tuple(graph.nodes), last)


def transformer_lm(
    vocabulary: int,
    length: int,
    *,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.0,
) -> Architecture:
    """Return a small causal transformer that predicts the next token at every step.

    Embeddings of tokens and of positions; blocks of causal attention and of two linear layers
    with GELU between them (four times as wide), each behind a layer norm and beside a shortcut;
    a layer norm and a linear layer that scores the vocabulary.

    Parameters
    ----------
    vocabulary
        How many tokens there are, counted from 0.
    length
        Number of tokens of an example.
    width
        Numbers that stand for a token inside the network; a multiple of `heads`.
    heads
        How many attentions run side by side.
    layers
        How many blocks.
    dropout
        Probability in training: of the attention's weights, and of what each block adds.

    Raises
    ------
    ArchitectureError
        If a size is not a whole number above zero, or `width` is no multiple of `heads`.
    """
    steps, known = _SIZE.parse("length", length), _SIZE.parse("vocabulary", vocabulary)
    size, count = _SIZE.parse("width", width), _SIZE.parse("heads", heads)
    if size % count:
        raise ArchitectureError(
            f"'width' must be a multiple of 'heads', but {size} is none of {count}."
        )
    graph = GraphBuilder((steps,), tokens=True)

    def attend(x: str) -> str:
        """Add the attention of all heads: from (steps, width) to the same."""

        def head(values: str) -> str:
            parts = graph.add("reshape", values, sizes=(steps, count, size // count))
            return graph.add("permute", parts, order=(1, 0, 2))

        values = [head(graph.add("linear", x, out_features=size)) for _ in range(3)]
        joined = graph.add("attention", *values, causal=True, p=dropout)
        joined = graph.add("permute", joined, order=(1, 0, 2))
        joined = graph.add("reshape", joined, sizes=(steps, size))
        return graph.add("linear", joined, out_features=size)

    def think(x: str) -> str:
        wide = graph.add("gelu", graph.add("linear", x, out_features=4 * size))
        return graph.add("linear", wide, out_features=size)

    def beside(block: Callable[[str], str], x: str) -> str:
        """Add a block behind a layer norm and beside a shortcut."""
        made = block(graph.add("layer_norm", x, normalized_shape=(size,)))
        if dropout:
            made = graph.add("dropout", made, p=dropout)
        return graph.add("add", made, x)

    # The order is that of capture, so that the same network written in PyTorch is equal.
    places = graph.add("positions", count=steps)
    places = graph.add("embedding", places, num_embeddings=steps, embedding_dim=size)
    table = graph.add("embedding", INPUT, num_embeddings=known, embedding_dim=size)
    last = graph.add("add", places, table)
    for _ in range(Whole(maximum=100).parse("layers", layers)):
        last = beside(think, beside(attend, last))
    last = graph.add("layer_norm", last, normalized_shape=(size,))
    last = graph.add("linear", last, out_features=known)
    return Architecture((steps,), tuple(graph.nodes), last, input_dtype="int64")
