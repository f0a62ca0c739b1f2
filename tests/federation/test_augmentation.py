"""Augmentation: a pure function of each row's key, exact where it only moves pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuronexus_kernel import models
from neuronexus_kernel.errors import RecipeError
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.augmentation import AUGMENTATIONS, augment, row_keys

SIZE = (2, 7, 5)
ENTRIES = {
    "shift": {"name": "shift", "pixels": 2},
    "flip": {"name": "flip", "probability": 0.5},
    "crop": {"name": "crop", "padding": 3},
    "noise": {"name": "noise", "scale": 0.5},
    "cutout": {"name": "cutout", "size": 3},
}
EXPECTED_KEYS = [6717846603609287, 8030007215657519]
EXPECTED_NOISE = [0.3078422248363495, 1.0782368183135986, -0.9701631665229797]
IMAGES = models.cnn((2, 8, 8), 3, channels=(2,), kernel_size=3, hidden=4)


def images(count, *, dtype=torch.float32):
    """Return images whose pixels are all different and not zero."""
    number = count * SIZE[0] * SIZE[1] * SIZE[2]
    return torch.arange(1, number + 1, dtype=dtype).view(count, *SIZE)


def keys(count, seed=0):
    return row_keys(torch.tensor([seed]), count)[0]


def test_every_augmentation_is_tried_here():
    assert set(ENTRIES) == set(AUGMENTATIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(ENTRIES)), min_size=1, max_size=4),
    count=st.integers(1, 40),
    seed=st.integers(-(2**63), 2**63 - 1),
    data=st.data(),
)
def test_a_row_changes_alone_as_it_does_among_others(dtype, names, count, seed, data):
    entries = [ENTRIES[name] for name in names]
    inputs, each = images(count, dtype=dtype), keys(count, seed)
    together = augment(inputs, each, entries)
    assert together.dtype == dtype
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5))
    assert torch.equal(augment(inputs[chosen], each[chosen], entries), together[chosen])


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_inputs_are_not_changed_in_place_and_another_key_gives_another_change(entry):
    inputs = images(50)
    before = inputs.clone()
    one = augment(inputs, keys(50, 1), [entry])
    other = augment(inputs, keys(50, 2), [entry])
    assert torch.equal(inputs, before)
    assert not torch.equal(one, other)
    assert torch.equal(one, augment(inputs, keys(50, 1), [entry]))


def test_the_same_entry_twice_draws_twice():
    once = augment(images(50), keys(50), [ENTRIES["noise"]])
    twice = augment(images(50), keys(50), [ENTRIES["noise"]] * 2)
    first, second = once - images(50), twice - once
    assert (first - second).abs().mean() > 0.1


def test_a_shift_moves_by_up_to_so_many_pixels_and_fills_with_zeros():
    inputs = images(600)
    moved = augment(inputs, keys(600), [ENTRIES["shift"]])
    padded = nn.functional.pad(inputs, (2, 2, 2, 2))
    offsets = set()
    for before, after in zip(padded, moved, strict=True):
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(before[:, y : y + 7, x : x + 5], after)
        ]
        assert len(places) == 1
        offsets.update(places)
    assert len(offsets) == 25


def test_a_crop_is_a_window_of_the_image_padded_by_its_reflection():
    inputs = images(600)
    cropped = augment(inputs, keys(600), [ENTRIES["crop"]])
    padded = nn.functional.pad(inputs, (3, 3, 3, 3), mode="reflect")
    offsets = set()
    for before, after in zip(padded, cropped, strict=True):
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if torch.equal(before[:, y : y + 7, x : x + 5], after)
        ]
        assert places
        offsets.update(places)
    assert len(offsets) == 49


def test_a_flip_mirrors_about_as_many_images_as_asked_for():
    inputs = images(4000)
    flipped = augment(inputs, keys(4000), [{"name": "flip", "probability": 0.25}])
    mirrored = (flipped == inputs.flip(3)).flatten(1).all(1)
    same = (flipped == inputs).flatten(1).all(1)
    assert torch.all(mirrored ^ same)
    assert 880 < int(mirrored.sum()) < 1120  # 1000 expected, standard deviation 27


def test_cutout_sets_one_square_to_zero_wherever_its_middle_is():
    inputs = images(600)
    cut = augment(inputs, keys(600), [ENTRIES["cutout"]])
    gone = cut == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    assert torch.equal(cut[~gone], inputs[~gone])
    heights = gone[:, 0].any(2).sum(1)
    widths = gone[:, 0].any(1).sum(1)
    assert torch.equal(gone[:, 0].flatten(1).sum(1), heights * widths)
    assert set(heights.tolist()) == set(widths.tolist()) == {2, 3}


def test_noise_is_normal_with_the_deviation_asked_for():
    inputs = torch.zeros(2000, 50)
    noise = augment(inputs, keys(2000), [ENTRIES["noise"]]) / 0.5
    assert abs(float(noise.mean())) < 0.015  # 100,000 numbers: standard error 0.003
    assert abs(float(noise.std()) - 1) < 0.015
    assert abs(float((noise.abs() < 1).double().mean()) - 0.6827) < 0.01
    assert abs(float((noise.abs() < 2).double().mean()) - 0.9545) < 0.005
    rows = torch.corrcoef(noise[:20])
    assert float((rows - torch.eye(20)).abs().max()) < 0.75


def test_the_numbers_never_change():
    row = augment(torch.zeros(1, 3, dtype=torch.float64), keys(1), [ENTRIES["noise"]])
    assert keys(2).tolist() == EXPECTED_KEYS
    assert row[0].tolist() == pytest.approx(EXPECTED_NOISE, abs=1e-7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "flip"}, "augmentation must be a list"),
        ([{"name": "flip"}] * 11, "augmentation has 11 entries"),
        (["flip"], r"augmentation\[0\] must be a mapping"),
        ([{"probability": 0.5}], r"augmentation\[0\]: name must be one of shift, flip"),
        ([{"name": "rotate"}], "not 'rotate'"),
        ([{"name": "flip"}, {"name": "shift"}], r"augmentation\[1\]: shift needs 'pixels'"),
        ([{"name": "flip", "pixels": 2}], "flip has no parameter 'pixels'; it has probability"),
        ([{"name": "flip", "probability": 0}], r"augmentation\[0\]\['probability'\] must be"),
        ([{"name": "noise", "scale": -1}], "scale"),
        ([{"name": "shift", "pixels": 8}], "must be at most 7 for images of 8 x 8, not 8"),
        ([{"name": "crop", "padding": 8}], "at most 7"),
        ([{"name": "cutout", "size": 9}], "at most 8"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused_by_its_place_and_name(given, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(IMAGES, augmentation=given)


@pytest.mark.parametrize("name", ["shift", "flip", "crop", "cutout"])
def test_moving_pixels_needs_images(name):
    with pytest.raises(RecipeError, match=r"needs images .*inputs have shape \(6,\)"):
        Recipe(models.mlp(6, (3,), 2), augmentation=[ENTRIES[name]])


def test_noise_suits_inputs_of_any_shape_but_not_tokens():
    assert Recipe(models.mlp(6, (3,), 2), augmentation=[ENTRIES["noise"]]).augmentation
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2))
    architecture = models.Architecture.capture(tokens, torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(RecipeError, match="inputs are tokens"):
        Recipe(architecture, augmentation=[ENTRIES["noise"]])


def test_entries_have_one_normal_form_and_cannot_be_changed_in_place():
    written = [
        Recipe(IMAGES, augmentation=[{"name": "flip"}]),
        Recipe(IMAGES, augmentation=({"probability": 0.5, "name": "flip"},)),
    ]
    assert written[0] == written[1]
    assert written[0].augmentation == ({"name": "flip", "probability": 0.5},)
    with pytest.raises(TypeError):
        written[0].augmentation[0]["probability"] = 1.0
