"""How things read on the page: numbers, times, states and events in plain words, safely escaped.

Names and notes come from other people and are hostile until `escape` has seen them; every
function here that returns markup returns it ready to be placed in an HTML widget.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import UTC, datetime

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.records import JSON, Event
from neuronexus_kernel.ledger.amounts import UNITS, parse_nxs

DASH = "–"
MINUS = "−"

_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127))
_CONTROL |= dict.fromkeys((*range(8234, 8239), *range(8294, 8298)))


def escape(text: object, limit: int = 400) -> str:
    """Return text that can only ever be shown as text, in content and in quoted attributes.

    Control characters and those that turn the direction of writing are dropped, and text beyond
    `limit` characters is cut with an ellipsis.
    """
    plain = str(text).translate(_CONTROL)
    if len(plain) > limit:
        plain = plain[: limit - 1] + "…"
    return html.escape(plain, quote=True)


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal, or a dash."""
    return DASH if value is None else f"{value * 100:.1f}%"


METRIC_WORDS = {"r2": "R²"}


def metric_word(metric: str) -> str:
    """Return what a metric is called on the page; it is not escaped."""
    return METRIC_WORDS.get(metric, metric)


def metric_title(metric: str) -> str:
    """Return what a metric is called at the beginning of a title; it is not escaped."""
    word = metric_word(metric)
    return word[:1].upper() + word[1:]


def measured(value: float | None, metric: str) -> str:
    """Return a measured value for reading: a percentage of accuracy, else a plain number."""
    if metric == "accuracy" or value is None:
        return percent(value)
    shown = f"{abs(value):.3f}"
    return f"{MINUS}{shown}" if value < 0 and float(shown) else shown


def improvement(value: float | None, metric: str = "accuracy") -> str:
    """Return an improvement with its sign, or a dash; of accuracy in percentage points."""
    if value is None:
        return DASH
    percentage = metric == "accuracy"
    shown = f"{abs(value) * 100:.2f}" if percentage else f"{abs(value):.4f}"
    sign = "" if float(shown) == 0 else "+" if value > 0 else MINUS
    return f"{sign}{shown} {'pp' if percentage else metric_word(metric)}"


def nxs(units: int, places: int = 2) -> str:
    """Return an amount in NXS for reading, rounded towards zero and grouped by thousands."""
    step: int = 10**places
    shown = abs(units) * step // UNITS
    whole, fraction = divmod(shown, step)
    text = f"{whole:,}.{fraction:0{places}d}" if places else f"{whole:,}"
    return f"{MINUS}{text}" if units < 0 and shown else text


def nxs_text(amount: str | None, places: int = 2) -> str:
    """Return exact decimal text of an amount for reading; a dash for none or nonsense."""
    if not amount:
        return DASH
    try:
        return nxs(parse_nxs(amount, signed=True), places)
    except InvalidInputError:
        return DASH


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(time: str) -> datetime | None:
    """Return an RFC 3339 time, or None if the text is none."""
    try:
        value = datetime.fromisoformat(time)
    except ValueError:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def ago(time: str, now: datetime) -> str:
    """Return how long ago a time was, as ``12 s ago`` or a date."""
    value = moment(time)
    if value is None:
        return ""
    seconds = (now - value).total_seconds()
    if seconds < 10:
        return "just now"
    if seconds < 60:
        return f"{int(seconds // 10) * 10} s ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 86400:
        return f"{int(seconds // 3600)} h ago"
    return value.strftime("%d %b %Y")


def when(time: str, now: datetime) -> str:
    """Return markup of a time: how long ago, with the exact time on hovering."""
    return f'<time title="{escape(time)}">{escape(ago(time, now))}</time>'


KIND_WORDS = {
    "code": "architecture",
    "compute": "training",
    "data": "data",
    "hyperparameters": "hyperparameters",
}
STATE_WORDS = {
    "submitted": "queued",
    "evaluating": "measuring",
    "accepted": "accepted",
    "rejected": "rejected",
    "failed": "failed",
    "rewarded": "rewarded",
}


