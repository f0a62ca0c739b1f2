"""Who may read a root: the three visibilities of content."""

from __future__ import annotations

from enum import StrEnum


class Visibility(StrEnum):
    """Who may read what a root links to.

    ``public`` is for everyone, ``project`` for signed-in accounts of the hub, and ``sealed``
    (held-out rows, one participant's update) for the hub's own evaluators only: sealed blocks
    lie in a store of their own that no gateway and no API serves.
    """

    PUBLIC = "public"
    PROJECT = "project"
    SEALED = "sealed"
