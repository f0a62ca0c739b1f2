"""A node's side of Flower's Fleet interface: sign in, fetch messages, send replies.

Flower's own SuperNode installs whatever app the SuperLink sends and starts a Python process for
each message, which takes seconds.  This client speaks the same protocol with Flower's own parts
(signing, serialisation, object transfer), so that a process of ours can answer messages itself.
These parts are internal to Flower 1.41: this module is the one place that uses them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from neuronexus_kernel.errors import AuthenticationError, HubUnavailableError, NeuroNexusError
from neuronexus_kernel.federation._flower import Message, TaskIdentity
from neuronexus_kernel.federation.deployment.tls import public_pem

# isort: split

from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

HEARTBEAT_SECONDS = 10.0
"""Flower's shortest: a node that is silent for twice as long counts as gone."""

T = TypeVar("T")


class RunOver(NeuroNexusError):
    """The run that a message belonged to has ended."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message that waits for this node, not yet fetched.

    Attributes
    ----------
    run
        The run that it belongs to.
    envelope
        The message without its content, and the list of the objects that make it up.
    """

    run: int
    envelope: tuple[Message, ObjectTree]


class Fleet:
    """A node's connection to its SuperLink.

    Parameters
    ----------
    address
        ``host:port`` of the SuperLink.
    authority
        Certificate of its authority, PEM.
    key
        The node's private key.
    previous
        Number that the node had when it was here before.  A SuperLink does not let a node in that
        it believes to be there, as it does for a while after one was killed: so it is told first.

    Raises
    ------
    AuthenticationError
        If the SuperLink does not know the key.
    HubUnavailableError
        If it does not answer.
    """

    def __init__(
        self,
        address: str,
        authority: bytes,
        key: ec.EllipticCurvePrivateKey,
        *,
        previous: int | None = None,
    ) -> None:
        self._address = address
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            authority,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self._stopped = threading.Event()
        self._key = public_pem(key)
        if previous is not None:
            with suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=previous))
        self.sign_in()
        threading.Thread(target=self._beat, daemon=True, name="nx-heartbeat").start()

    def sign_in(self) -> None:
        """Be let in, also by a SuperLink that took the place of another: it numbers nodes anew.

        Raises
        ------
        AuthenticationError
            If the SuperLink does not know the key.
        HubUnavailableError
            If it does not answer.
        """
        request = ActivateNodeRequest(public_key=self._key, heartbeat_interval=HEARTBEAT_SECONDS)
        self.node_id = int(self._ask(self._client.ActivateNode, request, activating=True).node_id)
        self._node = Node(node_id=self.node_id)

    def next(self) -> Assignment | None:
        """Return the next message that waits, or None."""
        response = self._ask(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        message = message_from_proto(response.messages_list[0])
        return Assignment(message.metadata.run_id, (message, response.message_object_trees[0]))

    def app(self, run: int) -> bytes:
        """Return the FAB of a run: bytes to be looked at, not to be run."""
        request = GetRunRequest(node=self._node, run_id=run)
        digest = self._ask(self._client.GetRun, request).run.fab_hash
        request = GetFabRequest(node=self._node, hash_str=digest, run_id=run)
        return bytes(self._ask(self._client.GetFab, request).fab.content)

    def fetch(self, assignment: Assignment) -> Message:
        """Fetch a message with its content; from now on, messages made here belong to its run.

        Raises
        ------
        HubUnavailableError
            If it cannot be had, or is no message.
        """
        _, tree = assignment.envelope
        run, node = assignment.run, self._node
        try:
            message: Message = pull_and_inflate_object_from_tree(
                tree,
                make_pull_object_fn_protobuf(self._call(self._client.PullObject), node, run),
                make_confirm_message_received_fn_protobuf(
                    self._call(self._client.ConfirmMessageReceived), node, run
                ),
                return_type=Message,
            )
        except NeuroNexusError:
            raise
        except Exception as error:  # objects from outside, unpacked by Flower
            raise HubUnavailableError(f"A message could not be read: {error}") from error
        message.metadata.__dict__["_message_id"] = tree.object_id
        self._adopt(run)
        return message

    def empty(self, assignment: Assignment) -> Message:
        """Return a message without its content, to be answered with an error."""
        self._adopt(assignment.run)
        return assignment.envelope[0]

    def send(self, reply: Message) -> None:
        """Send a reply.

        Raises
        ------
        HubUnavailableError
            If the SuperLink does not take it.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run = reply.metadata.run_id
        with no_object_id_recompute():
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            response = self._ask(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(bare)],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[0.0],
                ),
            )
            try:
                push_objects(
                    get_all_nested_objects(reply),
                    make_push_object_fn_protobuf(
                        self._call(self._client.PushObject), self._node, run, response.session_id
                    ),
                    object_ids_to_push=set(response.objects_to_push),
                )
            except ObjectPushError as error:
                raise HubUnavailableError(f"A reply was not taken: {error}") from error

    def close(self, *, goodbye: bool = True) -> None:
        """Let go of the connection.

        Parameters
        ----------
        goodbye
            Whether to say so, if anybody still listens.  The SuperLink then throws away replies
            that its ServerApp has not seen yet.
        """
        self._stopped.set()
        if goodbye:
            with suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
        self._client.close()

    def _adopt(self, run: int) -> None:
        """Flower keeps who is speaking in a global; one node speaks in this process."""
        TaskIdentity.task_id = TaskIdentity.run_id = run
        TaskIdentity.node_id = self.node_id

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS / 3):
            request = SendNodeHeartbeatRequest(
                node=self._node, heartbeat_interval=HEARTBEAT_SECONDS
            )
            try:
                self._client.SendNodeHeartbeat(request)
            except (httpx.HTTPError, RuntimeError):
                continue  # the main loop meets the same trouble and deals with it

    def _call(self, method: Callable[..., T]) -> Callable[..., T]:
        return lambda request: self._ask(method, request)

    def _ask(self, method: Callable[..., T], request: object, *, activating: bool = False) -> T:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == httpx.codes.UNAUTHORIZED or activating:
                raise AuthenticationError(
                    f"The SuperLink at {self._address} does not know this node's key, or no "
                    "longer: join the federation first, with the account that holds the key."
                ) from None
            if status == httpx.codes.FORBIDDEN:
                raise RunOver("The run has ended.") from None
            raise HubUnavailableError(
                f"The SuperLink at {self._address} answered {status}."
            ) from None
        except httpx.HTTPError as error:
            raise HubUnavailableError(
                f"The SuperLink at {self._address} does not answer: {error}"
            ) from None
