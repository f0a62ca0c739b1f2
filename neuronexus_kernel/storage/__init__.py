"""Bytes by content address: what was put in comes out, or an error does."""

from neuronexus_kernel.storage.store import ContentStore, LocalStore, cid_of

__all__ = ["ContentStore", "LocalStore", "cid_of"]
