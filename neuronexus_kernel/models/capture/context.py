"""What the rules of capture work with: traced tensors, parameters, the batch, and the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from torch import fx, nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.graph import GraphBuilder
from neuronexus_kernel.models.operators import Shape, show


class Batch(Enum):
    """The size of the batch: a number that a graph never knows."""

    SIZE = "the batch size"


BATCH: Final = Batch.SIZE

Rule: TypeAlias = Callable[..., object]
"""Translates one call: (the translation, the call's own arguments) -> what the call gives."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A tensor of the trace: the node that makes it and the shape of one example."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of the captured module: its path there and its shape."""

    path: str
    shape: Shape


class Translation:
    """The graph under construction, and where the weights of its nodes come from.

    Parameters
    ----------
    module
        The module that is captured.
    shape
        Shape of one example.
    dropping
        For each step that calls ``F.dropout``: its ``training`` argument in evaluation mode.
    order
        Place of every step in the trace.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: Shape,
        *,
        dropping: Mapping[str, object],
        order: Mapping[fx.Node, int],
    ) -> None:
        self.graph = GraphBuilder(shape)
        self.sources: dict[str, str] = {}
        self.dropping = dropping
        self.step: fx.Node | None = None
        self._order = order
        self._paths: dict[int, str] = {}
        self._weights: dict[str, Weight] = {}
        for path, value in module.named_parameters(remove_duplicate=False):
            # A parameter that has two names is one parameter: the first name stands for it.
            first = self._paths.setdefault(id(value), path)
            self._weights[path] = Weight(first, tuple(value.shape))

    def add(self, operator: str, *inputs: object, **arguments: object) -> Traced:
        """Append a node that reads traced tensors."""
        names = [tensor(value).name for value in inputs]
        name = self.graph.add(operator, *names, **arguments)
        return Traced(name, self.graph.shapes[name])

    def add_layer(
        self, operator: str, x: object, weights: Mapping[str, Weight | None], **arguments: object
    ) -> Traced:
        """Append a node and note which parameters of the module are its own.

        Raises
        ------
        ArchitectureError
            If another node has one of them already, or its shape does not fit.
        """
        made = self.add(operator, x, **arguments)
        specs = self.graph.parameters_of(made.name)
        for short, weight in weights.items():
            if weight is None:
                continue
            if weight.path in self.sources.values():
                raise ArchitectureError(
                    f"its parameter '{weight.path}' is used by an earlier step too; shared "
                    "parameters are not supported: make a second layer."
                )
            if specs[short].shape != weight.shape:
                raise ArchitectureError(
                    f"its {short} has shape {weight.shape}, but the input of shape "
                    f"{tensor(x).shape} needs {specs[short].shape}."
                )
            self.sources[f"{made.name}.{short}"] = weight.path
        return made

    def weight(self, value: object) -> Weight | None:
        """Return the parameter that `value` is (the tensor itself, or as traced), or None."""
        if value is None or isinstance(value, Weight):
            return value
        path = self._paths.get(id(value))
        if path is None:
            raise ArchitectureError(
                "its weight is no parameter of the module; use a layer such as nn.Linear."
            )
        return self._weights[path]

    def needed_weight(self, value: object) -> Weight:
        """Return the parameter that `value` is."""
        weight = self.weight(value)
        if weight is None:
            raise ArchitectureError("its weight is missing; use a layer such as nn.Linear.")
        return weight

    def attribute(self, path: str) -> Weight:
        """Return the parameter at a path of the module."""
        if path not in self._weights:
            raise ArchitectureError(
                "it is a constant or a buffer; a network consists of layers and functions."
            )
        return self._weights[path]

    def check_in_place(self) -> None:
        """Refuse a change in place of a tensor that a later step reads."""
        if self.step is None or not self.step.args:
            return
        changed, now = self.step.args[0], self._order[self.step]
        if not isinstance(changed, fx.Node):
            return
        for user in changed.users:
            asks_size = user.target in ("size", "dim", getattr)
            if self._order.get(user, -1) > now and not asks_size:
                raise ArchitectureError(
                    f"it changes in place what step '{user.name}' reads afterwards; leave out "
                    "inplace=True."
                )


def tensor(value: object) -> Traced:
    """Return `value` if it is a traced tensor."""
    if not isinstance(value, Traced):
        kind = "the batch size" if value is BATCH else show(value)
        kind = "a parameter" if isinstance(value, Weight) else kind
        raise ArchitectureError(
            f"it works on {kind}; only what the network computes from its input can be used "
            "here: express constants and factors as layers."
        )
    return value
