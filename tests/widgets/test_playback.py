"""What moves in the network view, as a function of events and time."""

from __future__ import annotations

import numpy as np
import pytest
from neuronexus_widgets.scene import layout, playback

from neuronexus_kernel.hub.records import JSON, Event

ROWS = {"ada": 0, "client 0": 1, "client 1": 2}
PLACES = np.array([[3, 0, 0], [0, 2, 0], [0, 0, 5]], np.float32)


def event(kind: str, subject: str = "s", **data: JSON) -> Event:
    return Event(seq=1, previous=0, time="", kind=kind, project="p1", subject=subject, data=data)


def at(sparks: list[playback.Spark], now: float) -> tuple[np.ndarray, np.ndarray]:
    buffers = playback.encode(sparks, PLACES)
    return playback.where(buffers, now)


def test_a_round_goes_out_from_the_hub_and_comes_back():
    told = event("run.round", clients=["client 0", "client 1", "somebody else"])
    sparks = playback.choreograph(told, 10.0, ROWS)
    assert {spark.way for spark in sparks} == {"out", "in", "ring"}
    assert {spark.row for spark in sparks} == {1, 2, playback.HUB}
    out = [spark for spark in sparks if spark.way == "out"]
    back = [spark for spark in sparks if spark.way == "in"]
    assert max(spark.birth for spark in out) < min(spark.birth for spark in back)


@pytest.mark.parametrize(("way", "begins", "ends"), [("out", 0.0, 5.0), ("in", 5.0, 0.0)])
def test_a_spark_travels_the_whole_line_within_its_life(way, begins, ends):
    spark = playback.Spark(row=2, way=way, birth=1.0, life=2.0, colour=0)
    for now, distance in ((1.0, begins), (2.0, 2.5), (2.9999, ends)):
        places, alive = at([spark], now)
        assert alive[0]
        assert places[0, 2] == pytest.approx(distance, abs=1e-3)
    assert not at([spark], 0.99)[1].any()
    assert not at([spark], 3.01)[1].any()


def test_empty_slots_are_never_alive():
    assert not any(at([], now)[1].any() for now in (0.0, 0.5, 100.0))


def test_a_reward_is_gold_and_reaches_everybody_it_pays():
    amounts = {"ada": "1", "client 0": "2", "stranger": "3"}
    sparks = playback.choreograph(event("ledger.entry", amounts=amounts), 0.0, ROWS)
    gold = playback.COLOURS.index("gold")
    assert {spark.colour for spark in sparks} == {gold}
    rings = {spark.row for spark in sparks if spark.way == "ring"}
    assert rings == {playback.HUB, ROWS["ada"], ROWS["client 0"]}


def test_an_event_about_somebody_who_is_not_drawn_still_shows_at_the_hub():
    sparks = playback.choreograph(event("contribution.submitted", author="stranger"), 0.0, ROWS)
    assert [spark.row for spark in sparks] == [playback.HUB]


def test_events_that_move_nothing_give_no_sparks():
    assert playback.choreograph(event("contribution.accepted"), 0.0, ROWS) == []
    assert playback.choreograph(event("run.round", clients=None), 0.0, ROWS) == []


def test_a_large_cohort_stays_within_what_one_round_may_use():
    names = [f"client {number}" for number in range(200)]
    _, rows = layout.arrange([], 200)
    sparks = playback.choreograph(event("run.round", clients=list(names)), 0.0, rows)
    assert playback.PER_ROUND // 2 <= len(sparks) <= playback.PER_ROUND + 1


def test_only_the_newest_sparks_are_kept_and_the_dead_are_dropped():
    sparks = [playback.Spark(0, "out", float(number), 1.0, 0) for number in range(600)]
    kept = playback.keep(sparks, 50.0)
    assert len(kept) == playback.SLOTS
    assert kept[-1].birth == 599.0
    assert playback.keep(sparks, 599.5)[0].birth == 599.0


def test_turning_the_clock_back_changes_nothing_that_is_seen():
    told = event("run.round", clients=["client 0"])
    sparks = playback.choreograph(told, 130.0, ROWS)
    before = at(sparks, 130.6)
    after = at(playback.shift(sparks, 120.0), 10.6)
    np.testing.assert_allclose(before[0], after[0], atol=1e-4)
    np.testing.assert_array_equal(before[1], after[1])
