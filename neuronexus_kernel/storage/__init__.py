"""Bytes by content address: what was put in comes out, or an error does."""

from neuronexus_kernel.storage.importer import cid_of
from neuronexus_kernel.storage.interface import ContentStore
from neuronexus_kernel.storage.store import LocalStore

__all__ = ["ContentStore", "LocalStore", "cid_of"]
