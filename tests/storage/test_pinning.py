"""Pinning services: what is asked arrives once, is waited for, and costs nothing twice."""

import importlib.util
import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from neuronexus_kernel.content.cid import CID, DAG_PB
from neuronexus_kernel.errors import (
    ContentError,
    ForbiddenError,
    InvalidInputError,
    NeuroNexusError,
    NotFoundError,
    QuotaError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage.endpoints import Credentials, Endpoint
from neuronexus_kernel.storage.pinning import PinningService, Status

_SPEC = importlib.util.spec_from_file_location(
    "pinning_server", Path(__file__).with_name("pinning_server.py")
)
psa = sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(psa)

TOKEN = "t0ken-never-to-be-shown"
ONE, TWO = CID.of(b"one"), CID.of(b"two")


@pytest.fixture
def server():
    with psa.pinning_server(TOKEN) as server:
        yield server


@pytest.fixture
def pauses():
    """How long was waited, in a test that takes no time."""
    return []


@pytest.fixture
def service(server, pauses):
    endpoint = Endpoint.parse(server.address, Credentials(TOKEN))
    service = PinningService(endpoint, seconds=2.0, sleep=pauses.append)
    yield service
    service.close()


# -- asking ----------------------------------------------------------------------------------


def test_content_is_asked_for_and_waited_for(service):
    seen = []
    pin = service.add(
        ONE, name="weights", origins=["/ip4/127.0.0.1/tcp/4001/p2p/12D3"], meta={"run": "7"}
    )
    assert (pin.cid, pin.name, pin.status, dict(pin.meta)) == (
        ONE,
        "weights",
        Status.QUEUED,
        {"run": "7"},
    )
    assert pin.delegates
    done = service.wait(pin, progress=lambda pin: seen.append(pin.status))
    assert done.status == Status.PINNED
    assert seen == [Status.QUEUED, Status.PINNING, Status.PINNED]
    assert done.origins == ("/ip4/127.0.0.1/tcp/4001/p2p/12D3",)


def test_waiting_asks_less_and_less_often(service, server, pauses):
    pin = service.add(ONE)
    server.faults += [psa.says(200, still(server, pin))] * 8
    service.wait(pin)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]


def still(server, pin):
    return json.dumps(server.requests[pin.id]).encode()


def test_waiting_ends_when_the_time_is_up_and_the_request_stands(service, server):
    pin = service.add(ONE)
    with pytest.raises(StoreUnavailable, match=r"not done.*queued"):
        service.wait(pin, timeout=0.5)
    assert service.wait(pin.id).status == Status.PINNED


def test_content_that_the_service_cannot_find_is_told(service, server):
    server.unfindable.add(str(ONE))
    with pytest.raises(StoreError, match="no provider found"):
        service.wait(service.add(ONE))


def test_the_list_can_be_filtered(service, server):
    first = service.wait(service.add(ONE, name="Model A", meta={"kind": "model"}))
    second = service.add(TWO, name="model b")
    assert [pin.id for pin in service.pins()] == [second.id, first.id]
    assert [pin.cid for pin in service.pins(cids=[ONE])] == [ONE]
    assert [pin.cid for pin in service.pins(name="Model A")] == [ONE]
    assert [pin.cid for pin in service.pins(name="model", match="ipartial")] == [TWO, ONE]
    assert [pin.cid for pin in service.pins(name="model", match="partial")] == [TWO]
    assert [pin.cid for pin in service.pins(statuses=[Status.PINNED])] == [ONE]
    assert [pin.cid for pin in service.pins(meta={"kind": "model"})] == [ONE]
    assert [pin.cid for pin in service.pins(before=second.created)] == [ONE]
    assert [pin.cid for pin in service.pins(after=first.created)] == [TWO]
    assert service.count() == 1
    assert service.count(statuses=Status) == 2


def test_a_long_list_comes_page_by_page_and_whole(service, server):
    ids = [service.add(CID.of(b"%d" % number)).id for number in range(23)]
    server.asked.clear()
    assert [pin.id for pin in service.pins(page=10)] == ids[::-1]
    assert server.asked["GET"] == 3


def test_many_cids_are_asked_for_ten_at_a_time(service, server):
    cids = [CID.of(b"%d" % number) for number in range(25)]
    for cid in cids:
        service.add(cid)
    assert {pin.cid for pin in service.pins(cids=cids)} == set(cids)


