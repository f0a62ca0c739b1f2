"""What the owner of a SuperLink asks of it: register a node, list nodes, start and watch a run.

Flower's Control interface, spoken with Flower's own client, which is internal to Flower 1.41:
this module is the one place that uses it.  The owner's token goes out as a bearer token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx

from neuronexus_kernel.errors import ConflictError, HubUnavailableError
from neuronexus_kernel.federation import _flower as _no_telemetry  # noqa: F401
from neuronexus_kernel.federation.deployment.fab import Bundle

# isort: split

from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufRequestContext,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeState:
    """A registered node as the SuperLink sees it.

    Attributes
    ----------
    node
        Its number.
    name
        The name it was registered under.
    online
        Whether it is connected.
    """

    node: int
    name: str
    online: bool


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands.

    Attributes
    ----------
    finished
        Whether it has ended, well or not.
    problem
        Why it failed; empty if it did not.
    """

    finished: bool
    problem: str


class Control:
    """A connection of a SuperLink's owner.

    Parameters
    ----------
    address
        ``host:port`` of the SuperLink.
    authority
        Certificate of its authority, PEM.
    token
        Shown with every call.
    """

    def __init__(self, address: str, authority: bytes, token: str) -> None:
        self._address = address
        self._client = ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Bearer(token)],
        )

    def register(self, public_key: bytes, name: str) -> int:
        """Admit a node by its public key (PEM) and return its number.

        Raises
        ------
        ConflictError
            If the key is registered already.
        """
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self._ask(self._client.RegisterNode, request).node_id)

    def unregister(self, node: int) -> None:
        """Send a node away: its key is worth nothing from now on."""
        self._ask(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node))

    def nodes(self) -> list[NodeState]:
        """Return the registered nodes."""
        listed = self._ask(self._client.ListNodes, ListNodesRequest()).nodes_info
        return [NodeState(node.node_id, node.name, node.status == "online") for node in listed]

    def start_run(self, bundle: Bundle, **config: str | int | float | bool) -> int:
        """Start a run of a FAB and return its number."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(bundle.sha256, bundle.data, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        response = self._ask(self._client.StartRun, request)
        if not response.HasField("run_id"):
            raise HubUnavailableError("The SuperLink did not start the run; see its log.")
        return int(response.run_id)

    def run_status(self, run: int) -> RunStatus:
        """Return how a run stands."""
        listed = self._ask(self._client.ListRuns, ListRunsRequest(run_id=run)).run_dict
        status = listed[run].status
        ended = status.status == "finished"
        failed = ended and status.sub_status != "completed"
        problem = (status.details or status.sub_status) if failed else ""
        return RunStatus(ended, problem)

    def stop_run(self, run: int) -> None:
        """End a run."""
        self._ask(self._client.StopRun, StopRunRequest(run_id=run))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _ask(self, call: Callable[..., T], request: object) -> T:
        try:
            return call(request)
        except httpx.HTTPStatusError as error:
            told = FlowerError.from_json(error.response.text)
            reason = told.message if told is not None else str(error)
            kind = ConflictError if "already" in reason else HubUnavailableError
            raise kind(f"The SuperLink refused: {reason}") from None
        except httpx.HTTPError as error:
            raise HubUnavailableError(
                f"The SuperLink at {self._address} does not answer: {error}"
            ) from None


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)
