from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.ledger.amounts import MAX_UNITS, UNITS, format_nxs, parse_nxs, split


@pytest.mark.parametrize(
    ("value", "units"),
    [
        ("0", 0),
        ("12.5", 12_500_000_000_000_000_000),
        ("0.000000000000000001", 1),
        ("007.10", 7_100_000_000_000_000_000),
        ("1.0000000000000000000000", UNITS),
        (21_000_000, 21_000_000 * UNITS),
        (Decimal("1E-18"), 1),
        (Decimal("2.5E+3"), 2500 * UNITS),
        ("-0", 0),
    ],
)
def test_an_amount_is_read_exactly(value, units):
    assert parse_nxs(value) == units


@pytest.mark.parametrize(
    "value",
    [
        *("", " 1", "1 ", "1.", ".5", "1e3", "+1", "1,5", "NaN", "٣", "1_000"),
        *("0.0000000000000000001", "9" * 39, "9" * 400, 10**39, pytest.param(10**5000, id="huge")),
        *(Decimal("NaN"), Decimal("Infinity"), Decimal("1e90"), Decimal("1e999999999")),
        *(Decimal("1e-19"), 1.5, True, None),
    ],
)
def test_what_is_no_amount_is_refused(value):
    with pytest.raises(InvalidInputError):
        parse_nxs(value)


def test_a_negative_amount_is_read_only_where_asked_for():
    assert parse_nxs("-1.5", signed=True) == -3 * UNITS // 2
    with pytest.raises(InvalidInputError, match="below zero"):
        parse_nxs("-1.5")


@given(st.integers(-MAX_UNITS, MAX_UNITS))
def test_writing_and_reading_an_amount_changes_nothing(units):
    text = format_nxs(units)
    assert parse_nxs(text, signed=True) == units
    assert not text.endswith(".")
    assert "." not in text or not text.endswith("0")


def test_amounts_are_written_without_trailing_zeros():
    assert [format_nxs(u) for u in (0, 1, 12 * UNITS, -UNITS // 2)] == [
        "0",
        "0.000000000000000001",
        "12",
        "-0.5",
    ]


@settings(max_examples=200)
@given(
    st.integers(0, 10**30),
    st.lists(st.integers(0, 10**12), min_size=1, max_size=20).filter(any),
)
def test_a_split_loses_no_unit_and_is_within_one_unit_of_the_exact_part(total, weights):
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - total * weight) < sum(weights)
        assert weight or not part


def test_units_left_over_go_to_the_largest_remainders_and_of_equal_ones_to_the_first():
    assert split(10, [1, 1, 1]) == [4, 3, 3]
    assert split(7, [1, 5, 2]) == [1, 4, 2]
    assert split(2, [1, 1, 1]) == [1, 1, 0]


@pytest.mark.parametrize(("total", "weights"), [(5, []), (5, [0, 0]), (-1, [1]), (1, [2, -1])])
def test_a_split_that_nobody_could_mean_is_refused(total, weights):
    with pytest.raises(InvalidInputError):
        split(total, weights)
