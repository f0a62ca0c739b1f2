"""Large objects: they arrive in parts, go on after a break, and come back in pieces."""

from __future__ import annotations

import io
import os
import secrets
import signal
import time
import tracemalloc
from pathlib import Path

import psutil
import pytest
import requests

from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
)
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.records import Account, NewUpload
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.remote_uploads import send_object
from neuronexus_kernel.hub.routes import API
from neuronexus_kernel.hub.uploads import LIFETIME, PER_ACCOUNT, Uploads
from neuronexus_kernel.library import Storage
from neuronexus_kernel.storage import cid_of

MIB = 1024 * 1024
PASSWORD = "correct horse battery"
PARTIAL = "application/partial-upload"


@pytest.fixture(scope="module")
def roomy(tmp_path_factory, dashboard):
    """A hub that takes large objects."""
    home = tmp_path_factory.mktemp("roomy")
    arguments = ("--dashboard", str(dashboard), "--no-warm-kernel")
    with start_hub(home, port=0, arguments=arguments) as process:
        yield process, home


@pytest.fixture(scope="module")
def ada(roomy):
    hub = RemoteHub(roomy[0].address)
    hub.register("ada", PASSWORD)
    hub.login("ada", PASSWORD)
    yield hub
    hub.close()


@pytest.fixture
def ask(roomy, ada):
    """Return a function that asks as Ada."""

    def ask(verb, path, token=ada._transport.token, headers=None, **rest):
        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        return requests.request(
            verb, f"{roomy[0].address}{API}{path}", headers=sent, timeout=30, **rest
        )

    return ask


@pytest.fixture
def begin(ask):
    made = []

    def begin(**new):
        answer = ask("POST", "/uploads", json=new)
        assert answer.status_code == 201, answer.text
        path = answer.headers["Location"].removeprefix(API)
        made.append(path)
        return path

    yield begin
    for path in made:
        ask("DELETE", path)


def part(ask, path, offset, data, last=False, **rest):
    headers = {
        "Content-Type": PARTIAL,
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if last else "?0",
    }
    return ask("PATCH", path, data=data, headers=headers, **rest)


# -- from the outside ---------------------------------------------------------------------------


def test_an_object_arrives_in_parts(ask, begin):
    data = secrets.token_bytes(2_500_000)
    path = begin(size=len(data), name="parts.bin", kind="weights", license="CC0-1.0")
    assert part(ask, path, 0, data[:1_000_000]).headers["Upload-Offset"] == "1000000"
    head = ask("HEAD", path)
    assert head.headers["Upload-Offset"] == "1000000"
    assert head.headers["Upload-Length"] == "2500000"
    assert head.headers["Upload-Complete"] == "?0"
    assert part(ask, path, 1_000_000, data[1_000_000:]).status_code == 204
    root = part(ask, path, 2_500_000, b"", last=True).json()
    assert root["cid"] == str(cid_of(data))
    assert (root["name"], root["kind"], root["size"]) == ("parts.bin", "weights", 2_500_000)
    assert root["license"] == "CC0-1.0"


def test_a_token_that_may_only_read_sends_nothing(ask, begin, ada, roomy):
    reader = ada.create_token("reader", ("read",)).token
    path = begin(size=10)
    for answer in (
        ask("POST", "/content", token=reader, data=secrets.token_bytes(3 * MIB)),
        ask("POST", "/content", token=reader, data=b"short"),
        ask("POST", "/uploads", token=reader, json={"size": 10}),
        ask("GET", path, token=reader),
        part(ask, path, 0, b"12345", token=reader),
        ask("DELETE", path, token=reader),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "permission"), answer.url
    assert ask("GET", path).json()["offset"] == 0


def test_the_last_part_may_be_told_twice(ask, begin):
    path = begin()
    first = part(ask, path, 0, b"all at once", last=True)
    again = part(ask, path, 11, b"", last=True)
    assert (first.status_code, again.json()) == (200, first.json())
    assert ask("GET", path).json()["complete"] is True
    assert part(ask, path, 11, b"more").status_code == 409


def test_a_part_at_another_place_is_refused(ask, begin):
    path = begin()
    part(ask, path, 0, b"12345")
    for offset in (0, 4, 6):
        answer = part(ask, path, offset, b"x")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert ask("HEAD", path).headers["Upload-Offset"] == "5"


def test_an_upload_with_bytes_missing_is_not_stored(ask, begin):
    path = begin(size=10)
    assert part(ask, path, 0, b"12345", last=True).status_code == 409
    assert part(ask, path, 5, b"67890", last=True).status_code == 200


