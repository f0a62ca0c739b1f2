"""What a request to the gateway asks for: read from its path, its query and its headers.

The rules are those of https://specs.ipfs.tech/http-gateways/trustless-gateway/.  The query says
more than the ``Accept`` header where both speak; what the header alone decided is told in
``Content-Location``, so that caches can tell the answers apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal
from urllib.parse import quote, unquote_to_bytes, urlencode

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.storage.dag import Scope, Span

RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"

Kind = Literal["raw", "car"]

_TYPES: dict[Kind, str] = {"raw": RAW, "car": CAR}
_WILDCARDS = frozenset({"*/*", "application/*"})
_CAR_PARAMETERS = ("version", "order", "dups")
_MAX_NAMES = 128
_ELSEWHERE = frozenset({"tar", "json", "cbor", "dag-json", "dag-cbor"})
_HINT = f"Ask for ?format=raw or ?format=car, or accept {RAW} or {CAR}."


class NotAcceptableError(InvalidInputError):
    """The gateway cannot give what was asked for in this form."""

    status: ClassVar[int] = 406


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes
    ----------
    cid, names
        The content path.
    kind
        A raw block, or a CAR file.
    scope, span, duplicates
        Of a CAR file: which blocks are in it.
    path
        The content path as it was written.
    location
        The address of this very answer, where the headers helped to choose it; else None.
    filename
        Under which a browser would save it, if that was said.
    """

    cid: CID
    names: tuple[str, ...]
    kind: Kind
    scope: Scope
    span: Span | None
    duplicates: bool
    path: str
    location: str | None
    filename: str | None

    @property
    def content_type(self) -> str:
        """The type of the answer, with all that is known of it."""
        if self.kind == "raw":
            return RAW
        return f"{CAR}; version=1; order=dfs; dups={'y' if self.duplicates else 'n'}"

    @property
    def etag(self) -> str:
        """A name for the bytes of the answer, which are always the same."""
        if self.kind == "raw":
            return f'"{self.cid}.raw"'
        scope = str(self.scope)
        if self.span is not None:
            last = "*" if self.span.last is None else self.span.last
            scope = f"{scope}-{self.span.first}:{last}"
        way = hashlib.sha256("/".join(self.names).encode()).hexdigest()[:16]
        way = f".{way}" if self.names else ""
        return f'"{scope}.{self.cid}{way}.car.dfs.{"y" if self.duplicates else "n"}"'

    @property
    def disposition(self) -> str:
        """Never to be shown as a page: the name under which to save it."""
        name = self.filename or f"{self.cid}.{'bin' if self.kind == 'raw' else 'car'}"
        plain = "".join(
            c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name
        )
        full = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
        return f'attachment; filename="{plain}"{full}'


def read_request(path: str, query: Mapping[str, Sequence[str]], accept: str | None) -> Wanted:
    """Read what is asked for.

    Parameters
    ----------
    path
        From ``/ipfs/`` on, as it stands in the request.
    query
        By name, all values.
    accept
        The header, or None.

    Raises
    ------
    ContentError, InvalidInputError
        If the CID, the path or a parameter is malformed.
    NotAcceptableError
        If the form is one that this gateway does not give.
    """
    cid, names = _content_path(path)
    given = {name: _one(name, values) for name, values in query.items()}
    kind, parameters = _form(given.get("format"), _accepted(accept), accept, given)
    if kind == "raw" and names:
        raise InvalidInputError(
            "A raw block is asked for by its own CID, without a path. Ask for ?format=car."
        )
    scope, span = Scope.ALL, None
    if kind == "car":
        scope, span = _scope(given)
    explicit = {"format": kind, **{f"car-{name}": parameters[name] for name in parameters}}
    as_asked = {name: given[name] for name in given if name not in explicit}
    location = None
    if any(given.get(name) != value for name, value in explicit.items()) or _differs(kind, accept):
        location = f"{path}?{urlencode({**as_asked, **explicit}, safe=':*')}"
    return Wanted(
        cid,
        names,
        kind,
        scope,
        span,
        parameters.get("dups") == "y",
        path,
        location,
        given.get("filename") or None,
    )