def test_a_service_that_gives_the_same_page_for_ever_is_left(service, server):
    for number in range(3):
        service.add(CID.of(b"%d" % number))
    page = b'{"count": 99, "results": [%s]}' % still(server, next(service.pins()))
    server.faults += [psa.says(200, page)] * 50
    assert len(list(service.pins())) == 1
    assert len(server.faults) == 48


def test_content_is_replaced_and_removed(service, server):
    pin = service.add(ONE, name="weights")
    new = service.replace(pin.id, TWO, name="weights")
    assert new.id != pin.id
    assert [each.cid for each in service.pins()] == [TWO]
    service.remove(new.id)
    assert list(service.pins()) == []
    with pytest.raises(NotFoundError):
        service.remove(new.id)
    with pytest.raises(NotFoundError):
        service.get(new.id)


def test_both_versions_of_a_cid_are_the_same_content(service, server):
    old = CID(DAG_PB, ONE.digest, version=0)
    answer = {**server.accept({"cid": str(CID(DAG_PB, ONE.digest))}), "requestid": "x"}
    server.faults.append(psa.says(202, json.dumps(answer).encode()))
    assert service.add(old).id == "x"


# -- trying again ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_service_is_asked_again(service, server, pauses, status):
    server.faults += [psa.is_busy(status)] * (3 if status == 429 else 1)
    service.add(ONE)
    assert len(server.requests) == 1
    assert all(pause >= 1.0 for pause in pauses)


def test_pauses_grow(service, server, pauses):
    server.faults += [psa.is_busy()] * 5
    service.get(service_id(service, server))
    assert [round(pause // 1) for pause in sorted(pauses)] == pytest.approx(
        [1, 2, 4, 8, 16], rel=0.26
    )


def service_id(service, server):
    return server.accept({"cid": str(ONE)})["requestid"]


def test_the_service_says_when_to_come_back(service, server, pauses):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    server.faults += [psa.is_busy(Retry_After="7"), psa.is_busy(503, Retry_After=date)]
    service.get(service_id(service, server))
    assert pauses[0] == 7.0
    assert 30 < pauses[1] <= 40


@pytest.mark.parametrize("header", ["", "soon", "-5", "1e9", "Mon, 99 Foo 2020", "9" * 400])
def test_a_senseless_time_to_come_back_is_ignored_or_too_long(service, server, header):
    server.faults.append(psa.is_busy(Retry_After=header))
    try:
        service.get(service_id(service, server))
    except StoreUnavailable as error:
        assert "busy" in str(error)  # noqa: PT017


def test_a_service_that_stays_away_too_long_is_given_up(service, server, pauses):
    server.faults.append(psa.is_busy(Retry_After="86400"))
    with pytest.raises(StoreUnavailable, match=r"busy.*429"):
        service.add(ONE)
    assert pauses == []


def test_a_service_that_does_not_come_back_is_given_up(server):
    endpoint = Endpoint.parse(server.address, Credentials(TOKEN))
    service = PinningService(endpoint, seconds=0.5, patience=0.0)
    server.faults += [psa.hangs_up] * 9
    with pytest.raises(StoreUnavailable, match="does not answer"):
        service.add(ONE)


def test_a_request_that_arrived_after_all_is_not_sent_twice(service, server):
    server.faults.append(psa.works_and_hangs_up)
    pin = service.add(ONE, name="weights")
    assert list(server.requests) == [pin.id]
    assert server.asked["POST"] == 1


def test_a_request_that_did_not_arrive_is_sent_again(service, server):
    server.faults.append(psa.hangs_up)
    pin = service.add(ONE)
    assert list(server.requests) == [pin.id]
    assert server.asked["POST"] == 2


def test_an_older_request_is_not_taken_for_one_that_was_lost(service, server):
    old = server.accept({"cid": str(ONE)})
    old["created"] = "2020-01-01T00:00:00Z"
    server.faults.append(psa.hangs_up)
    assert service.add(ONE).id != old["requestid"]


def test_a_replacement_that_arrived_after_all_is_not_sent_twice(service, server):
    pin = service.add(ONE)
    server.faults.append(psa.works_and_hangs_up)
    new = service.replace(pin.id, TWO)
    assert list(server.requests) == [new.id]


def test_a_removal_that_arrived_after_all_is_done(service, server):
    pin = service.add(ONE)
    server.faults.append(psa.works_and_hangs_up)
    service.remove(pin.id)
    assert not server.requests


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (401, StoreUnavailable),
        (403, StoreUnavailable),
        (404, NotFoundError),
        (409, QuotaError),
        (418, StoreError),
    ],
)
def test_a_refusal_is_an_error_of_ours_with_the_services_reason(service, server, status, kind):
    server.faults.append(psa.refuses(status, "SOME_REASON", "because of this"))
    with pytest.raises(kind, match="SOME_REASON because of this"):
        service.add(ONE)


