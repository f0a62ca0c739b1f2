"""Requests that mean harm: each is refused, nothing comes of it, and the hub goes on."""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
import socket
from urllib.parse import quote, urlsplit

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronexus_server.bodies import MAX_DEPTH, MAX_VALUES, json_object

from neuronexus_kernel.errors import InvalidInputError, NotFoundError
from neuronexus_kernel.hub.routes import API

PASSWORD = "correct horse battery"


@pytest.fixture
def raw(server):
    """Return a function that sends bytes as they are and returns the first of the answer."""

    def raw(*lines: bytes, body: bytes = b"") -> bytes:
        parts = urlsplit(server.address)
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            host = f"Host: {parts.netloc}".encode()
            try:
                connection.sendall(b"\r\n".join([lines[0], host, *lines[1:], b"", b""]) + body)
                return connection.recv(65536)
            except ConnectionError:
                return b""

    return raw


@pytest.fixture
def goes_on(server):
    yield
    assert requests.get(f"{server.address}{API}/projects", timeout=30).status_code == 200


@pytest.fixture
def headers(member):
    return {"Authorization": f"Bearer {member[1]._transport.token}"}


# -- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/neuronexus/static/../launch.py",
        "/neuronexus/static/..%2Flaunch.py",
        "/neuronexus/static/%2e%2e/%2e%2e/pyproject.toml",
        "/neuronexus/static//etc/passwd",
        "/neuronexus/static/..%5C..%5Claunch.py",
        f"{API}/../../../etc/passwd",
        f"{API}/content/..%2F..%2Fhub.json",
        f"{API}/content/%2e%2e%2fhub.duckdb",
        f"{API}/uploads/..%2Fhub",
        "/ipfs/..%2F..%2Fhub.json",
        "/files/hub.json",
        "/static/../../hub.json",
    ],
)
def test_no_path_leads_out(raw, goes_on, server, home, path, headers):
    for proof in ([], [f"Authorization: {headers['Authorization']}".encode()]):
        answer = raw(f"GET {path} HTTP/1.1".encode(), *proof, b"Connection: close")
        status = int(answer.split(b" ", 2)[1])
        assert 300 <= status < 500, (path, status)
        assert server.token.encode() not in answer
        assert b"root:" not in answer
        assert b"import" not in answer


# -- injection ----------------------------------------------------------------------------------

_SQL = [
    "' OR '1'='1",
    "'; DROP TABLE accounts; --",
    '" OR ""="',
    "x' UNION SELECT name, password_hash FROM accounts --",
    "%' OR 1=1 --",
    "\\'; --",
    "ada\x00",
    "%",
    "_",
    "${7*7}{{7*7}}",
]


@pytest.mark.parametrize("text", _SQL)
def test_sql_in_a_name_is_a_name(server, member, goes_on, headers, text):
    name, hub = member
    for ask in (hub.project, hub.balance, hub.run, hub.contribution, hub.federation):
        with pytest.raises((NotFoundError, InvalidInputError)):
            ask(text)
    assert hub.roots(owner=text) == hub.roots(kind=text) == []
    answer = requests.post(
        f"{server.address}{API}/sessions", json={"name": text, "password": PASSWORD}, timeout=30
    )
    assert answer.status_code in (401, 422)
    assert name in {account.name for account in hub.accounts()}


@pytest.mark.parametrize("text", ["%", "_", "\\", "'"])
def test_a_wildcard_that_is_searched_for_is_a_character(member, text):
    _, hub = member
    kind = f"kind-{secrets.token_hex(4)}"
    hub.put(secrets.token_bytes(8), kind=kind, name="plain")
    hub.put(secrets.token_bytes(8), kind=kind, name=f"with {text} inside")
    assert [root.name for root in hub.roots(kind=kind, text=text)] == [f"with {text} inside"]


@pytest.mark.parametrize(
    "line",
    [
        b"GET " + API.encode() + b"/roots?owner=x%0d%0aSet-Cookie:%20a=b HTTP/1.1",
        b"GET " + API.encode() + b"/projects/x%0d%0aSet-Cookie:%20a=b HTTP/1.1",
        b"GET /neuronexus/auth?next=/x%0d%0aSet-Cookie:%20a=b HTTP/1.1",
        b"GET /login?next=%0d%0aSet-Cookie:%20a=b HTTP/1.1",
        b"GET /ipfs/x%0d%0aSet-Cookie:%20a=b HTTP/1.1",
    ],
)
def test_no_visitor_writes_a_header(raw, goes_on, line):
    head = raw(line, b"Connection: close").partition(b"\r\n\r\n")[0]
    names = [each.partition(b":")[0].lower() for each in head.split(b"\r\n")[1:]]
    cookies = [each for each in head.split(b"\r\n") if each.lower().startswith(b"set-cookie")]
    assert b"location" not in names or b"\r\nSet-Cookie: a=b" not in head
    assert all(b"a=b" not in each for each in cookies)


def test_a_name_with_line_breaks_stays_in_the_body(server, headers, goes_on):
    url = f"{server.address}{API}/content?name={quote('a' + chr(13) + chr(10) + 'X-Evil: 1')}"
    answer = requests.post(url, data=secrets.token_bytes(8), headers=headers, timeout=30)
    assert answer.status_code == 200
    download = requests.get(f"{server.address}{API}/content/{answer.json()['cid']}", timeout=30)
    assert "X-Evil" not in {**answer.headers, **download.headers}


