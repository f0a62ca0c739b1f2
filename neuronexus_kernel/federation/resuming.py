"""Whether a checkpoint is of the run that is asked for, and where that run stopped.

A run is told by its arguments: all that decides its weights and history, as plain values.  They
are compared one by one, so that a refusal can name what differs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import cast

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation.checkpoint import Checkpoint, Saved
from neuronexus_kernel.federation.executors.plan import library_versions


def saved_rounds(
    store: Checkpoint, arguments: Mapping[str, Node], *, rounds: int, versions: Mapping[str, str]
) -> Saved | None:
    """Return what a checkpoint holds of a run; None if it holds no round.

    Parameters
    ----------
    store
        The checkpoint, open.
    arguments
        What tells the run.
    rounds
        How many rounds are asked for.
    versions
        Of the libraries that the run's plan was made with.

    Raises
    ------
    InvalidInputError
        If the checkpoint is of another run, or has more rounds.
    StoreError
        If it cannot be read.

    Warns
    -----
    RuntimeWarning
        If it was made with other versions of the libraries.
    """
    if store.run is None:
        return None
    _check_same(cast("Mapping[str, Node]", store.run["arguments"]), arguments, store)
    _compare_versions(versions, store)
    saved = store.load()
    if saved is not None and saved.round > rounds:
        raise InvalidInputError(
            f"rounds is {rounds}, but the checkpoint {store} has {saved.round} rounds already: "
            "ask for as many or more."
        )
    return saved


def _check_same(there: Mapping[str, Node], now: Mapping[str, Node], store: Checkpoint) -> None:
    differing = sorted(_differences(dict(there), dict(now), ""))
    if differing:
        shown = "; ".join(
            f"{name} is {_show(mine)} there and {_show(given)} now"
            for name, mine, given in differing[:5]
        )
        more = f" (and {len(differing) - 5} more)" if len(differing) > 5 else ""
        raise InvalidInputError(
            f"The checkpoint {store} is of another run: {shown}{more}. Train with the same "
            "arguments to go on, or name another folder."
        )


def _differences(there: Node, now: Node, path: str) -> list[tuple[str, object, object]]:
    if isinstance(there, dict) and isinstance(now, dict):
        return [
            each
            for name in sorted({*there, *now})
            for each in _differences(
                there.get(name), now.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if there == now and type(there) is type(now) else [(path, there, now)]


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compare_versions(there: Mapping[str, str], store: Checkpoint) -> None:
    here = library_versions()
    changed = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
    if changed:
        warnings.warn(
            f"The checkpoint {store} was made with another version of {', '.join(changed)}: the "
            "weights may differ in their last bits from those of a run never stopped.",
            RuntimeWarning,
            stacklevel=4,
        )