def test_a_wrong_token_is_told_so(server):
    service = PinningService(Endpoint.parse(server.address, Credentials("wrong")))
    with pytest.raises(StoreUnavailable, match="NEURONEXUS_PINNING_TOKEN"):
        service.add(ONE)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        b'{"requestid": 1}',
        b'{"requestid": "a", "status": "lost", "created": "2020-01-01T00:00:00Z", "pin": {}}',
        b'{"requestid": "a", "status": "queued", "created": "2020-01-01T00:00:00Z",'
        b' "pin": {"cid": "nonsense"}}',
        b'{"requestid": "a", "status": "queued", "created": "now", "pin": {"cid": "%s"}}'
        % str(ONE).encode(),
    ],
)
def test_nonsense_is_refused(service, server, answer):
    for call in (lambda: service.add(ONE), lambda: service.get("a"), lambda: list(service.pins())):
        server.faults.append(psa.says(200, answer))
        with pytest.raises(StoreError, match="otherwise"):
            call()


def test_other_content_than_was_asked_for_is_refused(service, server):
    server.faults.append(psa.says(202, json.dumps(server.accept({"cid": str(TWO)})).encode()))
    with pytest.raises(StoreError, match="was asked for"):
        service.add(ONE)


@pytest.mark.parametrize("id", ["", ".", "..", "x" * 300, None])
def test_what_cannot_be_an_id_is_refused(service, server, id):
    with pytest.raises(InvalidInputError):
        service.get(id)
    assert not server.asked


def test_what_cannot_be_pinned_is_refused(service):
    with pytest.raises(ContentError):
        service.add("nonsense")
    with pytest.raises(InvalidInputError, match="255"):
        service.add(ONE, name="x" * 256)


def test_a_slow_service_is_given_up(server):
    endpoint = Endpoint.parse(server.address, Credentials(TOKEN))
    service = PinningService(endpoint, seconds=0.3, patience=0.0)
    server.faults.append(lambda exchange: time.sleep(1.0) or False)
    with pytest.raises(StoreUnavailable, match=r"longer than 0\.3"):
        service.add(ONE)


# -- the token -------------------------------------------------------------------------------


def test_the_token_is_shown_nowhere(server, caplog, pauses):
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint.parse(server.address, Credentials(TOKEN))
    service = PinningService(endpoint, seconds=1.0, patience=0.0)
    shown = [repr(service), repr(endpoint)]
    echo = f"you sent Bearer {TOKEN}"
    faults = [
        psa.refuses(status, echo, TOKEN) for status in (400, 401, 404, 409, 418, 429, 500)
    ] + [psa.says(302, b"", Location=f"http://127.0.0.1:1/{TOKEN}"), psa.hangs_up]
    for fault in faults:
        for call in (
            lambda: service.add(ONE),
            lambda: service.get("a"),
            lambda: service.remove("a"),
        ):
            server.faults = [fault]
            with pytest.raises(NeuroNexusError) as refusal:
                call()
            shown.append("".join(traceback.format_exception(refusal.value)))
    failed = {"status": "failed", "info": {"status_details": echo}}
    server.faults = []
    request = server.accept({"cid": str(ONE)})
    request |= failed
    with pytest.raises(StoreError) as refusal:
        service.wait(request["requestid"])
    shown += [str(refusal.value), caplog.text]
    assert not [text for text in shown if TOKEN in text]


def test_the_token_is_not_sent_where_others_can_read_it():
    with pytest.raises(ForbiddenError, match="https"):
        PinningService(Endpoint.parse("http://example.org/psa", Credentials(TOKEN)))


def test_the_environment_names_the_service(server):
    environment = {"NEURONEXUS_PINNING": server.address, "NEURONEXUS_PINNING_TOKEN": TOKEN}
    assert PinningService.configured(environment).add(ONE).cid == ONE
    assert PinningService.configured({}) is None
    with pytest.raises(InvalidInputError, match="TOKEN"):
        PinningService.configured({"NEURONEXUS_PINNING": server.address})
    with pytest.raises(InvalidInputError, match="token"):
        PinningService(Endpoint.parse(server.address))
