"""Who made the model better: exact Shapley values of the participants of a training run.

In every round each coalition of that round's participants is asked what model its updates would
have made alone; a participant's value is its mean marginal gain over all orders of joining,
summed over the rounds (federated Shapley value: Wang, Rausch, Zhang, Jia, Song, "A Principled
Approach to Data Valuation for Federated Learning", 2020, arXiv 2009.06192).

Who is not in a coalition stands still: an update keeps the weight that it had in the round's
average, where the paper averages over the members only.  So an update of nothing is worth
exactly nothing; averaged among members it would damp the others' steps, and a free rider would
be paid for that.

The utility of a model is minus its loss on the validation split: cross-entropy where labels are
classes or tokens, squared error in parts of the variance where they are quantities.  Accuracy on
a small split moves in steps, so that one round's small update mostly scores zero and what is left
is noise; the loss feels every update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.updates import RoundUpdates
    from neuronexus_kernel.models import Architecture

MAX_PLAYERS = 12
"""Exact values need 2^players models a round."""

LOSS_LIMIT = 50.0
"""Loss that one example can cost at most, so that a diverged update is bad and not infinite."""

PARTS = 10**9
"""Parts that `shares` deals out."""

_WEIGHTS_IN_FLIGHT = 64 * 1024 * 1024
_COALITIONS_AT_ONCE = 64
_EXAMPLES_AT_ONCE = 512

Weights = dict[str, np.ndarray]


def shapley(players: Sequence[str], utility: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Return the exact Shapley value of every player.

    Parameters
    ----------
    players
        1 to `MAX_PLAYERS` different names.
    utility
        What every coalition is worth, the empty one included.

    Returns
    -------
    dict
        Values by player; they sum to what all together are worth above nobody.

    Raises
    ------
    InvalidInputError
        If there are too many players, one is named twice, or a coalition is missing.
    """
    _check_players(players)
    count = len(players)
    missing = [set(group) for group in _coalitions(players) if group not in utility]
    if missing:
        raise InvalidInputError(f"{len(missing)} coalitions have no utility, such as {missing[0]}.")
    values = {}
    for player in players:
        others = [other for other in players if other != player]
        values[player] = math.fsum(
            (utility[group | {player}] - utility[group])
            / (count * math.comb(count - 1, len(group)))
            for group in _coalitions(others)
        )
    return values


def participant_values(
    architecture: Architecture, rounds: Sequence[RoundUpdates], validation: Dataset
) -> dict[str, float]:
    """Return what each participant added to the model over all rounds, in units of the loss.

    Parameters
    ----------
    architecture
        The model that was trained.
    rounds
        The updates of every round, in order.  Who sat out a round gains nothing in it.
    validation
        The public validation split.

    Returns
    -------
    dict
        Values by participant, sorted by name.  Without server momentum they sum to how far the
        loss fell.
    """
    parts: dict[str, list[float]] = {}
    for updates in rounds:
        utility = coalition_utilities(architecture, updates, validation)
        for player, value in shapley(updates.players, utility).items():
            parts.setdefault(player, []).append(value)
    return {player: math.fsum(values) for player, values in sorted(parts.items())}