def test_more_than_was_announced_is_refused(ask, begin):
    path = begin(size=4)
    answer = part(ask, path, 0, b"12345")
    assert answer.json()["code"] == "quota"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Offset": "0"}, 415),
        ({"Upload-Offset": "0", "Content-Type": "application/json"}, 415),
        ({"Content-Type": PARTIAL}, 422),
        ({"Content-Type": PARTIAL, "Upload-Offset": "-1"}, 422),
        ({"Content-Type": PARTIAL, "Upload-Offset": "9" * 40}, 422),
        ({"Content-Type": PARTIAL, "Upload-Offset": "0", "Upload-Complete": "yes"}, 422),
    ],
)
def test_a_part_that_does_not_say_what_it_is_is_refused(ask, begin, headers, status):
    path = begin()
    assert ask("PATCH", path, data=b"x", headers=headers).status_code == status
    assert ask("HEAD", path).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize(
    "new", [{"size": -1}, {"size": 10**15}, {"size": "x"}, {"codec": "zip"}, {"visibility": "all"}]
)
def test_what_cannot_be_stored_is_not_begun(ask, new):
    assert ask("POST", "/uploads", json=new).json()["code"] in ("invalid-input", "quota")


def test_an_upload_is_its_owners_alone(ask, begin, roomy):
    path = begin()
    part(ask, path, 0, b"mine")
    other = RemoteHub(roomy[0].address)
    other.register("bob", PASSWORD)
    token = other.login("bob", PASSWORD).token
    assert ask("HEAD", path, token=token).status_code == 404
    assert part(ask, path, 4, b"x", token=token).status_code == 404
    assert ask("DELETE", path, token=token).status_code == 404
    assert requests.get(f"{roomy[0].address}{API}{path}", timeout=30).status_code == 401
    assert ask("HEAD", path).headers["Upload-Offset"] == "4"
    other.close()


UNKNOWN = "01a21548-9de0-7a94-be44-a8129c11b133"


@pytest.mark.parametrize("upload", ["..%2F..%2Fledger", "%2Fetc%2Fpasswd", "x", UNKNOWN, "%00"])
def test_an_upload_that_is_none_is_not_found(ask, upload):
    assert ask("GET", f"/uploads/{upload}").status_code == 404
    assert part(ask, f"/uploads/{upload}", 0, b"x").status_code == 404


def test_unfinished_uploads_are_few(ask, begin):
    for _ in range(PER_ACCOUNT):
        begin()
    answer = ask("POST", "/uploads", json={})
    assert (answer.status_code, answer.json()["code"]) == (429, "quota")


def test_a_malformed_car_file_is_the_senders_fault(ask, begin):
    path = begin(codec="car")
    answer = part(ask, path, 0, b"no CAR file", last=True)
    assert (answer.status_code, answer.json()["code"]) == (422, "store")


# -- by the remote hub --------------------------------------------------------------------------


def test_any_stream_will_do(ada):
    class Pipe(io.RawIOBase):
        """Gives what it likes, and cannot seek."""

        def __init__(self, data):
            self._rest = io.BytesIO(data)

        def read(self, size=-1):
            return self._rest.read(min(size, 70_001))

    data = secrets.token_bytes(9 * MIB + 17)
    assert ada.put(Pipe(data)).cid == str(cid_of(data))
    assert ada.put(io.BytesIO(b"short"), name="s").size == 5
    assert ada.put(io.BytesIO(b"")).cid == str(cid_of(b""))


def test_large_bytes_go_in_parts_and_come_back(ada):
    data = secrets.token_bytes(10 * MIB)
    root = ada.put(data, name="large", visibility="project")
    assert (root.cid, root.size, root.visibility) == (str(cid_of(data)), len(data), "project")
    assert ada.get(root.cid) == data


def test_a_stream_of_text_is_refused_and_leaves_nothing(ada, roomy):
    before = set((roomy[1] / "uploads").iterdir())
    with pytest.raises(InvalidInputError, match="binary"):
        ada.put(io.StringIO("text"))
    assert set((roomy[1] / "uploads").iterdir()) == before


def test_a_broken_connection_costs_a_part_of_a_part(ada, roomy, new_proxy):
    proxy = new_proxy(roomy[0].address)
    hub = RemoteHub(proxy.address, ada._transport.token)
    data = secrets.token_bytes(20 * MIB)
    proxy.cut_after = 13 * MIB
    root = hub.put(io.BytesIO(data))
    assert root.cid == str(cid_of(data))
    assert proxy.cut_after is None, "the connection was cut"
    assert proxy.sent < 24 * MIB, "what had arrived was not sent again"
    hub.close()


def test_an_upload_goes_on_whose_answers_are_lost(ada, roomy, new_proxy):
    proxy = new_proxy(roomy[0].address)
    hub = RemoteHub(proxy.address, ada._transport.token)
    hub.projects()

    class Losing(io.BytesIO):
        """Has every answer lost that follows a part."""

        def read(self, size=-1):
            proxy.answers_to_drop = 1
            return super().read(size)

    data = secrets.token_bytes(3 * MIB)
    root = send_object(hub._transport, Losing(data), {"name": "lost"}, part=MIB)
    assert root.cid == str(cid_of(data))
    assert proxy.dropped >= 4
    hub.close()


