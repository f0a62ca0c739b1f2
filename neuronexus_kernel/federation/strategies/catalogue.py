"""The aggregation strategies that a recipe may name, as data.

Each is one of Flower's stock strategies, named as Flower names it, with the parameters that may
be set and what they may be.  Parameters that Flower accepts but does not use (``eta_l``) and
those that our grid decides (fractions, minimum numbers of nodes) are left out, so that a field
which changes nothing cannot be sold as a change.  This module imports neither Flower nor torch:
`server_app` makes the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation.fields import Check, fraction, positive, whole

Parameter: TypeAlias = float | int | bool


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """What may be said about one strategy.

    Attributes
    ----------
    reference
        Where the algorithm is described.
    parameters
        Name of each parameter and the check its value must pass.
    smallest_cohort
        Number of clients that a round needs at least, given the parameters.
    """

    reference: str
    parameters: Mapping[str, Check] = field(default_factory=dict)
    smallest_cohort: Callable[[Mapping[str, Parameter]], int] = lambda parameters: 1


_MALICIOUS = {"num_malicious_nodes": whole(0, 1000)}
_ADAPTIVE = {"eta": positive(100.0), "tau": positive(1.0)}
_MOMENTS = {"beta_1": fraction(), "beta_2": fraction()}


def _attackers(parameters: Mapping[str, Parameter]) -> int:
    return int(parameters.get("num_malicious_nodes", 0))


STRATEGIES: Mapping[str, StrategySpec] = MappingProxyType(
    {
        "FedAvg": StrategySpec("McMahan et al. 2017, arXiv:1602.05629"),
        "FedAvgM": StrategySpec(
            "Hsu et al. 2019, arXiv:1909.06335",
            {"server_learning_rate": positive(100.0), "server_momentum": fraction()},
        ),
        "FedProx": StrategySpec(
            "Li et al. 2020, arXiv:1812.06127", {"proximal_mu": positive(1000.0, zero=True)}
        ),
        "FedAdagrad": StrategySpec("Reddi et al. 2021, arXiv:2003.00295", _ADAPTIVE),
        "FedAdam": StrategySpec("Reddi et al. 2021, arXiv:2003.00295", _ADAPTIVE | _MOMENTS),
        "FedYogi": StrategySpec("Reddi et al. 2021, arXiv:2003.00295", _ADAPTIVE | _MOMENTS),
        "QFedAvg": StrategySpec(
            "Li et al. 2020, arXiv:1905.10497", {"q": positive(100.0, zero=True)}
        ),
        "FedMedian": StrategySpec("Yin et al. 2018, arXiv:1803.01498"),
        "FedTrimmedAvg": StrategySpec(
            "Yin et al. 2018, arXiv:1803.01498", {"beta": fraction(below=0.5)}
        ),
        "Krum": StrategySpec(
            "Blanchard et al. 2017, arXiv:1703.02757",
            _MALICIOUS,
            lambda parameters: 2 * _attackers(parameters) + 3,
        ),
        "MultiKrum": StrategySpec(
            "Blanchard et al. 2017, arXiv:1703.02757",
            _MALICIOUS | {"num_nodes_to_select": whole(1, 1000)},
            lambda parameters: max(
                2 * _attackers(parameters) + 3, int(parameters.get("num_nodes_to_select", 1))
            ),
        ),
        "Bulyan": StrategySpec(
            "El Mhamdi et al. 2018, arXiv:1802.07927",
            _MALICIOUS,
            lambda parameters: 4 * _attackers(parameters) + 3,
        ),
    }
)


def check_strategy(name: object, parameters: object) -> tuple[str, dict[str, Parameter]]:
    """Check a strategy and its parameters; return them normalised and sorted by name.

    Raises
    ------
    RecipeError
        If there is no such strategy or parameter, or a value is out of range.
    """
    if not isinstance(name, str) or name not in STRATEGIES:
        raise RecipeError(f"strategy must be one of {', '.join(STRATEGIES)}, not {name!r}.")
    if not isinstance(parameters, Mapping):
        kind = type(parameters).__name__
        raise RecipeError(f"strategy_parameters must map names to numbers, not be a {kind}.")
    allowed = STRATEGIES[name].parameters
    checked: dict[str, Parameter] = {}
    for key in sorted(parameters, key=str):
        if key not in allowed:
            choice = ", ".join(allowed) if allowed else "none"
            raise RecipeError(
                f"strategy_parameters: {name} has no parameter {key!r}; it has {choice}."
            )
        value = allowed[key](f"strategy_parameters[{key!r}]", parameters[key])
        if not isinstance(value, (float, int)):
            raise RecipeError(f"strategy_parameters[{key!r}] must be a number, not {value!r}.")
        checked[key] = value
    return name, checked
