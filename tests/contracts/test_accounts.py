"""What every hub promises about accounts, whether it is in this process or behind HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
)
from neuronexus_kernel.hub import Hub, records
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
ANOTHER = "staple clouds river"
Connect = Callable[..., Hub]
Person = Callable[[str], Workbench]


@pytest.fixture
def ada(person: Person) -> Hub:
    return person("ada").hub


@pytest.fixture
def operator(person: Person, owner: Hub) -> Hub:
    grace = person("grace").hub
    owner.add_operator(name_of(grace))
    return grace


def name_of(hub: Hub) -> str:
    account = hub.whoami()
    assert account is not None
    return account.name


# -- passwords --------------------------------------------------------------------------------


def test_a_new_password_ends_the_other_sign_ins_and_renews_this_one(
    connect: Connect, ada: Hub
) -> None:
    name, elsewhere = name_of(ada), connect()
    old = elsewhere.login(name, PASSWORD).token
    token = ada.create_token("notebook").token
    session = ada.change_password(PASSWORD, ANOTHER)
    assert name_of(ada) == name
    assert name_of(connect(session.token)) == name
    with pytest.raises(AuthenticationError, match="ended"):
        elsewhere.whoami()
    with pytest.raises(AuthenticationError, match="ended"):
        connect(old).whoami()
    with pytest.raises(AuthenticationError):
        connect().login(name, PASSWORD)
    assert connect().login(name, ANOTHER).account.name == name
    assert name_of(connect(token)) == name, "tokens are revoked one by one"


def test_whoever_does_not_know_the_password_does_not_change_it(connect: Connect, ada: Hub) -> None:
    with pytest.raises(ForbiddenError, match="current password"):
        ada.change_password("not the password", ANOTHER)
    with pytest.raises(InvalidInputError, match="too short"):
        ada.change_password(PASSWORD, "short")
    assert connect().login(name_of(ada), PASSWORD)


def test_a_reset_works_once_and_ends_everything(connect: Connect, ada: Hub, operator: Hub) -> None:
    name = name_of(ada)
    token = ada.create_token("notebook").token
    code = operator.issue_reset(name)
    assert code.code not in repr(code)
    stranger = connect()
    with pytest.raises(InvalidInputError, match="too short"):
        stranger.reset_password(code.code, "short")
    assert stranger.reset_password(code.code, ANOTHER).name == name
    for ended in (ada.whoami, lambda: connect(token).whoami()):
        with pytest.raises(AuthenticationError):
            ended()
    with pytest.raises(ForbiddenError, match="not valid"):
        stranger.reset_password(code.code, PASSWORD)
    assert stranger.login(name, ANOTHER).account.name == name


def test_only_the_last_reset_of_an_account_works(connect: Connect, ada: Hub, operator: Hub) -> None:
    first, second = (operator.issue_reset(name_of(ada)).code for _ in range(2))
    with pytest.raises(ForbiddenError, match="not valid"):
        connect().reset_password(first, ANOTHER)
    assert connect().reset_password(second, ANOTHER).name


def test_a_code_is_good_for_one_purpose(connect: Connect, ada: Hub, operator: Hub) -> None:
    invitation, reset = operator.invite().code, operator.issue_reset(name_of(ada)).code
    with pytest.raises(ForbiddenError):
        connect().reset_password(invitation, ANOTHER)
    with pytest.raises(ForbiddenError):
        connect().register(f"eve-{secrets.token_hex(4)}", PASSWORD, reset)
    with pytest.raises(NotFoundError):
        operator.issue_reset("nobody-at-all")


# -- guessing ---------------------------------------------------------------------------------


def test_guessing_is_slowed_down_and_leaves_whoever_is_signed_in_alone(
    connect: Connect, ada: Hub
) -> None:
    name, guesser = name_of(ada), connect()
    told = []
    for guess in range(20):
        try:
            guesser.login(name, f"guess number {guess}")
        except QuotaError as error:
            told.append(str(error))
            break
        except AuthenticationError:
            continue
    assert told, "twenty guesses at once are refused before they are checked"
    assert "Try again in" in told[0]
    assert name_of(ada) == name
    assert ada.change_password(PASSWORD, ANOTHER)


def test_a_name_that_nobody_has_is_slowed_down_alike(connect: Connect, ada: Hub) -> None:
    answers = []
    for name in (name_of(ada), f"nobody-{secrets.token_hex(4)}"):
        mine: set[str] = set()
        hub = connect()
        for _ in range(12):
            try:
                hub.login(name, "not the password")
            except (AuthenticationError, QuotaError) as error:
                mine.add(f"{type(error).__name__}: {error}"[:60])
        answers.append(mine)
    assert len(answers[0]) == 2
    assert answers[0] == answers[1]


# -- sign-ins and tokens ----------------------------------------------------------------------


def test_one_sees_and_ends_ones_own_sign_ins(connect: Connect, ada: Hub) -> None:
    elsewhere = connect()
    elsewhere.login(name_of(ada), PASSWORD)
    mine = ada.sessions()
    assert [each.current for each in mine] == [False, True]
    assert {each.kind for each in mine} == {"session"}
    ada.revoke(mine[0].id)
    with pytest.raises(AuthenticationError, match="ended"):
        elsewhere.projects()
    assert [each.id for each in ada.sessions()] == [mine[1].id]
    assert elsewhere.login(name_of(ada), PASSWORD), "whoever was signed out can sign in again"


def test_a_renewed_sign_in_has_a_new_token_and_stays_itself(connect: Connect, ada: Hub) -> None:
    before = ada.sessions()[0]
    session = ada.renew()
    (after,) = ada.sessions()
    assert (after.id, after.created, after.expires) == (before.id, before.created, before.expires)
    again = ada.renew()
    assert session.token != again.token
    assert name_of(connect(again.token)) == name_of(ada)
    ada.logout()
    for token in (session.token, again.token):
        with pytest.raises(AuthenticationError):
            connect(token).whoami()


def test_a_token_is_listed_without_itself_and_revoked_by_its_id(connect: Connect, ada: Hub) -> None:
    session = ada.create_token("my laptop", ("contribute",), days=3)
    (token,) = ada.tokens()
    assert (token.label, token.scopes, token.kind) == ("my laptop", ("read", "contribute"), "token")
    assert session.token not in repr(token)
    assert token.expires == session.expires
    script = connect(session.token)
    assert script.put(b"what the script made").owner == name_of(ada)
    script.logout()
    assert name_of(connect(session.token)) == name_of(ada), "a script that ends keeps its token"
    ada.revoke(token.id)
    with pytest.raises(AuthenticationError):
        connect(session.token).whoami()
    assert ada.tokens() == []


@pytest.mark.parametrize(
    ("scopes", "days", "words"),
    [
        (("read", "everything"), 5, "everything"),
        (("read",), 0, "up to 365"),
        (("read",), 366, "up to 365"),
        (("read",), float("nan"), "days"),
    ],
)
def test_a_token_that_cannot_be_is_refused(
    ada: Hub, scopes: tuple[records.Scope, ...], days: float, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        ada.create_token("script", scopes, days)


def test_a_token_may_do_what_its_scopes_say(connect: Connect, ada: Hub, task: nx.Task) -> None:
    reader = connect(ada.create_token("reader", ("read",)).token)
    writer = connect(ada.create_token("writer", ("contribute",)).token)
    maintainer = connect(ada.create_token("maintainer", ("contribute", "maintain")).token)
    assert reader.keepings() == []
    with pytest.raises(ForbiddenError, match="'contribute'"):
        reader.put(b"bytes")
    assert writer.put(b"bytes").cid
    recipe = nx.Recipe(nx.models.mlp(64, (4,), 10))
    name = f"digits-{secrets.token_hex(4)}"
    with pytest.raises(ForbiddenError, match="'maintain'"):
        Workbench(writer).create_project(name, task=task, recipe=recipe)
    assert Workbench(maintainer).create_project(name, task=task, recipe=recipe).name == name
    for hub in (reader, writer, maintainer):
        with pytest.raises(ForbiddenError, match="sign in with your password"):
            hub.create_token("another")
        with pytest.raises(ForbiddenError):
            hub.change_password(PASSWORD, ANOTHER)
        with pytest.raises(ForbiddenError):
            hub.sessions()
        with pytest.raises(ForbiddenError):
            hub.audit()


def test_nobody_sees_or_ends_what_is_another_persons(person: Person, ada: Hub) -> None:
    eve = person("eve").hub
    session, token = ada.sessions()[0], ada.create_token("notebook")
    assert token
    for id in (session.id, ada.tokens()[0].id, new_id(), "' OR 1=1 --"):
        with pytest.raises(NotFoundError, match="no sign-in or token"):
            eve.revoke(id)
    for look in (eve.sessions, eve.tokens):
        with pytest.raises(ForbiddenError, match="operator"):
            look(name_of(ada))
    assert len(ada.tokens()) == len(ada.sessions()) == 1


# -- operators --------------------------------------------------------------------------------


def test_a_closed_account_is_out_at_once_and_comes_back(
    connect: Connect, ada: Hub, operator: Hub
) -> None:
    name, script = name_of(ada), connect(ada.create_token("script").token)
    assert operator.disable(name).disabled
    for hub in (ada, script):
        with pytest.raises(AuthenticationError, match="ended"):
            hub.whoami()
    with pytest.raises(AuthenticationError, match="do not match"):
        connect().login(name, "not the password")
    with pytest.raises(ForbiddenError, match="closed"):
        connect().login(name, PASSWORD)
    assert {each.name: each.disabled for each in operator.accounts()}[name]
    assert not any(each.disabled for each in connect().accounts()), "that is for operators"
    assert not operator.enable(name).disabled
    assert connect().login(name, PASSWORD).account.name == name


def test_an_operator_sees_and_ends_anybodys_sign_ins(ada: Hub, operator: Hub) -> None:
    (session,) = operator.sessions(name_of(ada))
    assert not session.current
    operator.revoke(session.id)
    with pytest.raises(AuthenticationError):
        ada.whoami()


def test_what_an_operator_may_comes_and_goes_with_the_role(
    ada: Hub, operator: Hub, owner: Hub
) -> None:
    name = name_of(operator)
    assert operator.audit(limit=1)
    owner.remove_operator(name)
    with pytest.raises(ForbiddenError, match="operator"):
        operator.audit()
    with pytest.raises(ForbiddenError, match="operator"):
        operator.disable(name_of(ada))
    owner.add_operator(name)
    assert operator.audit(limit=1)
    with pytest.raises(ForbiddenError, match="their own"):
        operator.disable(name)


def test_an_operators_token_without_admin_is_a_members(connect: Connect, operator: Hub) -> None:
    plain = connect(operator.create_token("script", ("contribute", "maintain")).token)
    account = plain.whoami()
    assert account is not None
    assert account.role == "member"
    with pytest.raises(ForbiddenError, match="'admin'"):
        plain.invite()
    admin = connect(operator.create_token("admin", ("admin",)).token)
    assert admin.invite().code
    with pytest.raises(ForbiddenError, match="sign in with your password"):
        admin.create_token("one that outlives it")


def test_a_member_gets_no_admin_token(ada: Hub) -> None:
    with pytest.raises(ForbiddenError, match="operator"):
        ada.create_token("admin", ("admin",))


def test_an_admin_token_is_worth_less_when_the_role_is_gone(
    connect: Connect, operator: Hub, owner: Hub
) -> None:
    admin = connect(operator.create_token("admin", ("admin",)).token)
    assert admin.invitations() is not None
    owner.remove_operator(name_of(operator))
    with pytest.raises(ForbiddenError):
        admin.invitations()


def test_an_invitation_tells_its_operator_who_came(connect: Connect, operator: Hub) -> None:
    code, name = operator.invite(days=2, note="for ada"), f"ada-{secrets.token_hex(4)}"
    assert code.path.endswith(f"#{code.code}"), "no server is sent what stands behind the #"
    connect().register(name, PASSWORD, code.code)
    with pytest.raises(ForbiddenError, match="not valid"):
        connect().register(f"eve-{secrets.token_hex(4)}", PASSWORD, code.code)
    (made,) = [each for each in operator.invitations() if each.id == code.id]
    assert (made.note, made.account, made.issuer) == ("for ada", name, name_of(operator))
    with pytest.raises(NotFoundError):
        operator.withdraw(code.id)


def test_a_withdrawn_invitation_lets_nobody_in(connect: Connect, operator: Hub) -> None:
    code = operator.invite()
    operator.withdraw(code.id)
    with pytest.raises(ForbiddenError, match="not valid"):
        connect().register(f"eve-{secrets.token_hex(4)}", PASSWORD, code.code)
    with pytest.raises(InvalidInputError, match="days"):
        operator.invite(days=1000)


def test_the_trail_tells_who_did_what_and_holds_no_secret(
    connect: Connect, ada: Hub, operator: Hub
) -> None:
    name, guess = name_of(ada), "the password of somebody"
    secret = [PASSWORD, guess]
    with pytest.raises(AuthenticationError):
        connect().login(name, guess)
    with pytest.raises(AuthenticationError):
        connect().login(guess, PASSWORD)  # typed into the wrong field
    secret += [ada.create_token("laptop").token]
    ada.revoke(ada.tokens()[0].id)
    secret += [ada.change_password(PASSWORD, ANOTHER).token, ANOTHER]
    code = operator.issue_reset(name)
    secret += [code.code]
    connect().reset_password(code.code, PASSWORD)
    secret += [operator.invite(note="for alan").code]
    operator.disable(name)
    operator.enable(name)
    trail = operator.audit(name)
    assert [entry.kind for entry in trail][::-1] == [
        "account.registered",
        "signin.ok",
        "signin.failed",
        "token.made",
        "token.revoked",
        "password.changed",
        "reset.issued",
        "password.reset",
        "account.disabled",
        "account.enabled",
    ]
    by = {entry.kind: entry.actor for entry in trail}
    assert (by["token.made"], by["reset.issued"]) == (name, name_of(operator))
    whole = operator.audit(limit=1000)
    assert [entry.seq for entry in whole] == sorted((e.seq for e in whole), reverse=True)
    assert all(entry.time for entry in whole)
    for each in secret:
        assert each not in repr(whole)
    assert {e.kind for e in operator.audit(kind="signin.failed")} == {"signin.failed"}
    page = operator.audit(before=whole[4].seq, limit=3)
    assert [entry.seq for entry in page] == [entry.seq for entry in whole[5:8]]


@pytest.mark.parametrize(
    "name", ["x'; DROP TABLE accounts; --", "' OR '1'='1", 'a"b', "a\\'b", "a\x00b", "a\r\nX: y"]
)
def test_sql_and_headers_in_a_name_are_only_text(
    connect: Connect, operator: Hub, name: str
) -> None:
    with pytest.raises(InvalidInputError, match="account name"):
        connect().register(name, PASSWORD)
    # PostgreSQL cannot even be asked for a name with a NUL.
    unheard = (InvalidInputError,) if "\0" in name else ()
    with pytest.raises((AuthenticationError, *unheard)):
        connect().login(name, PASSWORD)
    for act in (operator.disable, operator.enable, operator.issue_reset, operator.add_operator):
        with pytest.raises((NotFoundError, *unheard)):
            act(name)
    if not unheard:
        assert operator.audit(name) == []
        assert operator.sessions(name) == []
    assert operator.accounts()


# -- maintainers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task() -> nx.Task:
    return nx.Task(nx.datasets.digits().subset(range(300)))


def test_maintainers_are_named_by_the_owner_and_do_what_the_owner_may(
    person: Person, owner: Hub, task: nx.Task
) -> None:
    ada, grace, eve = person("ada"), person("grace"), person("eve")
    recipe = nx.Recipe(nx.models.mlp(64, (4,), 10))
    project = ada.create_project(f"digits-{secrets.token_hex(4)}", task=task, recipe=recipe)
    assert project.maintainers == [ada.user]
    theirs = grace.project(project.name)
    new = records.NewFederation(
        id=new_id(),
        project=project.record.id,
        recipe="bafynone",
        weights="bafynone",
        rounds=1,
        nodes=1,
    )
    with pytest.raises(ForbiddenError, match="maintainers"):
        grace.hub.start_federation(new)
    with pytest.raises(ForbiddenError, match="names its maintainers"):
        theirs.add_maintainer(str(grace.user))
    with pytest.raises(NotFoundError):
        project.add_maintainer("nobody-at-all")
    project.add_maintainer(str(grace.user))
    project.add_maintainer(str(grace.user))
    assert theirs.maintainers == [ada.user, grace.user]
    with pytest.raises(nx.errors.NeuroNexusError) as refused:
        grace.hub.start_federation(new)
    assert not isinstance(refused.value, ForbiddenError), "it is the recipe that is refused now"
    with pytest.raises(ForbiddenError, match="names its maintainers"):
        theirs.add_maintainer(str(eve.user))
    with pytest.raises(ForbiddenError):
        eve.project(project.name).remove_maintainer(str(grace.user))
    theirs.remove_maintainer(str(grace.user))
    with pytest.raises(ForbiddenError, match="maintainers"):
        grace.hub.start_federation(new)
    kinds = [(e.kind, e.actor) for e in owner.audit(str(grace.user)) if e.kind.startswith("role")]
    assert kinds == [("role.taken", grace.user), ("role.given", ada.user)]
