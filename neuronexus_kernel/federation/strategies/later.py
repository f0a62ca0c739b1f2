"""A strategy in Flower's loop: it may begin at a later round, and its arrays stay arrays.

Flower's loop counts from 1.  When a run goes on, the strategy, and through its messages the
clients, must hear of the true round: Adam's bias correction, schedules and all chance depend on
it.  And Flower's strategies return arrays as bytes, which every reader would decode anew; here
they are decoded once, where they pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MetricRecord,
    Strategy,
)
from neuronexus_kernel.federation.arrays import from_record, to_record


class Later(Strategy):
    """Passes another strategy's rounds on, counted from a later one.

    Parameters
    ----------
    strategy
        In the state that it had after the round before.
    first_round
        Number of the first round.

    Raises
    ------
    InvalidInputError
        If the strategy has a loop of its own.
    """

    def __init__(self, strategy: Strategy, *, first_round: int) -> None:
        if has_own_loop(strategy):
            raise InvalidInputError(
                f"{type(strategy).__name__} runs its rounds by itself (it overrides start), so it "
                f"cannot go on at round {first_round}; begin the run anew."
            )
        self._strategy = strategy
        self._skipped = first_round - 1

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the training of the true round."""
        number = server_round + self._skipped
        return self._strategy.configure_train(number, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the training of the true round."""
        number = server_round + self._skipped
        given = list(replies)
        arrays, metrics = self._strategy.aggregate_train(number, given)
        if isinstance(replies, list):
            replies.clear()  # Flower's loop would hold the round's models until the next is trained
        return None if arrays is None else to_record(from_record(arrays)), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the evaluation of the true round."""
        number = server_round + self._skipped
        return self._strategy.configure_evaluate(number, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the evaluation of the true round."""
        return self._strategy.aggregate_evaluate(server_round + self._skipped, replies)

    def summary(self) -> None:
        """Log the settings of the strategy inside."""
        self._strategy.summary()


def has_own_loop(strategy: Strategy) -> bool:
    """Tell whether a strategy does not run in Flower's loop."""
    return type(strategy).start is not Strategy.start
