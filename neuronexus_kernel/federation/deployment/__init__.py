"""Federated training on many machines: a Flower SuperLink, and SuperNodes beside private data.

`serving.Serving` starts a SuperLink, waits for nodes, runs the recipe on them and reports each
round; `supernode.SuperNode` starts a node.  Both run as child processes, which end with the
process that started them.  Each side has a folder, from which a run that was interrupted goes on.
On the node nothing is executed but the installed package.
"""

from __future__ import annotations
