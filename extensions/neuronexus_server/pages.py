"""The pages for people who are not signed in yet: register, sign in, sign out.

One page with two forms, sent by the server and working without a script.  After a sign-in it
leads on to where the visitor wanted to go, if that is on this server.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, Template, select_autoescape
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError

from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_server.authorizer import ForMembers
from neuronexus_server.context import context_of, visitor_of

Mode = Literal["login", "register"]

SIGN_IN = "neuronexus/auth"
DASHBOARD = "neuronexus/dashboard"
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'"
)


@dataclass(frozen=True, slots=True)
class Form:
    """What the sign-in page shows."""

    mode: Mode = "login"
    name: str = ""
    problem: str = ""
    onward: str = ""


class Page(ForMembers, JupyterHandler):
    """Base of the pages: nothing is cached, nothing comes from elsewhere."""

    @property
    def content_security_policy(self) -> str:
        """Allow this server's own style sheet and forms, and nothing else."""
        return _POLICY

    def set_default_headers(self) -> None:
        """Add to Jupyter's headers that pages are not kept."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def go(self, path: str) -> None:
        """Send the browser on by GET, whatever it came with."""
        self.redirect(path, status=303)


class SignInPage(Page):
    """Registers and signs in."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Show the forms, or lead on who is signed in already."""
        onward = self.onward()
        if self._came_from_elsewhere():
            self._come_again()
            return
        if self.current_user is not None:
            self.go(onward)
            return
        self.settings["kernel_manager"].warm_up()
        mode = self.get_query_argument("mode", "login")
        self._show(Form(mode="register" if mode == "register" else "login", onward=onward))

    @allow_unauthenticated
    async def post(self) -> None:
        """Register if asked to, sign in, and lead on."""
        form = Form(
            mode="register" if self.get_body_argument("mode", "") == "register" else "login",
            name=self.get_body_argument("name", "").strip().lower(),
            onward=self.onward(),
        )
        password = self.get_body_argument("password", "", strip=False)
        context = context_of(self)
        context.touch()
        hub = context.hub.visitor()
        try:
            async with context.password_checks:
                if form.mode == "register":
                    await context.call(hub.register, form.name, password)
                session = await context.call(hub.login, form.name, password)
        except NeuroNexusError as error:
            self.set_status(error.status)
            self._show(Form(form.mode, form.name, str(error), form.onward))
            return
        self.identity_provider.sign_in(self, session)
        self.go(form.onward)

    def onward(self) -> str:
        """Return where to go after the sign-in: a path of this server, the dashboard if none."""
        path = self.get_argument("next", "").rstrip("?")
        local = path.startswith(self.base_url) and not path.startswith(("//", "/\\"))
        safe = local and "\\" not in path and path.isprintable()
        return path if safe else self.base_url + DASHBOARD

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Show the form again when it had become too old to be accepted."""
        if status_code == 403 and self.request.method == "POST":
            problem = "This page was open for too long. Please try again."
            self._show(Form(problem=problem, onward=self.base_url + DASHBOARD))
        else:
            super().write_error(status_code, **kwargs)

    def _came_from_elsewhere(self) -> bool:
        headers = self.request.headers
        return headers.get("Sec-Fetch-Site") == "cross-site" and self.current_user is None

    def _come_again(self) -> None:
        # A browser keeps the sign-in to itself on a visit that another site began; the same
        # address asked for by this page brings it along.
        self.write(
            '<!doctype html><meta http-equiv="refresh" content="0"><title>NeuroNexus</title>'
        )
        self.finish()

    def _show(self, form: Form) -> None:
        page = template("auth.html").render(
            form=form,
            base=self.base_url,
            action=self.base_url + SIGN_IN,
            xsrf=self.xsrf_form_html(),
            login=self._link("login", form.onward),
            register=self._link("register", form.onward),
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(page)

    def _link(self, mode: Mode, onward: str) -> str:
        return f"{self.base_url}{SIGN_IN}?" + urlencode({"mode": mode, "next": onward})


class LogoutPage(Page):
    """Signs out: the token ends, and the kernels that were started with it."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Sign out by a link, but not by one on another site's page."""
        if self.request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise HTTPError(403, "Sign out from a page of this server.")
        await self.post()

    @allow_unauthenticated
    async def post(self) -> None:
        """Sign out."""
        token = self.get_cookie(self.identity_provider.get_cookie_name(self))
        if self.current_user is not None:
            await context_of(self).call(visitor_of(self).logout)
        if token:
            await self.settings["kernel_manager"].end_session(token)
        self.identity_provider.clear_login_cookie(self)
        self.go(self.base_url + SIGN_IN)


class LoginRedirect(Page):
    """Leads Jupyter's sign-in addresses to ours."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Redirect, keeping where the visitor wanted to go."""
        onward = self.get_query_argument("next", "")
        query = "?" + urlencode({"next": onward}) if onward else ""
        self.redirect(self.base_url + SIGN_IN + query)


class HomeRedirect(Page):
    """Leads ``/neuronexus`` to the dashboard."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Redirect."""
        self.redirect(self.base_url + DASHBOARD)


def page_handlers() -> list[tuple[str, type[Page]]]:
    """Return the patterns and handlers of the pages."""
    return [
        ("/auth", LoginRedirect),
        ("/neuronexus/?", HomeRedirect),
        (f"/{SIGN_IN}", SignInPage),
        ("/neuronexus/logout", LogoutPage),
    ]


@cache
def template(name: str) -> Template:
    """Return a page's template by the name of its file."""
    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(), trim_blocks=True
    ).get_template(name)
