"""NaN and Inf: the first step, the tensors that have them, and those that were still finite.

Back-propagation runs from the last layer to the first and carries a NaN along. So the parameters that are still finite
bracket the faulty layer: it lies between the last parameter (in model order) with a NaN or Inf and the finite ones after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.contributors import Contributor, contributors
from steadygrad.diagnose.finding import Evidence, Finding, Severity
from steadygrad.diagnose.numbers import median_of, names_text, short
from steadygrad.diagnose.recurrent import is_recurrent, recurrent_remedies
from steadygrad.diagnose.series import Series, series_of
from steadygrad.diagnose.suggest import clip_flag, max_norm_from
from steadygrad.runs import Run

LISTED = 20
"""Names listed in the evidence; the counts are complete."""
TOLERATED = 0.05
"""Share of skipped non-finite steps that loss scaling explains: it probes too large a scale now and then."""
BLOWN_UP = 100.0
"""Norm before, relative to the run's median, above which the NaN is the end of an explosion."""
HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class FirstBad:
    """The first step with a NaN or Inf gradient: which tensors hold what, in model order."""

    row: int
    step: int
    nan: tuple[str, ...]
    inf: tuple[str, ...]
    finite: tuple[str, ...]


def nonfinite(run: Run) -> Iterable[Finding]:
    """One finding per optimizer whose gradients held a NaN or Inf."""
    for series in series_of(run):
        bad = bad_rows(run, series)
        if bad.any():
            yield _finding(run, series, bad)


def norm_overflow(run: Run) -> Iterable[Finding]:
    """Finite gradients whose norm overflows float32: measured again in float64, so nothing was lost."""
    events = [e for e in run.events if e.get("kind") == "nonfinite" and e.get("overflowed")]
    if not events:
        return
    names = tuple(dict.fromkeys(str(name) for e in events for name in e["overflowed"]))
    yield Finding(
        slug="norm-overflow",
        severity="warning",
        title=f"A gradient norm was too large for float32 at step {int(events[0].get('step', 0)):,}",
        where=names[:LISTED],
        step=int(events[0].get("step", 0)),
        evidence={"events": len(events), "overflowed": list(names[:LISTED])},
        cause=(
            f"{names_text(names)}: every element is finite, but the sum of squares is above 3.4e38."
            " Such a norm is the end of an explosion."
        ),
        remedies=(
            f"Run again with {clip_flag(max_norm_from(run.total_norm, 50)[0])}.",
            "Lower the learning rate, or the scale of the loss.",
        ),
    )


def bad_rows(run: Run, series: Series) -> np.ndarray:
    """Which rows of the optimizer have a NaN or Inf gradient, shape ``(r,)``."""
    bad = np.zeros(len(series), dtype=bool) if _never_recorded(series) else ~np.isfinite(series.norm)
    if run.names:
        own = run.grad_norm[series.rows]
        bad |= (run.present[series.rows] & ~np.isfinite(own)).any(axis=1)
    steps = [e.get("step") for e in run.events if e.get("kind") == "nonfinite" and _holds_bad(e) and _mine(e, series)]
    return bad | np.isin(series.step, np.array(steps, dtype=np.int64))


def _holds_bad(event: dict[str, object]) -> bool:
    return bool(event.get("nan") or event.get("inf"))


def _mine(event: dict[str, object], series: Series) -> bool:
    return event.get("optimizer", series.optimizer) == series.optimizer


def _never_recorded(series: Series) -> bool:
    """A log without a norm column is all NaN, and so is one that was NaN from the start; then the loss decides."""
    return bool(np.isnan(series.norm).all() and np.isfinite(series.loss).any())


def _first(run: Run, series: Series, row: int) -> FirstBad:
    step = int(series.step[row])
    for event in run.events:
        if event.get("kind") == "nonfinite" and event.get("step") == step and _holds_bad(event) and _mine(event, series):
            lists = (tuple(str(n) for n in event.get(key) or ()) for key in ("nan", "inf", "finite"))
            return FirstBad(row, step, *lists)
    if not run.names:
        return FirstBad(row, step, (), (), ())
    at = series.rows[row]
    norms, present = run.grad_norm[at], run.present[at]

    def pick(mask: np.ndarray) -> tuple[str, ...]:
        return tuple(run.names[i] for i in np.flatnonzero(mask & present))

    return FirstBad(row, step, pick(np.isnan(norms)), pick(np.isinf(norms)), pick(np.isfinite(norms)))