def _content_path(path: str) -> tuple[CID, tuple[str, ...]]:
    first, *rest = path.removeprefix("/ipfs/").split("/")
    try:
        parts = [unquote_to_bytes(part).decode() for part in (first, *rest)]
    except UnicodeDecodeError:
        raise InvalidInputError("The path is not UTF-8.") from None
    names = tuple(name for name in parts[1:] if name)
    if len(names) > _MAX_NAMES or any(name in (".", "..") or "\0" in name for name in names):
        raise InvalidInputError(f"A path has at most {_MAX_NAMES} names, and no dots alone.")
    return CID.parse(parts[0]), names


def _one(name: str, values: Sequence[str]) -> str:
    if len(set(values)) > 1:
        raise InvalidInputError(f"{name} is given {len(values)} times.")
    return values[0]


Accepted = tuple[str, dict[str, str]]


def _accepted(accept: str | None) -> list[Accepted]:
    """Return the types of an ``Accept`` header with their parameters, the preferred ones first."""
    weighed: list[tuple[float, Accepted]] = []
    for part in (accept or "").split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        pairs = (piece.partition("=") for piece in rest if piece)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        if name and weight > 0:
            weighed.append((weight, (name.lower(), parameters)))
    return [each for _, each in sorted(weighed, key=lambda entry: -entry[0])]


def _form(
    wanted: str | None, accepted: list[Accepted], accept: str | None, given: Mapping[str, str]
) -> tuple[Kind, dict[str, str]]:
    """Return the kind of answer, and those parameters of a CAR file that were asked for."""
    if wanted == "ipns-record":
        raise InvalidInputError("There are no IPNS records under /ipfs/.")
    if wanted in _ELSEWHERE:
        raise NotAcceptableError(f"This gateway does not unpack: no format={wanted}. {_HINT}")
    if wanted not in (None, "raw", "car"):
        raise NotAcceptableError(f"The format {wanted!r} is unknown. {_HINT}")
    if wanted == "raw":
        return "raw", {}
    cars = [parameters for name, parameters in accepted if name == CAR]
    if wanted == "car":
        return "car", _first_possible(cars or [{}], given)
    for name, _ in accepted:
        if name == RAW:
            return "raw", {}
        if name == CAR:
            return "car", _first_possible(cars, given)
    if all(name in _WILDCARDS for name, _ in accepted):
        raise InvalidInputError(f"Say in which form. {_HINT}")
    raise NotAcceptableError(f"This gateway gives nothing of {accept!r}. {_HINT}")


def _first_possible(
    variants: Sequence[Mapping[str, str]], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the first variant of a CAR file that is written here, as far as it was asked for."""
    for variant in variants:
        asked = {name: variant[name] for name in _CAR_PARAMETERS if variant.get(name)}
        for name in _CAR_PARAMETERS:
            if given.get(f"car-{name}"):
                asked[name] = given[f"car-{name}"]
        if (
            asked.get("version", "1") == "1"
            and asked.get("order", "dfs") in ("dfs", "unk")
            and asked.get("dups", "n") in ("y", "n")
        ):
            return asked
    raise NotAcceptableError(
        "CAR files are written here with version=1, order=dfs, and dups=y or dups=n."
    )


def _differs(kind: Kind, accept: str | None) -> bool:
    named = [name for name, _ in _accepted(accept) if name in _TYPES.values()]
    return bool(named) and named[0] != _TYPES[kind]


def _scope(given: Mapping[str, str]) -> tuple[Scope, Span | None]:
    if "entity-bytes" in given:
        return Scope.ENTITY, Span.parse(given["entity-bytes"])
    wanted = given.get("dag-scope", "all")
    try:
        return Scope(wanted), None
    except ValueError:
        scopes = ", ".join(Scope)
        raise InvalidInputError(f"dag-scope is one of {scopes}, not {wanted!r}.") from None
