"""ACClip: limit every coordinate of the momentum to a threshold of its own, which follows the gradients' usual size.

Zhang, Karimireddy, Veit, Kim, Reddi, Kumar, Sra, "Why are Adaptive Methods Good for Attention Models?", NeurIPS 2020,
arXiv:1912.03194, algorithm 2.

Deviations, and why:

- The threshold is divided by the weight of what it is a mean of, as Adam divides its moments. In the paper it starts at zero,
  so that the first hundred updates are a fraction of what they should be.
- What enters momentum and threshold is at most so large that no step can more than double the largest threshold of the tensor:
  ``max(tau) * (w / (1 - b2))^(1/alpha)``, where w, the weight of what the threshold is a mean of, goes to 1; so in the long run a
  hundred times that threshold for the defaults. In the paper everything enters: a spike of a million times the usual size lifts
  the threshold to ten thousand times its size, and passes. A lasting growth by a factor k is accepted in ``alpha * log2(k)``
  steps.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false
import torch
from torch import Tensor

from steadygrad.checks import SLUG, number, positive, show
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policy import Place, Policy, State, stateless, text_of
from steadygrad.readings import INF, Readings

_ALPHA, _BETAS, _EPS = 1.0, (0.9, 0.99), 1e-5


def acclip(*, alpha: float = _ALPHA, betas: tuple[float, float] = _BETAS, eps: float = _EPS) -> Policy:
    """Replace each gradient by its momentum, every coordinate of which is limited to a threshold of its own, as ACClip does.

    ``m <- b1*m + (1-b1)*g`` and ``tau^alpha <- b2*tau^alpha + (1-b2)*|g|^alpha``, the latter bias-corrected; then
    ``g <- min(tau / (|m| + eps), 1) * m``.

    This is most of an optimizer: put it before SGD without momentum. Adam behind it would divide by the gradient's size again.
    It keeps two tensors of the parameter's size, saved with the guard, and costs one more read and write of the gradient and of
    both, fourteen passes of arithmetic and one tensor of the gradient's size at a time. The direction of the gradient changes.

    Args:
        alpha: exponent of the mean that the threshold is, in [1, 2]; the heavier the tails of the gradients, the smaller.
        betas: weights of the past in momentum and threshold, each in [0, 1).
        eps: added to the momentum's modulus, > 0, in units of a gradient element.

    Returns:
        The policy; it rewrites elements. A step with NaN or Inf is skipped and leaves momentum and thresholds as they were.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(2))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.acclip(betas=(0.0, 0.5)))
        >>> for grad in ([1.0, 1.0], [-5.0, 0.5]):
        ...     param.grad = torch.tensor(grad)
        ...     guard.optimizer.step()
        >>> param.grad  # the first threshold: (1 * 1 + 2 * 1.5) / 3, since 5 counts as 1.5
        tensor([-1.3333,  0.5000])
        >>> guard.detach()

    Reference:
        Zhang et al., "Why are Adaptive Methods Good for Attention Models?", 2020, https://arxiv.org/abs/1912.03194
    """
    call = "acclip"
    exponent, floor, (b1, b2) = number(call, "alpha", alpha), positive(call, "eps", eps), _pair(call, betas)
    if not 1.0 <= exponent <= 2.0:
        raise ArgumentError(f"`{call}` expected `alpha` in [1, 2], got {show(alpha)}", slug=SLUG)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        return rewriting(readings), state

    def rewrite(grad: Tensor, place: Place) -> None:
        memory = place.memory
        if not memory:
            memory.update(m=torch.zeros_like(grad), tau=torch.zeros_like(grad), weight=grad.new_zeros(()))
        moment, powers = memory["m"], memory["tau"]
        _bound_entry(grad, powers, memory["weight"], exponent, b2)
        moment.mul_(b1).add_(grad, alpha=1.0 - b1)
        powers.mul_(b2).add_(grad.abs_() if exponent == 1.0 else grad.abs_().pow_(exponent), alpha=1.0 - b2)
        memory["weight"].mul_(b2).add_(1.0 - b2)
        threshold = powers.div(memory["weight"])
        _limit(grad, moment, threshold if exponent == 1.0 else threshold.pow_(1.0 / exponent), floor)

    text = text_of(acclip, alpha=exponent, betas=(b1, b2), eps=floor)
    return Policy(stateless, decide, text, rewrites=True, rewrite=rewrite)


def _bound_entry(grad: Tensor, powers: Tensor, weight: Tensor, alpha: float, b2: float) -> None:
    """Cut the elements that would more than double the largest threshold; none before there is a threshold."""
    after = weight * b2 + (1.0 - b2)
    largest = (powers.max() / weight * after / (1.0 - b2)).pow_(1.0 / alpha)
    # At first 0/0; and a power that the data type cannot hold must not enter.
    most = torch.where(largest > 0.0, largest, INF).clamp_(max=torch.finfo(grad.dtype).max ** (1.0 / alpha))
    torch.clamp(grad, -most, most, out=grad)


def _limit(out: Tensor, moment: Tensor, threshold: Tensor, eps: float) -> None:
    """``out = min(threshold / (|m| + eps), 1) * m``; `threshold` is used up."""
    torch.abs(moment, out=out).add_(max(eps, torch.finfo(out.dtype).tiny))
    torch.mul(moment, threshold.div_(out).clamp_(max=1.0), out=out)


def _pair(call: str, betas: object) -> tuple[float, float]:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise ArgumentTypeError(f"`{call}` expected `betas` to be two numbers, got {show(betas)}", slug=SLUG)
    first, second = (number(call, "betas", beta) for beta in betas)  # pyright: ignore[reportUnknownVariableType]
    if not (0.0 <= first < 1.0 and 0.0 <= second < 1.0):
        raise ArgumentError(f"`{call}` expected `betas` in [0, 1), got {show(betas)}", slug=SLUG)
    return first, second
