"""Keep logits from growing: z-loss, soft cap, and normalised queries and keys.

z-loss: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311, section 5; its effect on
stability is measured by Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities", 2023,
arXiv:2309.14322. QK-norm: Henry et al., "Query-Key Normalization for Transformers", 2020, arXiv:2010.04245; Dehghani et al.,
"Scaling Vision Transformers to 22 Billion Parameters", 2023, arXiv:2302.05442.

Deviations: log Z and the norms are computed in float32 for half-precision inputs, where exp and squares overflow early.
Normalised queries and keys get one learned gain per channel and no bias, as Dehghani has it; Henry's one learned number instead
of the root of the channels is the user's choice at the dot product.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math

import torch
from torch import Tensor, nn

from steadygrad.checks import count, flag, non_negative, one_of, positive, show
from steadygrad.errors import ArgumentError, ArgumentTypeError

_KINDS = ("rms", "layer")


def z_loss(logits: Tensor, coefficient: float = 1e-4, *, dim: int = -1) -> Tensor:
    """A loss that keeps the softmax's normaliser near 1: ``coefficient * mean((log Z)^2)`` with ``Z = sum(exp(logits))``.

    Its gradient is ``2 * coefficient * log Z * softmax(logits)`` per row, divided by the number of rows. Add it to the loss.

    Args:
        logits: real logits, of any shape; leave out rows of padding.
        coefficient: >= 0; PaLM takes 1e-4, routers of mixtures of experts 1e-3.
        dim: the dimension of the classes.

    Returns:
        A scalar, float32 for half-precision logits and of their own type otherwise; 0 where there are no rows.

    Raises:
        ArgumentTypeError: the logits are no real floating-point tensor, or a number is none.
        ArgumentError: a number is out of range.

    Example:
        >>> print(f"{z_loss(torch.zeros(1, 2)).item():.4e}")
        4.8045e-05

    Reference:
        Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, https://arxiv.org/abs/2204.02311
    """
    call = "z_loss"
    factor = non_negative(call, "coefficient", coefficient)
    _real(call, "logits", logits)
    log_z = torch.logsumexp(_wide(logits), dim)
    return log_z.square().sum() * (factor / max(log_z.numel(), 1))


def soft_cap(logits: Tensor, cap: float) -> Tensor:
    """Bound logits smoothly: ``cap * tanh(logits / cap)``, the identity near zero and never above ``cap`` in size.

    Args:
        logits: real logits, of any shape.
        cap: the bound, > 0 and finite, in units of the logits.

    Returns:
        The bounded logits, of the same shape and type.

    Raises:
        ArgumentTypeError: the logits are no real floating-point tensor, or the cap is no number.
        ArgumentError: the cap is out of range.

    Example:
        >>> round(soft_cap(torch.tensor(50.0), 50.0).item(), 4)
        38.0797

    Reference:
        Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, https://arxiv.org/abs/2408.00118
    """
    call = "soft_cap"
    bound = positive(call, "cap", cap)
    if math.isinf(bound):
        raise ArgumentError(f"`{call}` expected a finite `cap`, got inf; leave the call out for no cap", slug="threshold-invalid")
    _real(call, "logits", logits)
    return torch.tanh(logits / bound) * bound


class QKNorm(nn.Module):
    """Normalise queries and keys per head before the dot product, so that attention logits cannot grow with their weights.

    "rms": ``x / sqrt(mean(x^2) + eps) * gain``; "layer": the same after the mean is taken off. With gains of 1 a logit
    ``q.k / sqrt(head_dim)`` is at most ``sqrt(head_dim)`` in size, and scaling the projections changes nothing but for eps.

    Args:
        head_dim: channels per head, the size of the last dimension.
        kind: "rms" or "layer".
        eps: added to the mean square, > 0.
        learnable: whether queries and keys have a gain per channel, which starts at 1.

    Raises:
        ArgumentError: a number is out of range, or at the call: a last dimension is not ``head_dim``.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> norm = QKNorm(4)
        >>> q, k = norm(torch.full((1, 2, 4), 1000.0), torch.ones(1, 3, 4))
        >>> torch.allclose(q, torch.ones(1, 2, 4)), tuple(k.shape)
        (True, (1, 3, 4))

    Reference:
        Henry, Dachapally, Pawar, Chen, "Query-Key Normalization for Transformers", 2020, https://arxiv.org/abs/2010.04245
    """

    def __init__(self, head_dim: int, *, kind: str = "rms", eps: float = 1e-6, learnable: bool = True) -> None:
        call = "QKNorm"
        super().__init__()
        self.head_dim, self.kind = count(call, "head_dim", head_dim), one_of(call, "kind", kind, _KINDS)
        self.eps, size = positive(call, "eps", eps), self.head_dim
        gains = flag(call, "learnable", learnable)
        self.query_gain = nn.Parameter(torch.ones(size)) if gains else None
        self.key_gain = nn.Parameter(torch.ones(size)) if gains else None

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised queries and keys, in the shapes and types given."""
        return self._normalise("query", query, self.query_gain), self._normalise("key", key, self.key_gain)

    def extra_repr(self) -> str:
        """The arguments, for printing."""
        return f"{self.head_dim}, kind={self.kind!r}, eps={self.eps}, learnable={self.query_gain is not None}"

    def _normalise(self, name: str, x: Tensor, gain: Tensor | None) -> Tensor:
        _real("QKNorm", name, x)
        if x.dim() == 0 or x.shape[-1] != self.head_dim:
            raise ArgumentError(
                f"`QKNorm` expected `{name}` with {self.head_dim} channels in its last dimension, got shape {tuple(x.shape)}; "
                "split the heads first",
                slug="head-dim",
            )
        wide = _wide(x)
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide if gain is None else wide * gain).to(x.dtype)


def _real(call: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else show(value)
        raise ArgumentTypeError(
            f"`{call}` expected `{name}` to be a real floating-point tensor, got {kind}", slug="argument-type"
        )


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
