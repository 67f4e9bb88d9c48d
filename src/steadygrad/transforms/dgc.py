"""Deep gradient compression: momentum that is gathered where it arises and sent when it has become large.

Lin, Han, Mao, Wang, Dally, "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training", ICLR 2018,
arXiv:1712.01887, algorithm 1 and section 3: momentum correction, local clipping, momentum factor masking, warm-up.

Deviations, and why:

- The largest elements are found exactly, where the paper estimates the threshold from a sample.
- The warm-up is over a number of steps; how long an epoch is, a transform does not know.
- Local clipping is by each tensor's norm, the paper's is by that of all of them. For the latter put `clip_by_global_norm` before
  this in a `chain`. The paper divides the limit by the root of the number of workers, which is left to the caller in both.
- Sums that would overflow become the largest number of the type, so what is gathered is always finite.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from steadygrad.checks import SLUG, count, non_negative, positive, show
from steadygrad.checks import fraction as checked_fraction
from steadygrad.decide.limits import limit, rewriting, tensor_norms
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Place, Policy, State, stateless, text_of
from steadygrad.readings import Readings
from steadygrad.transforms.compressing import saturate_
from steadygrad.transforms.feedback import OwnFeedback
from steadygrad.transforms.pruning import all_but_largest, how_many

_PERIODS = 4  # of the warm-up: a quarter, a 16th, a 64th, a 256th of the elements; the paper's were epochs


def dgc(fraction: float = 0.001, *, momentum: float = 0.9, warmup: int = 0, max_norm: float | None = None) -> Policy:
    """Gather momentum per element, and hand on only the share of elements in which most has been gathered.

    ``u <- mu*u + c*g``, ``w <- w + u``; the gradient becomes w where ``|w|`` is among the k largest of its tensor, else 0; there
    u and w are set to 0. ``c = min(1, max_norm / |g|)``, ``k = max(1, round(fraction * numel))``. During the warm-up k is that of
    1/4, 1/16, 1/64, 1/256 of the elements in turn, and never less than at the end.

    The momentum is in here: give the optimizer none of its own. Error feedback is in here as well: w is what was not handed on.

    Costs some ten reads and writes of every gradient's size and the search for the k-th largest, for which torch takes work
    space of its own; the memory is two tensors of the gradient's size per parameter, ``momentum`` and ``gathered``.

    Args:
        fraction: the share of elements that is handed on, in (0, 1].
        momentum: mu, in [0, 1).
        warmup: steps until the share is that small, >= 0.
        max_norm: limit on the norm of each gradient tensor before it is gathered, > 0, in units of the gradient; ``None``: none.

    Returns:
        The policy; it rewrites elements. It needs one read.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(2))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.dgc(0.5))
        >>> for grad in ([1.0, 2.0], [1.0, 0.0]):
        ...     param.grad = torch.tensor(grad)
        ...     guard.optimizer.step()
        ...     print(param.grad)
        tensor([0., 2.])
        tensor([2.9000, 0.0000])
        >>> guard.detach()

    Reference:
        Lin et al., "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training", 2018,
        https://arxiv.org/abs/1712.01887
    """
    call = "dgc"
    share, factor = checked_fraction(call, "fraction", fraction), non_negative(call, "momentum", momentum)
    if factor >= 1.0:
        raise ArgumentError(f"`{call}` expected `momentum` in [0, 1), got {show(momentum)}", slug=SLUG)
    steps = 0 if warmup == 0 and type(warmup) is int else count(call, "warmup", warmup)
    maximum = None if max_norm is None else positive(call, "max_norm", max_norm)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        if maximum is None:
            return rewriting(readings), state
        outcome = limit(readings.xp, tensor_norms(readings, 2.0), maximum)
        return rewriting(readings, {"clip": outcome.scale}), state

    text = text_of(dgc, fraction=share, momentum=factor, warmup=steps, max_norm=maximum)
    return Policy(stateless, decide, text, rewrites=True, rewrite=_Gather(share, factor, steps))


class _Gather(OwnFeedback):
    """The rewrite of `dgc`."""

    def __init__(self, share: float, momentum: float, warmup: int) -> None:
        self._share, self._momentum, self._warmup = share, momentum, warmup

    def __call__(self, grad: Tensor, place: Place) -> None:
        if not place.memory:
            place.memory.update(momentum=torch.zeros_like(grad), gathered=torch.zeros_like(grad))
        momentum, gathered = place.memory["momentum"], place.memory["gathered"]
        if "clip" in place.numbers:
            grad.mul_(place.numbers["clip"])
        saturate_(momentum.mul_(self._momentum).add_(grad))
        saturate_(gathered.add_(momentum))
        grad.copy_(gathered)
        k = how_many(self.share_at(place.step), grad)
        if k == grad.numel():
            momentum.zero_()
            gathered.zero_()
            return
        kept_back = all_but_largest(gathered, k)
        grad.masked_fill_(kept_back, 0.0)
        sent = kept_back.logical_not_()
        momentum.masked_fill_(sent, 0.0)
        gathered.masked_fill_(sent, 0.0)

    def share_at(self, step: int) -> float:
        """The share of elements that is handed on at a step."""
        if step >= self._warmup:
            return self._share
        return max(self._share, 0.25 ** (1 + _PERIODS * step // self._warmup))
