"""Requests that are repeated under one key: one effect, one answer."""

from __future__ import annotations

import secrets
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.routes import API

PASSWORD = "correct horse battery"


@pytest.fixture
def ask(server, member):
    """Return a function that posts as the member, under a key."""
    token = member[1]._transport.token

    def ask(path, body, key=None, verb="POST", token=token):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if key is not None:
            headers["Idempotency-Key"] = f'"{key}"'
        return requests.request(
            verb, f"{server.address}{API}{path}", json=body, headers=headers, timeout=30
        )

    return ask


@pytest.fixture
def key():
    return str(uuid.uuid4())


def registrations(hub, name):
    return sum(e.kind == "account.registered" and e.subject == name for e in hub.events(limit=9999))


def test_a_repetition_gets_the_first_answer_and_has_no_effect(ask, key, name, owner):
    body = {"name": name, "password": PASSWORD}
    answers = [ask("/accounts", body, key, token=None) for _ in range(5)]
    assert {each.status_code for each in answers} == {200}
    assert len({each.content for each in answers}) == 1
    assert [each.headers.get("Idempotency-Replayed") for each in answers] == [None, *["true"] * 4]
    assert registrations(owner, name) == 1


def test_without_a_key_the_second_is_a_second(ask, name):
    body = {"name": name, "password": PASSWORD}
    assert [ask("/accounts", body).status_code for _ in range(2)] == [200, 409]


def test_repetitions_at_the_same_moment_have_one_effect(ask, key, name, owner):
    body = {"name": name, "password": PASSWORD}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask("/accounts", body, key, token=None), range(6)))
    assert {each.status_code for each in answers} == {200}
    assert registrations(owner, name) == 1


def test_a_key_names_one_request(ask, key, name):
    assert ask("/accounts", {"name": name, "password": PASSWORD}, key).ok
    other = ask("/accounts", {"name": f"{name}-2", "password": PASSWORD}, key)
    assert (other.status_code, other.json()["code"]) == (422, "invalid-input")
    elsewhere = ask("/pins", {"name": name, "password": PASSWORD}, key)
    assert elsewhere.status_code == 422


def test_what_was_refused_may_be_asked_again_under_its_key(ask, key, member):
    data = secrets.token_bytes(16)
    from neuronexus_kernel.storage import cid_of

    cid = str(cid_of(data))
    assert ask("/pins", {"cid": cid}, key).status_code == 404
    member[1].put(data)
    assert ask("/pins", {"cid": cid}, key).status_code == 200


def test_a_key_is_one_accounts_own(ask, key, new_member, member):
    root = member[1].put(b"kept by two")
    assert ask("/pins", {"cid": root.cid, "name": "a"}, key).json()["name"] == "a"
    _, other = new_member()
    answer = ask("/pins", {"cid": root.cid, "name": "b"}, key, token=other._transport.token)
    assert answer.json()["name"] == "b"
    assert "Idempotency-Replayed" not in answer.headers


def test_an_answer_with_a_credential_is_not_kept_but_the_request_is_done_once(
    ask, key, home, server
):
    first = ask("/tokens", {"label": "once"}, key)
    assert first.ok
    again = ask("/tokens", {"label": "once"}, key)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert "carried out" in again.json()["detail"]
    token = first.json()["token"].encode()
    files = [path for path in home.glob("hub.*") if path.is_file()]
    assert files
    assert not any(token in path.read_bytes() for path in files)


def test_the_answer_is_for_who_may_still_ask_for_it(ask, key, new_member):
    _, hub = new_member()
    root = hub.put(secrets.token_bytes(16))
    body = {"cid": root.cid}
    session = hub._transport.token
    token = hub.create_token("script", ("contribute",)).token
    only_reads = hub.create_token("reader", ("read",)).token
    assert ask("/pins", body, key, token=session).ok
    assert ask("/pins", body, key, token=token).headers["Idempotency-Replayed"] == "true"
    refused = ask("/pins", body, key, token=only_reads)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission")
    assert ask("/pins", body, key, token=None).status_code == 401
    hub.logout()
    ended = ask("/pins", body, key, token=session)
    assert (ended.status_code, ended.json()["code"]) == (401, "authentication")
    assert "Idempotency-Replayed" not in ended.headers


