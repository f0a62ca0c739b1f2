"""What the panels say: figures, states, empty states, and nothing that could run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import ipywidgets as widgets
import pytest
from neuronexus_widgets.dashboard import Dashboard
from neuronexus_widgets.panels.activity import Activity
from neuronexus_widgets.panels.contributions import ROWS, Contributions
from neuronexus_widgets.panels.figures import Figures, figures
from neuronexus_widgets.panels.header import Header
from neuronexus_widgets.panels.network import NetworkStatistics
from neuronexus_widgets.panels.tokens import Tokens
from neuronexus_widgets.panels.training import Training, Versions
from neuronexus_widgets.snapshot import load
from neuronexus_widgets.state import DashboardState

from neuronexus_kernel.hub.records import NetworkNode

NOW = datetime(2026, 11, 22, 10, 1, 0, tzinfo=UTC)
EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>&lt;b&gt;"
SAFE_TAGS = {
    *("div", "span", "b", "i", "small", "h2", "p", "a", "code", "time", "ul", "li", "table"),
    *("thead", "tbody", "tr", "th", "td", "svg", "g", "path", "circle", "style"),
}
SAFE_ATTRIBUTES = {
    *("class", "title", "href", "role", "style", "tabindex", "viewbox", "fill", "stroke", "r"),
    *("stroke-width", "d", "cx", "cy", "aria-hidden"),
}


class Inspector(HTMLParser):
    """Collects what of a piece of markup is not known to be harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in SAFE_TAGS:
            self.bad.append(tag)
        for name, value in attrs:
            if name not in SAFE_ATTRIBUTES and not name.startswith("data-"):
                self.bad.append(f"{tag} {name}")
            if name == "href" and not (value or "").startswith("/neuronexus/"):
                self.bad.append(f"{tag} href={value}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def inspect(markup: str) -> Inspector:
    inspector = Inspector()
    inspector.feed(markup)
    inspector.close()
    return inspector


def markup_of(widget: widgets.Widget) -> list[str]:
    """All markup shown by a widget and those inside it."""
    if isinstance(widget, widgets.HTML):
        return [widget.value]
    return [text for child in getattr(widget, "children", ()) for text in markup_of(child)]


def shown(panel, state: DashboardState) -> str:
    panel.update(state, NOW)
    return "".join(markup_of(panel.widget))


@pytest.fixture
def evil_hub(scripted):
    """A hub in which every text that people can choose, and some they cannot, is an attack."""
    hub = scripted(name=EVIL)
    hub.tell("account.registered", EVIL, None)
    hub.tell("project.created", "p1", "p1", name=EVIL, owner=EVIL, metric=EVIL)
    hub.tell("version.created", "v0", number=0, author=EVIL, accuracy=0.5)
    hub.tell("head.changed", "v0", number=0, accuracy=0.5)
    hub.tell(
        "run.started",
        "r1",
        author=EVIL,
        rounds=2,
        participants=[EVIL],
        clients=1,
        clients_per_round=1,
    )
    hub.tell("run.round", "r1", round=1, loss=1.0, accuracy=0.5, seconds=0.1, clients=[EVIL])
    hub.tell("run.finished", "r1", state=EVIL, version=None)
    said = {"kind": EVIL, "author": EVIL, "note": EVIL, "value": 0.1, "reason": EVIL}
    for stage in ("submitted", "rewarded"):
        hub.tell(f"contribution.{stage}", EVIL, "p1", **said, reward="1")
    hub.tell("contribution.confirmed", EVIL, account=EVIL)
    hub.tell("ledger.entry", "e0", index=0, contribution=EVIL, amounts={EVIL: "1"})
    hub.tell("data.joined", "p1", rows=EVIL, by=EVIL)
    hub.tell("recipe.changed", "p1", recipe=EVIL, by=EVIL, contribution=EVIL)
    yield hub
    hub.close()


@pytest.mark.parametrize("own_page", [False, True])
def test_no_text_from_people_can_become_markup(evil_hub, monkeypatch, own_page):
    if own_page:
        monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5")
        monkeypatch.setenv("VOILA_BASE_URL", "/")
    dashboard = Dashboard(evil_hub, follow=False)
    pieces = markup_of(dashboard.widget)
    seen = inspect("".join(piece for piece in pieces if "<style>" not in piece))
    assert seen.bad == []
    assert EVIL[:30] in "".join(seen.text)  # it is shown, as text


def test_the_menu_of_projects_holds_plain_text(evil_hub):
    evil_hub.tell("project.created", "p2", "p2", name=EVIL * 3, owner=EVIL)
    dashboard = Dashboard(evil_hub, follow=False)
    menu = dashboard.header.widget.children[1]
    assert isinstance(menu, widgets.Dropdown)  # whose options the browser shows as text only
    assert menu.options[0] == (EVIL, "p1")


def test_the_figures_tell_the_state(hub):
    told = figures(load(hub), NOW)
    assert told["accuracy"].value == "78.0%"
    assert told["version"].value == "v1"
    assert (told["balance"].value, told["balance"].unit) == ("612.50", "NXS")
    assert (told["members"].value, told["members"].unit) == ("3", "of 3")
    assert (told["contributions"].value, told["contributions"].hint) == ("2", "1 rewarded")
    assert told["minted"].value == "612"


def test_a_project_that_measures_something_else_is_shown_in_its_terms(quantities_hub):
    dashboard = Dashboard(quantities_hub, follow=False)
    pieces = [piece for piece in markup_of(dashboard.widget) if "<style>" not in piece]
    text = "".join(inspect("".join(pieces)).text)
    for words in (
        "R² per round",
        "R² 0.800",
        "R² per version",
        "Held-out R²",
        "0.780",
        "+0.6125 R²",
        "Round 3 reached R² 0.800",
        "is worth +0.6125 R²",
    ):
        assert words in text
    assert "ccuracy" not in text
    assert "%" not in text
    assert " pp" not in text
    assert "data, in R²" in dashboard.contributions.table.value
    assert dashboard.training.chart.up.tick_format == "~g"
    assert dashboard.versions.chart.up.tick_format == "~g"


def test_what_a_better_head_gained_is_told_in_terms_of_the_metric(quantities_hub):
    quantities_hub.tell("version.created", "v2", number=2, author="ada", accuracy=0.85)
    quantities_hub.tell("head.changed", "v2", number=2, accuracy=0.83)
    told = figures(load(quantities_hub), NOW)["accuracy"]
    assert (told.label, told.value) == ("Held-out R²", "0.830")
    assert told.hint == "+0.050 since v1"


def test_each_project_is_shown_in_terms_of_its_own_metric(hub):
    hub.tell("project.created", "p2", "p2", name="prices", owner="alan", metric="r2")
    hub.tell("head.changed", "w1", "p2", number=4, accuracy=0.25)
    dashboard = Dashboard(hub, "digits", follow=False)
    assert "Accuracy per round" in dashboard.training.facts.value
    told = dashboard.activity.list.value
    assert "Version 4 is the new head: R² 0.250 held out" in told
    assert "Version 1 is the new head: 78.0% held out" in told
    dashboard.header.widget.children[1].value = "p2"
    assert "R² per round" in dashboard.training.facts.value
    assert "Held-out R²" in dashboard.figures.tiles["accuracy"].widget.value


def test_a_figure_glows_only_for_a_moment_after_it_changed(hub):
    panel, state = Figures(), load(hub)
    assert "nx-changed" not in shown(panel, state)
    panel.update(replace(state, tokens=()), NOW)
    assert "nx-changed" in panel.tiles["balance"].widget.value
    panel.update(replace(state, tokens=()), NOW.replace(second=30))
    assert "nx-changed" not in panel.tiles["balance"].widget.value


def test_a_panel_that_has_nothing_new_sends_nothing(hub):
    dashboard = Dashboard(hub, follow=False)
    sent: list[object] = []

    def watch(widget: widgets.Widget) -> None:
        widget.observe(sent.append)
        for child in getattr(widget, "children", ()):
            watch(child)

    watch(dashboard.widget)
    now = NOW
    for panel in (dashboard.training, dashboard.versions, dashboard.network, dashboard.header):
        panel.update(dashboard.state, now)
    dashboard.scene.update(dashboard.state)
    assert sent == []


def test_contributions_show_kind_state_value_reward_and_reason_in_words(hub):
    markup = shown(Contributions(), load(hub))
    assert 'data-state="rewarded"' in markup
    assert 'data-kind="hyperparameters"' in markup
    text = " ".join(inspect(markup).text)
    for words in (
        "training",
        "first training",
        "+61.25 pp",
        "612.50 NXS",
        "−0.31 pp",
        "It does not improve the model.",
        "1 rewarded, 1 refused",
    ):
        assert words in text


def test_a_contribution_that_waits_for_people_names_them(hub):
    state = load(hub)
    waiting = replace(state.contributions[1], waiting=("grace", "alan"))
    state = replace(state, contributions=(waiting,))
    assert "waits for grace, alan to confirm" in shown(Contributions(), state)


def test_a_long_history_is_cut_and_says_so(hub):
    state = load(hub)
    many = tuple(replace(state.contributions[0], id=f"c{n}") for n in range(ROWS + 5))
    markup = shown(Contributions(), replace(state, contributions=many))
    assert markup.count("<tr ") == ROWS
    assert "5 earlier contributions" in markup


def test_a_contribution_that_changed_stands_out_for_a_moment(hub):
    panel, state = Contributions(), load(hub)
    assert "nx-fresh" not in shown(panel, state)
    moved = replace(state.contributions[0], state="evaluating")
    changed = replace(state, contributions=(moved, *state.contributions[1:]))
    assert shown(panel, changed).count("nx-fresh") == 1
    panel.update(changed, NOW.replace(second=30))
    assert "nx-fresh" not in "".join(markup_of(panel.widget))


@pytest.mark.parametrize(
    ("panel", "words"),
    [
        (Contributions, "project.submit(...)"),
        (Training, "No training run yet"),
        (Versions, "No trained version yet"),
        (Tokens, "You look as a guest"),
        (NetworkStatistics, "Nobody is here yet"),
        (Activity, "Nothing has happened yet"),
        (lambda: Header(print), "no project yet"),
    ],
)
def test_empty_panels_say_what_would_fill_them(empty_hub, panel, words):
    markup = shown(panel(), load(empty_hub))
    assert words in "".join(inspect(markup).text)


def test_the_run_panel_tells_how_far_the_run_is(hub):
    hub.tell(
        "run.started",
        "r2",
        author="grace",
        rounds=4,
        participants=["ada", "grace"],
        clients=2,
        clients_per_round=2,
    )
    hub.tell("run.round", "r2", round=1, loss=0.5, accuracy=0.6, seconds=0.2, clients=["ada"])
    panel = Training()
    markup = shown(panel, load(hub))
    assert "width:25%" in markup
    text = "".join(inspect(markup).text)
    assert "training" in text
    assert "with ada, grace" in text
    assert list(panel.chart.line.y) == [0.6]
    assert panel.chart.past.y.tolist() == [0.5, 0.7, 0.8]


def test_the_version_panel_marks_heads(hub):
    panel = Versions()
    shown(panel, load(hub))
    assert (panel.chart.all.x.tolist(), panel.chart.all.y.tolist()) == ([1.0], [0.8])
    assert (panel.chart.heads.x.tolist(), panel.chart.heads.y.tolist()) == ([1.0], [0.78])


def test_tokens_show_entries_and_a_balance_over_time(hub):
    panel = Tokens()
    text = "".join(inspect(shown(panel, load(hub))).text)
    assert "+612.50 NXS" in text
    assert panel.chart.line.y.tolist() == [0.0, 612.5, 612.5]
    assert panel.chart.x.max == 0


def test_members_here_and_richest_come_first_and_the_visitor_is_marked(hub):
    node = NetworkNode(
        name="zeno",
        role="operator",
        online=False,
        training=False,
        contributions=0,
        rewarded=0,
        balance="9000",
    )
    state = load(hub)
    markup = shown(NetworkStatistics(), replace(state, members=(node, *state.members)))
    order = [markup.index(f'data-name="{name}"') for name in ("ada", "alan", "zeno")]
    assert order == sorted(order)
    assert "you" in markup
    assert "operator" in markup


def test_rounds_of_one_run_and_parts_of_one_reward_take_one_line_of_the_activity(hub):
    said = {"kind": "compute", "author": "ada", "value": 0.6125, "reward": "700"}
    hub.tell("contribution.rewarded", "c1", "p1", **said)
    markup = shown(Activity(), load(hub))
    assert markup.count("Round ") == 1
    assert markup.count("is worth +61.25 pp") == 1


def test_links_are_only_on_the_dashboard_s_own_page(hub):
    state = load(hub)
    assert "<a " not in shown(Header(print), state)
    assert 'href="/out"' in shown(Header(print, sign_out="/out", sign_in="/in"), state)


@pytest.mark.parametrize("connection", ["live", "reconnecting", "signed-out"])
def test_the_header_says_how_the_connection_stands(hub, connection):
    header = Header(print, sign_out="/out", sign_in="/in")
    header.connection = connection
    markup = shown(header, load(hub))
    assert f'data-state="{connection}"' in markup
    assert ("Sign in again" in markup) == (connection == "signed-out")
