"""One bit an element: the sign, alone, with the mean modulus, or with the two means of Seide et al.

Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed Optimisation for Non-Convex Problems", ICML 2018,
arXiv:1802.04434, algorithm 1. Seide, Fu, Droppo, Li, Yu, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
Distributed Training of Speech DNNs", Interspeech 2014. Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD and
other Gradient Compression Schemes", ICML 2019, arXiv:1901.09847.

Deviations, and why:

- The sign of 0 is 0, and zeros belong to neither mean. A true bit has no third value, and some implementations encode ``g >= 0``:
  then every parameter that took no part in a step, such as an unused row of an embedding, is pushed in the same direction.
- The means are those of a whole tensor.
- The residual is not multiplied by the learning rate, see `error_feedback`.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from steadygrad.checks import flag
from steadygrad.policy import Place, Policy, text_of
from steadygrad.transforms.compressing import PIECE, compressor, flattened, magnitude, mean_over, power_of_two
from steadygrad.transforms.feedback import error_feedback


def sign(*, scaled: bool = False) -> Policy:
    """Replace every gradient element by its sign: -1, 0 or 1; scaled, times the mean modulus of its tensor.

    ``g <- sign(g)``, or ``g <- mean|g| * sign(g)``. The first makes plain SGD into signSGD: every coordinate moves by the
    learning rate at each step, so learning rates are some 1e-4. The second keeps the 1-norm of a tensor without zeros, and
    ``error_feedback(sign(scaled=True))`` is EF-signSGD. The sign of 0 is 0.

    Costs one read and one write of every gradient, scaled two more reads; no state.

    Args:
        scaled: whether to multiply by the mean modulus.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentTypeError: the argument is no bool.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.sign())
        >>> param.grad = torch.tensor([0.5, -4.0, 0.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([ 1., -1.,  0.])
        >>> guard.detach()

    Reference:
        Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018, https://arxiv.org/abs/1802.04434
    """
    scaled = flag("sign", "scaled", scaled)
    return compressor(text_of(sign, scaled=scaled), flattened(_scaled_sign_) if scaled else _sign_)


def _sign_(grad: Tensor, place: Place) -> None:
    del place
    grad.sign_()


def _scaled_sign_(flat: Tensor, place: Place) -> None:
    del place
    unit = power_of_two(magnitude(flat))
    mean = mean_over((piece.div(unit).abs_().sum(), piece.numel()) for piece in flat.split(PIECE))
    flat.sign_().mul_(mean * unit)


def onebit(*, feedback: bool = True) -> Policy:
    """Replace every positive gradient element by the mean of its tensor's positive ones, every negative one by the mean of those.

    ``g <- mean(g[g > 0])`` where ``g > 0``, ``mean(g[g < 0])`` where ``g < 0``, 0 where ``g = 0``. What is lost is
    added to the next gradient: the authors found that training fails without, so `error_feedback` is built in.

    Costs four reads and one write of every gradient, and with feedback five reads and writes more and a tensor of the
    gradient's size per parameter, ``residual``.

    Args:
        feedback: whether to add what was lost to the next gradient.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentTypeError: the argument is no bool.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(4))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.onebit())
        >>> for grad in ([1.0, 3.0, -2.0, -4.0], [1.0, 3.0, -2.0, -4.0]):
        ...     param.grad = torch.tensor(grad)
        ...     guard.optimizer.step()
        ...     print(param.grad)
        tensor([ 2.,  2., -3., -3.])
        tensor([ 0.,  4., -3., -3.])
        >>> guard.detach()

    Reference:
        Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of Speech
        DNNs", 2014, https://doi.org/10.21437/Interspeech.2014-274
    """
    feedback = flag("onebit", "feedback", feedback)
    bare = compressor("onebit(feedback=False)", flattened(_two_means_))
    return error_feedback(bare)._replace(text="onebit()") if feedback else bare


def _two_means_(flat: Tensor, place: Place) -> None:
    del place
    unit = power_of_two(magnitude(flat))
    above = unit * mean_over(_sum_and_count(piece.clamp(min=0.0), unit) for piece in flat.split(PIECE))
    below = unit * mean_over(_sum_and_count(piece.clamp(max=0.0), unit) for piece in flat.split(PIECE))
    for piece in flat.split(PIECE):
        piece.copy_(torch.where(piece > 0.0, above, torch.where(piece < 0.0, below, 0.0)))


def _sum_and_count(piece: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """The sum in units, and how many elements are not zero; the piece is used up."""
    number = torch.count_nonzero(piece)
    return piece.div_(unit).sum(), number
