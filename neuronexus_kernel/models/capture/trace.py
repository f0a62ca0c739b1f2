"""Tracing a module: torch.fx calls its ``forward``, and every call is translated as it comes.

Because a call is translated at once, the tracer knows the shape of everything, so ``x.shape``
gives plain numbers (and a symbol for the batch), `assert`, `range` and ``math.sqrt`` on them work
as ever, and only what depends on the values of the input has to be refused.  Nothing of the
trace is ever run.

Source: Reed et al., "torch.fx: practical program capture and transformation", MLSys 2022.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.fx.proxy import TraceError
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.constants import FACTORIES, FOLDED, RANDOM
from neuronexus_kernel.models.capture.context import Translation, rule_of
from neuronexus_kernel.models.capture.symbols import Several, Symbol
from neuronexus_kernel.models.capture.values import (
    BATCH,
    Constant,
    Refused,
    Stacked,
    Traced,
    Weight,
    shape_text,
)
from neuronexus_kernel.models.capture.views import gives_view, only_asks

Translate = Callable[[Translation, fx.Node, list[object], dict[str, object]], object]
"""Translates one step: (the translation, the step, its arguments by position and by name)."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What tracing in one mode gives: the steps, the constants they name, and the result."""

    steps: tuple[fx.Node, ...]
    constants: tuple[Tensor, ...]
    result: object


@contextmanager
def modes_restored(module: nn.Module) -> Iterator[None]:
    """Put every submodule back into training or evaluation mode at the end."""
    modes = [(each, each.training) for each in module.modules()]
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


def trace(
    module: nn.Module, translation: Translation, translate: Translate, *, like: Tensor
) -> Trace:
    """Trace a module in the mode it is in.

    Parameters
    ----------
    module
        Its own code runs, with symbols instead of tensors.
    translation
        Receives the nodes.
    translate
        Translates one step.
    like
        A tensor of the type and on the device that symbols say they have.

    Raises
    ------
    ArchitectureError
        If the module cannot be traced, or gives what cannot be captured.
    """
    tracer = _Tracer(translation, translate, like)
    try:
        with torch.enable_grad(), _Interception(tracer):
            steps = tuple(tracer.trace(module).nodes)
    except ArchitectureError:
        raise
    except Exception as error:
        # The module's own code runs here, so anything may come out of it.
        raise ArchitectureError(
            f"The forward of {type(module).__name__} cannot be traced "
            f"({type(error).__name__}: {str(error)[:200]}); {_advice(error)}."
        ) from error
    result = tracer.value_of(steps[-1].args[0])
    if isinstance(result, Refused):
        raise result.error
    return Trace(steps, tuple(tracer.constants), result)


def _advice(error: Exception) -> str:
    text = str(error)
    if "cannot be interpreted as an integer" in text:
        return "let loops run over numbers given to __init__ or over sizes such as x.shape[1]"
    if "not installed as a submodule" in text:
        return "assign the layer to an attribute of the module in __init__, or use nn.ModuleList"
    if isinstance(error, TraceError):
        return "let nothing depend on the values of tensors"
    if isinstance(error, TypeError) and "expand" in text:
        return "register the tensor with self.register_buffer in __init__"
    return "check that the module works on the example, and write plain layers and functions"


class _Interception(TorchFunctionMode):
    """Makes symbols of constants that ``forward`` makes or holds, and refuses randomness."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Hand what concerns constants to the tracer, and call everything else."""
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if not self._tracer.listening:
            return func(*args, **given)
        if name in RANDOM:
            raise ArchitectureError(
                f"The module draws random numbers ({name}), which differ from call to call; use "
                "nn.Dropout for noise in training."
            )
        if func in FACTORIES:
            return self._tracer.create_proxy("call_function", func, args, given)
        if name in FOLDED and any(isinstance(each, Tensor) for each in args):
            if is_tensor_method_or_property(func):
                return self._tracer.create_proxy("call_method", name, args, given)
            return self._tracer.create_proxy("call_function", func, args, given)
        return func(*args, **given)


