"""Aggregation strategies: those of Flower by name, and our own, one file and one paper each.

Importing this imports neither Flower nor torch: the catalogue is data.
"""

from neuronexus_kernel.federation.strategies.catalogue import (
    PRIVACY,
    STRATEGIES,
    Parameter,
    StrategySpec,
    check_privacy,
    check_strategy,
)

__all__ = [
    "PRIVACY",
    "STRATEGIES",
    "Parameter",
    "StrategySpec",
    "check_privacy",
    "check_strategy",
]
