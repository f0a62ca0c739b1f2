"""Attacks on accounts over HTTP and WebSocket: each test tries one."""

from __future__ import annotations

import html
import re
import uuid

import pytest
import requests
import websocket

from neuronexus_kernel.errors import AuthenticationError, QuotaError
from neuronexus_kernel.hub.routes import API, STREAM

PASSWORD = "correct horse battery"
CLOSED = 4401


@pytest.fixture
def visit(new_member, new_browser):
    """A new member: the name, the hub as they see it, and a browser of theirs."""
    name, hub = new_member()
    browser = new_browser()
    browser.sign_in(name)
    return name, hub, browser


def me(browser):
    return browser.get(f"{API}/accounts/me")


def sign_in_cookie(browser):
    return next(each for each in browser.session.cookies if each.name.startswith("neuronexus"))


def listen(address, path, **options):
    return websocket.create_connection(
        address.replace("http", "ws", 1) + path, timeout=20, **options
    )


def closed_with(socket):
    """Return the code with which a socket is closed."""
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2], "big")


# -- session fixation -------------------------------------------------------------------------


def test_a_planted_sign_in_is_not_the_one_that_is_used(visit, new_member, new_browser):
    attacker, _, planted = visit
    victim, _ = new_member()
    browser = new_browser()
    browser.get("/neuronexus/auth")
    data = {"mode": "login", "name": victim, "password": PASSWORD, "_xsrf": browser.xsrf}
    browser.session.cookies.update(planted.session.cookies)
    browser.session.cookies.set("_xsrf", data["_xsrf"], domain="127.0.0.1", path="/")
    before = sign_in_cookie(browser).value
    assert me(browser).json()["name"] == attacker
    data["_xsrf"] = browser.xsrf
    assert browser.post("/neuronexus/auth", data=data, allow_redirects=False).status_code == 303
    assert me(browser).json()["name"] == victim
    assert sign_in_cookie(browser).value != before
    assert me(planted).status_code == 401, "what was planted has ended"


def test_a_cookie_that_the_hub_did_not_sign_is_nobodys(visit, new_browser):
    _, hub, browser = visit
    token = hub.login(hub.whoami().name, PASSWORD).token
    name = sign_in_cookie(browser).name
    for value in (token, f"{token}|x", sign_in_cookie(browser).value[:-1] + "0", "2|1:0|"):
        forger = new_browser()
        forger.session.cookies.set(name, value)
        assert me(forger).status_code == 401


def test_every_sign_in_has_a_token_of_its_own(new_member, new_browser):
    name, _ = new_member()
    seen = set()
    for _ in range(3):
        browser = new_browser()
        browser.sign_in(name)
        seen.add(sign_in_cookie(browser).value)
    assert len(seen) == 3


# -- requests from other sites ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "/tokens"),
        ("POST", "/accounts/me/password"),
        ("POST", "/sessions/current/renewal"),
        ("DELETE", "/sessions/current"),
        ("DELETE", "/sessions/x"),
        ("POST", "/invitations"),
        ("POST", "/operators"),
        ("DELETE", "/operators/x"),
        ("POST", "/accounts/x/closure"),
    ],
)
def test_a_cookie_alone_changes_no_account(visit, verb, path):
    _, _, browser = visit
    response = browser.session.request(verb, browser.address + API + path, json={})
    assert (response.status_code, response.json()["code"]) == (403, "permission")
    assert me(browser).ok
    headers = {"X-XSRFToken": browser.xsrf}
    ours = browser.session.request(verb, browser.address + API + path, json={}, headers=headers)
    assert ours.text != response.text, "with it, the request is looked at"


def test_another_site_opens_no_socket_with_the_visitors_cookie(visit):
    _, _, browser = visit
    kernel_id, _ = browser.open_dashboard()
    for path in (STREAM, f"/api/kernels/{kernel_id}/channels"):
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            listen(browser.address, path, cookie=browser.cookies, origin="http://evil.example")
    browser.get("/neuronexus/logout")


