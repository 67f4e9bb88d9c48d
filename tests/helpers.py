"""What several tests share: runs made of arrays, without recording anything."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steadygrad.decision import Reason
from steadygrad.measure.select import measure
from steadygrad.policy import Place, Policy
from steadygrad.readings import Layout
from steadygrad.runs import Checkups, Run


def make_run(
    *,
    loss: Any = None,
    total_norm: Any = None,
    grad_norm: Any = None,
    names: tuple[str, ...] = (),
    shapes: tuple[tuple[int, ...], ...] = (),
    dtypes: tuple[str, ...] = (),
    present: Any = None,
    threshold: Any = None,
    skipped: Any = None,
    optimizer: Any = None,
    step: Any = None,
    events: list[dict[str, Any]] | None = None,
    checkups: Checkups | None = None,
    meta: dict[str, Any] | None = None,
    path: str = "runs/test",
) -> Run:
    """A run from arrays; what is not given is made up consistently.

    Args:
        loss: shape ``(r,)``; NaN if absent.
        total_norm: shape ``(r,)``; from ``grad_norm`` if absent, else NaN.
        grad_norm: shape ``(r, n)``.
        names, shapes, dtypes: of the ``n`` parameters; ``p0``, ``p1`` ... of shape (4, 4) in float32 if absent.
        present: shape ``(r, n)``; where ``grad_norm`` is given: everywhere.
        threshold: shape ``(r,)`` or one number: the limit of a global clip, from which coefficient and reason follow.
        skipped, optimizer, step: shape ``(r,)``; no skips, optimizer 0 and 1, 2, 3 ... if absent.
        events, checkups, meta, path: as in :class:`steadygrad.runs.Run`.
    """
    given = next((np.asarray(a) for a in (grad_norm, total_norm, loss) if a is not None), np.zeros(0))
    rows = len(given)
    grads = np.asarray(grad_norm, dtype=np.float32) if grad_norm is not None else np.zeros((rows, len(names)), np.float32)
    n = grads.shape[1]
    names = names or tuple(f"p{i}" for i in range(n))
    if total_norm is None:
        total_norm = (
            np.sqrt(np.sum(np.where(_mask(present, grads), grads.astype(np.float64), 0.0) ** 2, axis=1))
            if n
            else np.full(rows, np.nan)
        )
    total = np.asarray(total_norm, dtype=np.float64)
    limit = (
        np.full(rows, np.nan) if threshold is None else np.broadcast_to(np.asarray(threshold, dtype=np.float64), (rows,)).copy()
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        coefficient = np.where(total > limit, limit / total, 1.0)
    return Run(
        path=Path(path),
        meta=meta or {},
        layout=Layout(names, (), shapes or ((4, 4),) * n, dtypes or ("float32",) * n),
        row=np.arange(rows),
        step=np.arange(1, rows + 1) if step is None else np.asarray(step),
        optimizer=np.zeros(rows, np.int16) if optimizer is None else np.asarray(optimizer),
        time=np.arange(rows) * 0.01,
        loss=np.full(rows, np.nan) if loss is None else np.asarray(loss, dtype=np.float64),
        total_norm=total,
        total_norm_after=total * coefficient,
        coefficient=coefficient,
        skipped=np.zeros(rows, bool) if skipped is None else np.asarray(skipped, dtype=bool),
        reason=np.where(coefficient < 1, int(Reason.CLIPPED), 0).astype(np.int16),
        lr=np.full(rows, 0.1),
        threshold=limit,
        grad_norm=grads,
        present=_mask(present, grads),
        scale=None,
        checkups=checkups or no_checkups(n),
        events=events or [],
    )


def no_checkups(n: int) -> Checkups:
    """Check-ups of a run that made none."""
    empty, rows = np.zeros((0, n), np.float32), np.zeros(0, np.int64)
    return Checkups(row=rows, step=rows, optimizer=rows, abs_max=empty, param_norm=empty, update_ratio=empty)


def read_log(path: Path) -> Run:
    """A run from one of the ``step,loss[,grad_norm]`` logs."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.reader(file))[1:]
    columns = [[float(cell) if cell else float("nan") for cell in column] for column in zip(*rows, strict=True)]
    norm = columns[2] if len(columns) > 2 else None
    return make_run(step=np.array(columns[0]).astype(int), loss=columns[1], total_norm=norm, path=path.name.split(".")[0])


