"""The REST API, as `RemoteHub` and as a stranger with plain HTTP see it."""

from __future__ import annotations

import pytest
import requests

from neuronexus_kernel.content.identifiers import new_id
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    HubUnavailableError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
)
from neuronexus_kernel.hub.permissions import interface
from neuronexus_kernel.hub.records import Round
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.routes import API, ROUTES

PASSWORD = "correct horse battery"


def test_every_method_of_the_interface_has_a_route_or_a_handler_of_its_own():
    apart = {"put", "get", "blocks", "follow", "export_project", "import_project"}
    assert {route.operation for route in ROUTES} == interface() - apart


def test_a_new_account_can_sign_in_and_out(connect, name):
    hub = connect()
    assert hub.whoami() is None
    account = hub.register(name, PASSWORD)
    assert (account.name, account.role) == (name, "member")
    session = hub.login(name, PASSWORD)
    assert hub.whoami() == account
    hub.logout()
    assert hub.whoami() is None
    with pytest.raises(AuthenticationError):
        connect(session.token).whoami()


def test_a_wrong_password_is_refused(connect, member):
    name, _ = member
    with pytest.raises(AuthenticationError, match="do not match"):
        connect().login(name, "something else entirely")


def test_a_taken_name_is_refused(connect, member):
    name, _ = member
    with pytest.raises(ConflictError, match="taken"):
        connect().register(name, PASSWORD)


def test_a_weak_password_is_refused(connect, name):
    with pytest.raises(InvalidInputError, match="short"):
        connect().register(name, "short")


def test_a_member_may_not_make_operators(member):
    name, hub = member
    with pytest.raises(ForbiddenError):
        hub.add_operator(name)


def test_the_owner_of_the_folder_makes_operators(owner, new_member):
    member, hub = new_member()
    assert owner.add_operator(member).role == "operator"
    assert hub.whoami().role == "operator"


def test_content_comes_back_as_it_went(member, connect):
    _, hub = member
    data = bytes(range(256)) * 5000
    root = hub.put(data, name="numbers & more.bin", kind="weights")
    assert (root.name, root.kind, root.size) == ("numbers & more.bin", "weights", len(data))
    assert connect().get(root.cid) == data
    assert hub.put(b"").size == 0


def test_sealed_content_cannot_be_read_back(member):
    _, hub = member
    root = hub.put(b"secret rows", visibility="sealed")
    with pytest.raises(NotFoundError):
        hub.get(root.cid)


def test_strangers_may_not_upload(connect):
    with pytest.raises(AuthenticationError):
        connect().put(b"data")


def test_an_object_above_the_limit_is_refused_with_the_reason(member):
    _, hub = member
    with pytest.raises(QuotaError, match="at most 3145728"):
        hub.put(b"x" * (3 * 1024 * 1024 + 1))
    with pytest.raises(QuotaError):
        hub.put(b"x" * (30 * 1024 * 1024))


def test_a_record_above_the_limit_is_refused(server):
    body = b'{"name": "' + b"x" * (3 * 1024 * 1024) + b'"}'
    response = requests.post(f"{server.address}{API}/accounts", data=body, timeout=30)
    assert response.status_code == 413
    assert response.json()["code"] == "quota"


def test_downloads_are_never_shown_as_pages(server, member):
    _, hub = member
    root = hub.put(b"<script>alert(1)</script>", name="page.html")
    response = requests.get(f"{server.address}{API}/content/{root.cid}", timeout=30)
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


def test_errors_are_problem_documents(server):
    response = requests.get(f"{server.address}{API}/projects/none", timeout=30)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    document = response.json()
    assert document["code"] == "not-found"
    assert document["status"] == 404
    assert "none" in document["detail"]


