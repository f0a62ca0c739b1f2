"""How much one visitor may ask for, and what happens to one who asks for more."""

from __future__ import annotations

import pytest
import requests
from neuronexus_server import rates
from neuronexus_server.rates import Rates

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.routes import API
from neuronexus_kernel.settings import RequestSettings

PASSWORD = "correct horse battery"


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: a list whose one number is the time."""
    now = [1000.0]
    monkeypatch.setattr(rates.time, "monotonic", lambda: now[0])
    return now


def test_a_bucket_empties_and_fills_again(clock):
    buckets = Rates(RequestSettings(per_second=2, burst=3))
    left = [buckets.take("ada").remaining for _ in range(6)]
    assert left == [5, 4, 3, 2, 1, 0]
    refused = buckets.take("ada")
    assert (refused.remaining, refused.wait) == (0, 0.5)
    clock[0] += 0.5
    assert buckets.take("ada").wait == 0
    assert buckets.take("ada").wait > 0
    clock[0] += 1000
    assert buckets.take("ada").remaining == 5


def test_one_visitor_does_not_use_up_anothers(clock):
    buckets = Rates(RequestSettings(per_second=1, burst=1))
    buckets.take("ada")
    assert buckets.take("ada").wait > 0
    assert buckets.take("bob").wait == 0


def test_a_refused_request_costs_nothing(clock):
    buckets = Rates(RequestSettings(per_second=1, burst=1))
    for _ in range(50):
        buckets.take("ada")
    clock[0] += 1.0
    assert buckets.take("ada").wait == 0


def test_many_visitors_take_little_memory(clock, monkeypatch):
    monkeypatch.setattr(rates, "_MOST_VISITORS", 100)
    buckets = Rates(RequestSettings())
    for number in range(1000):
        buckets.take(f"@{number}")
    assert len(buckets._buckets) == 100


def test_without_a_limit_nothing_is_counted():
    assert Rates(RequestSettings(per_second=None)).take("ada") is None


@pytest.mark.parametrize(
    ("text", "rate"), [(None, 500.0), ("20", 20.0), ("0.5", 0.5), ("unlimited", None)]
)
def test_the_environment_sets_the_limit(monkeypatch, text, rate):
    if text is not None:
        monkeypatch.setenv("NEURONEXUS_REQUESTS_PER_SECOND", text)
    assert RequestSettings.load().per_second == rate


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan"])
def test_a_limit_that_is_none_is_told(monkeypatch, text):
    monkeypatch.setenv("NEURONEXUS_REQUESTS_PER_SECOND", text)
    with pytest.raises(InvalidInputError, match="NEURONEXUS_REQUESTS_PER_SECOND"):
        RequestSettings.load()


@pytest.fixture
def strict(tmp_path, dashboard, monkeypatch):
    """A hub that answers ten requests at once, and one each second."""
    monkeypatch.setenv("NEURONEXUS_REQUESTS_PER_SECOND", "1")
    arguments = ("--dashboard", str(dashboard), "--no-warm-kernel")
    with start_hub(tmp_path, port=0, arguments=arguments) as process:
        yield process


def test_who_asks_too_much_is_told_when_to_come_again(strict):
    url = f"{strict.address}{API}/projects"
    answers = [requests.get(url, timeout=30) for _ in range(14)]
    refused = [each for each in answers if each.status_code == 429]
    assert refused
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=10;w=10'
    assert answers[0].headers["RateLimit"].startswith('"requests";r=')
    assert refused[0].json()["code"] == "quota"
    assert int(refused[0].headers["Retry-After"]) >= 1
    # The page for people and the owner's own requests go on.
    assert requests.get(f"{strict.address}/neuronexus/auth", timeout=30).ok
    owner = {"Authorization": f"Bearer {strict.token}"}
    assert all(requests.get(url, headers=owner, timeout=30).ok for _ in range(15))
    # So does who is signed in: strangers use up their own.
    hub = RemoteHub(strict.address)
    hub.register("ada", PASSWORD)  # waits for its turn, as it was told to
    hub.login("ada", PASSWORD)
    assert hub.projects() == []
    hub.close()