def _mask(present: Any, grads: np.ndarray) -> np.ndarray:
    return np.ones(grads.shape, bool) if present is None else np.asarray(present, dtype=bool)


def run_transform(
    policy: Policy, grad: torch.Tensor, memory: dict[str, Any] | None = None, *, step: int = 0, name: str = "w", shard: int = 0
) -> torch.Tensor | None:
    """What a transform makes of one gradient, called as by the guard; ``None``: it asks for a skip. Writes to ``memory``."""
    readings = measure([grad], Layout((name,), shapes=(tuple(grad.shape),)), policy.needs)
    decision, _ = policy.decide(readings, policy.init(readings))
    if decision.skip:
        return None
    numbers = {key: value[0] if getattr(value, "ndim", 0) else value for key, value in (decision.numbers or {}).items()}
    result = grad.clone() if decision.scale is None else grad * float(np.ravel(decision.scale)[0])
    memory = {} if memory is None else memory
    with torch.no_grad():
        policy.rewrite(result, Place(name, torch.zeros_like(grad), {"lr": 0.1}, {}, memory, numbers, step, shard))
    return result


SAMPLES = {
    "adaclip": "adaclip()",
    "adagc": "adagc(warmup=3)",
    "adaptive_grad_clip": "adaptive_grad_clip(0.1)",
    "acclip": "acclip()",
    "add_noise": "add_noise(0.01, seed=3)",
    "aggc": "aggc()",
    "auto": "auto()",
    "autoclip": "autoclip(50.0)",
    "block_descent": "block_descent(0.5, seed=1)",
    "centralize": "centralize()",
    "chain": "chain(skip_nonfinite(), clip_by_norm(1.0), centralize(), clip_by_global_norm(1.0))",
    "clip_by_global_norm": "clip_by_global_norm(1.0)",
    "clip_by_group_norm": "clip_by_group_norm(1.0)",
    "clip_by_growth": "clip_by_growth(2.0)",
    "clip_by_norm": "clip_by_norm(1.0)",
    "clip_by_rms": "clip_by_rms(0.1)",
    "clip_by_value": "clip_by_value(0.5)",
    "clip_update_rms": "clip_update_rms(0.5)",
    "coordinate_descent": "coordinate_descent(0.5, seed=1)",
    "decay": "decay(exponential(0.9))",
    "decoupled_l2": "decoupled_l2(0.01)",
    "dgc": "dgc(0.3)",
    "error_feedback": "error_feedback(prune_topk(0.3))",
    "fp8": "fp8()",
    "gradient_stabilizer": "gradient_stabilizer()",
    "lamb": "lamb()",
    "larc": "larc(0.02)",
    "lars": "lars()",
    "limit_update_ratio": "limit_update_ratio(0.01)",
    "masked": "masked(clip_by_norm(1.0), '*.weight')",
    "max_norm_weights": "max_norm_weights(0.5)",
    "normalize": "normalize()",
    "onebit": "onebit()",
    "percentile_clip": "percentile_clip(50, window=4)",
    "proximal_l1": "proximal_l1(0.01)",
    "prune_hard": "prune_hard(0.01)",
    "prune_soft": "prune_soft(0.01)",
    "prune_topk": "prune_topk(0.3)",
    "qsgd": "qsgd(seed=2)",
    "sign": "sign()",
    "skip_nonfinite": "skip_nonfinite(5)",
    "smooth_normalize": "smooth_normalize()",
    "soft_clip": "soft_clip(0.5)",
    "soft_clip_norm": "soft_clip_norm(1.0)",
    "spam": "spam(guard_steps=2)",
    "spectral_bound": "spectral_bound(0.5)",
    "spectral_clip": "spectral_clip(0.5)",
    "terngrad": "terngrad(seed=2)",
    "weight_relative_clip": "weight_relative_clip(0.003)",
    "zclip": "zclip(warmup=3)",
}
"""One text of every policy that there is, with settings that make it act within a few steps."""
