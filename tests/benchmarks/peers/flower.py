"""Flower's own simulation: ``run_simulation`` on Ray, as its quickstart for PyTorch has it.

Each actor keeps the clients' rows in memory.
"""

from __future__ import annotations

import os
import time

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from work import options

if __name__ == "__main__":
    chosen = options()
    os.environ["BENCHMARK_WORK"] = str(chosen.work.resolve())
    os.environ["BENCHMARK_ROUNDS"] = str(chosen.rounds)

    from flower_apps import client_app, server_app, the_work
    from flwr.simulation import run_simulation

    os.environ["BENCHMARK_BEGIN"] = str(time.perf_counter())
    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(the_work().labels),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
