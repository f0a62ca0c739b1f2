"""The NeuroNexus server: pages, REST and WebSocket over a hub, on Jupyter Server.

One `jupyter server` process owns the hub's database and serves everything: the API that
`RemoteHub` speaks, the sign-in page, and the dashboard by Voila.  `app` attaches it to a server,
`launch` starts a server for it alone, ``python -m neuronexus_server`` does that from a shell.
"""