@pytest.mark.parametrize(
    ("verb", "path", "body", "detail"),
    [
        ("GET", "/events?since=soon", None, "since"),
        ("GET", "/events?until=5", None, "until"),
        ("POST", "/accounts", b"{}", "missing"),
        ("POST", "/accounts", b"[1]", "JSON object"),
        ("POST", "/accounts", b'{"name": 5, "password": "x"}', "name"),
        ("POST", "/accounts", b"\xff\xfe", "JSON object"),
        ("POST", "/projects", b'{"project": {"id": "x"}}', "project"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(server, verb, path, body, detail):
    response = requests.request(verb, f"{server.address}{API}{path}", data=body, timeout=30)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid-input"
    assert detail in response.json()["detail"]


def test_an_unknown_address_is_a_problem_too(server):
    response = requests.get(f"{server.address}{API}/nothing/here", timeout=30)
    assert (response.status_code, response.json()["code"]) == (404, "not-found")


def test_a_name_with_slashes_and_spaces_reaches_the_hub(connect):
    with pytest.raises(NotFoundError, match="a/b c"):
        connect().project("a/b c")


def test_an_ended_token_is_not_treated_as_a_stranger(connect):
    with pytest.raises(AuthenticationError):
        connect("never-issued").projects()


def test_records_travel_unchanged(member):
    _, hub = member
    report = Round(round=1, loss=None, accuracy=0.5, seconds=0.1, clients=("a", "b"))
    with pytest.raises(NotFoundError):
        hub.record_round(new_id(), report)
    assert hub.balance(hub.whoami().name).balance == "0"
    assert hub.verify_ledger().ok


def test_a_cookie_alone_cannot_change_anything(member_browser):
    forged = member_browser.post(f"{API}/tokens", json={"label": "x"})
    assert (forged.status_code, forged.json()["code"]) == (403, "permission")
    headers = {"X-XSRFToken": member_browser.xsrf}
    assert member_browser.post(f"{API}/tokens", json={"label": "x"}, headers=headers).ok


def test_a_page_of_another_site_is_not_answered(member_browser):
    headers = {"X-XSRFToken": member_browser.xsrf, "Origin": "http://evil.example"}
    assert member_browser.get(f"{API}/accounts/me", headers=headers).status_code == 403


def test_a_foreign_host_name_is_refused(server):
    headers = {"Host": "evil.example"}
    assert requests.get(f"{server.address}{API}/projects", headers=headers).status_code == 403


def test_a_token_request_sets_no_cookie(server, member):
    _, hub = member
    token = hub.create_token("script").token
    for kind in ("Bearer", "token"):
        headers = {"Authorization": f"{kind} {token}"}
        response = requests.get(f"{server.address}{API}/accounts/me", headers=headers, timeout=30)
        assert response.json()["name"] == hub.whoami().name
        assert "Set-Cookie" not in response.headers


def test_the_token_is_in_no_representation_and_no_log(server, home, new_member):
    _, hub = new_member()
    session = hub.login(hub.whoami().name, PASSWORD)
    assert session.token not in repr(hub) + repr(session) + repr(server)
    assert server.token not in repr(server)
    log = (home / "hub.log").read_text()
    assert session.token not in log
    assert server.token not in log


def test_a_hub_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(HubUnavailableError, match=r"127.0.0.1:9 .*neuronexus hub start"):
        RemoteHub("http://127.0.0.1:9").projects()


def test_something_else_at_the_address_is_not_taken_for_a_hub(server):
    hub = RemoteHub(f"{server.address}/neuronexus/static")
    with pytest.raises(HubUnavailableError, match="404"):
        hub.projects()


@pytest.mark.parametrize("address", ["", "127.0.0.1:8765", "ftp://host", "http://"])
def test_an_address_must_be_a_url(address):
    with pytest.raises(InvalidInputError):
        RemoteHub(address)


def test_a_closed_connection_says_so(server):
    hub = RemoteHub(server.address)
    hub.close()
    with pytest.raises(HubUnavailableError, match="closed"):
        hub.projects()