def coalition_utilities(
    architecture: Architecture, updates: RoundUpdates, validation: Dataset
) -> dict[frozenset[str], float]:
    """Return minus the mean validation loss of every coalition's model in one round.

    A coalition's model is the round's weights plus its members' deltas, each with the weight that
    it had in the round's average; nobody's is the round's weights.
    """
    import torch

    _check_players(updates.players)
    coalitions = list(_coalitions(updates.players))
    mixing = _mixing(coalitions, updates)
    weights = {name: torch.tensor(array) for name, array in updates.weights.items()}
    deltas = {
        name: torch.tensor(np.stack([updates.deltas[p][name] for p in updates.players])).nan_to_num(
            0.0, 0.0, 0.0
        )
        for name in weights
    }
    inputs, labels = torch.tensor(validation.inputs), torch.tensor(validation.labels)
    if inputs.is_floating_point():
        inputs = inputs.to(next(iter(weights.values())).dtype)
    loss = _loss(validation)
    model = architecture.build().eval()
    size = sum(array.nbytes for array in updates.weights.values())
    chunk = max(1, min(_COALITIONS_AT_ONCE, _WEIGHTS_IN_FLIGHT // max(size, 1)))
    losses: list[float] = []
    with torch.no_grad():
        for start in range(0, len(coalitions), chunk):
            mix = torch.from_numpy(mixing[start : start + chunk])
            batch = {
                name: base + torch.tensordot(mix.to(base.dtype), deltas[name], dims=1)
                for name, base in weights.items()
            }
            losses += _mean_losses(model, batch, inputs, labels, loss)
    # Nothing times NaN is NaN: a diverged update must not reach the coalitions without it.
    diverged = {p for p, delta in updates.deltas.items() if not _is_finite(delta)}
    return {
        group: -LOSS_LIMIT if group & diverged else -loss
        for group, loss in zip(coalitions, losses, strict=True)
    }


def shares(values: Mapping[str, float]) -> dict[str, int]:
    """Share `PARTS` out in proportion to the values above zero.

    Values at or below zero get nothing; if none is above zero nobody gets anything.  Rounding is
    by the largest remainder, of equal ones to the first name, so the parts sum to `PARTS`.
    """
    # A float is an exact fraction: no share depends on the order of a sum.
    weights = {
        name: Fraction(value) if math.isfinite(value) and value > 0 else Fraction(0)
        for name, value in sorted(values.items())
    }
    whole = sum(weights.values())
    if not whole:
        return dict.fromkeys(weights, 0)
    exact = {name: PARTS * weight / whole for name, weight in weights.items()}
    parts = {name: math.floor(part) for name, part in exact.items()}
    by_remainder = sorted(parts, key=lambda name: parts[name] - exact[name])
    for name in by_remainder[: PARTS - sum(parts.values())]:
        parts[name] += 1
    return parts


def _check_players(players: Sequence[str]) -> None:
    if not 1 <= len(players) <= MAX_PLAYERS or len(set(players)) != len(players):
        raise InvalidInputError(
            f"Exact Shapley values need 1 to {MAX_PLAYERS} different players, not {len(players)}; "
            "join some into groups."
        )


def _coalitions(players: Sequence[str]) -> Iterator[frozenset[str]]:
    for size in range(len(players) + 1):
        for group in combinations(players, size):
            yield frozenset(group)


def _is_finite(weights: Weights) -> bool:
    return all(bool(np.isfinite(array).all()) for array in weights.values())


def _mixing(coalitions: Sequence[frozenset[str]], updates: RoundUpdates) -> np.ndarray:
    """Return each coalition's weight for each update: (coalitions, players) of float64."""
    counts = np.array([updates.examples[player] for player in updates.players], dtype=np.float64)
    members = np.array([[p in group for p in updates.players] for group in coalitions])
    mixing: np.ndarray = members * (counts / counts.sum())
    return mixing


def _loss(validation: Dataset) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what takes outputs (models, n, ...) and labels (n, ...), and gives (models, n)."""
    import torch

    from neuronexus_kernel.federation.evaluation import LOSS_OF
    from neuronexus_kernel.federation.executors.losses import LOSSES

    each = torch.func.vmap(LOSSES[LOSS_OF[validation.kind]], in_dims=(0, None))
    if validation.kind != "regression":
        return each
    labels = validation.labels.astype(np.float64)
    # The limit of a loss must mean the same whether labels are in grams or in tonnes.
    scale = float(np.square(labels - labels.mean(axis=0)).mean()) or 1.0
    return lambda outputs, wanted: each(outputs, wanted) / scale


def _mean_losses(
    model: torch.nn.Module,
    batch: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    """Return the mean loss of each model of a batch of weights, in float64."""
    import torch
    from torch.func import functional_call, vmap

    def outputs(weights: dict[str, Tensor], rows: Tensor) -> Tensor:
        result: Tensor = functional_call(model, weights, (rows,))
        return result

    models = next(iter(batch.values())).shape[0]
    total = torch.zeros(models, dtype=torch.float64)
    forward = vmap(outputs, in_dims=(0, None))
    for start in range(0, len(labels), _EXAMPLES_AT_ONCE):
        wanted = labels[start : start + _EXAMPLES_AT_ONCE]
        if wanted.is_floating_point():
            wanted = wanted.double()
        scores = forward(batch, inputs[start : start + _EXAMPLES_AT_ONCE]).double()
        losses = loss(scores, wanted)
        total += losses.nan_to_num(LOSS_LIMIT, LOSS_LIMIT).clamp(max=LOSS_LIMIT).sum(dim=1)
    means: list[float] = (total / len(labels)).tolist()
    return means