# -- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [65, 1000, 200_000])
def test_json_that_lies_deep_is_refused(server, headers, goes_on, opening, depth):
    body = '{"project":' + opening * depth
    answer = requests.post(
        f"{server.address}{API}/projects", data=body, headers=headers, timeout=30
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert "inside one another" in answer.json()["detail"]


def test_json_of_many_values_is_refused(server, headers, goes_on):
    body = b'{"run":[' + b"1," * 900_000 + b"1]}"
    answer = requests.post(f"{server.address}{API}/runs", data=body, headers=headers, timeout=30)
    assert answer.status_code == 422
    assert "values" in answer.json()["detail"]


def test_text_that_looks_like_structure_is_text():
    value = "[{" * 500 + '\\",'
    assert json_object(json.dumps({"a": value}).encode()) == {"a": value}
    assert json_object(b'{"a": "' + b"," * (MAX_VALUES + 1) + b'"}')["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=40,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=10), json_values, max_size=5))
def test_what_is_an_object_comes_through(value):
    assert json_object(json.dumps(value).encode()) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:\\0u1 ', max_size=120).map(str.encode))
def test_what_is_none_is_refused_and_nothing_else_happens(body):
    with contextlib.suppress(InvalidInputError):
        assert isinstance(json_object(body), dict)


@given(st.integers(1, 200))
def test_depth_is_counted_as_it_is(depth):
    body = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    if depth <= MAX_DEPTH:
        json_object(body)
    else:
        with pytest.raises(InvalidInputError, match="inside one another"):
            json_object(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip", "x"])
@pytest.mark.parametrize("path", ["/accounts", "/content"])
def test_a_compressed_body_is_not_unpacked(server, headers, goes_on, encoding, path):
    bomb = gzip.compress(b"0" * 50_000_000)
    sent = {**headers, "Content-Encoding": encoding}
    answer = requests.post(f"{server.address}{API}{path}", data=bomb, headers=sent, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (415, "invalid-input")


def test_a_body_of_another_kind_is_refused(server, headers):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        sent = {**headers, "Content-Type": kind}
        answer = requests.post(
            f"{server.address}{API}/tokens", data=b'{"label": "x"}', headers=sent, timeout=30
        )
        assert answer.status_code == 415, kind


def test_strangers_send_little(server, goes_on):
    body = b'{"name": "' + b"x" * 20_000 + b'"}'
    answer = requests.post(f"{server.address}{API}/sessions", data=body, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "quota")


def test_a_body_that_does_not_end_where_it_says_harms_nobody(raw, goes_on):
    line = f"POST {API}/sessions HTTP/1.1".encode()
    raw(line, b"Content-Length: -5", b"Connection: close")
    raw(line, b"Content-Length: 99999999999999", b"Connection: close")
    raw(line, b"Transfer-Encoding: chunked", body=b"ffffffffffffffff\r\nx")
    raw(line, b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")


# -- addresses and headers ----------------------------------------------------------------------


def test_an_address_that_is_too_long_is_refused(server, goes_on):
    answer = requests.get(f"{server.address}{API}/roots?text={'x' * 9000}", timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (414, "invalid-input")


def test_headers_without_end_end_the_connection(raw, goes_on):
    answer = raw(
        f"GET {API}/projects HTTP/1.1".encode(), *(b"X-%d: " % n + b"x" * 4000 for n in range(40))
    )
    assert b" 200 " not in answer[:16]


@pytest.mark.parametrize(
    "header",
    [
        {"Idempotency-Key": '"' * 300},
        {"If-None-Match": '"' + "x" * 5000},
        {"Range": "bytes=" + "9" * 5000 + "-"},
        {"Authorization": "Bearer " + "x" * 20_000},
        {"Authorization": "Bearer \xff\xfe"},
        {"Cookie": "a=b; " * 2000},
        {"Accept": "*/*;" * 3000},
    ],
)
def test_headers_of_any_kind_harm_nobody(server, goes_on, header):
    sent = {name: text.encode("latin-1") for name, text in header.items()}
    answer = requests.get(f"{server.address}{API}/accounts", headers=sent, timeout=30)
    assert answer.status_code < 500


# -- tokens -------------------------------------------------------------------------------------


def test_a_token_in_an_address_signs_nobody_in(server, member, home):
    token = member[1].create_token("leaked").token
    url = f"{server.address}{API}/accounts/me"
    for query in (f"?token={token}", f"?access_token={token}"):
        assert requests.get(url + query, timeout=30).status_code == 422
    answer = requests.get(f"{server.address}/api/status?token={token}", timeout=30)
    assert answer.status_code in (403, 302) or "/auth" in answer.url
    assert token not in (home / "hub.log").read_text()


def test_no_log_holds_a_token_even_when_the_hub_is_at_fault(server, member, home, headers):
    token = member[1].create_token("logged").token
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for verb in ("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE"):
        for path in ("/accounts", "/tokens", f"/content/{token}", f"/names/{token}", "/nothing"):
            requests.request(
                verb, f"{server.address}{API}{path}", data=b"{", headers=sent, timeout=30
            )
    assert token not in (home / "hub.log").read_text()
