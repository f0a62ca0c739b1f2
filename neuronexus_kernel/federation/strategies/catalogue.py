"""The aggregation strategies that a recipe may name, as data.

Each is one of Flower's stock strategies, named as Flower names it, or one of our own, with the
parameters that may be set and what they may be.  Parameters that Flower accepts but does not use
(``eta_l``) and those that our grid decides (fractions, minimum numbers of nodes) are left out, so
that a field which changes nothing cannot be sold as a change.  This module imports neither Flower
nor torch: `server_app` makes the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation.fields import (
    Check,
    Setting,
    Value,
    choice,
    fraction,
    number,
    positive,
    settings_of,
    whole,
)

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
    linear
        Whether the server only takes means of the clients' replies, weighted by examples, so that
        many clients may be summed before they answer.
    personal
        Whether clients keep tensors of their own, so that the server's model is not the one they
        use.
    """

    reference: str
    parameters: Mapping[str, Check] = field(default_factory=dict)
    smallest_cohort: Callable[[Mapping[str, Parameter]], int] = lambda parameters: 1
    linear: bool = False
    personal: bool = False


_MALICIOUS = {"num_malicious_nodes": whole(0, 1000)}
_ADAPTIVE = {"eta": positive(100.0), "tau": positive(1.0)}
_MOMENTS = {"beta_1": fraction(), "beta_2": fraction()}


def _attackers(parameters: Mapping[str, Parameter]) -> int:
    return int(parameters.get("num_malicious_nodes", 0))


STRATEGIES: Mapping[str, StrategySpec] = MappingProxyType(
    {
        "FedAvg": StrategySpec("McMahan et al. 2017, arXiv:1602.05629", linear=True),
        "FedAvgM": StrategySpec(
            "Hsu et al. 2019, arXiv:1909.06335",
            {"server_learning_rate": positive(100.0), "server_momentum": fraction()},
            linear=True,
        ),
        "FedProx": StrategySpec(
            "Li et al. 2020, arXiv:1812.06127",
            {"proximal_mu": positive(1000.0, zero=True)},
            linear=True,
        ),
        "FedAdagrad": StrategySpec("Reddi et al. 2021, arXiv:2003.00295", _ADAPTIVE, linear=True),
        "FedAdam": StrategySpec(
            "Reddi et al. 2021, arXiv:2003.00295", _ADAPTIVE | _MOMENTS, linear=True
        ),
        "FedYogi": StrategySpec(
            "Reddi et al. 2021, arXiv:2003.00295", _ADAPTIVE | _MOMENTS, linear=True
        ),
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
        "SCAFFOLD": StrategySpec(
            "Karimireddy et al. 2020, arXiv:1910.06378",
            {"server_learning_rate": positive(100.0)},
            linear=True,
        ),
        "FedNova": StrategySpec(
            "Wang et al. 2020, arXiv:2007.07481", {"proximal_mu": positive(1000.0, zero=True)}
        ),
        "FedBN": StrategySpec("Li et al. 2021, arXiv:2102.07623", linear=True, personal=True),
        "FedPer": StrategySpec(
            "Arivazhagan et al. 2019, arXiv:1912.00818",
            {"personal_layers": whole(1, 100)},
            linear=True,
            personal=True,
        ),
        "Ditto": StrategySpec(
            "Li et al. 2021, arXiv:2012.04221",
            {"personal_mu": positive(1000.0, zero=True)},
            linear=True,
            personal=True,
        ),
        "FedBuff": StrategySpec(
            "Nguyen et al. 2022, arXiv:2106.06639",
            {
                "buffer_size": whole(1, 1000),
                "server_learning_rate": positive(100.0),
                "staleness_exponent": positive(10.0, zero=True),
                "speed_spread": positive(10.0, zero=True),
            },
            lambda parameters: int(parameters.get("buffer_size", 1)),
        ),
    }
)

PRIVACY: Mapping[str, Mapping[str, Setting]] = MappingProxyType(
    {
        "none": {},
        "fixed-clipping": {
            "noise_multiplier": Setting(positive(1000.0, zero=True)),
            "clipping_norm": Setting(positive(1_000_000.0)),
        },
        "adaptive-clipping": {
            "noise_multiplier": Setting(positive(1000.0, zero=True)),
            "initial_clipping_norm": Setting(positive(1_000_000.0), optional=True),
            "target_clipped_quantile": Setting(number(0.0, 1.0), optional=True),
            "clip_norm_lr": Setting(positive(100.0), optional=True),
            "clipped_count_stddev": Setting(positive(1000.0, zero=True), optional=True),
        },
    }
)
"""Parameters of central differential privacy by name, as Flower's server-side wrappers call them.

Sources: McMahan et al. 2018, arXiv:1710.06963 (fixed); Andrew et al. 2021, arXiv:1905.03871
(adaptive).  Those left out have Flower's defaults.
"""

_MEANS = ("FedAvg", "FedProx")


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
            known = ", ".join(allowed) if allowed else "none"
            raise RecipeError(
                f"strategy_parameters: {name} has no parameter {key!r}; it has {known}."
            )
        value = allowed[key](f"strategy_parameters[{key!r}]", parameters[key])
        if not isinstance(value, (float, int)):
            raise RecipeError(f"strategy_parameters[{key!r}] must be a number, not {value!r}.")
        checked[key] = value
    return name, checked


def check_privacy(
    name: object, parameters: object, *, strategy: str
) -> tuple[str, dict[str, Value]]:
    """Check a privacy mechanism and its parameters; return them in their normal form.

    The noise is measured for a mean of the clients' models: a strategy that makes something else
    of them, or learns from them by another way, would get less privacy than was asked for.

    Raises
    ------
    RecipeError
        If there is no such mechanism or parameter, a value is missing or out of range, or the
        strategy is no mean.
    """
    checked = str(choice(*PRIVACY)("privacy", name))
    if checked == "none" and parameters:
        raise RecipeError("privacy_parameters must be empty with privacy 'none'.")
    settings = settings_of("privacy_parameters", checked, parameters, PRIVACY[checked])
    if checked != "none" and strategy not in _MEANS:
        raise RecipeError(
            f"privacy {checked!r} measures its noise for a mean of the clients' models: use it "
            f"with strategy {' or '.join(map(repr, _MEANS))}, not {strategy!r}."
        )
    return checked, settings
