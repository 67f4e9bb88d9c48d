"""Gradient centralization: take the mean out of each output's gradient.

Yong, Huang, Hua, Zhang, "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", ECCV 2020,
arXiv:2004.01461.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false
from torch import Tensor

from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.policy import Place, Policy, State, stateless, text_of
from steadygrad.readings import Readings


def centralize() -> Policy:
    """Subtract from each gradient of two dimensions and more its mean over all dimensions but the first.

    ``g[i] <- g[i] - mean(g[i])``, a projection: the gradient never grows, doing it twice is doing it once up to rounding, and
    it commutes with any factor. Under SGD without weight decay the sum of the weights that lead to an output then never
    changes.

    Gradients of one dimension (biases, gains) stay as they are. The first dimension is that of the outputs for linear layers
    and convolutions. For embeddings, whose rows are no outputs, and for transposed convolutions, whose first dimension is that
    of the inputs, leave the parameter out with `masked`. Costs one more read, then one more read and write of every gradient,
    and one number per output. A row whose sum float32 cannot hold stays as it is.

    Returns:
        The policy; it rewrites elements. A step with NaN or Inf is skipped.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(2, 3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.centralize())
        >>> param.grad = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([[-1.,  0.,  1.],
                [-1.,  0.,  1.]])
        >>> guard.detach()

    Reference:
        Yong, Huang, Hua, Zhang, "Gradient Centralization", 2020, https://arxiv.org/abs/2004.01461
    """

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        return rewriting(readings), state

    return Policy(stateless, decide, text_of(centralize), rewrites=True, rewrite=_rewrite)


def _rewrite(grad: Tensor, place: Place) -> None:
    del place
    if grad.ndim > 1:
        mean = grad.mean(tuple(range(1, grad.ndim)), keepdim=True)
        grad.sub_(mean.nan_to_num_(0.0, 0.0, 0.0))  # the sum of finite elements may overflow
