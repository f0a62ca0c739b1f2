"""The pages about one's own account: sign-ins, tokens and password, and a forgotten password.

They work without a script.  What is secret is shown once, in the answer to the form that asked
for it, and stands in no address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado import web

from neuronexus_kernel.errors import InvalidInputError, NeuroNexusError
from neuronexus_kernel.hub.account_records import OneTimeCode
from neuronexus_kernel.hub.permissions import SCOPES, check
from neuronexus_server.context import context_of, source_of, visitor_of
from neuronexus_server.pages import SIGN_IN, Page

ACCOUNT = "neuronexus/account"
RESET = "neuronexus/reset"
_AUDIT_LINES = 30
_WORDS = {
    "read": "see what you may see",
    "contribute": "store content, train, submit",
    "maintain": "make projects, serve federations",
    "admin": "what operators may do",
}
_NOTICES = {
    "password": "Your password is changed; your other sign-ins have ended.",
    "revoke": "That has ended.",
}


class Shown(NamedTuple):
    """A secret that is shown once."""

    words: str
    secret: str


class AccountPage(Page):
    """Shows and changes one's own account; for operators, also what they do for others."""

    async def prepare(self) -> None:  # type: ignore[override]
        """Let in people who have signed in, and no tokens: those manage no account."""
        await super().prepare()
        if self.current_user is not None:
            try:
                check("create_token", visitor_of(self).credentials)
            except NeuroNexusError as error:
                raise web.HTTPError(error.status, str(error)) from None

    @web.authenticated
    async def get(self) -> None:
        """Show the account."""
        context_of(self).touch()
        await self._show(notice=_NOTICES.get(self.get_query_argument("done", ""), ""))

    @web.authenticated
    async def post(self) -> None:
        """Do what a form asks for."""
        context_of(self).touch()
        action = self.get_body_argument("action", "")
        act = getattr(self, f"_{action}") if action in _ACTIONS else None
        try:
            if act is None:
                raise InvalidInputError("This form is unknown; load the page again.")
            shown: Shown | None = await act()
        except NeuroNexusError as error:
            self.set_status(error.status)
            await self._show(problem=str(error))
            return
        if shown is None:
            self.go(f"{self.base_url}{ACCOUNT}?done={action}")
        else:
            await self._show(shown=shown)

    async def _password(self) -> None:
        async with context_of(self).password_checks:
            session = await self._call(
                visitor_of(self).change_password, self._secret("current"), self._secret("new")
            )
        self.identity_provider.sign_in(self, session)

    async def _revoke(self) -> None:
        await self._call(visitor_of(self).revoke, self.get_body_argument("id", ""))

    async def _token(self) -> Shown:
        session = await self._call(
            visitor_of(self).create_token,
            self.get_body_argument("label", "").strip(),
            tuple(self.get_body_arguments("scope")),
            self._days(),
        )
        return Shown("The token. It is not shown again.", session.token)

    async def _invite(self) -> Shown:
        note = self.get_body_argument("note", "").strip()
        code = await self._call(visitor_of(self).invite, self._days(), note)
        return Shown("The invitation. It works once and is not shown again.", self._link(code))

    async def _reset(self) -> Shown:
        name = self.get_body_argument("name", "").strip()
        code = await self._call(visitor_of(self).issue_reset, name)
        words = f"The link for {name} to set a new password. It works once, within 24 hours."
        return Shown(words, self._link(code))

    async def _show(
        self, *, problem: str = "", notice: str = "", shown: Shown | None = None
    ) -> None:
        hub = visitor_of(self)
        account = await self._call(hub.whoami)
        operator = account.role == "operator"
        self.show(
            "account.html",
            account=account,
            address=self.base_url + ACCOUNT,
            problem=problem,
            notice=notice,
            shown=shown,
            sessions=await self._call(hub.sessions),
            tokens=await self._call(hub.tokens),
            scopes=[
                {
                    "name": scope,
                    "words": _WORDS[scope],
                    "always": scope == "read",
                    "usual": scope == "contribute",
                }
                for scope in SCOPES
                if scope != "admin" or operator
            ],
            audit=await self._call(hub.audit, limit=_AUDIT_LINES) if operator else [],
        )

    def _link(self, code: OneTimeCode) -> str:
        request = self.request
        return f"{request.protocol}://{request.host}{self.base_url.rstrip('/')}{code.path}"

    def _secret(self, name: str) -> str:
        return self.get_body_argument(name, "", strip=False)

    def _days(self) -> float:
        try:
            return float(self.get_body_argument("days", ""))
        except ValueError:
            raise InvalidInputError("The days must be a number.") from None

    async def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await context_of(self).call(method, *args, **kwargs)


_ACTIONS = frozenset({"password", "revoke", "token", "invite", "reset"})


class ResetPage(Page):
    """Sets a new password by an operator's one-time code."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Show the form; only sending it uses the code up."""
        self._show("", "")

    @allow_unauthenticated
    async def post(self) -> None:
        """Set the password and lead on to the sign-in."""
        context = context_of(self)
        context.touch()
        code = self.get_body_argument("code", "").strip()
        password = self.get_body_argument("password", "", strip=False)
        hub = context.hub.visitor(source=source_of(self))
        try:
            async with context.password_checks:
                await context.call(hub.reset_password, code, password)
        except NeuroNexusError as error:
            self.set_status(error.status)
            self._show(code, str(error))
            return
        self.identity_provider.clear_login_cookie(self)
        self.go(f"{self.base_url}{SIGN_IN}?done=reset")

    def _show(self, code: str, problem: str) -> None:
        self.show("reset.html", action=self.base_url + RESET, code=code, problem=problem)


def account_handlers() -> list[tuple[str, type[Page]]]:
    """Return the patterns and handlers of the pages."""
    return [(f"/{ACCOUNT}", AccountPage), (f"/{RESET}", ResetPage)]