def _finding(run: Run, series: Series, bad: np.ndarray) -> Finding:
    first = _first(run, series, int(np.flatnonzero(bad)[0]))
    skipped = run.skipped[series.rows].astype(bool)
    share, all_skipped = float(bad.mean()), bool(skipped[bad].all())
    severity: Severity = "warning" if all_skipped and share <= TOLERATED else "error"
    loss = float(series.loss[first.row])
    before = _norm_before(series, first.row)
    kind = "NaN" if first.nan else "Inf" if first.inf else "NaN or Inf"
    evidence: Evidence = {
        "nan": list(first.nan[:LISTED]),
        "inf": list(first.inf[:LISTED]),
        "finite": list(first.finite[:LISTED]),
        "nan_count": len(first.nan),
        "inf_count": len(first.inf),
        "finite_count": len(first.finite),
        "loss_at_step": loss,
        "norm_before": before,
        "steps_nonfinite": int(bad.sum()),
        "steps_skipped": int((bad & skipped).sum()),
        "share_of_steps": share,
    }
    return Finding(
        slug="nonfinite-gradient",
        severity=severity,
        title=f"{kind} gradient at step {first.step:,}",
        where=_where(run, series, first),
        step=first.step,
        evidence=evidence,
        cause=_cause(run, series, first, before, bad, all_skipped),
        remedies=_remedies(run, series, first, all_skipped),
    )


def _ordered(run: Run, names: tuple[str, ...]) -> tuple[str, ...]:
    """Nearest to the loss first: the last one in model order is where back-propagation met the fault."""
    position = {name: i for i, name in enumerate(run.names)}
    return tuple(sorted(names, key=lambda name: -position.get(name, -1)))[:LISTED]


def _where(run: Run, series: Series, first: FirstBad) -> tuple[str, ...]:
    """The non-finite tensors; where the weights had blown up and every tensor is bad: those that carried the norm before."""
    carriers = carriers_before(run, series, first)
    return tuple(c.name for c in carriers) if carriers else _ordered(run, first.nan + first.inf)


def carriers_before(run: Run, series: Series, first: FirstBad) -> list[Contributor]:
    """Who carried the norm one step earlier, if nothing of the first bad step is finite, its loss included."""
    if first.finite or first.row == 0 or np.isfinite(series.loss[first.row]) or not np.isfinite(series.norm[first.row - 1]):
        return []
    return contributors(run, series, first.row - 1, first.row - 1)


def _norm_before(series: Series, row: int) -> float:
    before = series.norm[:row]
    finite = before[np.isfinite(before)]
    return float(finite[-1]) if len(finite) else float("nan")


def _cause(run: Run, series: Series, first: FirstBad, before: float, bad: np.ndarray, all_skipped: bool) -> str:
    culprits = _ordered(run, first.nan + first.inf)
    total = len(culprits) + len(first.finite)
    seen = (
        f"{names_text(culprits)} ({len(first.nan + first.inf)} of {total} gradients)" if culprits else "The total gradient norm"
    )
    loss = float(series.loss[first.row])
    bad_loss = "NaN" if np.isnan(loss) else "Inf"
    typical = median_of(series.norm[: first.row])
    if np.isfinite(before) and before > BLOWN_UP * typical:
        why = f"the norm was {short(before)} in the step before, so this is the end of an explosion"
    elif carriers := carriers_before(run, series, first):
        lead = f"{carriers[0].name} carried {carriers[0].share:.0%} of the gradient norm {short(before)} in the step before"
        why = f"the loss was already {bad_loss}; {lead}, so most likely that update blew up the weights"
        if is_recurrent(carriers[0].name):
            why += " (a recurrent weight is multiplied once per time step)"
    elif not np.isfinite(loss) and np.isfinite(series.loss[: first.row]).any():
        why = f"the loss was already {bad_loss}, so the fault is in the forward pass or in the data"
    elif first.finite and culprits:
        near = "at it or right behind it in the backward pass"
        why = f"{names_text(first.finite, 2)} stayed finite, so the fault of {culprits[0]} is {near}"
    elif np.isfinite(loss):
        why = "the loss was finite, so the fault is in the backward pass: sqrt or a norm at 0, log or division at 0, or overflow"
    else:
        why = "the loss is not finite either, or it was not recorded"
    half = " Half precision makes overflow likely." if first.inf and any(d in HALF for d in run.layout.dtypes) else ""
    if all_skipped:
        return f"{seen}: {why}. Every such step was skipped ({int(bad.sum()):,} of {len(series):,}).{half}"
    return f"{seen}: {why}. The optimizer stepped with it, so the weights are damaged.{half}"


def _remedies(run: Run, series: Series, first: FirstBad, all_skipped: bool) -> tuple[str, ...]:
    limit, origin = max_norm_from(series.norm[: first.row], 50)
    remedies = [] if all_skipped else [f"Run again with {clip_flag(limit, skip=True)} ({origin})."]
    if (carriers := carriers_before(run, series, first)) and is_recurrent(carriers[0].name):
        remedies.extend(recurrent_remedies())
    if first.nan and first.finite:
        remedies.append(
            f"Look at the operations around {_ordered(run, first.nan)[0]}: a NaN gradient of a"
            " finite loss comes from sqrt, norm, log, division or where at the edge of their domain; add a small constant inside."
        )
    if any(d == "float16" for d in run.layout.dtypes):
        remedies.append("Train in bfloat16 or float32, or use a gradient scaler.")
    remedies.append("Check the batch of this step for NaN, empty samples and labels out of range.")
    remedies.append("Lower the learning rate, or warm it up.")
    return tuple(remedies)
