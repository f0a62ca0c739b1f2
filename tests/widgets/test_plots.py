"""The charts: round axes and quiet updates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuronexus_widgets.plots import BalanceChart, RoundChart, VersionChart, ticks

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 9))
def test_ticks_enclose_what_they_must_evenly_and_are_few(low, width, most):
    marks = ticks(low, low + width, most=most)
    slack = 1e-6 * max(1.0, abs(low), width)
    assert marks[0] <= low + slack
    assert marks[-1] >= low + width - slack
    assert 2 <= len(marks) <= most + 3


@pytest.mark.parametrize(
    ("low", "high", "whole", "marks"),
    [
        (0.41, 0.955, False, [0.4, 0.6, 0.8, 1.0]),
        (0, 30, True, [0, 10, 20, 30]),
        (0, 0, True, [0, 1]),
        (0.88, 0.95, False, [0.88, 0.9, 0.92, 0.94, 0.96]),
    ],
)
def test_ticks_are_round_numbers(low, high, whole, marks):
    assert ticks(low, high, most=4, least=1 if whole else 0.005) == marks


def test_a_curve_that_is_drawn_again_sends_nothing():
    chart = RoundChart()
    chart.update(([1, 2], [0.5, 0.6]), rounds=5, past=[([1], [0.4])])
    sent: list[object] = []
    for mark in (chart.line, chart.tip, chart.past, chart.x, chart.y, chart.up, chart.across):
        mark.observe(sent.append)
    chart.update(([1, 2], [0.5, 0.6]), rounds=5, past=[([1], [0.4])])
    assert sent == []
    chart.update(([1, 2, 3], [0.5, 0.6, 0.7]), rounds=5)
    assert sent
    assert chart.tip.x.tolist() == [3.0]


@pytest.mark.parametrize(
    "past", [[([1], [0.4])], [([1], [0.4]), ([1], [0.5])], [([1, 2], [0.1, 0.2]), ([1], [0.5])]]
)
def test_runs_that_stopped_after_one_round_do_not_break_the_chart(past):
    chart = RoundChart()
    chart.update(([1], [0.5]), rounds=3, past=past)
    assert chart.line.y.tolist() == [0.5]


def test_earlier_runs_of_unequal_length_are_all_drawn():
    chart = RoundChart()
    chart.update(([1], [0.5]), past=[([1, 2], [0.1, 0.2]), ([1, 2, 3], [0.3, 0.4, 0.5])])
    assert chart.past.y.tolist() == [[0.1, 0.2, 0.2], [0.3, 0.4, 0.5]]


def test_the_axis_of_accuracy_never_goes_beyond_all():
    chart = RoundChart()
    chart.update(([1, 2, 3], [0.2, 0.99, 1.0]), rounds=3)
    assert (chart.y.min, chart.y.max) == (0.2, 1.0)


@pytest.mark.parametrize("chart", [RoundChart(), VersionChart()])
def test_marks_are_percentages_of_accuracy_and_plain_numbers_of_other_metrics(chart):
    chart.update(([1, 2], [-0.5, 0.25]), metric="r2")
    assert chart.up.tick_format == "~g"
    assert chart.y.min <= -0.5
    chart.update(([1, 2], [0.5, 0.75]))
    assert chart.up.tick_format == ".0%"


def test_marks_that_lie_close_together_read_differently():
    chart = RoundChart()
    chart.update(([1, 2], [0.981, 0.985]))
    assert chart.up.tick_format == ".1%"


def test_a_single_version_is_drawn():
    chart = VersionChart()
    chart.update(([3], [0.9]), heads=([3], [0.88]))
    assert chart.across.tick_values.tolist() == [3.0, 4.0]
    assert chart.y.min <= 0.88
    assert chart.y.max >= 0.9


@pytest.mark.parametrize(("age", "unit"), [(20, "s"), (600, "min"), (20_000, "h"), (400_000, "d")])
def test_the_axis_of_time_reads_in_a_fitting_unit(age, unit):
    chart = BalanceChart()
    chart.update([NOW - timedelta(seconds=age)], [5.0], NOW)
    labels = set(chart.across.tick_labels.values())
    assert "now" in labels
    assert all(label.endswith(unit) for label in labels - {"now"})
    assert len(labels) > 2
