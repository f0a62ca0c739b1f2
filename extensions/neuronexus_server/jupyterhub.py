"""Signing in by JupyterHub: the hub as one of its services (OAuth 2, authorization code).

JupyterHub says who somebody is; the account here is one's own from the first such sign-in on, and
has no password.  All that JupyterHub tells its services in ``JUPYTERHUB_*`` variables is read from
there; where they are not set, nothing of this exists.  The browser's way there and back is bound
together by a signed cookie that holds the state and the PKCE verifier (RFC 7636).

Source: https://jupyterhub.readthedocs.io/en/stable/explanation/oauth.html
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jupyter_server.auth.decorator import allow_unauthenticated

from neuronexus_kernel.errors import (
    AuthenticationError,
    ForbiddenError,
    HubUnavailableError,
    NeuroNexusError,
)
from neuronexus_server.context import context_of, source_of, visitor_of
from neuronexus_server.pages import SignInPage

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDER = "JupyterHub"
START = "neuronexus/jupyterhub"
CALLBACK = "oauth_callback"
_STATE = "neuronexus-jupyterhub"
_STATE_DAYS = 10 / 24 / 60
_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class JupyterHub:
    """Where JupyterHub is, and what this service is to it.

    Attributes
    ----------
    api
        Its API, as this process reaches it.
    authorize
        Where a browser is sent to sign in.
    client, secret
        What proves this service.
    callback
        Where a browser is sent back to; empty for `CALLBACK` below this server.
    scopes
        Of which somebody needs one to be let in.
    """

    api: str
    authorize: str
    client: str
    secret: str = field(repr=False)
    callback: str
    scopes: frozenset[str]

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> JupyterHub | None:
        """Read what JupyterHub tells its services; None where this is none."""
        api, secret = environ.get("JUPYTERHUB_API_URL"), environ.get("JUPYTERHUB_API_TOKEN")
        # A notebook server that JupyterHub starts for somebody has the others of these variables.
        name = environ.get("JUPYTERHUB_SERVICE_NAME")
        if not api or not secret or not name:
            return None
        scopes = environ.get("JUPYTERHUB_OAUTH_ACCESS_SCOPES")
        return cls(
            api=api.rstrip("/"),
            authorize=environ.get("JUPYTERHUB_HOST", "")
            + environ.get("JUPYTERHUB_BASE_URL", "/").rstrip("/")
            + "/hub/api/oauth2/authorize",
            client=environ.get("JUPYTERHUB_CLIENT_ID") or f"service-{name}",
            secret=secret,
            callback=environ.get("JUPYTERHUB_OAUTH_CALLBACK_URL", ""),
            scopes=frozenset(
                json.loads(scopes)
                if scopes
                else ["access:services", f"access:services!service={name}"]
            ),
        )

    def identify(self, code: str, verifier: str, callback: str) -> str:
        """Return the name of whoever came back with a code.

        Raises
        ------
        AuthenticationError
            If JupyterHub does not accept the code.
        ForbiddenError
            If it does not let this person use this service.
        HubUnavailableError
            If it does not answer.
        """
        token = self._ask(
            "POST",
            "/oauth2/token",
            data={
                "client_id": self.client,
                "client_secret": self.secret,
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": callback,
                "code_verifier": verifier,
            },
        )["access_token"]
        user = self._ask("GET", "/user", headers={"Authorization": f"Bearer {token}"})
        if user.get("kind", "user") != "user" or not self.scopes & set(user.get("scopes", ())):
            raise ForbiddenError("JupyterHub does not let you use this service.")
        return str(user["name"])

    def _ask(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        import requests

        try:
            response = requests.request(
                verb, self.api + path, timeout=_SECONDS, allow_redirects=False, **options
            )
            answer = response.json() if response.ok else None
        except (requests.RequestException, ValueError):
            raise HubUnavailableError("JupyterHub does not answer; try again later.") from None
        if not isinstance(answer, dict):
            raise AuthenticationError("JupyterHub did not confirm the sign-in; try again.")
        return answer


class ToJupyterHub(SignInPage):
    """Sends a browser to JupyterHub."""

    def initialize(self, jupyterhub: JupyterHub) -> None:
        """Take where JupyterHub is."""
        self._jupyterhub = jupyterhub

    @allow_unauthenticated
    async def get(self) -> None:
        """Remember where the visitor wanted to go, and send them."""
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        memory = {"state": state, "verifier": verifier, "onward": self.onward()}
        # Lax, not strict: JupyterHub, another site perhaps, is who sends the browser back.
        self.set_signed_cookie(
            _STATE,
            json.dumps(memory),
            expires_days=_STATE_DAYS,
            path=self.base_url,
            httponly=True,
            samesite="Lax",
            secure=self.request.protocol == "https",
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        query = {
            "client_id": self._jupyterhub.client,
            "redirect_uri": self._callback(),
            "response_type": "code",
            "state": state,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        self.go(f"{self._jupyterhub.authorize}?{urlencode(query)}")

    def _callback(self) -> str:
        return self._jupyterhub.callback or self.base_url + CALLBACK


class FromJupyterHub(ToJupyterHub):
    """Takes a browser back from JupyterHub and signs it in."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Find out who came, and sign them in."""
        context = context_of(self)
        context.touch()
        try:
            memory = self._memory()
            name = await context.call(
                self._jupyterhub.identify,
                self.get_query_argument("code", ""),
                memory["verifier"],
                self._callback(),
            )
            if self.current_user is not None:
                await context.call(visitor_of(self).logout)
            hub = context.hub.visitor(source=source_of(self))
            session = await context.call(hub.login_by, PROVIDER, name)
        except NeuroNexusError as error:
            self.set_status(error.status)
            self.show_problem(str(error))
            return
        self.identity_provider.sign_in(self, session)
        self.lead_on(memory["onward"])

    def _memory(self) -> dict[str, str]:
        """Return what was remembered on the way there, if this is the way back of that."""
        cookie = self.get_signed_cookie(_STATE, max_age_days=_STATE_DAYS)
        self.clear_cookie(_STATE, path=self.base_url)
        memory: dict[str, str] = json.loads(cookie) if cookie else {}
        given = self.get_query_argument("state", "")
        if not memory or not secrets.compare_digest(memory["state"].encode(), given.encode()):
            raise AuthenticationError("This sign-in was not begun here, or long ago; try again.")
        return memory


def jupyterhub_handlers(jupyterhub: JupyterHub | None) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return the patterns and handlers for signing in by JupyterHub, if there is one."""
    if jupyterhub is None:
        return []
    options = {"jupyterhub": jupyterhub}
    return [(f"/{START}", ToJupyterHub, options), (f"/{CALLBACK}", FromJupyterHub, options)]
