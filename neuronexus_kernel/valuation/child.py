"""Imports what an evaluation needs, for a process that forks evaluators.

Torch and Flower take seconds to import; a fork server that imported this module once gives each
evaluator a warm start.  It imports and does nothing else: no threads, no files.
"""

import scipy.special  # type: ignore[import-untyped]  # noqa: F401
import torch  # noqa: F401

import neuronexus_kernel.datasets
import neuronexus_kernel.federation
import neuronexus_kernel.models
import neuronexus_kernel.valuation.coalitions
import neuronexus_kernel.valuation.jobs  # noqa: F401
