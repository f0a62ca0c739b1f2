from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from neuronexus_kernel import datasets, models
from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.federation import Recipe


@dataclass
class Contents:
    """Contents by CID, in a dictionary: all that a job needs of a store."""

    by_cid: dict[CID, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> CID:
        cid = CID.of(data)
        self.by_cid[cid] = data
        return cid

    def put_node(self, node: object) -> CID:
        data = dagcbor.encode(node)
        cid = CID.of(data, DAG_CBOR)
        self.by_cid[cid] = data
        return cid

    def load(self, cid: CID) -> bytes:
        return self.by_cid[cid]


@dataclass
class World:
    """A small task on real digits, and descriptions of evaluations of it."""

    contents: Contents
    public: Dataset
    validation: Dataset
    held_out: Dataset
    recipe: Recipe

    def recipe_side(self, recipe: Recipe | None = None, data: Dataset | None = None) -> Mapping:
        recipe = self.recipe if recipe is None else recipe
        data = self.public if data is None else data
        return {
            "recipe": self.contents.put_node(recipe.to_dict()),
            "architecture": self.contents.put_node(recipe.architecture.to_dict()),
            "data": self.contents.add(data.encode()),
        }

    def weights_side(self, weights: Mapping[str, np.ndarray]) -> Mapping:
        return {
            "architecture": self.contents.put_node(self.recipe.architecture.to_dict()),
            "weights": self.contents.add(models.weights.serialize(weights)),
        }

    def recipes(self, candidate: Mapping, **changes: object) -> dict:
        description = {
            "kind": "recipes",
            "baseline": self.recipe_side(),
            "candidate": candidate,
            "held_out": self.contents.add(self.held_out.encode()),
            "seeds": [1, 2, 3],
            "budget": 8 * len(self.public),
            "clients": 3,
        }
        return {**description, **changes}

    def weights(self, baseline: Mapping, candidate: Mapping, **changes: object) -> dict:
        description = {
            "kind": "weights",
            "baseline": self.weights_side(baseline),
            "candidate": self.weights_side(candidate),
            "held_out": self.contents.add(self.held_out.encode()),
            "public": self.contents.add(self.public.encode()),
            "participants": None,
        }
        return {**description, **changes}


@pytest.fixture(scope="session")
def parts() -> dict[str, Dataset]:
    shares = {"public": 0.2, "private": 0.4, "validation": 0.15, "held_out": 0.25}
    return datasets.digits().split(shares, seed=0)


@pytest.fixture
def world(parts: dict[str, Dataset]) -> World:
    architecture = models.mlp(64, (16,), 10)
    return World(
        contents=Contents(),
        public=parts["public"],
        validation=parts["validation"],
        held_out=parts["held_out"],
        recipe=Recipe(architecture, learning_rate=0.1, batch_size=10, local_epochs=2),
    )
