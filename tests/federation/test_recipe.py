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
from neuronexus_kernel.federation import FIELDS, HYPERPARAMETERS, STRATEGIES, TECHNIQUE, Recipe

ARCHITECTURE = models.mlp(4, (3,), 2)
RECIPE = Recipe(ARCHITECTURE)
CNN = models.cnn((1, 8, 8), 2, channels=(2,), kernel_size=3, hidden=4)
FULL = Recipe(
    CNN,
    learning_rate=0.05,
    local_steps=30,
    cohort_size=7,
    momentum=0.9,
    nesterov=True,
    gradient_clip=1.0,
    schedule="cosine",
    schedule_parameters={"rounds": 50, "final": 0.1},
    warmup_rounds=3,
    label_smoothing=0.1,
    augmentation=({"name": "shift", "pixels": 2}, {"name": "flip"}),
    strategy="FedProx",
    strategy_parameters={"proximal_mu": 0.1},
    privacy="fixed-clipping",
    privacy_parameters={"noise_multiplier": 0.5, "clipping_norm": 2},
    seed_policy="fixed-start",
)
"""A recipe in which no field has its default, but those that do not go with the others."""


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
        ("local_steps", -1),
        ("local_steps", 1.5),
        ("cohort_size", -1),
        ("cohort_size", None),
        ("nesterov", 1),
        ("nesterov", True),
        ("gradient_clip", -1),
        ("gradient_clip", math.inf),
        ("schedule", "linear"),
        ("schedule_parameters", {"every": 3}),
        ("warmup_rounds", -1),
        ("label_smoothing", 1.0),
        ("augmentation", "flip"),
        ("augmentation", [{"name": "flip"}]),
        ("privacy", "local"),
        ("privacy", "fixed-clipping"),
        ("privacy_parameters", {"noise_multiplier": 1.0}),
        ("seed_policy", 0),
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


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimiser": "adam", "momentum": 0.9}, "momentum must be 0 with optimiser 'adam'"),
        ({"optimiser": "adamw", "momentum": 0.9}, "momentum must be 0 with optimiser 'adamw'"),
        ({"nesterov": True}, "nesterov needs a momentum above 0"),
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing must be 0 with loss 'mse'"),
        (
            {"loss": "next_token"},
            r"loss 'next_token' needs outputs of shape \(places, vocabulary\)",
        ),
        ({"cohort_size": 2, "strategy": "Krum"}, "cohort_size must be 0 .* at least 3 for Krum"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(ARCHITECTURE, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"privacy": "local"}, "privacy must be 'none', 'fixed-clipping' or 'adaptive-clipping'"),
        ({"privacy": "fixed-clipping"}, "privacy_parameters: fixed-clipping needs 'clipping_norm'"),
        (
            {"privacy": "adaptive-clipping", "privacy_parameters": {"clipping_norm": 1}},
            "adaptive-clipping has no parameter 'clipping_norm'",
        ),
        (
            {
                "privacy": "adaptive-clipping",
                "privacy_parameters": {"noise_multiplier": 1, "target_clipped_quantile": 1.5},
            },
            r"privacy_parameters\['target_clipped_quantile'\] must be a number at least 0",
        ),
        (
            {
                "privacy": "fixed-clipping",
                "privacy_parameters": {"noise_multiplier": 1, "clipping_norm": 1},
                "strategy": "Krum",
            },
            "noise for a mean of the clients' models.*not 'Krum'",
        ),
    ],
)
def test_privacy_that_cannot_be_is_refused(fields, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(ARCHITECTURE, **fields)


def test_parameters_of_privacy_that_are_left_out_stay_out():
    recipe = Recipe(
        ARCHITECTURE, privacy="adaptive-clipping", privacy_parameters={"noise_multiplier": 1}
    )
    assert recipe.privacy_parameters == {"noise_multiplier": 1.0}


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
        ("FedNova", {"momentum": 0.9}),
        ("FedPer", {"personal_layers": 0}),
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
    plain = FULL.with_changes(schedule="constant", privacy="none")
    assert plain.schedule_parameters == plain.privacy_parameters == {}


def test_diff_names_what_changed_and_nothing_else():
    other = RECIPE.with_changes(learning_rate=0.5, architecture=models.mlp(4, (5,), 2))
    assert RECIPE.diff(RECIPE) == {}
    assert RECIPE.diff(other) == {
        "architecture": (ARCHITECTURE.cid, other.architecture.cid),
        "learning_rate": (0.1, 0.5),
    }
    softer = FULL.with_changes(
        schedule_parameters={"rounds": 50}, augmentation=[{"name": "noise", "scale": 0.1}]
    )
    assert FULL.diff(softer) == {
        "schedule_parameters": ({"final": 0.1, "rounds": 50}, {"final": 0.0, "rounds": 50}),
        "augmentation": (
            [{"name": "shift", "pixels": 2}, {"name": "flip", "probability": 0.5}],
            [{"name": "noise", "scale": 0.1}],
        ),
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
    with pytest.raises(TypeError):
        FULL.schedule_parameters["final"] = 0.0


def test_the_document_links_to_the_architecture():
    assert RECIPE.to_dict()["architecture"] == ARCHITECTURE.cid
    assert isinstance(RECIPE.cid, CID)
    assert dagcbor.decode(RECIPE.encode()) == RECIPE.to_dict()


def test_the_cid_of_a_recipe_never_changes():
    assert str(Recipe(models.mlp(64, (64,), 10)).cid) == (
        "bafyreickkyknpvfclbjmx6syb4xngbdij7msdq3ihkeueqpw3r4fubigpy"
    )


def test_a_field_added_later_is_written_where_it_differs_from_its_default():
    first = set(RECIPE.to_dict())
    assert first == {
        "format",
        "architecture",
        "learning_rate",
        "batch_size",
        "local_epochs",
        "optimiser",
        "momentum",
        "weight_decay",
        "loss",
        "strategy",
        "strategy_parameters",
    }
    assert set(RECIPE.with_changes(gradient_clip=1).to_dict()) - first == {"gradient_clip"}
    assert set(FULL.to_dict()) == {"format", *FIELDS}
    assert str(FULL.cid) == "bafyreieksrr4xun6asscluwjdogi4yr45s5npx2mqpdjsn3nrgfhruev4q"


def test_a_recipe_with_every_field_survives_writing_reading_and_copying():
    again = Recipe.from_dict(dagcbor.decode(FULL.encode()), CNN)
    for other in (
        again,
        copy.deepcopy(FULL),
        copy.copy(FULL),
        FULL.with_changes(),
    ):
        assert other == FULL
        assert other.cid == FULL.cid
        assert hash(other) == hash(FULL)
        assert repr(other) == repr(FULL)


@pytest.mark.parametrize(
    "change",
    [
        {"nesterov": False},
        {"gradient_clip": 0.0},
        {"augmentation": []},
        {"schedule_parameters": {"rounds": 50}},
        {"augmentation": [{"name": "flip"}]},
        {"privacy_parameters": {"noise_multiplier": 1, "clipping_norm": 1.0}},
        {"unknown": 1},
    ],
)
def test_only_the_one_normal_form_of_a_document_is_read(change):
    base = FULL.with_changes(momentum=0.5, nesterov=False, gradient_clip=0.0, augmentation=())
    document = {**base.to_dict(), **change}
    with pytest.raises(RecipeError):
        Recipe.from_dict(document, CNN)


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


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(["format", *FIELDS]),
    value=NODES,
    base=st.sampled_from([RECIPE, FULL]),
)
def test_a_hostile_document_is_refused_with_a_recipe_error(field, value, base):
    document = {**base.to_dict(), field: value}
    try:
        recipe = Recipe.from_dict(document, base.architecture)
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


def test_a_technique_is_what_one_would_write_code_for_and_no_mere_number_of_the_training():
    assert set(TECHNIQUE) < set(HYPERPARAMETERS)
    plain = {"learning_rate", "batch_size", "local_epochs", "local_steps", "cohort_size"}
    assert set(HYPERPARAMETERS) - set(TECHNIQUE) == plain | {"seed_policy"}


OURS = {"SCAFFOLD", "FedNova", "FedBN", "FedPer", "Ditto", "FedBuff"}


def test_every_strategy_but_our_own_is_flowers_and_has_the_parameters_that_we_name():
    import inspect

    from flwr.serverapp import strategy

    assert set(STRATEGIES) > OURS
    for name in STRATEGIES.keys() - OURS:
        known = inspect.signature(getattr(strategy, name)).parameters
        assert set(STRATEGIES[name].parameters) <= set(known), name


def test_the_parameters_of_privacy_are_those_of_flowers_wrappers():
    import inspect

    from flwr.serverapp import strategy

    from neuronexus_kernel.federation.strategies import PRIVACY

    for name, kind in {
        "fixed-clipping": strategy.DifferentialPrivacyServerSideFixedClipping,
        "adaptive-clipping": strategy.DifferentialPrivacyServerSideAdaptiveClipping,
    }.items():
        known = set(inspect.signature(kind).parameters)
        assert set(PRIVACY[name]) <= known - {"strategy", "num_sampled_clients"}


def test_importing_the_room_imports_neither_torch_nor_flower():
    code = (
        "import sys, neuronexus_kernel.federation as f; from neuronexus_kernel import models;"
        "f.Recipe(models.mlp(4, (3,), 2)).cid;"
        "assert not {'torch', 'flwr', 'pandas'} & set(sys.modules), 'a heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
