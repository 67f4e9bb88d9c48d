"""The loop around one optimizer: ``loop`` measures, decides and records; ``effects`` carries a decision out and undoes it."""

from steadygrad.guard.loop import Guard

__all__ = ["Guard"]