def tell(event: Event, metric: str = "accuracy") -> str | None:
    """Return an event as one escaped sentence, or None if it is not worth telling.

    Parameters
    ----------
    event
        What happened.
    metric
        What the event's project measures.
    """
    if event.kind in _TELLERS_OF_VALUES:
        return _TELLERS_OF_VALUES[event.kind](event, metric)
    teller = _TELLERS.get(event.kind)
    return teller(event) if teller else None


def _name(value: JSON) -> str:
    return f"<b>{escape(value, 40)}</b>" if isinstance(value, str) and value else "someone"


def _number(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _value(event: Event, metric: str) -> str:
    """Return what was measured, with the metric's name unless the percent sign tells it."""
    value = measured(_number(event.data.get("accuracy")), metric)
    return value if metric == "accuracy" else f"{escape(metric_word(metric))} {value}"


def _kind(event: Event) -> str:
    kind = str(event.data.get("kind", ""))
    return escape(KIND_WORDS.get(kind, kind) or "a contribution", 40)


def _project(event: Event) -> str:
    owner, name = _name(event.data.get("owner")), _name(event.data.get("name"))
    if "origin" in event.data:
        return f"{owner} brought the project {name} from another hub"
    return f"{owner} opened the project {name}"


def _started(event: Event) -> str:
    rounds, clients = event.data.get("rounds", 0), event.data.get("clients", 0)
    return f"{_name(event.data.get('author'))} started {escape(rounds)} rounds on " + (
        f"{escape(clients)} clients"
    )


def _round(event: Event, metric: str) -> str:
    return f"Round {escape(event.data.get('round'))} reached {_value(event, metric)}"


def _resumed(event: Event) -> str:
    rounds = escape(event.data.get("rounds", 0))
    return f"{_name(event.data.get('author'))} went on with a run of {rounds} rounds"


def _finished(event: Event) -> str:
    version = event.data.get("version")
    made = f" and made version {escape(version)}" if isinstance(version, int) else ""
    return f"Training {escape(event.data.get('state') or 'finished', 20)}{made}"


def _submitted(event: Event) -> str:
    return f"{_name(event.data.get('author'))} submitted {_kind(event)}"


def _rewarded(event: Event, metric: str) -> str:
    value = escape(improvement(_number(event.data.get("value")), metric))
    return f"{_kind(event).capitalize()} by {_name(event.data.get('author'))} is worth {value}"


def _entry(event: Event) -> str | None:
    amounts = event.data.get("amounts")
    if not isinstance(amounts, dict):
        return None
    parts = [
        f"{_name(account)} earned {nxs_text(amount)} NXS"
        for account, amount in amounts.items()
        if isinstance(amount, str) and not amount.startswith("-")
    ]
    return ", ".join(parts[:4]) or None


def _head(event: Event, metric: str) -> str:
    value = _value(event, metric)
    return f"Version {escape(event.data.get('number'))} is the new head: {value} held out"


def _version(event: Event) -> str | None:
    if not event.data.get("number"):
        return None  # the weights that a project begins with; nobody trained them
    return f"{_name(event.data.get('author'))} trained version {escape(event.data['number'])}"


_TELLERS: dict[str, Callable[[Event], str | None]] = {
    "account.registered": lambda event: f"{_name(event.subject)} joined the network",
    "project.created": _project,
    "run.started": _started,
    "run.resumed": _resumed,
    "run.finished": _finished,
    "version.created": _version,
    "recipe.changed": lambda event: f"{_name(event.data.get('by'))} improved the head recipe",
    "data.joined": lambda event: (
        f"{escape(event.data.get('rows'))} rows from "
        f"{_name(event.data.get('by'))} joined the training data"
    ),
    "contribution.submitted": _submitted,
    "contribution.rejected": lambda event: (
        f"{_kind(event).capitalize()} by {_name(event.data.get('author'))} was rejected"
    ),
    "contribution.failed": lambda event: (
        f"{_kind(event).capitalize()} by {_name(event.data.get('author'))} could not be measured"
    ),
    "ledger.entry": _entry,
    "contribution.confirmed": lambda event: f"{_name(event.data.get('account'))} confirmed a share",
}

_TELLERS_OF_VALUES: dict[str, Callable[[Event, str], str]] = {
    "run.round": _round,
    "head.changed": _head,
    "contribution.rewarded": _rewarded,
}
