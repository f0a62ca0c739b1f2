"""How the model gets better: the metric per round of the current run, and per version."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from neuronexus_widgets.panels import empty, frame, text
from neuronexus_widgets.plots import Curve, RoundChart, VersionChart
from neuronexus_widgets.state import DashboardState, RunView
from neuronexus_widgets.words import count, escape, measured, metric_title, metric_word

_PAST = 3
_START = "Start one from a notebook: <code>project.train(rounds=30)</code>"


class Training:
    """The metric per round of the latest run, with earlier runs faint behind it."""

    def __init__(self) -> None:
        self.facts = text("nx-run")
        self.chart = RoundChart()
        self._chart = frame([], "nx-chart")
        self.widget = frame([self.facts, self._chart], "nx-panel", "nx-training")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show the latest run."""
        run, metric = state.run, state.metric
        if run is None:
            self.facts.value = _title(metric, "") + empty("No training run yet", _START)
            self._chart.children = ()
            return
        self._chart.children = (self.chart.widget,)
        told = _title(metric, _standing(run)) + _facts(run, metric)
        self.facts.value = told + _progress(run)
        past = [_curve(old) for old in state.runs[-1 - _PAST : -1]]
        self.chart.update(_curve(run), rounds=run.rounds, past=past, metric=metric)


class Versions:
    """The metric of each model version; heads with what they reached on the held-out split."""

    def __init__(self) -> None:
        self.title = text("nx-versions-title")
        self.chart = VersionChart()
        self._chart = frame([], "nx-chart")
        self.widget = frame([self.title, self._chart], "nx-panel", "nx-versions")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show all versions."""
        seen = _points((v.number, v.accuracy) for v in state.versions)
        heads = _points((v.number, v.held_out) for v in state.versions)
        title = f"<h2>{escape(metric_title(state.metric))} per version</h2>"
        if not seen[0] and not heads[0]:
            hint = "Each training run that finishes makes one."
            self.title.value = title + empty("No trained version yet", hint)
            self._chart.children = ()
            return
        self._chart.children = (self.chart.widget,)
        self.title.value = title + (
            '<div class="nx-facts"><span><b class="nx-accent">●</b> validation</span>'
            '<span><b class="nx-gold">◆</b> became the head, held out</span></div>'
        )
        self.chart.update(seen, heads=heads, metric=state.metric)


def _title(metric: str, standing: str) -> str:
    name = escape(metric_title(metric))
    return f'<h2>{name} per round <small class="nx-right">{standing}</small></h2>'


def _standing(run: RunView) -> str:
    if run.state == "running":
        return '<span class="nx-accent">training</span>'
    made = f", made v{run.version}" if run.version is not None else ""
    return escape(f"{run.state}{made}")


def _facts(run: RunView, metric: str) -> str:
    done = run.history[-1] if run.history else None
    per_round = min(run.clients_per_round or run.clients, run.clients)
    facts = [f"round <b>{done.round if done else 0}</b> of {run.rounds}"]
    if done:
        facts.append(f"{escape(metric_word(metric))} <b>{measured(done.accuracy, metric)}</b>")
        if done.loss is not None:
            facts.append(f"loss <b>{done.loss:.3f}</b>")
        facts.append(f"<b>{done.seconds:.2f} s</b> a round")
    if run.participants:
        names = ", ".join(escape(name, 32) for name in run.participants[:6])
        facts.append(f"with <b>{names}</b>")
    else:
        facts.append(f"<b>{per_round}</b> of {escape(count(run.clients, 'client'))} a round")
    return f'<div class="nx-facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</div>'


def _progress(run: RunView) -> str:
    done = run.history[-1].round if run.history else 0
    share = min(100, round(100 * done / run.rounds)) if run.rounds else 0
    return f'<div class="nx-progress"><i style="width:{share}%"></i></div>'


def _curve(run: RunView) -> Curve:
    return _points((item.round, item.accuracy) for item in run.history)


def _points(pairs: Iterable[tuple[int, float | None]]) -> Curve:
    known = [(x, y) for x, y in pairs if y is not None]
    return [x for x, _ in known], [y for _, y in known]
