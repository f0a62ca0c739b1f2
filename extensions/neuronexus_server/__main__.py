"""``python -m neuronexus_server``: serve the hub of one home until told to stop.

Evaluations run in child processes that import this module again, so nothing happens here unless
it is the program.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m neuronexus_server", description="Serve a NeuroNexus hub."
    )
    parser.add_argument("--home", type=Path, help="folder of the hub ($NEURONEXUS_HOME)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="port to listen on; 0 for any")
    parser.add_argument(
        "--port-retries", type=int, default=50, help="further ports to try when it is taken"
    )
    parser.add_argument(
        "--idle-seconds", type=float, help="end when nobody used the hub for so long"
    )
    parser.add_argument("--upload-limit", type=int, help="largest object accepted, in bytes")
    parser.add_argument("--dashboard", type=Path, help="notebook to serve as the dashboard")
    parser.add_argument(
        "--kernel-grace",
        type=float,
        default=300.0,
        help="seconds after which the kernel of a closed page ends",
    )
    parser.add_argument(
        "--no-warm-kernel", action="store_true", help="start dashboard kernels on demand only"
    )
    options = parser.parse_args(arguments)

    faulthandler.enable()
    from neuronexus_server.launch import Options, serve

    return serve(
        Options(
            home=options.home,
            host=options.host,
            port=options.port,
            port_retries=options.port_retries,
            idle_seconds=options.idle_seconds,
            upload_limit=options.upload_limit,
            dashboard=options.dashboard,
            kernel_grace=options.kernel_grace,
            warm_kernel=not options.no_warm_kernel,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
