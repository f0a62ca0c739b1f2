"""An architecture is data: a graph of allow-listed operators with a content address.

It is captured once from an ordinary PyTorch module, travels as canonical DAG-CBOR, is checked in
full before anything is allocated, and is run by an interpreter of our own.  No code travels and
none is generated.  Reading, checking and describing an architecture needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.content.cid import CID, DAG_CBOR
from neuronexus_kernel.content.dagcbor import Node as Document
from neuronexus_kernel.content.dagcbor import decode, encode
from neuronexus_kernel.errors import ArchitectureError, ContentError
from neuronexus_kernel.models import document, noise
from neuronexus_kernel.models.graph import INPUT, Node
from neuronexus_kernel.models.layout import Layout, lay_out
from neuronexus_kernel.models.operators import OPERATORS, Parameter, Shape
from neuronexus_kernel.settings import ArchitectureLimits

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from neuronexus_kernel.models.interpreter import Interpreter


@dataclass(frozen=True, slots=True, repr=False)
class Architecture:
    """A checked graph of allowed operators.

    Make one with `capture`, `from_dict`, `decode`, or `neuronexus_kernel.models.mlp` and `cnn`.
    Two architectures are equal exactly when their CIDs are.

    Attributes
    ----------
    input_shape
        Shape of one example, without the batch dimension.
    nodes
        The steps, each reading earlier ones.
    output
        Name of the node whose value is the result.
    sources
        Where the weights lie in the module this was captured from (name here -> name there).
    input_dtype
        ``"float32"``, or ``"int64"`` for an input of tokens.
    layout
        What follows from the graph: shapes and parameters of every node.
    limits
        Bounds that are checked when the architecture is made; when absent, those of the
        environment (`ArchitectureLimits.load`).

    Raises
    ------
    ArchitectureError
        If the graph does not fit together or passes a limit; the message names the node.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    output: str
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    input_dtype: str = "float32"
    layout: Layout = field(init=False, compare=False)
    limits: InitVar[ArchitectureLimits | None] = None

    def __post_init__(self, limits: ArchitectureLimits | None) -> None:
        tokens = self.input_dtype == "int64"
        bounds = limits or ArchitectureLimits.load()
        layout = lay_out(self.input_shape, self.nodes, self.output, limits=bounds, tokens=tokens)
        object.__setattr__(self, "layout", layout)

    # Where architectures come from

    @classmethod
    def capture(cls, module: nn.Module, example_input: object) -> Architecture:
        """Turn an ordinary PyTorch module into an architecture.

        The module's ``forward`` is traced by torch.fx, in training and in evaluation mode; the
        trace is translated to allowed operators and then thrown away.

        Parameters
        ----------
        module
            May use the layers and functions of the allow-list, in any arrangement that does not
            depend on the data.
        example_input
            Tensor or array with a batch dimension, such as ``torch.zeros(1, 64)``; whole numbers,
            such as ``torch.zeros(1, 32, dtype=torch.long)``, for a network that takes tokens.

        Raises
        ------
        ArchitectureError
            If the module does something that is not allowed; the message names the step, the
            reason and what to write instead.
        """
        from neuronexus_kernel.models.capture import capture

        return capture(cls, module, example_input)

    @classmethod
    def from_dict(cls, node: object, *, limits: ArchitectureLimits | None = None) -> Architecture:
        """Read the document that `to_dict` writes, from anywhere.

        Raises
        ------
        ArchitectureError
            Whatever is wrong with it.
        """
        bounds = limits or ArchitectureLimits.load()
        shape, dtype, nodes, output = document.read(node, most_nodes=bounds.nodes)
        return cls(shape, nodes, output, input_dtype=dtype, limits=bounds)

    @classmethod
    def decode(cls, data: bytes, *, limits: ArchitectureLimits | None = None) -> Architecture:
        """Read the bytes that `encode` writes.

        Raises
        ------
        ArchitectureError
            If they are no canonical encoding of an architecture: bytes that are accepted have
            the CID of the architecture.
        """
        if not isinstance(data, bytes):
            raise ArchitectureError(f"An encoding is bytes, not {type(data).__name__}.")
        try:
            node = decode(data)
        except ContentError as error:
            raise ArchitectureError(f"The bytes hold no architecture: {error}") from None
        architecture = cls.from_dict(node, limits=limits)
        if architecture.encode() != data:
            raise ArchitectureError(
                "The bytes hold an architecture, but not in canonical form; "
                "use Architecture.from_dict(...).encode()."
            )
        return architecture

    # What it is

    def to_dict(self) -> dict[str, Document]:
        """Return the architecture as plain data (see `neuronexus_kernel.models.document`)."""
        return document.write(self.input_shape, self.input_dtype, self.nodes, self.output)

    def encode(self) -> bytes:
        """Return the canonical DAG-CBOR bytes."""
        return encode(self.to_dict())

    @property
    def cid(self) -> CID:
        """The content address: the same network has the same one, whoever captured it."""
        return CID.of(self.encode(), DAG_CBOR)

    @property
    def output_shape(self) -> Shape:
        """Shape of one example's output, without the batch dimension."""
        return self.layout.shapes[self.output]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every tensor of the state, trainable or not, by full name in canonical (sorted) order."""
        found = {
            f"{node}.{name}": spec
            for node, named in self.layout.parameters.items()
            for name, spec in named.items()
        }
        return dict(sorted(found.items()))

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shape of every tensor of the state, by full name in canonical (sorted) order."""
        return {name: spec.shape for name, spec in self.parameters.items()}

    @property
    def statistics(self) -> tuple[str, ...]:
        """Full names of the running statistics: the tensors that no optimiser moves, sorted."""
        return tuple(name for name, spec in self.parameters.items() if not spec.trainable)

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        return self.layout.parameter_count

    @property
    def vocabulary(self) -> int | None:
        """How many tokens, counted from 0, may be given to it; None if it takes numbers."""
        return self.layout.vocabulary

    # Whether it fits

    def accepts(self, shape: Shape) -> bool:
        """Tell whether examples of this shape can be given to the architecture.

        They can if it is the input shape, or if the graph begins by reshaping and so takes
        another shape of as many elements: an MLP takes images, a `cnn` takes flat rows.
        """
        if tuple(shape) == self.input_shape:
            return True
        if math.prod(shape) != math.prod(self.input_shape):
            return False
        readers = [node for node in self.nodes if INPUT in node.inputs]
        return all(OPERATORS[node.operator].reads(shape, node.arguments) for node in readers)

    def check_task(self, input_shape: Shape, outputs: int | Shape) -> None:
        """Check that the architecture fits a task.

        Parameters
        ----------
        input_shape
            Shape of one example of the task.
        outputs
            How many classes the task tells apart, or the shape of one example's output: that of
            a label for regression, (steps, vocabulary) for the prediction of tokens.

        Raises
        ------
        ArchitectureError
            Saying what does not fit.
        """
        shape = tuple(input_shape)
        if not self.accepts(shape):
            advice = ""
            if math.prod(shape) == math.prod(self.input_shape):
                advice = f"; begin the network with x.reshape(-1, *{self.input_shape})"
            raise ArchitectureError(
                f"The architecture takes examples of shape {self.input_shape}, but the task's "
                f"have shape {shape}{advice}."
            )
        wanted = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        if self.output_shape != wanted:
            meaning = f": one score for each of its {outputs} classes" * isinstance(outputs, int)
            raise ArchitectureError(
                f"The architecture's output has shape {self.output_shape}, but the task needs "
                f"{wanted}{meaning}."
            )

    # Weights and the module that runs them

    def initial_weights(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return starting weights that depend on `seed` and the names alone.

        Layers start as in PyTorch: linear ones and convolutions uniform in
        ``± 1 / sqrt(fan in)``, recurrent ones in ``± 1 / sqrt(hidden size)``, normalisations with
        ones and zeros; embeddings have unit deviation, but are uniform.  The numbers are drawn
        by `noise`, so they are the same on every machine and no generator of torch or NumPy is
        touched.

        Returns
        -------
        dict
            float32 arrays by parameter name, in canonical order.
        """
        return {name: _start(spec, seed, name) for name, spec in self.parameters.items()}

    def build(self, weights: Mapping[str, np.ndarray] | None = None) -> Interpreter:
        """Return a PyTorch module that computes this graph.

        Parameters
        ----------
        weights
            Arrays by parameter name; ``initial_weights()`` when absent.

        Returns
        -------
        Interpreter
            Its ``state_dict`` has the keys of `parameter_shapes`.

        Raises
        ------
        ArchitectureError
            If the weights' names or shapes are others.
        """
        from neuronexus_kernel.models.interpreter import Interpreter

        return Interpreter(self, self.initial_weights() if weights is None else weights)

    def weights_of(self, module: nn.Module) -> dict[str, np.ndarray]:
        """Return a module's weights under the canonical names.

        Parameters
        ----------
        module
            What `build` returned, the module this was captured from, or another one that
            computes the same graph.

        Returns
        -------
        dict
            Copies, by parameter name, in canonical order and in the module's precision.

        Raises
        ------
        ArchitectureError
            If the module computes another graph.
        """
        from neuronexus_kernel.models.capture import weights_of

        return weights_of(self, module)

    # How it looks

    def summary(self) -> pd.DataFrame:
        """Return a table: layer, operator, output shape, parameters, FLOPs of one example."""
        from neuronexus_kernel.models.summary import table

        return table(self)

    def __repr__(self) -> str:
        return (
            f"Architecture({self.input_shape} -> {self.output_shape}, {len(self.nodes)} nodes, "
            f"{self.parameter_count:,} parameters, {str(self.cid)[:16]}…)"
        )

    def _repr_html_(self) -> str:
        from neuronexus_kernel.models.summary import html

        return html(self)


def _start(spec: Parameter, seed: int, name: str) -> np.ndarray:
    if spec.bound == 0.0:
        return np.full(spec.shape, spec.centre, dtype=np.float32)
    values = noise.uniform_array(noise.key_of(seed, name), math.prod(spec.shape))
    return (spec.centre + spec.bound * values).astype(np.float32).reshape(spec.shape)
