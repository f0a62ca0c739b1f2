"""What a member may reach: our pages and API, static files, and the kernel of their own page.

Everything else of Jupyter (other kernels, contents, sessions, terminals, conversion) is for
operators, because all kernels run as the same user of the machine.  The rule is a list of what
is open, by handler class: a handler that nobody thought of is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_server.auth.authorizer import Authorizer
from jupyter_server.base.handlers import APIVersionHandler, FileFindHandler, Template404
from jupyter_server.services.kernels.handlers import KernelHandler
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler

if TYPE_CHECKING:
    from jupyter_server.auth.identity import User
    from jupyter_server.base.handlers import JupyterHandler

_OPEN = (APIVersionHandler, FileFindHandler, Template404)


class ForMembers:
    """Marks a handler of ours that every member may reach."""


class Renews:
    """Marks a page of ours that gives the browser a new token when it is time for one."""


class OwnKernelOnly:
    """Marks a handler of ours that acts on the kernel ``kernel_id`` of its path."""


class NeuroNexusAuthorizer(Authorizer):
    """Lets operators do everything and members what is open to them."""

    def is_authorized(
        self, handler: JupyterHandler, user: User, action: str, resource: str
    ) -> bool:
        """Return whether `user` may go on with this request."""
        return is_open_to_members(handler, user)


def is_open_to_members(handler: JupyterHandler, user: User) -> bool:
    """Return whether this user may have this request handled."""
    if getattr(user, "role", "member") == "operator":
        return True
    if isinstance(handler, (ForMembers, *_OPEN)):
        return True
    if isinstance(handler, KernelHandler):
        return handler.request.method == "GET" and _owns_kernel(handler, user)
    if isinstance(handler, (KernelWebsocketHandler, OwnKernelOnly)):
        return _owns_kernel(handler, user)
    return False


def _owns_kernel(handler: JupyterHandler, user: User) -> bool:
    kernel_id = handler.path_kwargs.get("kernel_id")
    kernels = handler.kernel_manager
    owner_of = getattr(kernels, "owner_of", None)
    return owner_of is not None and kernel_id is not None and owner_of(kernel_id) == user.username
