"""The operations of the API: what the table of routes and the type hints of `Hub` say of each."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.routes import Route

_PASSWORDS = frozenset({"password", "current", "new"})
_SECRETS = _PASSWORDS | {"code", "invitation"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API, ready to be called.

    Attributes
    ----------
    route
        Where it is.
    parameters
        Types of the method's parameters.
    required
        Parameters without a default.
    returns
        Type of what the method returns.
    """

    route: Route
    parameters: dict[str, Any]
    required: frozenset[str]
    returns: Any

    @classmethod
    def of(cls, route: Route, *, besides: str = "") -> Operation:
        """Read an operation's parameters from the method of `Hub` that it names.

        Parameters
        ----------
        besides
            The parameter that comes as the body itself.
        """
        method = getattr(Hub, route.operation)
        signature = list(inspect.signature(method).parameters.values())[1:]
        signature = [each for each in signature if each.name != besides]
        hints = get_type_hints(method)
        return cls(
            route,
            {parameter.name: hints[parameter.name] for parameter in signature},
            frozenset(p.name for p in signature if p.default is inspect.Parameter.empty),
            hints["return"],
        )

    @property
    def is_listing(self) -> bool:
        """Whether it returns a list that comes page by page."""
        is_list = typing.get_origin(self.returns) is list
        return is_list and self.route.verb == "GET" and "limit" not in self.parameters

    @property
    def is_secret(self) -> bool:
        """Whether its answer is given once: it holds a credential, or answers to a one-time code.

        A credential is what no representation shows.
        """
        shown = dataclasses.fields(self.returns) if dataclasses.is_dataclass(self.returns) else ()
        return "code" in self.parameters or not all(each.repr for each in shown)

    @property
    def takes_passwords(self) -> bool:
        """Whether a password comes with it, which is made or checked."""
        return not _PASSWORDS.isdisjoint(self.parameters)

    def shown(self, arguments: dict[str, object]) -> bytes:
        """Return what may be kept a trace of: a password must not be, not even by its hash."""
        shown = {name: value for name, value in arguments.items() if name not in _SECRETS}
        return msgspec.json.encode(shown, order="sorted")

    def arguments(self, texts: dict[str, str], values: dict[str, object]) -> dict[str, object]:
        """Convert what a request gave to what the method takes.

        Parameters
        ----------
        texts
            Parameters from the path and the query.
        values
            Parameters from the JSON body.

        Raises
        ------
        InvalidInputError
            If one is unknown, missing or of the wrong type; the message names it.
        """
        given = {**values, **texts}
        unknown = sorted(given.keys() - self.parameters.keys())
        missing = sorted(self.required - given.keys())
        if unknown or missing:
            names = ", ".join(repr(name) for name in missing or unknown)
            raise InvalidInputError(
                f"{self.route.verb} {self.route.path}: "
                + (f"{names} is missing." if missing else f"there is no parameter {names}.")
            )
        converted = {name: _convert(texts[name], self.parameters[name], name) for name in texts}
        for name in values.keys() - texts.keys():
            converted[name] = _convert(values[name], self.parameters[name], name, strict=True)
        return converted


def _convert(value: object, kind: Any, name: str, *, strict: bool = False) -> object:
    if isinstance(value, str) and (kind is str or str in get_args(kind)):
        return value  # a text that reads like a number or like null stays a text
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{name}: {error}.") from None
