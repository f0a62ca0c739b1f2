"""Registering, signing in and signing out in a browser."""

from __future__ import annotations

import pytest

PASSWORD = "correct horse battery"


def cookie_of(response):
    return response.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/", "/auth", "/login", "/neuronexus", "/neuronexus/dashboard"])
def test_a_stranger_is_led_to_the_sign_in_page(new_browser, path):
    response = new_browser().get(path)
    assert response.url.split("?")[0].endswith("/neuronexus/auth")
    assert "Sign in" in response.text


def test_registering_signs_in_and_leads_to_the_dashboard(new_browser, connect, name):
    browser = new_browser()
    response = browser.sign_in(name, mode="register")
    assert response.status_code == 303
    assert response.headers["Location"] == "/neuronexus/dashboard"
    assert browser.get("/neuronexus/api/v1/accounts/me").json()["name"] == name
    assert browser.get("/neuronexus/auth", allow_redirects=False).status_code == 303


def test_the_cookie_is_for_this_server_alone(new_browser, member):
    taken, _ = member
    cookie = cookie_of(new_browser().sign_in(taken)).lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "domain" not in cookie


def test_after_the_sign_in_the_visitor_gets_where_they_wanted(new_browser, member):
    taken, _ = member
    response = new_browser().sign_in(taken, next="/neuronexus/dashboard?project=digits")
    assert response.headers["Location"] == "/neuronexus/dashboard?project=digits"


@pytest.mark.parametrize(
    "onward", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_the_sign_in_leads_to_no_other_site(new_browser, member, onward):
    taken, _ = member
    response = new_browser().sign_in(taken, next=onward)
    assert response.headers["Location"] == "/neuronexus/dashboard"


@pytest.mark.parametrize(
    ("mode", "password", "status", "words"),
    [
        ("login", "not the password", 401, "do not match"),
        ("register", PASSWORD, 409, "is taken"),
        ("register", "tiny", 422, "too short"),
    ],
)
def test_what_went_wrong_is_said_on_the_page(
    new_browser, member, name, mode, password, status, words
):
    taken, _ = member
    browser = new_browser()
    response = browser.sign_in(name if password == "tiny" else taken, password, mode=mode)
    assert response.status_code == status
    assert words in response.text
    assert password not in response.text
    assert not any(cookie.name.startswith("neuronexus") for cookie in browser.session.cookies)


def test_what_was_typed_is_shown_as_text(new_browser):
    response = new_browser().sign_in('"><script>alert(1)</script>')
    assert "<script>alert" not in response.text


def test_a_form_without_its_token_is_not_accepted(new_browser, member):
    taken, _ = member
    browser = new_browser()
    response = browser.post(
        "/neuronexus/auth", data={"mode": "login", "name": taken, "password": PASSWORD}
    )
    assert response.status_code == 403
    assert "try again" in response.text
    assert not any(cookie.name.startswith("neuronexus") for cookie in browser.session.cookies)


def test_signing_out_ends_the_token_everywhere(new_browser, member):
    taken, _ = member
    browser = new_browser()
    browser.sign_in(taken)
    thief = new_browser()
    thief.session.cookies.update(browser.session.cookies)
    assert thief.get("/neuronexus/api/v1/accounts/me").json()["name"] == taken
    response = browser.get("/neuronexus/logout")
    assert response.url.endswith("/neuronexus/auth")
    assert thief.get("/neuronexus/api/v1/accounts/me").status_code == 401


def test_another_site_cannot_sign_a_visitor_out(member_browser):
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert member_browser.get("/neuronexus/logout", headers=headers).status_code == 403
    assert member_browser.get("/neuronexus/api/v1/accounts/me").json() is not None


def test_a_visit_begun_by_another_site_comes_again_with_its_sign_in(new_browser):
    response = new_browser().get("/neuronexus/auth", headers={"Sec-Fetch-Site": "cross-site"})
    assert 'http-equiv="refresh"' in response.text


def test_pages_forbid_frames_sniffing_and_other_hosts(new_browser):
    response = new_browser().get("/neuronexus/auth")
    assert response.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    policy = response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    assert "default-src 'self'" in policy


def test_an_unknown_address_is_answered_by_a_page_of_ours(member_browser):
    response = member_browser.get("/nothing/here")
    assert response.status_code == 404
    assert "To the dashboard" in response.text
    assert "Jupyter" not in response.text
