"""Who is asking: the hub's own tokens, in a cookie or an ``Authorization`` header.

A browser holds the token of its sign-in in a cookie that this hub has signed, that scripts cannot
read and other sites cannot send; notebooks and kernels send theirs in the header.  There is no
second kind of session: what the hub no longer accepts is no longer accepted here.  A header never
makes a cookie, so that a kernel's ticket does not become a browser's sign-in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from jupyter_server.auth.identity import IdentityProvider, User
from tornado.web import HTTPError
from traitlets import default

from neuronexus_kernel.errors import AuthenticationError
from neuronexus_server.authorizer import Renews, is_open_to_members
from neuronexus_server.context import context_of, source_of

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler

    from neuronexus_kernel.hub.local import LocalHub
    from neuronexus_kernel.hub.records import Session

_COOKIE_DAYS = 366.0
_HEADER = re.compile(r"(?:bearer|token)\s+(\S+)\s*", re.IGNORECASE)


@dataclass
class Visitor(User):
    """A signed-in account, with its role."""

    role: str = "member"


class NeuroNexusIdentityProvider(IdentityProvider):
    """Identifies requests by the hub's tokens."""

    need_token = False

    @default("token")
    def _no_token_of_its_own(self) -> str:
        self.token_generated = False
        return ""

    def get_handlers(self) -> list[tuple[str, object]]:
        """Return Jupyter's own sign-in addresses, sent on to ours."""
        from neuronexus_server.pages import LoginRedirect, LogoutPage

        return [(r"/login", LoginRedirect), (r"/logout", LogoutPage)]

    async def get_user(self, handler: JupyterHandler) -> Visitor | None:  # type: ignore[override]
        """Return who is asking, or None.

        Every handler of the server asks this first, so the rule about what members may reach
        is applied here as well as in the authoriser, which only some handlers ask.
        """
        known: Visitor | None = getattr(handler, "_jupyter_current_user", None)
        if known is not None:
            return known
        handler.current_user = handler._jupyter_current_user = None
        user = await self._identify(handler)
        if user is not None and not is_open_to_members(handler, user):
            raise HTTPError(403, "Only an operator may use this part of the server.")
        return user

    async def _identify(self, handler: JupyterHandler) -> Visitor | None:
        header = handler.request.headers.get("Authorization")
        if header is not None:
            match = _HEADER.fullmatch(header)
            token = match.group(1) if match else ""
        else:
            token = self._token_in_cookie(handler)
        cookie = handler.get_cookie(self.get_cookie_name(handler))
        handler.neuronexus_credentials = header is not None or bool(cookie)
        if not token:
            if header is None and cookie:
                self.clear_login_cookie(handler)
            return None
        context = context_of(handler)
        try:
            visitor: LocalHub = await context.call(
                context.hub.visitor, token, source=source_of(handler)
            )
            if header is None and isinstance(handler, Renews) and visitor.credentials.due:
                self.sign_in(handler, await context.call(visitor.renew))
        except AuthenticationError:
            if header is None:
                self.clear_login_cookie(handler)
            return None
        account = visitor.whoami()
        if account is None:
            return None
        handler.neuronexus_visitor = visitor
        handler._token_authenticated = header is not None
        return Visitor(username=account.name, role=account.role)

    def get_cookie_name(self, handler: JupyterHandler) -> str:
        """Return the cookie's name: one for each port, as browsers share cookies between them."""
        return re.sub(r"[^A-Za-z0-9]", "-", f"neuronexus-{handler.request.host}")

    def sign_in(self, handler: JupyterHandler, session: Session) -> None:
        """Give the browser its sign-in."""
        handler.set_signed_cookie(
            self.get_cookie_name(handler),
            session.token,
            expires_days=None,
            path=handler.base_url,
            expires=datetime.fromisoformat(session.expires),
            httponly=True,
            samesite="Strict",
            secure=handler.request.protocol == "https",
        )

    def _token_in_cookie(self, handler: JupyterHandler) -> str:
        """Return the token from a cookie that this hub has signed, or nothing."""
        token = handler.get_signed_cookie(self.get_cookie_name(handler), max_age_days=_COOKIE_DAYS)
        return (token or b"").decode(errors="replace")

    def set_login_cookie(self, handler: JupyterHandler, user: User) -> None:
        """Refuse: only a sign-in with a password makes a cookie."""

    def clear_login_cookie(self, handler: JupyterHandler) -> None:
        """Take the sign-in from the browser."""
        handler.clear_cookie(self.get_cookie_name(handler), path=handler.base_url)
