"""Adaptive clipping as its authors published it, written anew from the equations: what ours is timed against.

Each keeps the structure of the published code, which is what its speed comes from: a norm per parameter, a Python number of it, a
decision in Python, and a multiplication per parameter. None of them looks for NaN; nor did the originals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class AutoClip:
    """Seetharaman et al. 2020, arXiv:2007.14469: the limit is a percentile of all norms so far.

    Args:
        params: the parameters.
        history: the global norms of the steps before.
        percentile: which percentile, from 0 to 100.
    """

    def __init__(self, params: Sequence[nn.Parameter], history: Sequence[float], percentile: float = 10.0) -> None:
        self.params = list(params)
        self.history = list(history)
        self.percentile = percentile

    def __call__(self) -> None:
        total = 0.0
        for param in self.params:
            total += param.grad.norm(2).item() ** 2
        self.history.append(total**0.5)
        torch.nn.utils.clip_grad_norm_(self.params, float(np.percentile(self.history, self.percentile)))


class ZClip:
    """Kumar et al. 2025, arXiv:2504.02507: a norm with a high score is brought near the mean. The warm-up is already over.

    Args:
        params: the parameters.
        history: the global norms of the warm-up.
        max_norm: limit that always holds.
    """

    def __init__(self, params: Sequence[nn.Parameter], history: Sequence[float], max_norm: float = 1.0) -> None:
        self.params = list(params)
        self.mean, self.variance = float(np.mean(history)), float(np.var(history))
        self.max_norm = max_norm
        self.alpha, self.z_threshold, self.eps = 0.97, 2.5, 1e-6

    def __call__(self) -> None:
        norms = [param.grad.to(torch.float32).norm(2) for param in self.params]
        norm = torch.stack(norms).norm(2).item()
        deviation = self.variance**0.5
        score = (norm - self.mean) / (deviation + self.eps)
        target = norm
        if score > self.z_threshold:
            target = self.mean + self.z_threshold**2 * deviation / score
        limit = min(target, self.max_norm)
        if limit < norm:
            for param in self.params:
                param.grad.mul_(limit / (norm + self.eps))
        self.mean = self.alpha * self.mean + (1.0 - self.alpha) * target
        self.variance = self.alpha * self.variance + (1.0 - self.alpha) * (target - self.mean) ** 2


class AdaGC:
    """Wang et al. 2025, arXiv:2502.11034: each norm may be little above a moving average. The warm-up is already over.

    Args:
        params: the parameters.
        average: the moving average of each parameter's norms.
    """

    def __init__(self, params: Sequence[nn.Parameter], average: Sequence[float]) -> None:
        self.params = list(params)
        self.average = list(average)
        self.relative, self.beta, self.eps = 1.04, 0.99, 1e-6

    def __call__(self) -> None:
        for i, param in enumerate(self.params):
            norm = param.grad.norm(2).item()
            limit = self.relative * self.average[i]
            if norm > limit:
                param.grad.mul_(limit / (norm + self.eps))
            self.average[i] = self.beta * self.average[i] + (1.0 - self.beta) * min(norm, limit)