def test_who_is_no_operator_any_more_is_not_told_what_an_operator_did(
    ask, key, new_member, name, owner
):
    owner.register(name, PASSWORD)
    me, hub = new_member()
    owner.add_operator(me)
    token = hub.login(me, PASSWORD).token
    path = f"/accounts/{name}/closure"
    assert ask(path, {}, key, token=token).ok
    assert ask(path, {}, key, token=token).headers["Idempotency-Replayed"] == "true"
    owner.remove_operator(me)
    assert ask(path, {}, key, token=token).status_code == 403
    owner.disable(me)
    assert ask(path, {}, key, token=token).status_code == 401


def test_no_answer_that_holds_a_credential_is_given_twice(ask, new_member, server, home):
    name, hub = new_member()
    session = hub._transport.token
    secret, code = [], ""
    for path, body, token in (
        ("/sessions", {"name": name, "password": PASSWORD}, None),
        ("/tokens", {"label": "x"}, session),
        ("/sessions/current/renewal", {}, session),
        ("/accounts/me/password", {"current": PASSWORD, "new": PASSWORD + "2"}, session),
        ("/invitations", {}, server.token),
        (f"/accounts/{name}/reset", {}, server.token),
        ("/passwords", {"password": PASSWORD + "3"}, None),
    ):
        if path == "/passwords":
            body["code"] = code
        key = str(uuid.uuid4())
        first = ask(path, body, key, token=token)
        assert first.ok, (path, first.text)
        code = first.json().get("code", code)
        secret += [first.json().get("token"), code]
        if path == "/accounts/me/password":
            token = first.json()["token"]
        again = ask(path, body, key, token=token)
        assert again.status_code == 409, (path, again.text)
        assert again.json()["detail"].startswith("This request was carried out.")
    files = [path.read_bytes() for path in home.glob("hub.duckdb*")]
    assert files
    for each in filter(None, secret):
        assert not any(each.encode() in data for data in files)


@pytest.mark.parametrize("bad", ["", "short", "x" * 256, "ü" * 20])
def test_a_key_that_could_be_guessed_is_none(server, bad):
    headers = {"Idempotency-Key": bad.encode("latin-1")}
    answer = requests.post(f"{server.address}{API}/accounts", json={}, headers=headers, timeout=30)
    assert answer.status_code == 422


def test_a_release_may_be_repeated(ask, key, member):
    root = member[1].put(b"released once")
    member[1].keep(root.cid)
    path = f"/pins/{root.cid}"
    assert [ask(path, None, key, verb="DELETE").status_code for _ in range(2)] == [204, 204]
    assert ask(path, None, verb="DELETE").status_code == 404


def test_content_may_be_repeated(server, member, key):
    headers = {"Authorization": f"Bearer {member[1]._transport.token}", "Idempotency-Key": key}
    url = f"{server.address}{API}/content?name=twice"
    for data in (b"small", secrets.token_bytes(2_500_000)):
        headers["Idempotency-Key"] = str(uuid.uuid4())
        answers = [requests.post(url, data=data, headers=headers, timeout=30) for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 200]
        assert answers[1].headers["Idempotency-Replayed"] == "true"
        other = requests.post(url, data=data[:-1] + b"!", headers=headers, timeout=30)
        assert other.status_code == 422


# -- when answers are lost ----------------------------------------------------------------------


def test_a_request_whose_answer_is_lost_five_times_has_one_effect(proxy, name, owner):
    hub = RemoteHub(proxy.address)
    hub.projects()
    proxy.answers_to_drop = 5
    assert hub.register(name, PASSWORD).name == name
    assert proxy.dropped == 5
    assert registrations(owner, name) == 1
    hub.close()


def test_a_sign_in_whose_answer_is_lost_is_not_repeated(proxy, member):
    hub = RemoteHub(proxy.address)
    hub.projects()
    proxy.answers_to_drop = 1
    with pytest.raises(HubUnavailableError):
        hub.login(member[0], PASSWORD)
    assert proxy.dropped == 1
    hub.close()


def test_a_question_whose_answer_is_lost_is_asked_again(proxy):
    hub = RemoteHub(proxy.address)
    before = hub.accounts()
    proxy.answers_to_drop = 2
    assert hub.accounts() == before
    assert proxy.dropped == 2
    hub.close()
