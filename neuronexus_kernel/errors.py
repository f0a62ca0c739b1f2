"""Every error that NeuroNexus raises on purpose.

Each is named for what went wrong, and its message says what was wrong, where, and what to do
next.  ``code`` is the stable identifier that travels in API problem documents, so that a
`RemoteHub` raises the same class the hub raised.
"""

from __future__ import annotations

from typing import ClassVar


class NeuroNexusError(Exception):
    """Base of all errors raised by NeuroNexus.

    Parameters
    ----------
    message
        What was wrong and what to do about it, in one or two sentences.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    @classmethod
    def named(cls, code: str) -> type[NeuroNexusError]:
        """Return the error class with this `code`, or the base class when none has it."""
        for kind in (cls, *cls.__subclasses__()):
            if kind.code == code:
                return kind
        return NeuroNexusError


class InvalidInputError(NeuroNexusError):
    """A value has the wrong type, shape or range; the message names the field."""

    code = "invalid-input"
    status = 422


class ContentError(NeuroNexusError):
    """A CID or a DAG-CBOR document is malformed or not canonical."""

    code = "content"
    status = 422


class ArchitectureError(NeuroNexusError):
    """A graph names something outside the allow-list, or does not fit together or the task."""

    code = "architecture"
    status = 422


class RecipeError(NeuroNexusError):
    """A recipe field is out of range; the message names the field."""

    code = "recipe"
    status = 422


class DatasetError(NeuroNexusError):
    """A data set is mis-shaped, holds NaN, or does not fit the task."""

    code = "dataset"
    status = 422


class StoreError(NeuroNexusError):
    """A block is missing, corrupt or could not be written."""

    code = "store"
    status = 500


class MalformedError(StoreError):
    """What was to be stored (a CAR file) is malformed or incomplete; the store itself is sound."""

    status = 422


class StoreUnavailable(NeuroNexusError):
    """A content store that lies elsewhere (an IPFS node, a gateway) cannot be reached."""

    code = "store-unavailable"
    status = 503


class NotFoundError(NeuroNexusError):
    """There is no project, account, run, contribution or content of that name."""

    code = "not-found"
    status = 404


class ConflictError(NeuroNexusError):
    """The name is taken, or the thing changed under the caller."""

    code = "conflict"
    status = 409


class AuthenticationError(NeuroNexusError):
    """Nobody is signed in, or the name and password do not match."""

    code = "authentication"
    status = 401


class ForbiddenError(NeuroNexusError):
    """The account may not do this."""

    code = "permission"
    status = 403


class QuotaError(NeuroNexusError):
    """The account's daily quota, a size limit or a store's quota is used up."""

    code = "quota"
    status = 429


class HubUnavailableError(NeuroNexusError):
    """The hub cannot be reached, or its database is open elsewhere."""

    code = "hub-unavailable"
    status = 503


class LedgerError(NeuroNexusError):
    """An entry does not balance, or the log does not verify."""

    code = "ledger"
    status = 500


class EvaluationError(NeuroNexusError):
    """An evaluation broke a limit (time, memory) or could not be carried out."""

    code = "evaluation"
    status = 500
