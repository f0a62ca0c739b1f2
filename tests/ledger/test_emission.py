import pytest

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger.amounts import UNITS
from neuronexus_kernel.ledger.emission import CAP, reward


def test_one_percentage_point_earns_a_hundred_nxs():
    assert reward(10_000_000, minted=0) == 100 * UNITS


def test_the_smallest_value_earns_an_exact_amount():
    assert reward(1, minted=0) == 10**13


@pytest.mark.parametrize("value", [0, -1, -(10**12)])
def test_no_improvement_earns_nothing(value):
    assert reward(value, minted=0) == 0


def test_a_reward_never_exceeds_what_the_supply_has_left():
    assert reward(10**9, minted=CAP - 7) == 7
    assert reward(10**9, minted=CAP) == 0


@pytest.mark.parametrize(
    ("value", "minted"), [(0.01, 0), (True, 0), (1, -1), (1, CAP + 1), ("1", 0)]
)
def test_inexact_values_and_impossible_supplies_are_refused(value, minted):
    with pytest.raises(LedgerError):
        reward(value, minted=minted)
