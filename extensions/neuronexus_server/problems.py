"""Errors as problem documents (RFC 9457): what went wrong, for programs.

The ``code`` is that of the error's class, so that `RemoteHub` raises what the hub raised.  What
nobody raised on purpose is logged here and answered without its details.
"""

from __future__ import annotations

from typing import Any

import msgspec
from tornado.web import HTTPError, RequestHandler

from neuronexus_kernel.errors import NeuroNexusError

_BY_STATUS = {
    401: ("authentication", "Sign in first."),
    403: ("permission", "You may not do this."),
    404: ("not-found", "There is nothing at this address."),
    405: ("invalid-input", "This address does not know that method."),
    414: ("invalid-input", "The address is too long."),
    415: (
        "invalid-input",
        "The body must come as it is, without Content-Encoding, and as the media type that this "
        "address takes: application/json, unless its documentation says otherwise.",
    ),
}


class Problems(RequestHandler):
    """Makes a handler answer with problem documents."""

    def log_exception(self, *exc_info: Any) -> None:
        """Log what nobody raised on purpose."""
        if not isinstance(exc_info[1], (NeuroNexusError, HTTPError)):
            self.log.error(
                "%s %s failed", self.request.method, self.request.path, exc_info=exc_info[1]
            )

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with the status of the error that was raised."""
        error = _error_of(kwargs)
        if isinstance(error, NeuroNexusError):
            status_code = self.status_of(error)
        super().send_error(status_code, **kwargs)

    def status_of(self, error: NeuroNexusError) -> int:
        """Return the HTTP status for an error."""
        return error.status

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write a problem document."""
        error = _error_of(kwargs)
        code, detail = "error", "The hub could not do this because of a fault of its own."
        if isinstance(error, NeuroNexusError):
            code, detail = error.code, str(error)
        elif status_code < 500:
            code, detail = _BY_STATUS.get(status_code, ("invalid-input", self._reason))
        problem = {
            "type": f"urn:neuronexus:problem:{code}",
            "title": self._reason,
            "status": status_code,
            "detail": detail,
            "code": code,
        }
        self.set_header("Content-Type", "application/problem+json")
        self.set_header("Cache-Control", "no-store")
        if status_code == 401:
            self.set_header("WWW-Authenticate", 'Bearer realm="NeuroNexus"')
        self.finish(msgspec.json.encode(problem))


def _error_of(kwargs: dict[str, Any]) -> BaseException | None:
    exc_info = kwargs.get("exc_info")
    return exc_info[1] if exc_info else None
