"""How a client reads a message: strictly, since it is input from outside.

A message holds the global weights as one record of arrays, more arrays where the strategy's rule
says so, and a config: the recipe and the architecture as bytes, the seed, the round, the rule and
its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import ConfigRecord, Message, MessageType
from neuronexus_kernel.federation.arrays import from_record
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.strategies.client import (
    KEPT,
    RULE,
    ClientRule,
    PlainRule,
    Request,
    States,
)
from neuronexus_kernel.federation.strategies.ditto import PERSONAL, PersonalRule
from neuronexus_kernel.federation.strategies.keeping import KEEPING, KeepingRule
from neuronexus_kernel.federation.strategies.scaffold import CONTROLLED, ControlRule
from neuronexus_kernel.federation.weights import check_shapes

_T = TypeVar("_T")

_PLAIN = PlainRule()
_RULES: Mapping[str, ClientRule] = MappingProxyType(
    {CONTROLLED: ControlRule(), KEEPING: KeepingRule(), PERSONAL: PersonalRule()}
)


class MessageReader:
    """Reads the messages of some nodes; a recipe that comes again is decoded once.

    Parameters
    ----------
    clients
        Data of each node, by node id.
    """

    def __init__(self, clients: Mapping[int, Client]) -> None:
        self._clients = clients
        self._recipes: dict[tuple[bytes, bytes], Recipe] = {}

    def read(
        self, group: Sequence[Message], states: States
    ) -> tuple[ClientRule, Request, list[str]]:
        """Read messages that differ in their node only.

        Returns
        -------
        tuple
            The rule to follow, what is asked, and the names of the tensors that the messages
            hold, in their order.

        Raises
        ------
        InvalidInputError, ArchitectureError, RecipeError
            If something is missing, unknown, or does not fit.
        """
        content = group[0].content
        training = group[0].metadata.message_type == MessageType.TRAIN
        config = _only(content.config_records, "ConfigRecord")
        rule = _rule(config)
        recipe = self._recipe(config)
        arrays = {name: from_record(each) for name, each in content.array_records.items()}
        extras = {name: arrays.pop(name, {}) for name in rule.extras if training}
        sent = _only(arrays, "ArrayRecord")
        clients = tuple(self._clients[message.metadata.dst_node_id] for message in group)
        kept = _kept(config, recipe, sent)
        seed = _entry(config, "seed", int)
        weights = {**_start(recipe, kept, seed, sent), **sent}
        check_shapes(recipe.architecture, weights)
        shapes = recipe.architecture.parameter_shapes
        for client in clients:
            place = client.partition_id
            for purpose, mine in states.get(place, {}).items():
                _check_part(mine, shapes, f"What partition {place} keeps as {purpose!r}")
        for name, extra in extras.items():
            _check_part(extra, shapes, f"The message's {name!r}")
        cohort = Cohort(
            recipe=recipe,
            weights=weights,
            clients=clients,
            seed=seed,
            round=_entry(config, "server-round", int),
            proximal_mu=_entry(config, "proximal-mu", float) if "proximal-mu" in config else 0.0,
        )
        numbers = {name: value for name, value in config.items() if isinstance(value, float)}
        return rule, Request(cohort, kept, numbers, extras), list(sent)

    def _recipe(self, config: ConfigRecord) -> Recipe:
        key = (_entry(config, "architecture", bytes), _entry(config, "recipe", bytes))
        if key not in self._recipes:
            from neuronexus_kernel.models import Architecture

            architecture = Architecture.decode(key[0])
            self._recipes[key] = Recipe.from_dict(dagcbor.decode(key[1]), architecture)
        return self._recipes[key]


def _rule(config: ConfigRecord) -> ClientRule:
    name = config.get(RULE)
    if name is None:
        return _PLAIN
    if not isinstance(name, str) or name not in _RULES:
        raise InvalidInputError(
            f"The message asks for the rule {name!r}; this client knows {', '.join(_RULES)}."
        )
    return _RULES[name]


def _kept(config: ConfigRecord, recipe: Recipe, sent: Mapping[str, np.ndarray]) -> frozenset[str]:
    """Return the names of the tensors that stay with the client."""
    names = config.get(KEPT, [])
    known = recipe.architecture.parameters.keys() - sent.keys()
    if not isinstance(names, list) or not known.issuperset(names):
        raise InvalidInputError(
            "The message names tensors to keep that the architecture lacks, or holds them itself."
        )
    return frozenset(str(name) for name in names)


def _start(
    recipe: Recipe, kept: frozenset[str], seed: int, sent: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return where tensors begin that no message holds: as they do in a run from this seed."""
    if not kept:
        return {}
    kind = next(iter(sent.values())).dtype if sent else np.dtype(np.float32)
    drawn = recipe.architecture.initial_weights(seed if recipe.seed_policy == "run" else 0)
    return {name: drawn[name].astype(kind) for name in sorted(kept)}


def _check_part(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Check that arrays belong to some of an architecture's tensors."""
    for name, array in arrays.items():
        if np.shape(array) != shapes.get(name):
            raise InvalidInputError(f"{what} does not fit the architecture at {name!r}.")


def _only(records: Mapping[str, _T], kind: str) -> _T:
    if len(records) != 1:
        raise InvalidInputError(f"A message must hold one {kind}, not {len(records)}.")
    return next(iter(records.values()))


def _entry(config: ConfigRecord, name: str, kind: type[_T]) -> _T:
    value = config.get(name)
    if not isinstance(value, kind):
        raise InvalidInputError(
            f"The message's config holds no {kind.__name__} named {name!r}; start the strategy "
            "with server_app.train_config(recipe, ...)."
        )
    return value