# -- headers and addresses --------------------------------------------------------------------


@pytest.mark.parametrize("break_", ["\r\n", "\n", "%0d%0a", "\u2028", "\x00"])
def test_no_header_can_be_smuggled_in(visit, new_browser, break_):
    name, _, _ = visit
    browser = new_browser()
    onward = f"/neuronexus/dashboard{break_}Set-Cookie: evil=1"
    response = browser.sign_in(name, next=onward)
    assert response.status_code == 303
    assert "evil" not in response.headers.get("Set-Cookie", "")
    assert "evil" not in browser.session.cookies
    wrong = new_browser().sign_in(f"{name}{break_}Set-Cookie: evil=1")
    assert wrong.status_code in (401, 429)
    assert "evil" not in wrong.headers.get("Set-Cookie", "")
    assert (
        requests.get(
            f"{browser.address}/login", params={"next": onward}, allow_redirects=False, timeout=30
        )
        .headers["Location"]
        .isprintable()
    )


def test_a_token_in_an_address_signs_nobody_in(server, visit):
    _, hub, _ = visit
    token = hub.create_token("script").token
    query = {"token": token, "access_token": token}
    assert requests.get(
        f"{server.address}{API}/accounts", params=query, timeout=30
    ).status_code in (
        401,
        422,
    )
    for path in ("/neuronexus/account", "/neuronexus/dashboard"):
        response = requests.get(server.address + path, params=query, timeout=30)
        assert response.url.split("?")[0].endswith("/neuronexus/auth")
    response = requests.get(f"{server.address}/api/kernels", params=query, timeout=30)
    assert response.status_code == 403
    for owner in (server.token, token):
        response = requests.get(f"{server.address}/api/status?token={owner}", timeout=30)
        assert response.status_code == 403


def test_no_log_holds_a_token_a_code_or_a_password(server, home, visit, owner, connect):
    name, hub, browser = visit
    password = f"the password of {uuid.uuid4().hex}"
    code = owner.issue_reset(name)
    secret = [password, code.code, owner.invite().code, hub.create_token("script").token]
    secret += [sign_in_cookie(browser).value, hub.renew().token, server.token]
    with pytest.raises(AuthenticationError):
        connect().login(name, password)
    browser.post("/neuronexus/account", data={"current": password})
    browser.get("/neuronexus/auth", params={"code": "x"})
    requests.post(f"{server.address}{API}/sessions", data=f'{{"name": "{password}"', timeout=30)
    requests.get(
        f"{server.address}{API}/nothing",
        headers={"Authorization": f"Bearer {secret[3]}", "Cookie": browser.cookies},
        timeout=30,
    )
    kernel_id, _ = browser.open_dashboard()
    assert kernel_id
    connect().reset_password(code.code, password)
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".duckdb"]
    assert {"hub.log"} <= {path.name for path in files}
    for path in files:
        if path.name == "hub.json":  # where its owner's token belongs
            continue
        data = path.read_bytes()
        assert not [each for each in secret if each.encode() in data], path.name


# -- guessing and enumerating -----------------------------------------------------------------


def test_guessing_on_the_page_is_told_to_wait_and_hurts_nobody(visit, new_browser):
    name, _, browser = visit
    guesser = new_browser()
    answers = [guesser.sign_in(name, f"guess number {number}") for number in range(14)]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert "Try again in" in answers[statuses.index(429)].text
    assert me(browser).json()["name"] == name


def test_the_page_does_not_tell_whether_a_name_is_somebodys(visit, new_browser):
    name, _, _ = visit
    pages = []
    for guess in (name, f"nobody-{uuid.uuid4().hex[:8]}"):
        response = new_browser().sign_in(guess, "not the password")
        text = re.sub(r'name="_xsrf" [^>]*value="[^"]*"', "", response.text)
        pages.append((response.status_code, text.replace(guess, "NAME"), len(response.history)))
    assert pages[0] == pages[1]


