"""The network view: what is drawn, and when its clock runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from neuronexus_widgets.scene import layout, playback
from neuronexus_widgets.scene.clock import TURN
from neuronexus_widgets.scene.network_view import LABELS, NetworkView
from neuronexus_widgets.snapshot import load
from neuronexus_widgets.theme import rgb


class Time:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


def looks(view: NetworkView) -> np.ndarray:
    """One row per node: colour and size; the hub is the first."""
    return np.asarray(view._nodes.attributes["look"].array)[::4]


def test_hub_members_and_clients_are_drawn_in_their_colours(hub, clock):
    view, state = NetworkView(now=clock), load(hub)
    view.update(state)
    drawn = looks(view)
    assert (drawn[:, 3] > 0).sum() == 1 + 3 + 6
    np.testing.assert_allclose(drawn[0, :3], rgb("gold"), atol=1e-6)
    np.testing.assert_allclose(drawn[1, :3], rgb("green"), atol=1e-6)
    np.testing.assert_allclose(drawn[4, :3], rgb("violet"), atol=1e-6)


def test_who_trains_and_who_is_away_can_be_told_apart(hub, clock):
    view, state = NetworkView(now=clock), load(hub)
    ada, grace, alan = state.members
    members = (replace(ada, training=True), replace(grace, online=False), alan)
    view.update(replace(state, members=members))
    drawn = looks(view)
    np.testing.assert_allclose(drawn[1, :3], rgb("accent"), atol=1e-6)
    np.testing.assert_allclose(drawn[2, :3], rgb("muted"), atol=1e-6)


def test_clients_vanish_when_people_train_together(hub, clock):
    view, state = NetworkView(now=clock), load(hub)
    assert state.run is not None
    together = replace(state.run, participants=("ada", "grace"))
    view.update(replace(state, runs=(together,)))
    assert (looks(view)[:, 3] > 0).sum() == 1 + 3


def test_the_same_state_is_drawn_once(hub, clock):
    view, state = NetworkView(now=clock), load(hub)
    view.update(state)
    sent: list[object] = []
    for geometry in (view._nodes, view._links):
        for attribute in geometry.attributes.values():
            attribute.observe(sent.append)
    view.update(replace(state, feed=()))
    assert sent == []


def test_names_are_pictures_and_only_of_the_first_members(hub, clock):
    view, state = NetworkView(now=clock), load(hub)
    many = tuple(replace(state.members[0], name=f"lab-{n}") for n in range(LABELS + 9))
    view.update(replace(state, members=many))
    labels = [child for child in view._world.children if type(child).__name__ == "Sprite"]
    assert len(labels) == LABELS
    assert labels[0].material.map.string == "lab-0"


def test_a_crowd_beyond_capacity_says_how_many_are_not_drawn(hub, clock):
    view, state = NetworkView(now=clock), load(hub)
    many = tuple(replace(state.members[0], name=f"lab-{n}") for n in range(layout.CAPACITY + 20))
    view.update(replace(state, members=many, runs=()))
    assert "20 not drawn" in view.widget.children[0].value


def test_the_clock_runs_while_something_moves_and_stops_after(hub, clock):
    view = NetworkView(now=clock)
    view.update(load(hub))
    assert not view.clock.running
    view.play([hub.log[6]])
    assert hub.log[6].kind == "run.round"
    assert view.clock.running
    clock.now += 2.0
    view.play([])
    assert view.clock.running
    clock.now += 10.0
    view.play([])
    assert not view.clock.running
    stopped = view.clock.time
    clock.now += 100.0
    assert view.clock.time == stopped


def test_a_page_that_opens_late_is_told_the_time(hub, clock):
    view = NetworkView(now=clock)
    view.update(load(hub))
    view.play([hub.log[6]])
    sent: list[str] = []
    view.clock._action.play = lambda: sent.append("play")
    view.play([])
    assert sent == []
    view._flow.attributes["corner"].version = 2  # what a page does when it draws the buffer
    view.play([])
    assert sent == ["play"]


def test_rounds_faster_than_the_eye_share_an_animation(hub, clock):
    view = NetworkView(now=clock)
    view.update(load(hub))
    rounds = [event for event in hub.log if event.kind == "run.round"]
    view.play(rounds)
    one = len(view._sparks)
    clock.now += 0.1
    view.play(rounds)
    assert len(view._sparks) == one
    clock.now += 0.7
    view.play(rounds)
    assert len(view._sparks) > one


def test_a_clock_that_has_run_long_is_turned_back_by_whole_turns(hub, clock):
    view = NetworkView(now=clock)
    view.update(load(hub))
    rounds = [event for event in hub.log if event.kind == "run.round"]
    for _ in range(700):  # an hour and more of training
        view.play(rounds[:1])
        clock.now += 7.0
    assert view.clock.time < 3600 - TURN
    assert len(view._sparks) <= playback.SLOTS
    assert playback.end(view._sparks) > view.clock.time - 10
