"""The REST form of the hub's interface: one table, read by the server and by `RemoteHub`.

A route names a method of `Hub`; the method's parameters come from the path, then from the query
(GET, DELETE) or the JSON body (POST), and are converted by the method's own type hints.  So
there is one place that says what the API is.  What carries bytes and streams has handlers of its
own: ``put`` and ``get`` at `CONTENT`, ``follow`` at `STREAM`, ``export_project`` at `ARCHIVE` and
``import_project`` at `ARCHIVES`; ``blocks`` is the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

API = "/neuronexus/api/v1"
CONTENT = f"{API}/content"
STREAM = f"{API}/events/stream"
ARCHIVE = f"{API}/projects/{{project}}/archive"
ARCHIVES = f"{API}/archives"
CAR = "application/vnd.ipld.car"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the API.

    Attributes
    ----------
    operation
        Name of the `Hub` method.
    verb, path
        HTTP method, and path below `API` with ``{parameter}`` segments.
    """

    operation: str
    verb: Literal["GET", "POST", "DELETE"]
    path: str


ROUTES: tuple[Route, ...] = (
    Route("register", "POST", "/accounts"),
    Route("accounts", "GET", "/accounts"),
    Route("whoami", "GET", "/accounts/me"),
    Route("add_operator", "POST", "/operators"),
    Route("login", "POST", "/sessions"),
    Route("logout", "DELETE", "/sessions/current"),
    Route("create_token", "POST", "/tokens"),
    Route("roots", "GET", "/roots"),
    Route("history", "GET", "/names/{name}"),
    Route("keep", "POST", "/pins"),
    Route("keepings", "GET", "/pins"),
    Route("release", "DELETE", "/pins/{cid}"),
    Route("create_project", "POST", "/projects"),
    Route("projects", "GET", "/projects"),
    Route("project", "GET", "/projects/{name}"),
    Route("versions", "GET", "/projects/{project}/versions"),
    Route("runs", "GET", "/projects/{project}/runs"),
    Route("start_run", "POST", "/runs"),
    Route("run", "GET", "/runs/{run}"),
    Route("record_round", "POST", "/runs/{run}/rounds"),
    Route("finish_run", "POST", "/runs/{run}/result"),
    Route("start_federation", "POST", "/federations"),
    Route("federations", "GET", "/projects/{project}/federations"),
    Route("federation", "GET", "/federations/{federation}"),
    Route("join_federation", "POST", "/federations/{federation}/nodes"),
    Route("stop_federation", "DELETE", "/federations/{federation}"),
    Route("resume_federation", "POST", "/federations/{federation}/resumption"),
    Route("submit", "POST", "/contributions"),
    Route("contributions", "GET", "/contributions"),
    Route("contribution", "GET", "/contributions/{contribution}"),
    Route("confirm", "POST", "/contributions/{contribution}/confirmation"),
    Route("balances", "GET", "/balances"),
    Route("balance", "GET", "/balances/{account}"),
    Route("ledger_lines", "GET", "/ledger"),
    Route("verify_ledger", "GET", "/ledger/verification"),
    Route("backup", "POST", "/backups"),
    Route("check", "GET", "/check"),
    Route("events", "GET", "/events"),
    Route("network", "GET", "/network"),
)

BY_OPERATION = {route.operation: route for route in ROUTES}
