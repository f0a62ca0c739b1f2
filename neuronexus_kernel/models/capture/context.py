"""What the rules of capture work with: the graph under construction and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.utils import parametrize

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.hints import hint
from neuronexus_kernel.models.capture.values import (
    BATCH,
    Constant,
    Stacked,
    Traced,
    Weight,
    finite,
    shape_text,
)
from neuronexus_kernel.models.graph import INPUT, GraphBuilder
from neuronexus_kernel.models.operators import Shape, show
from neuronexus_kernel.models.operators.arguments import REALS_LIMIT

Rule: TypeAlias = Callable[..., object]
"""Translates one call: (the translation, the call's own arguments) -> what the call gives."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The rules there are."""

    modules: Mapping[type[nn.Module], Rule]
    functions: Mapping[Callable[..., object], Rule]


class Translation:
    """The graph under construction, and where the weights of its nodes come from.

    Parameters
    ----------
    module
        The module that is captured.
    shape
        Shape of one example.
    tables
        The rules for layers inside layers.
    tokens
        Whether the input holds tokens.
    evaluation
        What each step does in evaluation mode, as recorded by a first pass; None in that pass.

    Attributes
    ----------
    graph
        The nodes so far, those of no use included.
    sources
        Path of the parameter or buffer for every tensor of every node.
    settings
        What the steps of this pass do: dropout and batch norm enter here whether they are on.
    in_place
        Whether the rule at work changes its first argument in place.
    module
        The module that is captured.
    step
        Name of the step at work.
    judging
        Whether this is the second pass, which knows what evaluation does.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: Shape,
        *,
        tables: Tables,
        tokens: bool = False,
        evaluation: Mapping[str, object] | None = None,
    ) -> None:
        self.graph = GraphBuilder(shape, tokens=tokens)
        self.sources: dict[str, str] = {}
        self.settings: dict[str, object] = {}
        self.module = module
        self.step = ""
        self.in_place = False
        self.tables = tables
        self._evaluation = evaluation
        self.judging = evaluation is not None
        self._paths: dict[int, str] = {}
        self._weights: dict[str, Weight] = {}
        self._realised: dict[object, Traced] = {}
        for path, value in module.named_parameters(remove_duplicate=False):
            if isinstance(value, nn.UninitializedParameter):
                raise ArchitectureError(
                    f"The parameter '{path}' has no shape yet; call the module once with an "
                    "example before capturing it."
                )
            # A parameter that has two names is one parameter: the first name stands for it.
            first = self._paths.setdefault(id(value), path)
            self._weights[path] = Weight(first, tuple(value.shape))
        self._buffers = {
            id(value): path for path, value in module.named_buffers(remove_duplicate=False)
        }

    @property
    def input(self) -> Traced:
        """The network's input."""
        return Traced(INPUT, self.graph.shapes[INPUT])

    # Nodes

    def add(self, operator: str, *inputs: object, **arguments: object) -> Traced:
        """Append a node that reads tensors; the batch stays where the first one has it."""
        read = [self.tensor(value) for value in inputs]
        name = self.graph.add(operator, *[each.name for each in read], **arguments)
        batch = read[0].batch if read else None
        return Traced(name, self.graph.shapes[name], batch)

    def add_layer(
        self, operator: str, x: object, weights: Mapping[str, Weight | None], **arguments: object
    ) -> Traced:
        """Append a node and note which parameters of the module it uses.

        Raises
        ------
        ArchitectureError
            If the shape of one does not fit.
        """
        made = self.add(operator, x, **arguments)
        specs = self.graph.parameters_of(made.name)
        for short, weight in weights.items():
            if weight is None:
                continue
            if specs[short].shape != weight.full:
                raise ArchitectureError(
                    f"its {short} has shape {weight.full}, but the input of shape "
                    f"{self.tensor(x).shape} needs {specs[short].shape}."
                )
            self.sources[f"{made.name}.{short}"] = weight.path
        return made

    def tensor(self, value: object, *, centre: float = 0.0, bound: float = 0.02) -> Traced:
        """Return what a node can read: `value`, or a node that gives it.

        Parameters
        ----------
        value
            Anything of the trace.
        centre, bound
            How a parameter that is used directly starts: it depends on the use alone, never on
            its values, for these must not change the address of a network.
        """
        if isinstance(value, Traced):
            return value
        if isinstance(value, Weight):
            return self._parameter(value, centre, bound)
        if isinstance(value, Constant):
            return self._constant(value)
        if isinstance(value, Stacked):
            return self._stack(value)
        kind = "the batch size" if value is BATCH else show(value)
        raise ArchitectureError(f"it works on {kind}, where a tensor is needed.")

    def batched(self, value: object) -> Traced:
        """Return a tensor that has the batch first, as most layers need it."""
        x = self.tensor(value)
        if x.batch != 0:
            where = "no batch dimension" if x.batch is None else f"the batch at dimension {x.batch}"
            raise ArchitectureError(
                f"its input of shape {shape_text(x.full)} has {where}, but it takes the batch "
                "first."
            )
        return x

    def _parameter(self, weight: Weight, centre: float, bound: float) -> Traced:
        if not weight.shape:
            raise ArchitectureError(
                f"the parameter '{weight.path}' has no dimension; give it one, such as "
                "nn.Parameter(torch.ones(1))."
            )
        made = self._realised.get(weight.path)
        if made is None:
            name = self.graph.add("parameter", sizes=weight.shape, centre=centre, bound=bound)
            self.sources[f"{name}.value"] = weight.path
            made = self._realised[weight.path] = Traced(name, weight.shape, None)
        if not weight.transposed:
            return made
        return self.add("permute", made, order=tuple(range(len(weight.shape)))[::-1])

    def _constant(self, constant: Constant) -> Traced:
        value = constant.value
        if value.numel() > REALS_LIMIT:
            raise ArchitectureError(
                f"it uses a constant of {value.numel():,} elements, but at most "
                f"{REALS_LIMIT:,} can be part of a network; for a causal mask write "
                "F.scaled_dot_product_attention(q, k, v, is_causal=True), for a table of numbers "
                "nn.Parameter or nn.Embedding."
            )
        if value.numel() == 0 or value.is_complex():
            raise ArchitectureError("it uses a constant that is empty or complex.")
        sizes = tuple(value.shape) or (1,)
        numbers = tuple(finite(float(each)) for each in value.double().flatten().tolist())
        name = self.graph.add("constant", sizes=sizes, values=numbers)
        return Traced(name, sizes, constant.batch)

    def _stack(self, stacked: Stacked) -> Traced:
        rows = [self.add("reshape", part, sizes=(1, *part.shape)) for part in stacked.parts]
        made = rows[0]
        for row in rows[1:]:
            made = self.add("concatenate", made, row, dim=-len(row.shape))
        return Traced(made.name, made.shape, 1)

    # Parameters and constants of the module

    def weight(self, value: object) -> Weight | None:
        """Return the parameter that `value` is (the tensor itself, or as traced), or None."""
        if value is None or isinstance(value, Weight):
            return value
        path = self._paths.get(id(value))
        if path is None:
            raise ArchitectureError(
                "its weight is no parameter of the module but computed; use a layer such as "
                "nn.Linear, or x @ weight."
            )
        return self._weights[path]

    def needed_weight(self, value: object) -> Weight:
        """Return the parameter that `value` is."""
        weight = self.weight(value)
        if weight is None:
            raise ArchitectureError("its weight is missing; use a layer such as nn.Linear.")
        return weight

    def statistic(self, value: object) -> Weight:
        """Return the buffer of running statistics that `value` is."""
        path = value.path if isinstance(value, Constant) else self._buffers.get(id(value))
        if not path:
            raise ArchitectureError(
                "its running statistics are no buffers of the module; use nn.BatchNorm2d."
            )
        shape = value.value.shape if isinstance(value, Constant) else getattr(value, "shape", ())
        return Weight(path, tuple(shape))

    def known(self, value: Tensor) -> Weight | Constant:
        """Return the parameter or constant that a tensor of the module is."""
        path = self._paths.get(id(value))
        if path is not None:
            return self._weights[path]
        if isinstance(value, nn.Parameter):
            raise ArchitectureError(
                "The module uses an nn.Parameter that is not registered; make it and the layers in "
                "__init__, as attributes of the module or in an nn.ModuleList."
            )
        return Constant(value.detach().cpu().clone(), path=self._buffers.get(id(value), ""))

    # Layers and functions inside layers

    def layer(self, layer: nn.Module, *args: object, **kwargs: object) -> object:
        """Translate the call of a layer."""
        name = type(layer).__name__
        rule = rule_of(layer, self.tables.modules)
        if rule is None:
            raise ArchitectureError(f"a layer of type {name} is not allowed; {hint(name)}.")
        if parametrize.is_parametrized(layer):
            raise ArchitectureError(
                f"its weights are computed by a parametrization ({name}), which is code; remove "
                "it with torch.nn.utils.parametrize.remove_parametrizations."
            )
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
            raise ArchitectureError("it carries hooks, which are code; remove them.")
        return rule(self, layer, *args, **kwargs)

    # The two modes

    def follows_mode(self, setting: object, what: str) -> bool:
        """Tell whether something is on in training and off in evaluation; False if always off.

        Parameters
        ----------
        setting
            Whether it is on in this pass.
        what
            What to write instead, if it is on in evaluation.

        Raises
        ------
        ArchitectureError
            If it is on in evaluation.
        """
        self.settings[self.step] = setting
        if self._evaluation is None:
            return bool(setting)
        evaluation = self._evaluation.get(self.step, setting)
        if (setting, evaluation) == (True, False):
            return True
        if (setting, evaluation) == (False, False):
            return False
        raise ArchitectureError(
            f"it does in evaluation what belongs to training (training={show(evaluation)}); "
            f"write {what}."
        )


def rule_of(layer: nn.Module, modules: Mapping[type[nn.Module], Rule]) -> Rule | None:
    """Return the rule of a layer of PyTorch, or of a subclass that has the same ``forward``."""
    for kind in type(layer).__mro__:
        if kind in modules:
            same = getattr(type(layer), "forward", None) is getattr(kind, "forward", None)
            return modules[kind] if same else None
    return None
