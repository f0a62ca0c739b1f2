"""The hub: records, accounts, events, contributions and their evaluation.

`Hub` is the interface; `LocalHub` (in ``hub.local``) is the hub itself and `RemoteHub` (in
``hub.remote``) its stand-in over HTTP.  Importing this package imports neither.
"""

from neuronexus_kernel.hub.hub import Hub

__all__ = ["Hub"]
