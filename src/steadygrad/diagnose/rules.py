"""The table of rules, and the one function that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steadygrad.diagnose.finding import Finding
from steadygrad.diagnose.loss import loss_diverged
from steadygrad.diagnose.no_gradient import no_gradient
from steadygrad.diagnose.nonfinite import nonfinite, norm_overflow
from steadygrad.diagnose.over_depth import over_depth
from steadygrad.diagnose.over_time import exploding_over_time
from steadygrad.diagnose.recording import is_short, loss_missing, norm_unusable, too_short
from steadygrad.diagnose.skips import many_skips
from steadygrad.diagnose.spikes import spike
from steadygrad.diagnose.threshold import threshold
from steadygrad.runs import Run

Rule = Callable[[Run], Iterable[Finding]]

FACTS: tuple[Rule, ...] = (nonfinite, norm_overflow, many_skips, no_gradient, too_short)
"""Rules that report what happened; they need no history, so they run on every run."""
JUDGEMENTS: tuple[Rule, ...] = (exploding_over_time, spike, over_depth, threshold, loss_diverged, loss_missing, norm_unusable)
"""Rules that compare a run with itself; they run only where there are enough steps."""


def diagnose(run: Run) -> list[Finding]:
    """What is wrong with a run, the worst first.

    Each rule is a pure function of the run; a healthy run yields nothing of severity ``warning`` or ``error``.

    Args:
        run: a recorded or imported run.

    Returns:
        The findings, sorted by severity (error, warning, info) and then by first step.
    """
    rules = FACTS if is_short(run) else FACTS + JUDGEMENTS
    return sorted((finding for rule in rules for finding in rule(run)), key=Finding.order)
