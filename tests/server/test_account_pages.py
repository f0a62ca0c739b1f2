"""The account in a browser: sign-ins, tokens, password, invitations and resets."""

from __future__ import annotations

import re

import pytest
import requests

from neuronexus_kernel.errors import AuthenticationError
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub

PASSWORD = "correct horse battery"
ANOTHER = "staple clouds river"
ACCOUNT = "/neuronexus/account"
RESET = "/neuronexus/reset"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def visit(new_member, new_browser):
    """A new member with a browser of their own: the name, the browser."""
    name, _ = new_member()
    browser = new_browser()
    browser.sign_in(name)
    return name, browser


@pytest.fixture
def operator_visit(visit, owner):
    name, browser = visit
    owner.add_operator(name)
    return name, browser


def send(browser, action, path=ACCOUNT, **fields):
    data = {"action": action, "_xsrf": browser.xsrf, **fields}
    return browser.post(path, data=data)


def me(browser):
    return browser.get("/neuronexus/api/v1/accounts/me")


def secret_in(page):
    return re.search(r'class="secret"[^>]*value="([^"]+)"', page.text, re.S)[1]


def test_a_stranger_is_led_to_the_sign_in_page(new_browser):
    response = new_browser().get(ACCOUNT)
    assert response.url.split("?")[0].endswith("/neuronexus/auth")


def test_a_token_is_shown_once_and_can_be_revoked(visit, connect):
    name, browser = visit
    page = send(browser, "token", label="my laptop", days="5", scope="contribute")
    token = secret_in(page)
    assert connect(token).whoami().name == name
    again = browser.get(ACCOUNT)
    assert "my laptop" in again.text
    assert token not in again.text
    id = re.search(r'name="id" value="([^"]+)">\s*<button[^>]*>Revoke', again.text)[1]
    assert "has ended" in send(browser, "revoke", id=id).text
    with pytest.raises(AuthenticationError):
        connect(token).whoami()


def test_changing_the_password_ends_the_other_browser_and_keeps_this_one(visit, new_browser):
    name, browser = visit
    other = new_browser()
    other.sign_in(name)
    before = browser.cookies
    page = send(browser, "password", current=PASSWORD, new=ANOTHER)
    assert "is changed" in page.text
    assert browser.cookies != before
    assert me(browser).json()["name"] == name
    assert me(other).status_code == 401
    assert other.sign_in(name, PASSWORD).status_code == 401
    assert other.sign_in(name, ANOTHER).status_code == 303


def test_a_wrong_current_password_is_told_and_shown_nowhere(visit):
    _, browser = visit
    page = send(browser, "password", current="not the password", new=ANOTHER)
    assert page.status_code == 403
    assert "is not right" in page.text
    assert ANOTHER not in page.text


def test_ending_another_browser_sends_it_away(visit, new_browser):
    name, browser = visit
    other = new_browser()
    other.sign_in(name)
    page = browser.get(ACCOUNT).text
    assert page.count("this browser") == 1
    for id in re.findall(r'name="id" value="([^"]+)">\s*<button[^>]*>End', page):
        send(browser, "revoke", id=id)
    assert me(other).status_code == 401
    assert me(browser).json()["name"] == name


@pytest.mark.parametrize("action", ["password", "revoke", "token", "invite", "reset"])
def test_no_form_is_taken_without_its_xsrf_token(visit, action):
    _, browser = visit
    fields = {"action": action, "id": "x", "label": "x", "days": "5", "name": "x"}
    assert browser.post(ACCOUNT, data=fields).status_code == 403


@pytest.mark.parametrize("action", ["", "show", "_password", "call", "__init__", "link"])
def test_a_form_names_one_of_the_actions_and_nothing_else(visit, action):
    _, browser = visit
    response = send(browser, action)
    assert response.status_code == 422
    assert "unknown" in response.text


def test_a_member_gets_neither_the_operators_part_nor_what_it_does(visit):
    name, browser = visit
    assert "For operators" not in browser.get(ACCOUNT).text
    for action, fields in {"invite": {"days": "5"}, "reset": {"name": name}}.items():
        response = send(browser, action, **fields)
        assert response.status_code == 403
        assert 'class="secret"' not in response.text
    response = send(browser, "token", label="x", days="5", scope="admin")
    assert response.status_code == 403


