"""The loop around one optimizer: ``loop`` measures, decides and records; ``effects`` carries a decision out and undoes it.

``observer`` is the loop of a watcher that only looks.
"""

from steadygrad.guard.loop import Guard
from steadygrad.guard.observer import Observer

__all__ = ["Guard", "Observer"]
