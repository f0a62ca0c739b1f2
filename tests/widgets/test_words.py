"""Numbers, times and sentences as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuronexus_widgets import words

from neuronexus_kernel.hub.records import Event
from neuronexus_kernel.ledger.amounts import UNITS

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@given(st.text(max_size=200))
def test_escaped_text_holds_no_character_that_could_open_a_tag_or_end_an_attribute(text):
    escaped = words.escape(text)
    assert not set("<>\"'") & set(escaped)


@given(st.text(max_size=200))
def test_escaped_text_cannot_hide_or_reorder_what_follows(text):
    assert not any(character in "\x00\x1b‪‮⁦⁩" for character in words.escape(text))


def test_long_text_is_cut():
    assert words.escape("a" * 500, 10) == "a" * 9 + "…"


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (0, "0.00"),
        (12_345 * UNITS // 10, "1,234.50"),
        (-UNITS // 2, "−0.50"),
        (UNITS - 1, "0.99"),
        (1, "0.00"),
        (-1, "0.00"),
        (10**27 * UNITS, f"{10**27:,}.00"),
    ],
)
def test_amounts_are_rounded_towards_zero_and_grouped(units, text):
    assert words.nxs(units) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0123, "+1.23 pp"), (-0.0031, "−0.31 pp"), (0.0, "0.00 pp")]
)
def test_an_improvement_has_its_sign(value, text):
    assert words.improvement(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("r2", 0.0123, "+0.0123 R²"),
        ("r2", -0.0031, "−0.0031 R²"),
        ("r2", None, "–"),
        ("perplexity", 0.5, "+0.5000 perplexity"),
    ],
)
def test_an_improvement_of_another_metric_is_a_plain_number(metric, value, text):
    assert words.improvement(value, metric) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.8456, "84.6%"),
        ("accuracy", None, "–"),
        ("r2", 0.8456, "0.846"),
        ("r2", -1.25, "−1.250"),
        ("r2", -0.0001, "0.000"),
        ("r2", None, "–"),
        ("perplexity", 12.5, "12.500"),
    ],
)
def test_a_value_reads_as_its_metric_does(metric, value, text):
    assert words.measured(value, metric) == text


@pytest.mark.parametrize(
    ("metric", "title"), [("accuracy", "Accuracy"), ("r2", "R²"), ("perplexity", "Perplexity")]
)
def test_a_title_begins_with_a_capital(metric, title):
    assert words.metric_title(metric) == title


def test_what_was_measured_is_told_by_the_name_of_the_metric(hub):
    told = {event.kind: words.tell(event, "r2") for event in hub.log}
    assert told["run.round"] == "Round 3 reached R² 0.800"
    assert told["head.changed"] == "Version 1 is the new head: R² 0.780 held out"
    assert told["contribution.rewarded"].endswith("is worth +0.6125 R²")
    told = {event.kind: words.tell(event) for event in hub.log}
    assert told["run.round"] == "Round 3 reached 80.0%"
    assert told["head.changed"] == "Version 1 is the new head: 78.0% held out"
    assert told["contribution.rewarded"].endswith("is worth +61.25 pp")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (3, "just now"), (25, "20 s ago"), (300, "5 min ago"), (7300, "2 h ago")],
)
def test_times_read_as_how_long_ago(seconds, text):
    assert words.ago((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == text


def test_a_malformed_time_reads_as_nothing():
    assert words.ago("yesterday-ish", NOW) == ""


def test_every_kind_of_event_of_the_hub_is_told_or_left_out_on_purpose(hub):
    told = {event.kind for event in hub.log if words.tell(event) is not None}
    untold = {event.kind for event in hub.log} - told
    assert untold == {"contribution.evaluating", "contribution.accepted"}


def test_nobody_is_said_to_have_trained_the_weights_that_a_project_begins_with(hub):
    first = next(event for event in hub.log if event.kind == "version.created")
    assert first.data["number"] == 0
    assert words.tell(first) is None


def test_a_project_from_another_hub_is_told_as_such(hub):
    data = {"name": "digits", "owner": "ada", "metric": "accuracy"}
    made = hub.tell("project.created", "p9", **data)
    assert words.tell(made) == "<b>ada</b> opened the project <b>digits</b>"
    came = hub.tell("project.created", "p9", **data, origin="0123456789ab")
    assert words.tell(came) == "<b>ada</b> brought the project <b>digits</b> from another hub"


def test_a_run_that_goes_on_is_told(hub):
    event = hub.tell("run.resumed", "r1", author="ada", rounds=9, participants=[], was="running")
    assert words.tell(event) == "<b>ada</b> went on with a run of 9 rounds"


def test_an_entry_of_the_ledger_names_everybody_it_pays():
    data = {"amounts": {"ada": "12.5", "grace": "1000", "nx:emission": "-1012.5"}}
    event = Event(
        seq=1, previous=0, time="", kind="ledger.entry", project=None, subject="e", data=data
    )
    told = words.tell(event)
    assert told == "<b>ada</b> earned 12.50 NXS, <b>grace</b> earned 1,000.00 NXS"


def test_a_sentence_about_a_hostile_event_is_harmless():
    data = {"author": "<img src=x onerror=alert(1)>", "kind": "<script>", "reward": "1"}
    event = Event(
        seq=1,
        previous=0,
        time="",
        kind="contribution.rewarded",
        project=None,
        subject="c",
        data=data,
    )
    told = words.tell(event)
    assert told is not None
    assert "<img" not in told
    assert "<script" not in told
