"""The dashboard as a whole, without a browser."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
from neuronexus_widgets import Dashboard
from neuronexus_widgets.dashboard import page_base

from neuronexus_kernel.errors import HubUnavailableError


def until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_dashboard_is_drawn_before_it_is_shown(hub):
    dashboard = Dashboard(hub, follow=False)
    assert "612.50" in dashboard.figures.tiles["balance"].widget.value
    bundle = dashboard._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in json.dumps(dict(bundle))


def test_a_dashboard_takes_a_workbench(hub):
    dashboard = Dashboard(SimpleNamespace(hub=hub), follow=False)
    assert dashboard.state.me == "ada"


def test_everything_moves_with_events(hub):
    dashboard = Dashboard(hub)
    said = {"kind": "data", "author": "ada", "note": "more sevens"}
    hub.tell("contribution.submitted", "c9", "p1", **said)
    hub.tell("ledger.entry", "e1", index=1, contribution="c9", amounts={"ada": "7.5"})
    hub.tell("head.changed", "v1", number=1, accuracy=0.9)
    until(lambda: "620.00" in dashboard.figures.tiles["balance"].widget.value)
    until(lambda: "90.0%" in dashboard.figures.tiles["accuracy"].widget.value)
    until(lambda: "more sevens" in dashboard.contributions.table.value)
    until(lambda: dashboard.scene.clock.running)
    dashboard.close()


def test_the_first_project_of_a_hub_appears_by_itself(empty_hub):
    dashboard = Dashboard(empty_hub)
    assert dashboard.state.project == ""
    empty_hub.tell("account.registered", "ada", None)
    empty_hub.tell("project.created", "p1", "p1", name="digits", owner="ada")
    until(lambda: dashboard.state.name == "digits")
    dashboard.close()


def test_another_project_can_be_chosen(hub):
    hub.tell("project.created", "p2", "p2", name="faces", owner="alan")
    dashboard = Dashboard(hub, "digits", follow=False)
    menu = dashboard.header.widget.children[1]
    assert isinstance(menu, widgets.Dropdown)
    assert (menu.value, menu.layout.display) == ("p1", None)
    menu.value = "p2"
    assert dashboard.state.name == "faces"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("run.started", {}),
        ("run.round", {"round": "x", "accuracy": True, "clients": "ada", "loss": None}),
        ("ledger.entry", {"index": 9, "amounts": {"ada": "lots", "grace": 5, "alan": None}}),
        ("ledger.entry", {"amounts": ["ada"]}),
        ("head.changed", {"number": "7", "accuracy": {}}),
        ("contribution.submitted", {"kind": 3, "author": None, "note": ["x"]}),
        ("contribution.rewarded", {"reward": "much", "value": "more"}),
        ("version.created", {"number": None}),
    ],
)
def test_a_malformed_event_is_drawn_around(hub, kind, data):
    dashboard = Dashboard(hub)
    hub.tell(kind, "r1", "p1", **data)
    last = hub.tell("account.registered", "emmy", None)
    until(lambda: dashboard.state.seq == last.seq)
    until(lambda: "emmy" in dashboard.activity.list.value)
    dashboard.close()


def test_one_project_needs_no_menu(hub):
    dashboard = Dashboard(hub, follow=False)
    assert dashboard.header.widget.children[1].layout.display == "none"


def test_missed_events_are_made_good_by_a_new_snapshot(hub):
    dashboard = Dashboard(hub)
    lost = hub.tell("account.registered", "emmy", None)
    until(lambda: dashboard.state.seq == lost.seq)
    dashboard.close()
    assert [m.name for m in dashboard.state.members] == ["ada", "grace", "alan", "emmy"]


def test_a_hub_that_is_away_is_shown_and_not_fatal(hub):
    dashboard = Dashboard(hub)
    hub.break_off(True)
    until(lambda: 'data-state="reconnecting"' in dashboard.header.widget.children[2].value)
    hub.break_off(False)
    until(lambda: 'data-state="live"' in dashboard.header.widget.children[2].value)
    dashboard.close()


def test_a_hub_that_is_away_at_the_start_is_an_error(hub):
    hub.away = True
    with pytest.raises(HubUnavailableError, match="away"):
        Dashboard(hub)


def test_closing_the_widget_ends_the_following(hub):
    dashboard = Dashboard(hub)
    dashboard.widget.close()
    hub.tell("account.registered", "emmy", None)
    time.sleep(0.3)
    assert dashboard.state.seq == len(hub.log) - 1


def test_links_lead_below_the_server_s_address(monkeypatch):
    assert page_base() is None
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    assert page_base() == "/"
    monkeypatch.setenv("VOILA_BASE_URL", "/lab/")
    assert page_base() == "/lab/"


def test_a_dashboard_kernel_imports_nothing_heavy():
    heavy = ("torch", "flwr", "sklearn", "duckdb", "sqlalchemy", "matplotlib", "scipy")
    program = (
        "import sys, neuronexus_kernel, neuronexus_widgets.dashboard\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_importing_the_package_imports_no_widget_library():
    program = "import sys, neuronexus_widgets; print([n for n in sys.modules if 'ipywid' in n])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
