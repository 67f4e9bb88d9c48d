"""The verdict on a run, in three short sentences: what happened, why, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose import Finding
from steadygrad.report.numbers import short
from steadygrad.runs import Run

LOSS_WINDOW = 20
"""Losses averaged (by median) at either end of a run to say how far it came."""


@dataclass(frozen=True)
class Verdict:
    """What people read first.

    Attributes:
        verdict: what happened (``Exploded at step 412.``).
        why: where, with the numbers, and the likely cause.
        next: what to do.
        severity: ``error``, ``warning``, ``info`` or ``ok``.
    """

    verdict: str
    why: str
    next: str
    severity: str = "ok"


def verdict_of(run: Run, findings: Sequence[Finding]) -> Verdict:
    """The verdict on a run.

    Args:
        run: the run.
        findings: what :func:`steadygrad.diagnose.diagnose` found in it, worst first.

    Returns:
        The worst finding as three sentences, or what a run without errors and warnings looks like.
    """
    serious = [finding for finding in findings if finding.severity != "info"]
    if serious:
        worst = serious[0]
        others = f" ({len(serious) - 1} more below)" if len(serious) > 1 else ""
        return Verdict(f"{worst.title}{others}.", worst.cause, worst.remedies[0] if worst.remedies else "", worst.severity)
    if not len(run):
        return Verdict("No step was recorded.", "The run has no rows.", "Check that the script calls `optimizer.step()`.", "info")
    short_run = next((finding for finding in findings if finding.slug == "too-short"), None)
    if short_run:
        return Verdict(f"{short_run.title}.", short_run.cause, short_run.remedies[0], "info")
    return _healthy(run)


def _healthy(run: Run) -> Verdict:
    first, last = loss_ends(run)
    stuck = math.isfinite(first) and math.isfinite(last) and last >= first
    norms = run.total_norm[np.isfinite(run.total_norm) & (run.total_norm > 0)]
    parts: list[str] = []
    if len(norms):
        low, middle, high = (float(v) for v in np.quantile(norms, [0.0, 0.5, 1.0]))
        parts.append(f"the gradient norm stayed between {short(low)} and {short(high)} (median {short(middle)})")
        parts.append("no NaN, no Inf")
    else:
        parts.append("the gradient norm was not recorded, only the loss was judged")
    if math.isfinite(first) and math.isfinite(last):
        parts.append(f"the loss went from {short(first)} to {short(last)}")
    else:
        parts.append("the loss was not recorded")
    text = "; ".join(parts)
    why = f"{text[0].upper()}{text[1:]}."
    if stuck:
        advice = "The loss did not fall: check the learning rate, the data and the labels."
        return Verdict(f"No instability in {len(run):,} steps, but the loss did not fall.", why, advice, "info")
    advice = "Nothing to do."
    if run.meta.get("policy"):
        clipped, skipped = float((run.coefficient < 1).mean()), int(run.skipped.sum())
        advice = f"Nothing to do; the policy scaled the gradient in {clipped:.0%} of the steps and skipped {skipped:,}."
    elif len(norms) >= LOSS_WINDOW:
        limit = float(f"{float(np.quantile(norms, 0.99)):.2g}")
        advice = f'Nothing to do; for a safety net, --policy "clip_by_global_norm({limit!r})" (99th percentile of this run).'
    return Verdict(f"No instability in {len(run):,} steps.", why, advice)


def loss_ends(run: Run) -> tuple[float, float]:
    """Median loss of the first and of the last tenth of a run (20 steps at most); NaN where there is none.

    A run whose last losses are all NaN ends with NaN, not with the last number before it.
    """
    finite = run.loss[np.isfinite(run.loss)]
    if not len(finite):
        return math.nan, math.nan
    width = max(1, min(LOSS_WINDOW, len(finite) // 10))
    ended = np.isfinite(run.loss[-max(LOSS_WINDOW, len(run) // 10) :]).any()
    return float(np.median(finite[:width])), float(np.median(finite[-width:])) if ended else math.nan
