"""Receipts: what anyone needs to check a value, without what must stay hidden.

The public part says what was compared with what and how, the value that counts, and a salted
commitment to every hidden field.  The sealed part holds those fields: exact results, the held-out
split and the participants' updates, by CID.  Each field has a salt of its own, so that a retired
held-out split can be revealed field by field while the updates stay sealed.

The value that counts is the measured one rounded down to 10^-4.  The reward follows from that
number, so the public part is enough to check the payment, and the payment tells no more than the
public part does.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import ContentError, EvaluationError
from neuronexus_kernel.valuation import jobs
from neuronexus_kernel.valuation.improvement import CONFIDENCE, METHOD, REPLICATES
from neuronexus_kernel.valuation.jobs import SIDES, Document, Load

FORMAT = "neuronexus/receipt@1"
SEALED_FORMAT = "neuronexus/receipt-sealed@1"
STEP_NANO = 100_000
"""Values count in steps of 10^-4."""

SALT_SIZE = 32

_DESIGN = {"recipes": ("seeds", "budget", "clients"), "weights": ("public",)}
_RESULT_PUBLIC = {"environment", "kind", "metric", "plan", "rounds", "shares"}


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What running a receipt's job again gave.

    Attributes
    ----------
    agrees
        Whether the result is the recorded one, to the last bit of every example and value.
    same_environment
        Whether it ran on the recorded versions, threads and instruction set.  Only then does
        a difference speak against the receipt.
    recorded_nano, value_nano
        The recorded and the recomputed value, in 10^-9.
    """

    agrees: bool
    same_environment: bool
    recorded_nano: int
    value_nano: int


def counted(value_nano: int) -> int:
    """Return the value that counts and is paid: `value_nano` rounded down to 10^-4."""
    return value_nano // STEP_NANO * STEP_NANO


def make_receipt(
    description: Document,
    result: bytes,
    *,
    contribution: str,
    contribution_kind: str,
    salt: bytes | None = None,
) -> tuple[dict[str, Node], dict[str, Node]]:
    """Return the public and the sealed part of a receipt, as documents for DAG-CBOR.

    Parameters
    ----------
    description
        The job with CIDs in place of contents; see `jobs.resolve`.
    result
        What `jobs.perform` returned for it.
    contribution, contribution_kind
        Id and kind of the contribution that was measured.
    salt
        32 random bytes; fresh ones unless given.

    Raises
    ------
    EvaluationError
        If the description or the result is malformed.
    """
    jobs.check_fields(description)
    outcome = _outcome(result)
    salt = secrets.token_bytes(SALT_SIZE) if salt is None else salt
    if len(salt) != SALT_SIZE:
        raise EvaluationError(f"A receipt's salt has {SALT_SIZE} bytes, not {len(salt)}.")
    fields: dict[str, Node] = {
        "held_out": description["held_out"],
        "participants": description.get("participants"),
        "result": {k: v for k, v in outcome.items() if k not in _RESULT_PUBLIC},
    }
    sealed: dict[str, Node] = {"fields": fields, "format": SEALED_FORMAT, "salt": salt}
    public: dict[str, Node] = {
        "commitments": {name: commitment(salt, name, value) for name, value in fields.items()},
        "compared": {side: description[side] for side in SIDES},
        "contribution": {"id": contribution, "kind": contribution_kind},
        "design": {name: description[name] for name in _DESIGN[str(description["kind"])]},
        "format": FORMAT,
        "method": _method(str(description["kind"]), str(outcome.get("metric", "accuracy"))),
        "outcome": {k: v for k, v in outcome.items() if k in _RESULT_PUBLIC},
        "value_nano": counted(cast(int, outcome["value_nano"])),
    }
    return public, sealed


def commitment(salt: bytes, name: str, value: Node) -> bytes:
    """Return the 32-byte commitment to one sealed field.

    It is SHA-256 over the field's own salt and its DAG-CBOR bytes; revealing that salt and the
    value of one field opens no other.
    """
    return hashlib.sha256(field_salt(salt, name) + dagcbor.encode(value)).digest()


