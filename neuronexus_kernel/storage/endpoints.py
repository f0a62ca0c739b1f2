"""Where a service of somebody else answers, and what proves to it who asks.

An address is a URL (``https://host:port``) or a multiaddr as IPFS nodes write it
(``/dns/host/tcp/5001/https``, see https://github.com/multiformats/multiaddr).  A secret travels in
the ``Authorization`` header of its own service and nowhere else: it is in no representation, log or
message, also not where the service repeats it, and it is never sent over a line that others can
read.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from neuronexus_kernel.errors import ForbiddenError, InvalidInputError

if TYPE_CHECKING:
    import requests

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
INFURA = "/dns/ipfs.infura.io/tcp/5001/https"
"""Where Infura's nodes answer; taken when only its key is given."""

_HIDDEN = "(hidden)"
_HOSTS = frozenset({"ip4", "ip6", "dns", "dns4", "dns6"})
_PORTS = {"http": 80, "https": 443}
_MOST = 200


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a secret for basic authentication (RFC 7617), or a bearer token (RFC 6750).

    Parameters
    ----------
    secret
        The password, or the token.
    name
        Who it belongs to; a token has no name.
    """

    secret: str = field(repr=False)
    name: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.secret or any(ord(letter) < 32 for letter in self.secret + self.name):
            raise InvalidInputError(
                "A secret must not be empty nor hold control characters, such as a line's end."
            )

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request; the library `requests` calls what it is given as `auth`."""
        request.headers["Authorization"] = self.header
        return request

    @property
    def header(self) -> str:
        """The value of the ``Authorization`` header."""
        if not self.name:
            return f"Bearer {self.secret}"
        return "Basic " + base64.b64encode(f"{self.name}:{self.secret}".encode()).decode()

    def hide(self, text: str) -> str:
        """Take the secret out of a text, in each form in which a service might repeat it."""
        for form in (self.header.partition(" ")[2], self.secret):
            text = text.replace(form, _HIDDEN)
        return text


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service answers.

    Attributes
    ----------
    url
        ``http`` or ``https``, a host, a port, and a path if it lies below one; never a secret.
    credentials
        What proves who asks, or None.
    """

    url: str
    credentials: Credentials | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.credentials is None or self.host in LOOPBACK:
            return
        if not self.url.startswith("https:"):
            raise ForbiddenError(
                f"The secret for {self.url} is not sent, as anybody on the way could read it. Use "
                "an https address, or take the secret away."
            )

    def __str__(self) -> str:
        return self.url

    @property
    def host(self) -> str:
        """The name or the number of the computer."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port that it listens on."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @classmethod
    def parse(cls, address: str, credentials: Credentials | None = None) -> Endpoint:
        """Read a URL or a multiaddr.

        Parameters
        ----------
        address
            A URL may hold a name and a password (``https://name:password@host``); they come before
            `credentials`.
        credentials
            What proves who asks.

        Raises
        ------
        InvalidInputError
            If it is neither.
        ForbiddenError
            If there are credentials and the line is neither encrypted nor within this computer.
        """
        text = address.strip() if isinstance(address, str) else ""
        if text.startswith("/"):
            return cls(_from_multiaddr(text), credentials)
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _no_address(text) from None
        if (
            parts.scheme not in _PORTS
            or not host
            or re.search(r"[\s\\%]", parts.netloc.rpartition("@")[2])
        ):
            raise _no_address(text)
        if parts.password:
            credentials = Credentials(unquote(parts.password), unquote(parts.username or ""))
        elif parts.username:
            raise InvalidInputError(
                f"The address {_shown(text)} holds a name, but no password: write name:password."
            )
        place = f"[{host}]" if ":" in host else host
        path = parts.path.rstrip("/")
        return cls(f"{parts.scheme}://{place}:{port or _PORTS[parts.scheme]}{path}", credentials)

    @classmethod
    def of_node(
        cls, address: str = "", environment: Mapping[str, str] | None = None
    ) -> Endpoint | None:
        """Return where the IPFS node of this installation answers, or None if it has none.

        Parameters
        ----------
        address
            The setting; by default ``$NEURONEXUS_IPFS``.
        environment
            Where ``INFURA_IPFS_ID`` and ``INFURA_IPFS_SECRET`` are looked up; by default the
            process's.  Both must be there to be used.  Without an address they mean Infura.
        """
        environment = os.environ if environment is None else environment
        address = address or environment.get("NEURONEXUS_IPFS", "")
        name = environment.get("INFURA_IPFS_ID", "")
        secret = environment.get("INFURA_IPFS_SECRET", "")
        if bool(name) != bool(secret):
            missing = "INFURA_IPFS_SECRET" if name else "INFURA_IPFS_ID"
            raise InvalidInputError(f"{missing} is not set; both parts of the key are needed.")
        credentials = Credentials(secret, name) if name else None
        if not address:
            return cls.parse(INFURA, credentials) if credentials else None
        return cls.parse(address, credentials)

    def hide(self, text: str) -> str:
        """Make what a service said fit to be shown: no secret, one line, not too long."""
        if self.credentials is not None:
            text = self.credentials.hide(text)
        text = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * _MOST])
        return text if len(text) <= _MOST else text[: _MOST - 3] + "..."


def cause_of(error: BaseException) -> str:
    """Return what is at the bottom of an error of the network."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__


def _from_multiaddr(text: str) -> str:
    parts = text.strip("/").split("/")
    if len(parts) == 4:
        parts.append("http")
    if len(parts) != 5 or parts[0] not in _HOSTS or parts[2] != "tcp" or parts[4] not in _PORTS:
        raise _no_address(text)
    host, port, scheme = parts[1], parts[3], parts[4]
    if not re.fullmatch(r"[0-9A-Za-z:._-]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise _no_address(text)
    if not 0 < int(port) < 1 << 16:
        raise _no_address(text)
    place = f"[{host}]" if ":" in host else host
    return f"{scheme}://{place}:{int(port)}"


def _no_address(text: str) -> InvalidInputError:
    return InvalidInputError(
        f"{_shown(text)!r} is no address of a service. Write it like http://127.0.0.1:5001 or "
        "/dns/ipfs.example.org/tcp/5001/https."
    )


def _shown(text: str) -> str:
    """Return an address without what may be a secret in it."""
    return re.sub(r"[^/]*@", f"{_HIDDEN}@", text)[:_MOST]
