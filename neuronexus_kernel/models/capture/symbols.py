"""What the captured module's code holds in its hands while it is traced."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, SupportsIndex, overload

import torch
from torch import fx

from neuronexus_kernel.errors import ArchitectureError

if TYPE_CHECKING:
    from neuronexus_kernel.models.capture.trace import _Tracer


class Several(tuple[object, ...]):
    """Sizes or several results, as ``torch.Size`` and named results of PyTorch behave."""

    def __new__(cls, parts: Iterable[object]) -> Several:
        """Make it of its parts."""
        return super().__new__(cls, parts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> object: ...

    @overload
    def __getitem__(self, index: slice) -> Several: ...

    def __getitem__(self, index: SupportsIndex | slice) -> object:
        """Return one part, or several of the same kind."""
        if isinstance(index, slice):
            return Several(super().__getitem__(index))
        return super().__getitem__(index)

    def numel(self) -> int:
        """Return the product of sizes."""
        numbers = [each for each in self if isinstance(each, int)]
        if len(numbers) < len(self):
            raise ArchitectureError(
                "The number of elements depends on the batch size; write x.shape[1:].numel() for "
                "those of one example."
            )
        return math.prod(numbers)

    @property
    def values(self) -> object:
        """The first result of ``x.max(dim)``."""
        return self[0]

    @property
    def indices(self) -> object:
        """The second result of ``x.max(dim)``."""
        return self[1]


class Symbol(fx.Proxy):
    """Stands for a tensor, or for the batch size, in the module's code."""

    tracer: _Tracer

    @property
    def shape(self) -> object:
        """Its sizes."""
        return self.tracer.create_proxy("call_method", "size", (self,), {})

    @property
    def ndim(self) -> object:
        """How many dimensions it has."""
        return self.tracer.create_proxy("call_method", "dim", (self,), {})

    @property
    def T(self) -> object:
        """Itself transposed, if it is a matrix."""
        return self.tracer.create_proxy("call_method", "t", (self,), {})

    @property
    def mT(self) -> object:
        """Its matrices transposed."""
        return self.tracer.create_proxy("call_method", "transpose", (self, -2, -1), {})

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        return self.tracer.dtype_of(self)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.tracer.device

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.device.type == "cuda"

    def __iadd__(self, other: object) -> object:
        """``x += y``, which changes x in place."""
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: object) -> object:
        """``x -= y``."""
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: object) -> object:
        """``x *= y``."""
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: object) -> object:
        """``x /= y``."""
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    def __float__(self) -> float:
        """Return the number that a constant is."""
        return self.tracer.number(self)

    def __int__(self) -> int:
        """Return the whole number that a constant is."""
        return int(self.tracer.number(self))

    def __len__(self) -> int:
        """Return its first size, unless that is the batch."""
        return self.tracer.length(self)

    def __setitem__(self, index: object, value: object) -> NoReturn:
        """Refuse to change a tensor in part."""
        raise ArchitectureError(
            f"Step '{self.node.name}': a part of it is changed in place; put tensors together "
            "with torch.cat or torch.where instead."
        )

    def __contains__(self, item: object) -> NoReturn:
        """Refuse to search a tensor."""
        raise ArchitectureError(
            f"Step '{self.node.name}': 'in' depends on its values; a captured network does the "
            "same for every input."
        )
