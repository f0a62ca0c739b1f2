"""Events as they happen, over a WebSocket, with nothing missing and nothing twice."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import msgspec
import pytest
import websocket
from neuronexus_server.stream import Reader

from neuronexus_kernel.errors import AuthenticationError, HubUnavailableError
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.records import Event
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.routes import STREAM

PASSWORD = "correct horse battery"


def event(seq):
    return Event(seq=seq, previous=seq - 1, time="", kind="test", project=None, subject="", data={})


def test_history_comes_first_and_then_what_happens(connect, new_member):
    hub = connect()
    name, _ = new_member()
    events = hub.events()
    last = events[-1].seq
    with ThreadPoolExecutor() as pool:
        follower = connect().follow(since=last - 1)
        assert next(follower).subject == name
        future = pool.submit(next, follower)
        later, _ = new_member()
        got = future.result(20)
        assert (got.kind, got.subject, got.previous) == ("account.registered", later, last)
        follower.close()


def test_every_event_names_the_one_before_it(connect, new_member):
    start = connect().events()[-1].seq if connect().events() else 0
    count = 6
    with ThreadPoolExecutor(4) as pool:
        followers = [
            pool.submit(lambda: list(islice(connect().follow(since=start), count)))
            for _ in range(2)
        ]
        list(pool.map(lambda _: new_member(), range(count)))
        for follower in followers:
            events = follower.result(30)
            assert [e.seq for e in events] == list(range(start + 1, start + count + 1))
            assert [e.previous for e in events] == [start, *(e.seq for e in events[:-1])]


def test_a_filtered_stream_is_chained_under_its_filter(connect, new_member):
    new_member()
    follower = connect().follow(project=str(uuid.uuid4()))
    with ThreadPoolExecutor() as pool:
        future = pool.submit(next, follower, None)
        new_member()
        time.sleep(0.3)
        assert not future.done()
        connect_closed = follower.gi_frame.f_locals["self"]
        connect_closed.close()
        assert future.result(10) is None


def test_closing_the_hub_ends_a_follow_that_waits(server, new_member):
    new_member()
    hub = RemoteHub(server.address)
    since = hub.events(limit=10000)[-1].seq
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(hub.follow(since=since)))
    thread.start()
    time.sleep(0.5)
    hub.close()
    thread.join(10)
    assert not thread.is_alive()
    assert seen == []


def test_a_follow_survives_a_restart_of_the_hub(tmp_path):
    with start_hub(tmp_path, port=0, arguments=("--no-warm-kernel",)) as first:
        hub = RemoteHub(first.address)
        hub.register("ada", PASSWORD)
        follower = hub.follow()
        assert next(follower).subject == "ada"
        port = int(first.address.rsplit(":", 1)[1])
        with ThreadPoolExecutor() as pool:
            future = pool.submit(next, follower)
            os.kill(first.pid, signal.SIGINT)  # as by Ctrl-C
            first.stop()
            with start_hub(tmp_path, port=port, arguments=("--no-warm-kernel",)) as second:
                assert second.address == first.address
                RemoteHub(second.address).register("grace", PASSWORD)
                assert future.result(30).subject == "grace"
        follower.close()


def test_a_follow_of_a_hub_that_is_gone_says_so():
    with pytest.raises(HubUnavailableError, match="does not answer"):
        next(RemoteHub("http://127.0.0.1:9", timeout=1).follow())


def test_a_follow_with_an_ended_token_is_refused(connect):
    with pytest.raises(AuthenticationError):
        next(connect("never-issued").follow())


def test_another_sites_page_gets_no_stream(server, member_browser):
    address = server.address.replace("http", "ws", 1) + STREAM
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(
            address, cookie=member_browser.cookies, origin="http://evil.example", timeout=10
        )


def test_a_page_of_ours_gets_the_stream_by_its_cookie(server, member_browser):
    address = server.address.replace("http", "ws", 1) + STREAM
    socket = websocket.create_connection(
        address, cookie=member_browser.cookies, origin=server.address, timeout=10
    )
    events = msgspec.json.decode(socket.recv(), type=list[Event])
    assert events[0].seq == 1
    socket.close()


def test_a_reader_that_cannot_keep_up_reads_history_again():
    reader = Reader(backlog=3)
    reader.offer([event(1)])
    assert reader.take() == []
    reader.caught_up()
    reader.offer([event(2), event(3)])
    assert [e.seq for e in reader.take()] == [2, 3]
    reader.offer([event(seq) for seq in range(4, 10)])
    assert reader.behind
    assert reader.take() == []
