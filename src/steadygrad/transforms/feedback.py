"""Error feedback: what a compressor leaves out of one step is added to the next.

Seide, Fu, Droppo, Li, Yu, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of Speech
DNNs", Interspeech 2014; Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, arXiv:1809.07599, algorithm 1;
Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019,
arXiv:1901.09847, algorithm 2.

Deviations, and why:

- The residual is in units of the gradient and is not multiplied by the learning rate. The papers feed back a step, ``lr * g``; an
  implementation that multiplies on the way in and divides on the way out is wrong as soon as the learning rate changes
  between the two. With a constant learning rate and plain SGD both are the same; and ours serves any optimizer.
- Sums that would overflow become the largest number of the type, so the residual is always finite.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steadygrad.checks import show
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policy import Place, Policy, expression
from steadygrad.transforms.compressing import saturate_

_RESIDUAL = "residual"
_INNER = "inner."


class OwnFeedback:
    """The base of rewrites that remember by themselves what they left out. A second memory would add it twice."""


def error_feedback(compressor: Policy) -> Policy:
    """Add to every gradient what the compressor left out of the ones before.

    ``p = g + e``, ``q = C(p)``, ``e <- p - q``, and q is the gradient. So the sum of all q differs from the sum of all g by the
    last residual e alone: nothing is lost, it comes late. That needs a compressor which brings q closer to p than 0 is, such as
    `prune_topk` or ``sign(scaled=True)``; with `sign` or `qsgd` of few levels the residual may grow up to the largest number.

    The compressor sees p, while the readings are those of g: what it is told through ``numbers`` is about g. The compressors of
    this package work out what they need on the tensor itself. A tensor without a gradient keeps its residual, and so do all
    in a step that is skipped. A half-precision gradient is rounded once more after this, which is not fed back.

    Costs five reads and writes of every gradient's size more than the compressor, and a tensor of that size per parameter,
    ``residual``, which belongs to this process and is saved with the guard; the compressor's own memory is beside it.

    Args:
        compressor: a transform, or a chain that ends in its only one.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: the policy feeds back its error already, such as `onebit` and `dgc`.
        ArgumentTypeError: no policy, or one that has no ``rewrite``.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.error_feedback(sg.prune_topk(0.3)))
        >>> for grad in ([3.0, -0.5, -2.0], [1.0, 0.0, 0.0]):
        ...     param.grad = torch.tensor(grad)
        ...     guard.optimizer.step()
        ...     print(param.grad)
        tensor([3., 0., 0.])
        tensor([ 0.,  0., -2.])
        >>> guard.detach()

    Reference:
        Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", 2018, https://arxiv.org/abs/1809.07599
    """
    if not isinstance(compressor, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
        message = f"`error_feedback` expected a transform, such as `prune_topk()`, got {show(compressor)}"
        raise ArgumentTypeError(message, slug="policy-expected")
    if compressor.rewrite is None:
        message = (
            f"`error_feedback` expected a transform, such as `prune_topk()`; `{compressor.text}` has no rewrite of its own, "
            "or must measure on the way"
        )
        raise ArgumentTypeError(message, slug="policy-expected")
    if isinstance(compressor.rewrite, OwnFeedback):
        message = f"`error_feedback` expected a transform that forgets, but `{compressor.text}` feeds back its error already"
        raise ArgumentError(message, slug="feedback-twice")
    return compressor._replace(text=expression("error_feedback", compressor), rewrite=_Feedback(compressor.rewrite))


class _Feedback(OwnFeedback):
    """The rewrite of `error_feedback`."""

    def __init__(self, compress: Callable[[Any, Place], None]) -> None:
        self._compress = compress

    def __call__(self, grad: Tensor, place: Place) -> None:
        memory = place.memory
        if _RESIDUAL not in memory:
            memory[_RESIDUAL] = torch.zeros_like(grad)
        residual = memory[_RESIDUAL]
        saturate_(grad.add_(residual))
        residual.copy_(grad)
        inner = {key.removeprefix(_INNER): value for key, value in memory.items() if key.startswith(_INNER)}
        self._compress(grad, place._replace(memory=inner))
        memory.update({_INNER + key: value for key, value in inner.items()})
        saturate_(residual.sub_(grad))