def test_an_upload_outlives_the_hub(tmp_path, dashboard):
    arguments = ("--dashboard", str(dashboard), "--no-warm-kernel")
    data = secrets.token_bytes(4 * MIB)
    with start_hub(tmp_path, port=0, arguments=arguments) as process:
        port = int(process.address.rpartition(":")[2])
        hub = RemoteHub(process.address)
        hub.register("ada", PASSWORD)
        hub.login("ada", PASSWORD)
        again = []

        class Killing(io.BytesIO):
            """Ends the hub before the third part, and starts another."""

            def read(self, size=-1):
                if self.tell() == 2 * MIB and not again:
                    os.kill(process.pid, signal.SIGKILL)
                    again.append(start_hub(tmp_path, port=port, arguments=arguments))
                return super().read(size)

        root = send_object(hub._transport, Killing(data), {"name": "x"}, part=MIB)
        assert root.cid == str(cid_of(data))
        hub.close()
        with again[0]:
            pass


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_added_from_the_disk_is_not_held_in_memory(ada, tmp_path, what):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "data" / "inner" / f"{number}.bin").write_bytes(secrets.token_bytes(20 * MIB))
    path = tmp_path / "data"
    if what == "file":
        path = tmp_path / "whole.bin"
        path.write_bytes(secrets.token_bytes(60 * MIB))
    storage = Storage(ada)
    tracemalloc.start()
    try:
        cid = storage.add(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cid == str(cid_of(path))
    assert most < 45 * MIB


# -- downloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=2999990-", 206, 2_999_990, 3_000_000),
        ("bytes=-5", 206, 2_999_995, 3_000_000),
        ("bytes=1048570-1048590", 206, 1_048_570, 1_048_591),
        ("bytes=0-99999999", 206, 0, 3_000_000),
        ("bytes=5-2", 200, 0, 3_000_000),
        ("bytes=0-1,5-6", 200, 0, 3_000_000),
        ("lines=0-1", 200, 0, 3_000_000),
    ],
)
def test_a_range_of_bytes_may_be_asked_for(ask, ada, asked, status, first, last):
    data = bytes(range(250)) * 12_000
    root = ada.put(data)
    answer = ask("GET", f"/content/{root.cid}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, data[first:last])
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {first}-{last - 1}/3000000"


def test_a_range_beyond_the_end_is_refused(ask, ada):
    root = ada.put(b"short")
    assert ask("GET", f"/content/{root.cid}", headers={"Range": "bytes=5-"}).status_code == 416


# -- the folder of uploads ----------------------------------------------------------------------


ADA = Account(name="ada", role="member", created="")


def test_what_nobody_goes_on_with_is_removed(tmp_path):
    uploads = Uploads(tmp_path / "uploads", limit=100)
    old, new = (uploads.begin(ADA, NewUpload()).id for _ in range(2))
    for path in (tmp_path / "uploads").glob(f"{old}.*"):
        os.utime(path, (time.time() - LIFETIME - 1,) * 2)
    Uploads(tmp_path / "uploads", limit=100)
    with pytest.raises(NotFoundError):
        uploads.find(ADA, old)
    assert uploads.find(ADA, new).offset == 0
    assert (tmp_path / "uploads").stat().st_mode & 0o077 == 0


def test_parts_at_the_same_time_do_not_mix(tmp_path):
    uploads = Uploads(tmp_path / "uploads", limit=100)
    upload = uploads.begin(ADA, NewUpload()).id
    with uploads._alone(upload), pytest.raises(ConflictError, match="Another request"):
        uploads.append(ADA, upload, 0, b"x")
    assert uploads.append(ADA, upload, 0, b"x").offset == 1


def test_what_could_not_be_stored_may_be_finished_again(tmp_path):
    uploads = Uploads(tmp_path / "uploads", limit=100)
    upload = uploads.begin(ADA, NewUpload()).id
    uploads.append(ADA, upload, 0, b"data")

    def fails(stream, new):
        raise QuotaError("full")

    with pytest.raises(QuotaError):
        uploads.finish(ADA, upload, fails)
    assert uploads.find(ADA, upload).offset == 4


def test_strangers_begin_nothing(roomy):
    hub = RemoteHub(roomy[0].address)
    with pytest.raises(AuthenticationError):
        hub.put(io.BytesIO(b"x"))
    hub.close()


@pytest.mark.long
def test_the_hubs_memory_stays_flat_under_a_large_upload(ada, roomy):
    process = psutil.Process(roomy[0].pid)
    ada.put(io.BytesIO(secrets.token_bytes(20 * MIB)))
    before = process.memory_info().rss
    most = before

    class Watching(io.RawIOBase):
        """Gives 300 MiB, and looks at the hub's memory."""

        left = 300

        def read(self, size=-1):
            nonlocal most
            most = max(most, process.memory_info().rss)
            self.left -= 1
            return secrets.token_bytes(min(size, MIB)) if self.left >= 0 else b""

    root = ada.put(Watching())
    assert root.size == 300 * MIB
    most = max(most, process.memory_info().rss)
    with requests.get(
        f"{roomy[0].address}{API}/content/{root.cid}", stream=True, timeout=60
    ) as answer:
        received = 0
        for piece in answer.iter_content(MIB):
            received += len(piece)
            most = max(most, process.memory_info().rss)
    assert received == root.size
    assert most - before < 64 * MIB


def test_the_folder_of_the_tests_is_left_clean(roomy):
    assert not list(Path(roomy[1] / "uploads").glob("*.new"))
