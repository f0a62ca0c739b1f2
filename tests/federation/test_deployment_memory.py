"""What a node keeps between rounds, and which of it counts."""

from __future__ import annotations

import numpy as np
import pytest

from neuronexus_kernel.federation.deployment.memory import ForgottenError, Memory


def state(value: float) -> dict[str, dict[str, np.ndarray]]:
    return {"control": {"linear_1.weight": np.full((2, 3), value, np.float32)}}


def value_of(kept: object) -> float:
    return float(kept["control"]["linear_1.weight"][0, 0])  # type: ignore[index]


@pytest.fixture
def memory() -> Memory:
    """A memory after rounds 1 and 4."""
    return Memory().after("run", 0, 1, state(1.0)).after("run", 1, 4, state(4.0))


def test_a_training_starts_from_what_was_kept_when_the_last_update_counted(memory: Memory) -> None:
    assert value_of(memory.recall("run", 4)) == 4.0
    assert value_of(memory.recall("run", 1)) == 1.0, "round 4 was lost"
    assert memory.recall("run", 0) == {}, "nothing has counted yet"


def test_what_did_not_count_is_forgotten_with_the_next_training(memory: Memory) -> None:
    again = memory.after("run", 1, 5, state(5.0))
    assert value_of(again.recall("run", 5)) == 5.0
    with pytest.raises(ForgottenError, match="after round 4"):
        again.recall("run", 4)


def test_what_another_run_kept_is_of_no_use(memory: Memory) -> None:
    with pytest.raises(ForgottenError):
        memory.recall("another", 4)
    assert value_of(memory.after("another", 0, 1, state(7.0)).recall("another", 1)) == 7.0


def test_a_memory_comes_out_as_it_went_in(memory: Memory) -> None:
    read = Memory.decode(memory.encode())
    assert read.encode() == memory.encode()
    assert value_of(read.recall("run", 4)) == 4.0
    assert Memory.decode(Memory("run", {3: {"own": {}}}).encode()).recall("run", 3) == {"own": {}}


@pytest.mark.parametrize("length", [0, 1, 20, 100, -1])
def test_a_spoilt_memory_is_an_empty_one(memory: Memory, length: int) -> None:
    with pytest.raises(ForgottenError):
        Memory.decode(memory.encode()[:length]).recall("run", 4)
