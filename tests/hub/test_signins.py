"""Sign-ins over time: idle, absolute, renewed; older versions' tokens; the hub's secret."""

from __future__ import annotations

import hashlib
import stat
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from neuronexus_kernel.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidInputError,
    StoreError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import now
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.secret import FILE, session_secret
from neuronexus_kernel.hub.times import later
from neuronexus_kernel.settings import AccountSettings, Settings

PASSWORD = "correct horse battery"
SECOND = 1 / 3600


@pytest.fixture
def open_hub(tmp_path):
    """Return a function that opens a hub, whose accounts are as the settings say."""
    opened = []

    def open_hub(**settings):
        hub = LocalHub.open(Settings(home=tmp_path, accounts=AccountSettings(**settings)))
        opened.append(hub)
        return hub

    yield open_hub
    for hub in opened:
        hub.close()


def signed_in(hub, name="ada"):
    visitor = hub.visitor()
    visitor.register(name, PASSWORD)
    return visitor, visitor.login(name, PASSWORD).token


def age(hub, **columns):
    """Have every sign-in's details say something older, as if that time had passed."""
    table = schema.session_details
    hub._services.database.write(lambda tx: tx.execute(table.update().values(**columns)))
    hub._services.signins.generation += 1  # what was looked up a second ago is of another time


def test_a_sign_in_ends_at_its_time_however_much_it_is_used(open_hub):
    hub = open_hub(session_hours=2 * SECOND)
    _, token = signed_in(hub)
    until = time.monotonic() + 30

    def use_it():
        while time.monotonic() < until:
            hub.visitor(token).whoami()
            time.sleep(0.05)

    with pytest.raises(AuthenticationError, match="ended"):
        use_it()


def test_a_sign_in_that_is_not_used_ends(open_hub):
    hub = open_hub(idle_hours=1.0)
    visitor, token = signed_in(hub)
    script = visitor.create_token("script").token
    age(hub, seen="2020-01-01T00:00:00.000000Z")
    with pytest.raises(AuthenticationError, match="ended"):
        hub.visitor(token)
    assert hub.visitor(script).whoami(), "a token rests for as long as it lasts"
    fresh = hub.visitor()
    fresh.login("ada", PASSWORD)
    assert len(fresh.sessions()) == 1


def test_using_a_sign_in_keeps_it(open_hub):
    hub = open_hub(idle_hours=48.0)
    _, token = signed_in(hub)
    yesterday = "2020-01-01T00:00:00.000000Z"
    age(hub, renewed=yesterday)
    (before,) = hub.visitor(token).sessions()
    assert before.seen > yesterday


def test_a_renewed_token_is_good_for_requests_under_way_and_no_longer(open_hub):
    hub = open_hub()
    visitor, old = signed_in(hub)
    new = visitor.renew().token
    assert hub.visitor(old).whoami() == hub.visitor(new).whoami()
    sessions = schema.sessions
    ends = hub._services.database.read(
        lambda tx: tx.scalar(
            sa.select(sessions.c.expires).where(
                sessions.c.token_hash == hashlib.sha256(old.encode()).digest()
            )
        )
    )
    assert ends < visitor.sessions()[0].expires
    assert ends < later(now(), timedelta(seconds=70))


def test_renewing_never_makes_a_sign_in_last_longer(open_hub):
    hub = open_hub()
    visitor, _ = signed_in(hub)
    before = visitor.sessions()[0].expires
    for _ in range(3):
        visitor.renew()
    assert [each.expires for each in visitor.sessions()] == [before]


def test_a_sign_in_wants_a_new_token_now_and_then_and_when_the_role_changes(open_hub):
    hub = open_hub(renew_hours=24.0)
    visitor, token = signed_in(hub)
    assert not hub.visitor(token).credentials.due
    age(hub, renewed="2020-01-01T00:00:00.000000Z")
    assert hub.visitor(token).credentials.due
    token = visitor.renew().token
    assert not hub.visitor(token).credentials.due
    hub.visitor(hub.owner_token).add_operator("ada")
    assert hub.visitor(token).credentials.due
    script = visitor.create_token("script").token
    age(hub, renewed="2020-01-01T00:00:00.000000Z")
    assert not hub.visitor(script).credentials.due, "a token stays what it is"


