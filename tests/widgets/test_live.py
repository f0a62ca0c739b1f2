"""Bringing events from the hub: batches, order, breaks and gaps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from neuronexus_widgets import live
from neuronexus_widgets.live import Batch, Live

from neuronexus_kernel.errors import AuthenticationError


class Reader:
    """Keeps the batches it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.threads: set[str] = set()

    def __call__(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.threads.add(threading.current_thread().name)

    @property
    def seqs(self) -> list[int]:
        return [event.seq for batch in self.batches for event in batch.events]

    @property
    def connections(self) -> list[str]:
        return [batch.connection for batch in self.batches]


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def following() -> Iterator[Callable[..., tuple[Live, Reader]]]:
    """Start to follow a hub; stopped after the test."""
    started: list[Live] = []

    def follow(hub, since: int = 0, reader: Reader | None = None) -> tuple[Live, Reader]:
        reader = reader or Reader()
        started.append(Live(hub, reader, since=since))
        started[-1].start()
        return started[-1], reader

    yield follow
    for item in started:
        item.stop()


def test_every_event_arrives_once_and_in_order(hub, following):
    _, reader = following(hub, since=3)
    until(lambda: len(reader.seqs) == len(hub.log) - 3)
    hub.tell("account.registered", "emmy", None)
    until(lambda: reader.seqs == list(range(4, len(hub.log) + 1)))
    assert not any(batch.gap for batch in reader.batches)


def test_a_burst_of_events_becomes_few_batches(hub, following):
    _, reader = following(hub, since=len(hub.log))
    for number in range(500):
        hub.tell("run.round", "r1", "p1", round=number)
        time.sleep(0.001)
    until(lambda: len(reader.seqs) == 500)
    assert sum(bool(batch.events) for batch in reader.batches) <= 25


def test_a_hub_that_goes_away_is_told_and_followed_again_when_it_is_back(hub, following):
    _, reader = following(hub, since=len(hub.log))
    hub.break_off(True)
    until(lambda: reader.connections[-1:] == ["reconnecting"])
    hub.tell("account.registered", "emmy", None)
    hub.break_off(False)
    until(lambda: reader.connections[-1:] == ["live"] and len(reader.seqs) == 1)
    assert reader.seqs == [len(hub.log)]


def test_a_sign_in_that_has_ended_is_told(hub, following, monkeypatch):
    def refuse() -> None:
        raise AuthenticationError("Sign in first.")

    monkeypatch.setattr(hub, "network", refuse)
    _, reader = following(hub)
    until(lambda: "signed-out" in reader.connections)


def test_missed_events_are_noticed(hub, following):
    hub.log[5] = replace(hub.log[5], previous=3)
    _, reader = following(hub)
    until(lambda: len(reader.seqs) == len(hub.log))
    assert any(batch.gap for batch in reader.batches)


def test_a_batch_that_cannot_be_drawn_does_not_end_the_stream(hub, following, caplog):
    class Clumsy(Reader):
        def __call__(self, batch: Batch) -> None:
            super().__call__(batch)
            if len(self.batches) == 1:
                raise RuntimeError("clumsy")

    _, reader = following(hub, reader=Clumsy())
    until(lambda: len(reader.batches) == 1)
    hub.tell("account.registered", "emmy", None)
    until(lambda: len(hub.log) in reader.seqs)
    assert "clumsy" in caplog.text


def test_contributions_that_tell_more_than_their_events_are_read(hub, following):
    _, reader = following(hub)
    until(lambda: len(reader.seqs) == len(hub.log))
    read = {item.id for batch in reader.batches for item in batch.contributions}
    assert read == {"c1"}


def test_the_network_is_looked_at_again_from_time_to_time(hub, following, monkeypatch):
    monkeypatch.setattr(live, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(live, "HEARTBEAT", 0.05)
    _, reader = following(hub, since=len(hub.log))
    until(lambda: any(batch.network for batch in reader.batches))


def test_the_network_is_looked_at_soon_after_somebody_joined(hub, following, monkeypatch):
    monkeypatch.setattr(live, "LOOK_AGAIN", 0.05)
    _, reader = following(hub, since=len(hub.log))
    hub.tell("account.registered", "emmy", None)
    until(lambda: any(batch.network and len(batch.network.nodes) == 4 for batch in reader.batches))


def test_nothing_is_delivered_after_stop(hub, following):
    item, reader = following(hub)
    until(lambda: len(reader.seqs) == len(hub.log))
    item.stop()
    hub.tell("account.registered", "emmy", None)
    seen = len(reader.batches)
    time.sleep(0.3)
    assert len(reader.batches) == seen


def test_batches_are_drawn_on_the_loop_while_it_is_free(hub):
    async def watch() -> set[str]:
        reader = Reader()
        item = Live(hub, reader)
        item.start()
        while len(reader.seqs) < len(hub.log):
            await asyncio.sleep(0.02)
        item.stop()
        return reader.threads

    assert asyncio.run(watch()) == {threading.main_thread().name}


def test_batches_are_drawn_even_while_the_loop_is_busy(hub, monkeypatch):
    monkeypatch.setattr(live, "BUSY_AFTER", 0.05)

    async def watch() -> set[str]:
        reader = Reader()
        item = Live(hub, reader)
        item.start()
        until(lambda: len(reader.seqs) == len(hub.log))  # as a long cell: the loop does not run
        item.stop()
        return reader.threads

    assert asyncio.run(watch()) == {"neuronexus-deliver"}
