"""The pages for people who are not signed in yet: register, sign in, sign out.

One page with two forms, sent by the server and working without a script.  It offers what the hub
allows: registering may need an invitation, or not be possible.  After a sign-in it leads on to
where the visitor wanted to go, if that is on this server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlencode

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError

from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_server.authorizer import ForMembers, Renews
from neuronexus_server.context import context_of, source_of, visitor_of
from neuronexus_server.templating import render

Mode = Literal["login", "register"]

SIGN_IN = "neuronexus/auth"
DASHBOARD = "neuronexus/dashboard"
_NOTICES = {"reset": "The password is set. Sign in with it."}
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
    notice: str = ""
    onward: str = ""
    invitation: str = ""


class Page(ForMembers, Renews, JupyterHandler):
    """Base of the pages: nothing is cached, nothing comes from elsewhere."""

    @property
    def content_security_policy(self) -> str:
        """Allow this server's own style sheet and forms, and nothing else."""
        return _POLICY

    def set_default_headers(self) -> None:
        """Add to Jupyter's headers that pages are not kept."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def show(self, template: str, **values: Any) -> None:
        """Send a page of ours."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        page = render(template, base=self.base_url, xsrf=self.xsrf_form_html(), **values)
        self.finish(page)

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
            self.lead_on("")
            return
        if self.current_user is not None:
            self.go(onward)
            return
        self.settings["kernel_manager"].warm_up()
        mode = self.get_query_argument("mode", "login")
        notice = _NOTICES.get(self.get_query_argument("done", ""), "")
        mode = "register" if mode == "register" else "login"
        self._show(Form(mode=mode, notice=notice, onward=onward))

    @allow_unauthenticated
    async def post(self) -> None:
        """Register if asked to, sign in, and lead on."""
        form = Form(
            mode="register" if self.get_body_argument("mode", "") == "register" else "login",
            name=self.get_body_argument("name", "").strip().lower(),
            onward=self.onward(),
            invitation=self.get_body_argument("invitation", ""),
        )
        password = self.get_body_argument("password", "", strip=False)
        context = context_of(self)
        context.touch()
        if self.current_user is not None:
            await context.call(visitor_of(self).logout)
        hub = context.hub.visitor(source=source_of(self))
        try:
            async with context.password_checks:
                if form.mode == "register":
                    await context.call(hub.register, form.name, password, form.invitation or None)
                session = await context.call(hub.login, form.name, password)
        except NeuroNexusError as error:
            self.set_status(error.status)
            self._show(replace(form, problem=str(error)))
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
            self.show_problem(problem)
        else:
            super().write_error(status_code, **kwargs)

    def show_problem(self, problem: str) -> None:
        """Show the form with what went wrong."""
        self._show(Form(problem=problem, onward=self.base_url + DASHBOARD))

    def lead_on(self, path: str) -> None:
        """Have the browser go on by a step of this page's own.

        A browser keeps the sign-in to itself on a visit that another site began, and on where
        that visit is redirected to; what a page of ours asks for comes with it.
        """
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(render("onward.html", path=path))

    def _came_from_elsewhere(self) -> bool:
        headers = self.request.headers
        return headers.get("Sec-Fetch-Site") == "cross-site" and self.current_user is None

    def _show(self, form: Form) -> None:
        self.show(
            "auth.html",
            form=form,
            action=self.base_url + SIGN_IN,
            login=self._link("login", form.onward),
            register=self._link("register", form.onward),
            registration=context_of(self).hub.registration,
            external=self._external(form.onward),
        )

    def _external(self, onward: str) -> str:
        """Return where to sign in by JupyterHub, where there is one."""
        if not context_of(self).external:
            return ""
        return f"{self.base_url}{context_of(self).external}?" + urlencode({"next": onward})

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
        if self.current_user is not None:
            visitor = visitor_of(self)
            credentials = visitor.credentials
            await context_of(self).call(visitor.logout)
            if credentials is not None:
                await self.settings["kernel_manager"].end_session(credentials.id)
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
