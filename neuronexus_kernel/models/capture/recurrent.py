"""Rules for LSTM and GRU: a node for each layer and direction, dropout between layers.

The last states are parts of what the layers put out: the last step of a layer forwards, the
first of one backwards.  The cell state of an LSTM is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.dropping import dropped
from neuronexus_kernel.models.capture.values import Constant, Refused, Stacked, Traced, shape_text

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _layer(operator: str, states: int) -> Rule:
    def rule(g: Translation, layer: nn.LSTM | nn.GRU, input: object, hx: object = None) -> object:
        if layer.proj_size:
            raise ArchitectureError("proj_size is not supported; put an nn.Linear after the layer.")
        x = _sequence(g, layer, input)
        _check_start(hx, states)
        made, last = x, []
        for number in range(layer.num_layers):
            if number and layer.dropout:
                made = dropped(g, "dropout", made, layer.dropout)
            directions = list(_directions(g, operator, layer, number, made))
            last += [state for _, state in directions]
            made = directions[0][0]
            if len(directions) > 1:
                made = g.add("concatenate", made, directions[1][0], dim=-1)
        output = Traced(made.name, made.shape, x.batch)
        hidden = Stacked(tuple(last))
        if states == 1:
            return output, hidden
        return output, (hidden, _no_cells(g))

    return rule


def _sequence(g: Translation, layer: nn.LSTM | nn.GRU, input: object) -> Traced:
    x = g.tensor(input)
    wanted, batch = (0, "(batch, steps, features)"), 0
    if not layer.batch_first:
        wanted, batch = (1, "(steps, batch, features)"), 1
    if x.batch != batch or len(x.shape) != 2:
        raise ArchitectureError(
            f"with batch_first={layer.batch_first} it takes {wanted[1]}, but its input is "
            f"{shape_text(x.full)}; give the layer batch_first={not layer.batch_first}, or permute "
            "its input."
        )
    return x


def _directions(
    g: Translation, operator: str, layer: nn.LSTM | nn.GRU, number: int, x: Traced
) -> Iterator[tuple[Traced, Traced]]:
    """Give the output and the last state of each direction of one layer."""
    for reverse in (False, True) if layer.bidirectional else (False,):
        ending = f"_l{number}{'_reverse' if reverse else ''}"
        weights = {
            name: g.weight(layer._parameters[name + ending])
            for name in (_NAMES if layer.bias else _NAMES[:2])
        }
        made = g.add_layer(
            operator, x, weights, hidden_size=layer.hidden_size, bias=layer.bias, reverse=reverse
        )
        place = 0 if reverse else made.shape[0] - 1
        state = g.add("select", made, dim=-2, index=place)
        yield made, Traced(state.name, state.shape, 0)


def _check_start(hx: object, states: int) -> None:
    """Accept no other starting states than zeros."""
    given = hx if isinstance(hx, tuple) else () if hx is None else (hx,)
    zeros = all(isinstance(each, Constant) and not each.value.any() for each in given)
    if not zeros or len(given) not in (0, states):
        raise ArchitectureError("it starts from states of its own; let it start from zeros.")


def _no_cells(g: Translation) -> Refused:
    return Refused(
        ArchitectureError(
            f"Step '{g.step}': its cell state is used, which is not kept; use its output or hidden "
            "state instead: out[:, -1] or h[-1]."
        )
    )


lstm_layer = _layer("lstm", 2)
gru_layer = _layer("gru", 1)
