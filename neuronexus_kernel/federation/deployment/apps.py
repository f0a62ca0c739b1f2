"""The two apps that the FAB names, for Flower to load: both run installed code only.

`client_app` answers for one node: it reads the lab's data from the file that the node's own
config names (``data``, ``partition-id``, and optionally ``executor``), trains by the recipe in
the message, and sends weights and numbers back.  The data never leaves the process.
`server_app` runs the order in the folder that the run's config names.

Any SuperLink and SuperNode of Flower can load them; `supernode_process` runs the same client app
without starting a process for each message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import ClientApp, Context, Grid, Message, ServerApp
from neuronexus_kernel.federation.deployment.node import Node, load_data


def make_client_app(node_of: Callable[[Context], Node]) -> ClientApp:
    """Return the client app of one lab.

    Parameters
    ----------
    node_of
        Returns the lab's node: its data, and what it keeps between rounds.
    """
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        return node_of(context).answer(message, context.state)

    app.train()(answer)
    app.evaluate()(answer)
    return app


@lru_cache(maxsize=1)
def _node(data: str, partition: int, executor: str) -> Node:
    return Node(load_data(Path(data)), partition=partition, executor=executor)


def _configured(context: Context) -> Node:
    config = context.node_config
    data, partition = config.get("data"), config.get("partition-id")
    if not isinstance(data, str) or not isinstance(partition, int):
        raise InvalidInputError(
            "The SuperNode's --node-config must name the data and the partition, for example "
            "'data=\"/data/lab.npz\" partition-id=0'."
        )
    return _node(data, partition, str(config.get("executor", "auto")))


client_app = make_client_app(_configured)
server_app = ServerApp()


@server_app.main()
def _serve(grid: Grid, context: Context) -> None:
    from neuronexus_kernel.federation.deployment.conduct import conduct

    folder = context.run_config.get("folder")
    if not isinstance(folder, str) or not folder:
        raise InvalidInputError("Name the order's folder: --run-config 'folder=\"/path\"'.")
    # A path below Flower's own folder tells the nodes, who see the run's config, nothing.
    conduct(Path(os.environ.get("FLWR_HOME", "."), folder), grid)
