"""Listings page by page, conditional requests, and what a page's link leads to."""

from __future__ import annotations

import secrets

import pytest
import requests
from neuronexus_server.operations import Operation

from neuronexus_kernel.hub.routes import API, ROUTES

LISTINGS = [each for each in map(Operation.of, ROUTES) if each.is_listing]


def read_all(url, limit, headers=None, between=lambda: None):
    """Return all records, page after page, and how many pages there were."""
    found, pages, query = [], 0, f"?limit={limit}"
    while query is not None:
        join = "&" if "?" in url else "?"
        answer = requests.get(url + join + query[1:], headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()) <= limit
        found += answer.json()
        pages += 1
        query = answer.links.get("next", {}).get("url")
        between()
    return found, pages


@pytest.fixture(scope="module")
def people(new_member):
    return [new_member() for _ in range(4)]


@pytest.fixture(scope="module")
def roots(people):
    """Nine roots of one kind, of several people, some under one name."""
    kind = f"kind-{secrets.token_hex(4)}"
    for number in range(9):
        _, hub = people[number % 2]
        hub.put(f"{kind} {number}".encode(), name=f"{kind}-{number % 3}", kind=kind)
    return kind


def test_every_operation_that_returns_a_list_comes_by_pages():
    named = {each.route.operation for each in LISTINGS}
    assert {"roots", "versions", "runs", "contributions", "ledger_lines", "accounts"} <= named
    assert "events" not in named


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 1000])
def test_all_pages_together_are_the_listing(server, people, roots, limit):
    url = f"{server.address}{API}/roots?kind={roots}"
    found, pages = read_all(url, limit)
    assert [each["cid"] for each in found] == [each.cid for each in people[0][1].roots(kind=roots)]
    assert len(found) == 9
    assert pages == -(-9 // limit)


@pytest.mark.parametrize("path", ["accounts", "projects", "balances", "roots", "ledger"])
def test_short_and_long_listings_alike(server, people, roots, path):
    url = f"{server.address}{API}/{path}"
    found, _ = read_all(url, 2)
    whole = requests.get(url + "?limit=1000", timeout=30).json()
    assert found == whole


def test_what_is_stored_meanwhile_does_not_shift_the_pages(server, people):
    _, hub = people[0]
    kind = f"kind-{secrets.token_hex(4)}"
    first = {hub.put(f"{kind}{n}".encode(), kind=kind).cid for n in range(6)}
    found, _ = read_all(
        f"{server.address}{API}/roots?kind={kind}",
        2,
        between=lambda: hub.put(secrets.token_bytes(8), kind=kind),
    )
    cids = [each["cid"] for each in found]
    assert len(cids) == len(set(cids))
    assert first <= set(cids)


def test_accounts_that_come_meanwhile_do_not_shift_the_pages(server, people, connect):
    before = [each.name for each in connect().accounts()]
    names = iter(f"aa-{secrets.token_hex(4)}" for _ in range(3))

    def register():
        name = next(names, None)
        if name is not None:
            connect().register(name, "correct horse battery")

    found, _ = read_all(f"{server.address}{API}/accounts", 2, between=register)
    seen = [each["name"] for each in found]
    assert len(seen) == len(set(seen))
    assert set(before) <= set(seen)


def test_the_remote_hub_reads_all_pages(server, people, roots, monkeypatch):
    _, hub = people[0]
    whole = hub.roots(kind=roots)
    asked = []
    exchange = hub._transport.exchange

    def small_pages(verb, path, *, query, **rest):
        asked.append(query)
        return exchange(verb, path, query={**query, "limit": "2"}, **rest)

    monkeypatch.setattr(hub._transport, "exchange", small_pages)
    assert hub.roots(kind=roots) == whole
    assert len(asked) == 5


def test_events_lead_on_by_their_numbers(server, people):
    url = f"{server.address}{API}/events?limit=2"
    answer = requests.get(url, timeout=30)
    last = answer.json()[-1]["seq"]
    following = requests.get(url.partition("?")[0] + answer.links["next"]["url"], timeout=30)
    assert [each["seq"] for each in following.json()] == [last + 1, last + 2]


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda each: each.route.operation)
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=many",
        "limit=" + "9" * 5000,
        "limit=%D9%A1",
        "cursor=",
        "cursor=nonsense",
        "cursor=W10",
        "cursor=WyJyb290cyIsMSwyLDMsNF0",
        "cursor=WyJyb290cyIse31d",
        "cursor=%00%C3%BF",
        "cursor=" + "A" * 4000,
    ],
)
def test_a_page_that_is_none_is_refused(server, member, listing, query):
    path = listing.route.path.format(name="none", project="none")
    headers = {"Authorization": f"Bearer {member[1]._transport.token}"}
    answer = requests.get(f"{server.address}{API}{path}?{query}", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert query.partition("=")[0] in answer.json()["detail"]


def test_a_cursor_of_another_listing_is_refused(server, roots):
    url = f"{server.address}{API}/roots?limit=1"
    query = requests.get(url, timeout=30).links["next"]["url"]
    answer = requests.get(f"{server.address}{API}/ledger{query}", timeout=30)
    assert answer.status_code == 422


def test_text_of_a_visitor_cannot_become_a_header(server, roots):
    evil = "x\r\nSet-Cookie: a=b"
    url = f"{server.address}{API}/roots"
    answer = requests.get(url, params={"text": "kind-", "limit": 1}, timeout=30)
    assert "next" in answer.links
    answer = requests.get(url, params={"owner": evil, "limit": 1}, timeout=30)
    assert "Set-Cookie" not in answer.headers
    answer = requests.get(f"{server.address}{API}/events", params={"project": evil}, timeout=30)
    assert "Set-Cookie" not in answer.headers


# -- conditional requests -----------------------------------------------------------------------


def test_what_has_not_changed_is_not_sent_again(server, new_member):
    url = f"{server.address}{API}/accounts"
    first = requests.get(url, timeout=30)
    headers = {"If-None-Match": first.headers["ETag"]}
    again = requests.get(url, headers=headers, timeout=30)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    new_member()
    assert requests.get(url, headers=headers, timeout=30).status_code == 200


def test_head_tells_what_get_would(server, member):
    url = f"{server.address}{API}/accounts"
    get, head = requests.get(url, timeout=30), requests.head(url, timeout=30)
    assert head.content == b""
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert head.headers[name] == get.headers[name]


def test_content_is_known_by_its_address(server, member):
    _, hub = member
    root = hub.put(b"immutable")
    url = f"{server.address}{API}/content/{root.cid}"
    first = requests.get(url, timeout=30)
    assert first.headers["ETag"] == f'"{root.cid}"'
    again = requests.get(url, headers={"If-None-Match": f'"{root.cid}"'}, timeout=30)
    assert (again.status_code, again.content) == (304, b"")
    head = requests.head(url, timeout=30)
    assert head.headers["ETag"] == f'"{root.cid}"'
    assert head.headers["Content-Length"] == "9"


def test_answers_with_credentials_are_not_kept_by_anybody(server, member):
    headers = {"Authorization": f"Bearer {member[1]._transport.token}"}
    url = f"{server.address}{API}/tokens"
    answer = requests.post(url, json={"label": "x"}, headers=headers, timeout=30)
    assert answer.headers["Cache-Control"] == "no-store"
