"""Rules from a run to findings: what went wrong, where, when, on what evidence, why, and what to do. Needs no torch.

Each rule is a pure function ``rule(run) -> Iterable[Finding]``, one family a file; :mod:`steadygrad.diagnose.rules` lists
them. Thresholds are named constants that say where they come from. Rules compare a run with its own history and use
medians, so a NaN, a spike or a heavy tail can't move what they compare with.
"""

from steadygrad.diagnose.finding import Finding
from steadygrad.diagnose.rules import diagnose

__all__ = ["Finding", "diagnose"]
