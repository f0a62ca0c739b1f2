"""Accounts in a notebook: `wb.account` and `wb.admin`."""

from __future__ import annotations

import pytest

from neuronexus_kernel.errors import AuthenticationError, ForbiddenError
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
ANOTHER = "staple clouds river"


@pytest.fixture
def hub(tmp_path):
    hub = LocalHub.open(tmp_path)
    yield hub
    hub.close()


@pytest.fixture
def ada(hub):
    return Workbench(hub.visitor()).register("ada", PASSWORD)


@pytest.fixture
def grace(hub):
    grace = Workbench(hub.visitor()).register("grace", PASSWORD)
    hub.visitor(hub.owner_token).add_operator("grace")
    return grace


def test_ones_own_account_is_tables_and_a_few_words(hub, ada):
    session = ada.account.create_token("laptop", scopes=["contribute"], days=3)
    tokens = ada.account.tokens()
    assert list(tokens["label"]) == ["laptop"]
    assert tokens["scopes"][0] == ("read", "contribute")
    assert str(tokens["created"].dtype).startswith("datetime64")
    assert session.token not in tokens.to_html()
    sessions = ada.account.sessions()
    assert list(sessions["current"]) == [True]
    ada.account.revoke(tokens["id"][0])
    assert ada.account.tokens().empty
    ada.account.change_password(PASSWORD, ANOTHER)
    assert ada.user == "ada"
    with pytest.raises(AuthenticationError):
        Workbench(hub.visitor()).login("ada", PASSWORD)


def test_an_operator_looks_after_the_others(hub, ada, grace):
    link = grace.admin.invite("for <b>alan</b>", days=1)
    assert str(link).endswith(str(link).partition("#")[2])
    assert str(link) not in repr(link)
    alan = Workbench(hub.visitor())
    alan.register("alan", PASSWORD, invitation=str(link).partition("#")[2])
    assert list(grace.admin.invitations()["account"]) == ["alan"]
    reset = grace.admin.reset_link("ada")
    assert "&lt;" not in reset._repr_html_()
    hub.visitor().reset_password(str(reset).partition("#")[2], ANOTHER)
    assert ada.login("ada", ANOTHER).user == "ada"
    assert len(grace.admin.sessions("ada")) == 1
    grace.admin.disable("ada")
    accounts = grace.admin.accounts().set_index("name")
    assert accounts["disabled"].to_dict() == {"ada": True, "alan": False, "grace": False}
    grace.admin.enable("ada")
    grace.admin.add_operator("alan")
    grace.admin.remove_operator("alan")
    trail = grace.admin.audit()
    assert trail.index.is_monotonic_decreasing
    assert list(trail["kind"][:2]) == ["role.taken", "role.given"]
    assert len(grace.admin.audit(limit=3)) == 3
    assert set(grace.admin.audit("ada", kind="signin.ok")["account"]) == {"ada"}


def test_the_tables_of_operators_are_not_for_members(ada):
    for look in (ada.admin.audit, ada.admin.invitations, ada.admin.invite):
        with pytest.raises(ForbiddenError, match="operator"):
            look()