def test_a_closed_account_is_told_only_to_whoever_knows_the_password(visit, owner, connect):
    name, _, _ = visit
    owner.disable(name)
    with pytest.raises(AuthenticationError, match="do not match"):
        connect().login(name, "not the password")


def test_the_api_slows_guessing_down_too(visit, connect):
    name, _, _ = visit

    def guess():
        for number in range(14):
            try:
                connect().login(name, f"guess number {number}")
            except AuthenticationError:
                continue

    with pytest.raises(QuotaError, match="Try again"):
        guess()


# -- rising above one's station ---------------------------------------------------------------


def test_an_operators_ticket_is_a_members(visit, owner, server, connect):
    name, _, browser = visit
    owner.add_operator(name)
    _, page = browser.open_dashboard()
    token = re.search(r"ticket\W+([\w-]{30,})", html.unescape(page))[1]
    assert connect(token).whoami().role == "member"
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/api/kernels", "/api/contents", "/api/sessions"):
        assert requests.get(server.address + path, headers=headers, timeout=30).status_code == 403
    browser.get("/neuronexus/logout")


def test_an_operators_plain_token_reaches_nothing_of_jupyter(visit, owner, server):
    name, hub, _ = visit
    owner.add_operator(name)
    plain = hub.create_token("script", ("read", "contribute", "maintain")).token
    admin = hub.create_token("script", ("admin",)).token
    for token, status in ((plain, 403), (admin, 200)):
        headers = {"Authorization": f"Bearer {token}"}
        response = requests.get(f"{server.address}/api/kernels", headers=headers, timeout=30)
        assert response.status_code == status


def test_whoever_is_no_operator_any_more_loses_the_kernel_at_once(visit, owner):
    name, _, browser = visit
    owner.add_operator(name)
    kernel_id, _ = browser.open_dashboard()
    path = f"/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4().hex}"
    socket = listen(browser.address, path, cookie=browser.cookies)
    owner.remove_operator(name)
    assert closed_with(socket) == CLOSED
    assert browser.get("/api/kernels").status_code == 403
    assert browser.get(f"/api/kernels/{kernel_id}").ok, "the page itself goes on, as a member's"
    browser.get("/neuronexus/logout")


def test_a_closed_account_is_cut_off_from_what_it_listens_to(visit, owner, server):
    name, hub, browser = visit
    kernel_id, _ = browser.open_dashboard()
    token = hub.create_token("script").token
    path = f"/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4().hex}"
    sockets = [
        listen(server.address, STREAM, cookie=browser.cookies, origin=server.address),
        listen(server.address, STREAM, header=[f"Authorization: Bearer {token}"]),
        listen(server.address, path, cookie=browser.cookies),
    ]
    owner.disable(name)
    for socket in sockets:
        assert closed_with(socket) == CLOSED


def test_a_role_in_a_request_is_not_a_role(server, name):
    for body in (
        {"name": name, "password": PASSWORD, "role": "operator"},
        {"name": name, "password": PASSWORD, "disabled": False},
    ):
        response = requests.post(f"{server.address}{API}/accounts", json=body, timeout=30)
        assert response.status_code == 422


# -- renewal ----------------------------------------------------------------------------------


def test_a_page_gives_the_browser_a_new_token_when_the_role_has_changed(visit, owner):
    name, hub, browser = visit
    before = sign_in_cookie(browser).value
    browser.get("/neuronexus/account")
    assert sign_in_cookie(browser).value == before
    owner.add_operator(name)
    token = hub._transport.token
    assert "For operators" in browser.get("/neuronexus/account").text
    assert sign_in_cookie(browser).value != before
    hub.projects()
    assert hub._transport.token != token, "a notebook fetches its own"
    assert hub.whoami().name == name
