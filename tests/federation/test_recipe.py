"""A recipe is data: checked, compared, written down and read back."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel import models
from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation import FIELDS, HYPERPARAMETERS, STRATEGIES, Recipe

ARCHITECTURE = models.mlp(4, (3,), 2)
RECIPE = Recipe(ARCHITECTURE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -0.1),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", True),
        ("learning_rate", "0.1"),
        ("learning_rate", None),
        ("learning_rate", 10**400),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("batch_size", True),
        ("batch_size", -1),
        ("local_epochs", 0),
        ("local_epochs", 1001),
        ("optimiser", "SGD"),
        ("optimiser", ["sgd"]),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1e-9),
        ("weight_decay", np.array([0.1, 0.2])),
        ("loss", "hinge"),
        ("strategy", "FedBest"),
        ("strategy", None),
        ("strategy_parameters", [1]),
        ("architecture", "mlp"),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_message_names_the_field(field, value):
    with pytest.raises(RecipeError, match=field):
        RECIPE.with_changes(**{field: value})


def test_the_message_says_what_is_allowed_and_what_was_given():
    with pytest.raises(RecipeError, match=r"above 0 and at most 1000, not -0\.5"):
        Recipe(ARCHITECTURE, learning_rate=-0.5)


def test_adam_takes_no_momentum():
    with pytest.raises(RecipeError, match="momentum must be 0 with optimiser 'adam'"):
        Recipe(ARCHITECTURE, optimiser="adam", momentum=0.9)


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        ("FedAvg", {"server_momentum": 0.9}),
        ("FedAvgM", {"server_momentum": 1.0}),
        ("FedAvgM", {"server_momentum": math.nan}),
        ("FedAvgM", {1: 0.5}),
        ("Krum", {"num_malicious_nodes": 1.0}),
        ("Krum", {"num_malicious_nodes": True}),
        ("FedTrimmedAvg", {"beta": 0.5}),
    ],
)
def test_parameters_that_a_strategy_does_not_have_or_cannot_take_are_refused(strategy, parameters):
    with pytest.raises(RecipeError, match="strategy_parameters"):
        Recipe(ARCHITECTURE, strategy=strategy, strategy_parameters=parameters)


def test_an_unknown_field_is_refused_with_a_list_of_the_fields():
    with pytest.raises(RecipeError, match="no field 'lr'; its fields are architecture, learn"):
        RECIPE.with_changes(lr=0.1)


def test_a_change_of_strategy_drops_the_parameters_of_the_old_one():
    recipe = Recipe(ARCHITECTURE, strategy="FedAvgM", strategy_parameters={"server_momentum": 0.5})
    assert recipe.with_changes(learning_rate=0.2).strategy_parameters == {"server_momentum": 0.5}
    assert recipe.with_changes(strategy="FedMedian").strategy_parameters == {}


def test_diff_names_what_changed_and_nothing_else():
    other = RECIPE.with_changes(learning_rate=0.5, architecture=models.mlp(4, (5,), 2))
    assert RECIPE.diff(RECIPE) == {}
    assert RECIPE.diff(other) == {
        "architecture": (ARCHITECTURE.cid, other.architecture.cid),
        "learning_rate": (0.1, 0.5),
    }


def test_equal_numbers_of_any_type_make_equal_recipes():
    written = [
        Recipe(ARCHITECTURE, learning_rate=1, batch_size=np.int64(8), momentum=-0.0),
        Recipe(ARCHITECTURE, learning_rate=np.float64(1.0), batch_size=8, momentum=0),
    ]
    assert written[0] == written[1]
    assert written[0].cid == written[1].cid
    assert len(set(written)) == 1


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        RECIPE.learning_rate = 1.0
    with pytest.raises(TypeError):
        RECIPE.strategy_parameters["eta"] = 1.0


def test_the_document_links_to_the_architecture():
    assert RECIPE.to_dict()["architecture"] == ARCHITECTURE.cid
    assert isinstance(RECIPE.cid, CID)
    assert dagcbor.decode(RECIPE.encode()) == RECIPE.to_dict()


def test_the_cid_of_a_recipe_never_changes():
    assert str(Recipe(models.mlp(64, (64,), 10)).cid) == (
        "bafyreickkyknpvfclbjmx6syb4xngbdij7msdq3ihkeueqpw3r4fubigpy"
    )


@settings(max_examples=50, deadline=None)
@given(
    learning_rate=st.floats(1e-9, 1000),
    batch_size=st.integers(1, 65_536),
    local_epochs=st.integers(1, 1000),
    momentum=st.floats(0, 1, exclude_max=True),
    weight_decay=st.floats(0, 10),
    server_momentum=st.floats(0, 1, exclude_max=True),
)
def test_a_recipe_survives_writing_and_reading(server_momentum, **fields):
    recipe = Recipe(
        ARCHITECTURE,
        **fields,
        strategy="FedAvgM",
        strategy_parameters={"server_momentum": server_momentum},
    )
    again = Recipe.from_dict(dagcbor.decode(recipe.encode()), ARCHITECTURE)
    assert again == recipe
    assert again.cid == recipe.cid
    assert copy.deepcopy(recipe) == recipe


NODES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(["format", *FIELDS]), value=NODES)
def test_a_hostile_document_is_refused_with_a_recipe_error(field, value):
    document = {**RECIPE.to_dict(), field: value}
    try:
        recipe = Recipe.from_dict(document, ARCHITECTURE)
    except RecipeError:
        return
    assert recipe.encode() == dagcbor.encode(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("loss"),
        lambda document: document.update(extra=1),
        lambda document: document.update(learning_rate=1),
        lambda document: document.update(architecture=models.mlp(4, (9,), 2).cid),
    ],
)
def test_a_document_with_missing_extra_or_not_canonical_fields_is_refused(change):
    document = RECIPE.to_dict()
    change(document)
    with pytest.raises(RecipeError):
        Recipe.from_dict(document, ARCHITECTURE)


@pytest.mark.parametrize("node", [None, [], "recipe", 7, {}])
def test_what_is_no_recipe_document_is_refused(node):
    with pytest.raises(RecipeError, match="not a recipe"):
        Recipe.from_dict(node, ARCHITECTURE)


def test_a_table_shows_every_field():
    table = RECIPE.frame()
    assert list(table["field"]) == list(FIELDS)
    assert all(field in RECIPE._repr_html_() for field in FIELDS)


def test_hyperparameters_are_all_fields_but_the_architecture():
    assert set(FIELDS) - set(HYPERPARAMETERS) == {"architecture"}


def test_every_strategy_is_one_of_flowers_and_has_the_parameters_that_we_name():
    import inspect

    from flwr.serverapp import strategy

    for name, spec in STRATEGIES.items():
        known = inspect.signature(getattr(strategy, name)).parameters
        assert set(spec.parameters) <= set(known), name


def test_importing_the_room_imports_neither_torch_nor_flower():
    code = (
        "import sys, neuronexus_kernel.federation as f; from neuronexus_kernel import models;"
        "f.Recipe(models.mlp(4, (3,), 2)).cid;"
        "assert not {'torch', 'flwr', 'pandas'} & set(sys.modules), 'a heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
