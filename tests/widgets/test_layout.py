"""Where members and clients are in the network view."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronexus_widgets.scene import layout


@settings(max_examples=25)
@given(st.integers(0, 60), st.integers(1, 60))
def test_nobody_moves_when_somebody_joins(count, more):
    few, many = layout.member_places(count), layout.member_places(count + more)
    np.testing.assert_array_equal(few, many[:count])
    np.testing.assert_array_equal(layout.client_places(count), layout.client_places(99)[:count])


def test_members_keep_apart_from_each_other_and_from_the_hub():
    places = layout.member_places(24)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 10 * np.eye(24)
    assert apart.min() > 0.7
    assert np.linalg.norm(places, axis=1).min() > 1.5


def test_clients_are_outside_of_members():
    inner = np.linalg.norm(layout.member_places(50), axis=1).max()
    flat = layout.client_places(50) / np.array([1, layout.FLATNESS, 1])
    assert np.linalg.norm(flat, axis=1).min() > inner


def test_members_come_first_and_what_is_over_capacity_is_left_out():
    names = [f"lab-{number}" for number in range(layout.CAPACITY - 2)]
    places, rows = layout.arrange(names, 10)
    assert places.shape == (layout.CAPACITY, 3)
    assert rows["lab-0"] == 0
    assert rows["client 1"] == layout.CAPACITY - 1
    assert "client 2" not in rows


def test_an_empty_network_has_no_places():
    places, rows = layout.arrange([], 0)
    assert places.shape == (0, 3)
    assert not rows