def test_a_ticket_ends_with_the_sign_in_it_was_made_from(open_hub):
    hub = open_hub()
    visitor, _ = signed_in(hub)
    ticket = hub.visitor(visitor.ticket().token)
    with pytest.raises(ForbiddenError):
        ticket.create_token("one that outlives it")
    visitor.renew()
    assert ticket.whoami().name == "ada"
    visitor.logout()
    with pytest.raises(AuthenticationError):
        ticket.whoami()


def test_only_hashes_are_in_the_database(open_hub, tmp_path):
    hub = open_hub()
    owner = hub.visitor(hub.owner_token)
    visitor, token = signed_in(hub)
    secrets = [token, visitor.renew().token, visitor.create_token("script").token, PASSWORD]
    secrets += [visitor.ticket().token, owner.invite().code, owner.issue_reset("ada").code]
    hub.close()
    data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"script" in data
    for secret in secrets:
        assert secret.encode() not in data


def test_sign_ins_and_tokens_of_an_older_version_go_on(open_hub):
    hub = open_hub()
    visitor, token = signed_in(hub)
    script = visitor.create_token("script").token
    sessions, details = schema.sessions, schema.session_details

    def as_it_was(tx):
        tx.execute(details.delete())
        tx.execute(sessions.update().where(sessions.c.kind == "token").values(kind="notebook"))

    hub._services.database.write(as_it_was)
    hub.close()
    again = open_hub()
    assert again.visitor(token).whoami().name == "ada"
    (kept,) = again.visitor(token).tokens()
    assert (kept.label, kept.kind) == ("script", "token")
    assert again.visitor(script).put(b"still there").cid


# -- who may register -------------------------------------------------------------------------


def test_a_hub_by_invitation_lets_in_whoever_has_one(open_hub):
    hub = open_hub(registration="invited")
    owner = hub.visitor(hub.owner_token)
    for nothing in (None, "", "guess-of-an-invitation"):
        with pytest.raises(ForbiddenError, match="invitation"):
            hub.visitor().register("eve", PASSWORD, nothing)
    code = owner.invite().code
    with pytest.raises(InvalidInputError, match="too short"):
        hub.visitor().register("ada", "short", code)
    assert hub.visitor().register("ada", PASSWORD, code).name == "ada"
    assert owner.add_operator("grace", PASSWORD).role == "operator"


def test_a_closed_hub_lets_nobody_register_not_even_with_an_invitation(open_hub):
    hub = open_hub(registration="closed")
    owner = hub.visitor(hub.owner_token)
    with pytest.raises(ForbiddenError, match="ask an operator"):
        hub.visitor().register("ada", PASSWORD, owner.invite().code)


def test_an_expired_code_is_worth_nothing(open_hub):
    hub = open_hub(registration="invited")
    owner = hub.visitor(hub.owner_token)
    code = owner.invite(days=1e-6).code
    time.sleep(0.2)
    with pytest.raises(ForbiddenError, match="not valid"):
        hub.visitor().register("ada", PASSWORD, code)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NEURONEXUS_REGISTRATION", "sometimes"),
        ("NEURONEXUS_SESSION_HOURS", "0"),
        ("NEURONEXUS_SESSION_IDLE_HOURS", "never"),
        ("SESSION_SECRET", "short"),
    ],
)
def test_a_setting_that_cannot_be_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInputError, match=variable):
        Settings.load()


# -- the hub's secret -------------------------------------------------------------------------


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path):
    made = session_secret(tmp_path, None)
    assert session_secret(tmp_path, None) == made
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert made not in (tmp_path / FILE).read_bytes()


def test_session_secret_is_honoured_and_not_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("SESSION_SECRET", "x" * 40)
    settings = Settings.load(tmp_path)
    assert "x" * 40 not in repr(settings)
    one = session_secret(tmp_path, settings.accounts.secret)
    assert one == session_secret(tmp_path / "elsewhere", "x" * 40)
    assert one != session_secret(tmp_path, "y" * 40)
    assert not (tmp_path / FILE).exists()


def test_a_secret_that_is_none_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(StoreError, match="too short"):
        session_secret(tmp_path, None)