def field_salt(salt: bytes, name: str) -> bytes:
    """Return the salt of one field: 32 bytes that tell nothing of the others'."""
    return hmac.digest(salt, name.encode(), "sha256")


def check(public: Document, sealed: Document) -> None:
    """Check that a sealed part is the one that the public part committed to.

    Raises
    ------
    ContentError
        If a part is malformed, a sealed field was changed, or the public value is not the
        sealed one rounded down; the message names the field.
    """
    if public.get("format") != FORMAT or sealed.get("format") != SEALED_FORMAT:
        raise ContentError(f"The parts are not of {FORMAT} and {SEALED_FORMAT}.")
    salt, fields, commitments = sealed.get("salt"), sealed.get("fields"), public.get("commitments")
    if (
        not isinstance(salt, bytes)
        or not isinstance(fields, Mapping)
        or not isinstance(commitments, Mapping)
        or fields.keys() != commitments.keys()
    ):
        raise ContentError("The sealed part does not hold the fields that the receipt promises.")
    for name, value in fields.items():
        if commitment(salt, name, value) != commitments[name]:
            raise ContentError(f"The sealed field {name!r} is not what the receipt promises.")
    value_nano = _recorded(sealed)
    if public.get("value_nano") != counted(value_nano):
        raise ContentError("The receipt's value is not the measured one rounded down.")


def describe(public: Document, sealed: Document) -> dict[str, Node]:
    """Return the description of the job that a receipt is about; see `jobs.resolve`."""
    outcome, fields = _map(public, "outcome"), _map(sealed, "fields")
    description = {
        "kind": outcome["kind"],
        **_map(public, "compared"),
        **_map(public, "design"),
        "held_out": fields["held_out"],
    }
    if outcome["kind"] == "weights":
        description["participants"] = fields["participants"]
    return description


def recompute(
    public: Document,
    sealed: Document,
    *,
    load: Load,
    perform: Callable[[bytes], bytes] = jobs.perform,
) -> Recomputation:
    """Run a receipt's job again and compare.

    Parameters
    ----------
    public, sealed
        The two parts.
    load
        Returns the verified bytes of a CID, sealed ones included.
    perform
        Runs a job; give one that uses a child process where time and memory are limited.

    Raises
    ------
    ContentError
        If the parts do not belong together; see `check`.
    EvaluationError
        If the job cannot be run.
    """
    check(public, sealed)
    outcome = _outcome(perform(jobs.resolve(describe(public, sealed), load)))
    recorded = {**_map(public, "outcome"), **_map(_map(sealed, "fields"), "result")}
    return Recomputation(
        agrees=_without_surroundings(outcome) == _without_surroundings(recorded),
        same_environment=outcome["environment"] == recorded["environment"],
        recorded_nano=_recorded(sealed),
        value_nano=cast(int, outcome["value_nano"]),
    )


def _method(kind: str, metric: str) -> dict[str, Node]:
    names = {"recipes": "paired-retraining", "weights": "paired-weights"}
    return {
        "bound": METHOD,
        "confidence": str(CONFIDENCE),
        "name": names[kind],
        "replicates": REPLICATES,
        "sharing": "federated-shapley-of-loss" if kind == "weights" else None,
        "value": f"lower bound of the improvement of {metric}, rounded down to 10^-4",
    }


def _outcome(result: bytes) -> dict[str, Node]:
    node = dagcbor.decode(result)
    if not isinstance(node, dict) or not isinstance(node.get("value_nano"), int):
        raise EvaluationError("The bytes are not the result of an evaluation.")
    return node


def _recorded(sealed: Document) -> int:
    value = _map(_map(sealed, "fields"), "result").get("value_nano")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ContentError("The sealed part holds no value.")
    return value


def _without_surroundings(outcome: Document) -> bytes:
    """Return a result's canonical bytes without what describes the machine."""
    return dagcbor.encode({k: v for k, v in outcome.items() if k not in ("environment", "plan")})


def _map(node: Document, name: str) -> Document:
    value = node.get(name)
    if not isinstance(value, Mapping):
        raise ContentError(f"The receipt's {name!r} is missing.")
    return value
