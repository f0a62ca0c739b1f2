"""How many places a sliding window has: the arithmetic that convolution and pooling share."""

from __future__ import annotations

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import Arguments
from neuronexus_kernel.models.operators.base import Shape


def windows(size: Shape, arguments: Arguments, *, dilation: Shape, ceil: bool = False) -> Shape:
    """Return the sizes of a sliding window's output: (length,) or (height, width).

    Parameters
    ----------
    size
        Length, or height and width, of the input.
    arguments
        Hold ``kernel_size``, ``stride`` and ``padding``.
    dilation
        Distance between the window's elements.
    ceil
        Round up: the last window may begin inside the input and hang over its end.

    Raises
    ------
    ArchitectureError
        If the window is larger than the padded input.
    """
    kernel, stride = arguments.sizes("kernel_size"), arguments.sizes("stride")
    padding = arguments.sizes("padding")
    names = ("height", "width") if len(size) == 2 else ("length",)
    places = []
    for axis, name in enumerate(names):
        padded = size[axis] + 2 * padding[axis]
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        if reach > padded:
            raise ArchitectureError(
                f"its window of {reach} is larger than the {padded} elements there are in the "
                f"{name} (input {size[axis]}, padding {padding[axis]})."
            )
        count = (padded - reach + (stride[axis] - 1 if ceil else 0)) // stride[axis] + 1
        if ceil and (count - 1) * stride[axis] >= size[axis] + padding[axis]:
            count -= 1
        places.append(count)
    return tuple(places)