def test_an_operators_reset_link_sets_a_password_once(operator_visit, new_member, new_browser):
    _, browser = operator_visit
    victim, hub = new_member()
    link = secret_in(send(browser, "reset", name=victim))
    address, _, code = link.partition("#")
    assert address == browser.address + RESET
    stranger = new_browser()
    assert stranger.get(RESET).ok
    page = send(stranger, "", RESET, code=code, password="short")
    assert page.status_code == 422
    assert "too short" in page.text
    page = send(stranger, "", RESET, code=code, password=ANOTHER)
    assert "The password is set" in page.text
    with pytest.raises(AuthenticationError):
        hub.whoami()
    assert send(stranger, "", RESET, code=code, password=PASSWORD).status_code == 403
    assert stranger.sign_in(victim, ANOTHER).status_code == 303


def test_looking_at_a_link_does_not_use_it_up(operator_visit, new_member, new_browser):
    _, browser = operator_visit
    victim, _ = new_member()
    link = secret_in(send(browser, "reset", name=victim))
    stranger = new_browser()
    for _ in range(3):
        assert stranger.session.get(link).ok
    code = link.partition("#")[2]
    assert "is set" in send(stranger, "", RESET, code=code, password=ANOTHER).text


def test_hostile_notes_and_labels_are_shown_as_text(operator_visit, owner):
    _, browser = operator_visit
    owner.invite(note=HOSTILE)
    page = send(browser, "token", label=HOSTILE, days="5").text
    page += browser.get(ACCOUNT).text
    page += send(browser, "reset", name=HOSTILE).text
    page += send(browser, "revoke", id=HOSTILE).text
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_pages_with_secrets_are_kept_by_nobody_and_load_nothing_from_elsewhere(visit):
    _, browser = visit
    for response in (browser.get(ACCOUNT), browser.get(RESET)):
        assert response.headers["Cache-Control"] == "no-store"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', response.text)


def test_a_token_opens_no_account_page(visit, server, connect):
    name, _ = visit
    hub = connect()
    hub.login(name, PASSWORD)
    headers = {"Authorization": f"Bearer {hub.create_token('script').token}"}
    response = requests.get(server.address + ACCOUNT, headers=headers, timeout=30)
    assert response.status_code == 403
    assert "sign in with your password" in response.text


# -- what the sign-in page offers -------------------------------------------------------------


@pytest.fixture(scope="module")
def new_hub(new_home):
    """Return a function that starts a hub with settings in its environment."""
    running = []

    def new_hub(monkeypatch, home=None, port=0, **settings):
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            process = start_hub(home or new_home(), port=port, arguments=("--no-warm-kernel",))
        running.append(process)
        return process

    yield new_hub
    for process in running:
        process.stop()


def test_a_hub_by_invitation_asks_for_one(new_hub, monkeypatch, new_browser, name):
    hub = new_hub(monkeypatch, NEURONEXUS_REGISTRATION="invited")
    browser = new_browser()
    browser.address = hub.address
    assert 'name="invitation"' in browser.get("/neuronexus/auth?mode=register").text
    response = browser.sign_in(name, mode="register")
    assert response.status_code == 403
    assert "by invitation" in response.text
    code = RemoteHub(hub.address, hub.token).invite()
    assert code.code not in code.path.partition("#")[0]
    assert browser.sign_in(name, mode="register", invitation=code.code).status_code == 303
    assert me(browser).json()["name"] == name


def test_a_closed_hub_offers_no_registration(new_hub, monkeypatch, new_browser, name):
    hub = new_hub(monkeypatch, NEURONEXUS_REGISTRATION="closed")
    browser = new_browser()
    browser.address = hub.address
    page = browser.get("/neuronexus/auth?mode=register").text
    assert "Create account" not in page
    assert "made by its operators" in page
    assert browser.sign_in(name, mode="register").status_code == 403


def test_another_session_secret_has_every_browser_sign_in_again(
    new_hub, new_home, monkeypatch, new_browser, name
):
    home, browser, outcomes = new_home(), new_browser(), []
    port = 0
    for secret in ("x" * 32, "x" * 32, "y" * 32):
        hub = new_hub(monkeypatch, home, port, SESSION_SECRET=secret)
        port = int(hub.address.rsplit(":", 1)[1])
        if browser.address != hub.address:
            browser.address = hub.address
            browser.sign_in(name, mode="register")
        outcomes.append(me(browser).status_code)
        hub.stop()
    assert outcomes == [200, 200, 401]
    assert not (home / "session.secret").exists()
