"""Who may do what: the table, and that nothing of a hub is outside of it."""

from __future__ import annotations

import inspect
import secrets
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import AuthenticationError, ForbiddenError, NeuroNexusError
from neuronexus_kernel.hub import permissions, records
from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.permissions import RULES, SCOPES, Credentials, check, powers
from neuronexus_kernel.hub.routes import ROUTES

PASSWORD = "correct horse battery"
SUBSETS = list(chain.from_iterable(combinations(SCOPES, size) for size in range(len(SCOPES) + 1)))

# Who gets past the door, for each line of the table: written down again, by hand, as a sentence.
STRANGERS = (
    "register login logout reset_password whoami accounts get blocks roots history project "
    "projects versions maintainers run runs federation federations contribution contributions "
    "balances balance ledger_lines verify_ledger events follow network"
)
BY_SCOPE = {
    "read": "keepings",
    "contribute": "put keep release start_run record_round finish_run join_federation submit "
    "confirm",
    "maintain": "create_project export_project import_project add_maintainer remove_maintainer "
    "start_federation stop_federation resume_federation",
    "admin": "add_operator remove_operator disable enable issue_reset invite invitations withdraw "
    "audit check backup sessions tokens revoke",
}
BY_PERSON_ONLY = "renew change_password create_token sessions tokens revoke"


def words(text: str) -> set[str]:
    return set(text.split())


def may_call(operation: str, kind: str, scopes: tuple[str, ...], role: str) -> bool:
    if operation in words(STRANGERS):
        return True
    if kind == "session":
        operators = words(BY_SCOPE["admin"]) - words(BY_PERSON_ONLY)
        return role == "operator" or operation not in operators
    granted = {"read", *scopes} - (set() if role == "operator" else {"admin"})
    return any(operation in words(BY_SCOPE[scope]) for scope in granted)


def allowed(operation: str, credentials: Credentials | None) -> bool:
    try:
        check(operation, credentials)
    except (AuthenticationError, ForbiddenError):
        return False
    return True


def test_every_method_of_the_interface_is_in_the_table_and_nothing_else_is() -> None:
    methods = {name for name in dir(Hub) if not name.startswith("_")} - {"address", "close"}
    assert RULES.keys() == methods
    named = words(STRANGERS) | words(BY_PERSON_ONLY)
    assert named.union(*map(words, BY_SCOPE.values())) == methods
    assert {route.operation for route in ROUTES} <= RULES.keys()


def test_a_hub_with_a_method_that_the_table_does_not_name_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(RULES, "audit")
    with pytest.raises(TypeError, match="audit"):
        permissions.enforced(type("AnotherHub", (LocalHub,), {}))


@settings(deadline=None)
@given(
    operation=st.sampled_from(sorted(RULES)),
    kind=st.sampled_from(["session", "token", "ticket"]),
    scopes=st.sampled_from(SUBSETS),
    role=st.sampled_from(["member", "operator"]),
)
def test_a_call_is_let_through_exactly_where_the_sentences_say(operation, kind, scopes, role):
    account = records.Account(name="ada", role=role, created="")
    credentials = Credentials(account, "id", kind, powers(kind, scopes, role))
    assert allowed(operation, credentials) == may_call(operation, kind, scopes, role)


@settings(deadline=None)
@given(operation=st.sampled_from(sorted(RULES)))
def test_a_stranger_is_let_through_where_nobody_has_to_sign_in(operation):
    assert allowed(operation, None) == (operation in words(STRANGERS))


@settings(deadline=None)
@given(
    operation=st.sampled_from(sorted(RULES)),
    fewer=st.sampled_from(SUBSETS),
    more=st.sampled_from(SUBSETS),
    role=st.sampled_from(["member", "operator"]),
)
def test_more_scopes_never_take_anything_away(operation, fewer, more, role):
    account = records.Account(name="ada", role=role, created="")
    less = Credentials(account, "id", "token", powers("token", fewer, role))
    rest = Credentials(account, "id", "token", powers("token", (*fewer, *more), role))
    assert allowed(operation, rest) >= allowed(operation, less)


def test_what_a_server_calls_in_place_of_a_method_is_admitted_too(bench) -> None:
    ada = bench.person("ada").hub
    reader = bench.hub.visitor(ada.create_token("reader", ("read",)).token)
    with pytest.raises(ForbiddenError, match="'maintain'"):
        reader.archive("digits")


# -- on a real hub ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views(new_bench, new_home):
    """A hub as people with every kind of sign-in see it."""
    bench = new_bench(new_home())
    owner = bench.hub.visitor(bench.hub.owner_token)
    found = {("stranger", (), "member"): bench.hub.visitor}
    for role in ("member", "operator"):
        name = f"{role}-{secrets.token_hex(3)}"
        hub = bench.person(name).hub
        if role == "operator":
            owner.add_operator(name)

        def sign_in(name=name):
            visitor = bench.hub.visitor()
            visitor.login(name, PASSWORD)
            return visitor

        found["session", (), role] = sign_in
        for scopes in SUBSETS:
            if "admin" not in scopes or role == "operator":
                token = hub.create_token("script", scopes).token
                found["token", scopes, role] = lambda token=token: bench.hub.visitor(token)
    yield found
    bench.close()


def nonsense(method) -> list[object]:
    """Return arguments that get past the door of a method, and no further."""
    parameters = list(inspect.signature(method).parameters.values())
    return [new_id() for each in parameters if each.default is inspect.Parameter.empty]


@pytest.mark.parametrize("operation", sorted(RULES))
def test_the_hub_itself_opens_and_closes_as_the_table_says(views, operation):
    for (kind, scopes, role), view in views.items():
        hub = view()
        method = getattr(hub, operation)
        try:
            method(*nonsense(method))
            refused = False
        except AuthenticationError as error:
            refused = "Nobody is signed in" in str(error)
        except ForbiddenError as error:
            told = str(error)
            refused = "scope" in told or "Only an operator may" in told or "A token" in told
        except (NeuroNexusError, AttributeError, TypeError, ValueError):
            refused = False
        expected = (
            operation in words(STRANGERS)
            if kind == "stranger"
            else may_call(operation, kind, scopes, role)
        )
        assert refused != expected, (kind, scopes, role)


def test_streams_and_uploads_in_parts_are_behind_the_same_door(bench):
    ada = bench.person("ada").hub
    root = ada.put(b"of the project", visibility="project")
    reader = bench.hub.visitor(ada.create_token("reader", ("read",)).token)
    assert reader.stream(root.cid).read() == b"of the project"
    with pytest.raises(ForbiddenError, match="contribute"):
        reader.uploads()
    stranger = bench.hub.visitor()
    with pytest.raises(NeuroNexusError):
        stranger.stream(root.cid)
    with pytest.raises(AuthenticationError):
        stranger.uploads()
    uploads = ada.uploads()
    upload = uploads.begin(records.NewUpload())
    uploads.append(upload.id, 0, b"bytes")
    ada.revoke(ada.sessions()[0].id)
    with pytest.raises(AuthenticationError):
        uploads.finish(upload.id)
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            ada.stream(root.cid)