class _Tracer(fx.Tracer):
    """torch.fx's tracer, translating as it goes and saying in our words what it cannot."""

    def __init__(self, translation: Translation, translate: Translate, like: Tensor) -> None:
        super().__init__(autowrap_functions=(torch.zeros, torch.ones))
        # torch.zeros(batch, 8) finds no symbol in its first argument; so fx wraps it meanwhile.
        self._autowrap_search.append(torch)
        self.constants: list[Tensor] = []
        self.listening = True
        self._g = translation
        self._translate = translate
        self._like = like
        self._values: dict[fx.Node, object] = {}
        self._held: dict[int, fx.Node] = {}
        self._symbols: dict[int, Symbol] = {}
        self._origin: dict[fx.Node, fx.Node] = {}
        self._changed: dict[fx.Node, str] = {}

    # What the module's code meets

    def create_args_for_root(
        self, root_fn: Callable[..., object], is_module: bool, concrete_args: object = None
    ) -> tuple[Callable[..., object], list[object]]:
        """Call ``forward`` with one symbol; its other arguments keep their defaults."""
        code = getattr(root_fn, "__code__", None)
        needed = code.co_argcount - len(root_fn.__defaults__ or ()) if code is not None else 2
        if needed > 2 or (code is not None and code.co_argcount < 2):
            raise ArchitectureError(
                "A network takes one tensor: forward(self, x); give the other arguments defaults "
                "or remove them."
            )
        node = self.create_node("placeholder", "x", (), {})
        self._values[node] = self._g.input
        return root_fn, [self.root, Symbol(node, self)]

    def proxy(self, node: fx.Node) -> Symbol:
        """Return the symbol of a step."""
        return Symbol(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Stop at layers that have a rule or belong to PyTorch; look into everybody else's."""
        known = rule_of(m, self._g.tables.modules) is not None
        return known or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: object) -> object:
        """Give symbols for the parameters and buffers of the module."""
        if not self.listening or not isinstance(attr_val, Tensor):
            return attr_val
        if id(attr_val) not in self._symbols:
            node = self._node_of(attr_val)
            self._symbols[id(attr_val)] = Symbol(node, self)
        return self._symbols[id(attr_val)]

    def create_arg(self, a: object) -> Argument:
        """Note a tensor that is used as it is, without leaving it in the module."""
        if isinstance(a, Tensor):
            return self._node_of(a)
        if isinstance(a, Several):
            return tuple(self.create_arg(each) for each in a)
        return super().create_arg(a)

    def _node_of(self, value: Tensor) -> fx.Node:
        if id(value) not in self._held:
            node = self.create_node("get_attr", f"tensor_{len(self.constants)}", (), {})
            self.constants.append(value)  # keeps it alive, so that its id stays its own
            self._held[id(value)] = node
            if value.grad_fn is not None:
                raise ArchitectureError(
                    "The module computes with a parameter that it does not register, which "
                    "would become a constant; assign the nn.Parameter to an attribute."
                )
            listening, self.listening = self.listening, False
            self._values[node] = self._g.known(value)
            self.listening = listening
        return self._held[id(value)]

    # Translation

    def create_proxy(  # type: ignore[override]  # numbers come as they are
        self,
        kind: str,
        target: str | Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        name: str | None = None,
        type_expr: object = None,
        proxy_factory_fn: object = None,
    ) -> object:
        """Note a step, translate it, and return what it gives: numbers, or symbols of tensors."""
        if not torch.is_grad_enabled():
            raise ArchitectureError(
                "The module computes under torch.no_grad(), so training would differ; leave it out."
            )
        step = super().create_proxy(kind, target, args, kwargs, name, type_expr).node
        refused = self._refusal(step)
        value = self._translated(step) if refused is None else refused
        self._note_change(step)
        return self._given(value, step)

    def _refusal(self, step: fx.Node) -> Refused | None:
        """Return why a step cannot be, given what it reads."""
        for node in step.all_input_nodes:
            value = self._values[node]
            if isinstance(value, Refused):
                return value
            changer = self._changed.get(self._origin.get(node, node))
            if changer is not None and not only_asks(step):
                return Refused(
                    ArchitectureError(
                        f"Step '{step.name}': it reads '{node.name}', which step '{changer}' "
                        "changed in place; leave out inplace=True, or write x = x + y instead "
                        "of x += y."
                    )
                )
        return None

    def _translated(self, step: fx.Node) -> object:
        g, self.listening = self._g, False
        g.step, g.in_place = step.name, False
        args = [self.value_of(each) for each in step.args]
        kwargs = {key: self.value_of(each) for key, each in step.kwargs.items()}
        try:
            return self._translate(g, step, args, kwargs)
        except ArchitectureError as error:
            return Refused(error)
        finally:
            self.listening = True

    def value_of(self, item: object) -> object:
        """Replace the steps that an argument names by their values."""
        if isinstance(item, fx.Node):
            return self._values[item]
        if isinstance(item, (list, tuple)):
            return tuple(self.value_of(each) for each in item)
        if isinstance(item, slice):
            return slice(*(self.value_of(part) for part in (item.start, item.stop, item.step)))
        return item

    def _note_change(self, step: fx.Node) -> None:
        first = step.args[0] if step.args else None
        if not isinstance(first, fx.Node):
            return
        origin = self._origin.get(first, first)
        method = step.op == "call_method" and str(step.target).rstrip("_")
        in_place = method and step.target == f"{method}_" and not method.startswith("_")
        if self._g.in_place or in_place:
            if origin.op == "get_attr":
                raise ArchitectureError(
                    f"Step '{step.name}': it changes a buffer or parameter of the module in place; "
                    "a network keeps no state but that of nn.BatchNorm2d and the like."
                )
            self._changed[origin] = step.name
        elif gives_view(step, self.root):
            self._origin[step] = origin

    def _given(self, value: object, step: fx.Node) -> object:
        if isinstance(value, (Traced, Weight, Constant, Stacked, Refused)) or value is BATCH:
            self._values[step] = value
            return Symbol(step, self)
        self._values[step] = value
        if not isinstance(value, tuple):
            return value
        parts = []
        for place, part in enumerate(value):
            inner = self.create_node("call_function", _part, (step, place), {})
            self._origin[inner] = self._origin.get(step, step)
            parts.append(self._given(part, inner))
        return Several(parts)

    # Questions that only values could answer

    def symbol_value(self, symbol: fx.Proxy) -> object:
        """Return what a symbol stands for.

        Raises
        ------
        ArchitectureError
            If it stands for what cannot be captured.
        """
        value = self._values[symbol.node]
        if isinstance(value, Refused):
            raise value.error
        return value

    def dtype_of(self, symbol: Symbol) -> torch.dtype:
        """Return the type that a tensor of the trace has."""
        value = self.symbol_value(symbol)
        if isinstance(value, Constant):
            return value.value.dtype
        tokens = isinstance(value, Traced) and value.name in self._g.graph.tokens
        return torch.int64 if tokens else self._like.dtype

    @property
    def device(self) -> torch.device:
        """The device that tensors of the trace are on."""
        return self._like.device

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuse a decision that depends on a tensor; constants may decide."""
        value = self._values[obj.node]
        if isinstance(value, Constant) and value.number is not None:
            return bool(value.number)
        raise _refusal(obj, "an 'if', 'while' or 'assert' depends on its value")

    def iter(self, obj: fx.Proxy) -> Iterator[object]:
        """Loop over a tensor if its first dimension is not the batch."""
        full = getattr(self.symbol_value(obj), "full", (BATCH,))
        if not full or not isinstance(full[0], int):
            raise _refusal(obj, "a loop, or Python's own arithmetic, goes through its elements")
        return iter([self._row(obj, at) for at in range(full[0])])

    def _row(self, obj: fx.Proxy, place: int) -> object:
        return self.create_proxy("call_function", operator.getitem, (obj, place), {})

    def number(self, symbol: Symbol) -> float:
        """Return the number that a constant of one element is."""
        value = self.symbol_value(symbol)
        if isinstance(value, Constant) and value.number is not None:
            return value.number
        raise _refusal(symbol, "Python's own arithmetic needs its value")

    def length(self, symbol: Symbol) -> int:
        """Return ``len`` of a tensor."""
        full = getattr(self.symbol_value(symbol), "full", ())
        if full and isinstance(full[0], int):
            return full[0]
        raise ArchitectureError(
            f"Step '{symbol.node.name}': len() asks for the batch size of a tensor "
            f"{shape_text(full)}; write x.shape[0]."
        )


def _part(values: tuple[object, ...], place: int) -> object:
    """Stand in the trace for one of several results."""
    return values[place]


def _refusal(obj: fx.Proxy, reason: str) -> ArchitectureError:
    return ArchitectureError(
        f"Step '{obj.node.name}': {reason}. A captured network does the same for every input; "
        "let it depend on numbers given to __init__ or on sizes other than the batch's."
    )
