"""NeuroNexus: co-develop AI models in notebooks."""

__version__ = "0.1.0"
