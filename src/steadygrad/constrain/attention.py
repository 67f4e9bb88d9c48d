"""QK-Clip: bound the attention logits by scaling the weights that make queries and keys, after the step.

Kimi Team, "Kimi K2: Open Agentic Intelligence", 2025, arXiv:2507.20534, section 2.1 (MuonClip). Where a head's largest logit S
exceeds tau, its query weights are multiplied by ``(tau/S)^alpha`` and its key weights by ``(tau/S)^(1-alpha)``.

Deviations, and why: biases of queries and keys are scaled with the weights, else the logits would not come down to tau; where
several query heads share a key head, that one takes the largest logit of its group and each query head its own, so that no
head stays above tau and the largest one comes down to it; the multi-head latent attention of the paper, with its shared
rotary key, is not covered.

The logits belong to the forward pass, which no gradient tells of. So there are two ways: `qk_clip_` for any attention whose
largest logits are known, and :class:`QKClip`, which measures those of ``nn.MultiheadAttention``.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from typing import Any

import torch
from torch import Tensor, nn

from steadygrad.checks import SLUG, number, positive, show
from steadygrad.constrain.arithmetic import constraint, wide
from steadygrad.errors import ArgumentError, UnsupportedError
from steadygrad.policy import Place, Policy, text_of

_HEADS = "attention-heads"


def qk_clip_(
    query: Tensor | tuple[Tensor, ...],
    key: Tensor | tuple[Tensor, ...],
    max_logits: Tensor,
    threshold: float = 100.0,
    alpha: float = 0.5,
    *,
    num_kv_heads: int | None = None,
) -> None:
    """Scale the query and key weights of heads whose largest attention logit was above a threshold, in place.

    ``W_q <- W_q * f^alpha`` and ``W_k <- W_k * f^(1 - alpha)`` with ``f = min(1, threshold / max_logit)``, head by head; the
    largest logit, measured again on the same input, is then the threshold. Call it after ``optimizer.step()`` with the logits
    of the forward pass before it.

    Costs one read and write of the weights, and one wait for the device, to look at the logits. Heads within the
    threshold are multiplied by exactly 1.

    Args:
        query: the weight that makes queries, shape ``(num_heads * head_dim, ...)``; with its bias, a tuple of both.
        key: the same for keys, shape ``(num_kv_heads * head_dim, ...)``.
        max_logits: the largest ``q.k / sqrt(head_dim)`` of each query head, shape ``(num_heads,)``; over all micro-batches
            and, in distributed training, over all ranks.
        threshold: tau, > 0, in units of a logit.
        alpha: the queries' share, in [0, 1].
        num_kv_heads: key heads; consecutive query heads share one. ``None``: as many as query heads.

    Raises:
        ArgumentError: a logit is not finite; the head counts do not divide each other or a tensor's rows; a number is out of
            range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import torch
        >>> w_q, w_k = torch.full((2, 3), 4.0), torch.full((2, 3), 2.0)
        >>> qk_clip_(w_q, w_k, torch.tensor([400.0, 50.0]))
        >>> w_q[:, 0], w_k[:, 0]
        (tensor([2., 4.]), tensor([1., 2.]))

    Reference:
        Kimi Team, "Kimi K2: Open Agentic Intelligence", 2025, https://arxiv.org/abs/2507.20534.
    """
    tau, share = _numbers("qk_clip_", threshold, alpha)
    heads = max_logits.numel()
    key_heads = heads if num_kv_heads is None else num_kv_heads
    if max_logits.ndim != 1 or not heads or key_heads < 1 or heads % key_heads:
        message = f"`qk_clip_` expected one logit per head, a multiple of {show(num_kv_heads)} key heads"
        raise ArgumentError(f"{message}, got shape {tuple(max_logits.shape)}", slug=_HEADS)
    if not bool(torch.isfinite(max_logits).all()):  # the caller's own loop, between two steps: a wait that the docstring names
        raise ArgumentError("`qk_clip_` expected finite logits, got NaN or Inf: do not take this step", slug="logits-nonfinite")
    queries, keys = _tensors(query), _tensors(key)
    for tensor in queries + keys:
        if not tensor.ndim or tensor.shape[0] % (heads if any(tensor is q for q in queries) else key_heads):
            message = f"`qk_clip_` expected rows that {heads} heads ({key_heads} of keys) divide, got shape {tuple(tensor.shape)}"
            raise ArgumentError(message, slug=_HEADS)
    with torch.no_grad():
        grouped = wide(max_logits).view(key_heads, -1).amax(1)
        for tensor in queries:
            _scale_heads_(tensor.detach(), _factors(wide(max_logits), tau, share))
        for tensor in keys:
            _scale_heads_(tensor.detach(), _factors(grouped, tau, 1.0 - share))


class QKClip:
    """QK-Clip for the ``nn.MultiheadAttention`` modules of a model: measures their logits and is a policy.

    In each forward pass in training mode it works out ``q.k / sqrt(head_dim)`` once more, without gradient, and keeps the
    largest of each head since the last step, over micro-batches and without what a mask excludes. After the step the policy
    scales queries' and keys' rows of the projections, as :func:`qk_clip_` says, without a wait for the device.

    A head whose logits are not finite is left as it is, and the values are forgotten at the next forward pass: such a loss makes
    gradients NaN, which is what `skip_nonfinite` in the same chain is for. A step that is skipped leaves the weights as they
    were, so logits measured before it stay valid. All projections of a module must be trained by the guarded optimizer. In
    distributed training each rank sees its own batch only: use `qk_clip_` with logits reduced over the ranks.

    Costs in the forward pass the query and key projections and the logits again, and memory for the logits of one layer:
    batch * heads * queries * keys numbers, which fused attention avoids. After the step, one read and write of the projections.

    Args:
        model: the model; modules added later are not seen.
        threshold: tau, > 0, in units of a logit.
        alpha: the queries' share, in [0, 1].

    Attributes:
        policy: for `chain` and `Guard`. Its text cannot be parsed back: it holds the model.

    Raises:
        ArgumentError: a number is out of range, or the model has no ``nn.MultiheadAttention``.
        ArgumentTypeError: an argument is no number.
        UnsupportedError: a module with learned key biases (``add_bias_kv=True``).

    Example:
        >>> import torch
        >>> attention = torch.nn.MultiheadAttention(4, 2)
        >>> clip = QKClip(attention, 100.0)
        >>> clip.policy
        qk_clip(<model>)
        >>> x = torch.ones(3, 1, 4)
        >>> _ = attention(x, x, x)
        >>> [tuple(m.shape) for m in clip.max_logits()]
        [(2,)]
        >>> clip.close()

    Reference:
        Kimi Team, "Kimi K2: Open Agentic Intelligence", 2025, https://arxiv.org/abs/2507.20534.
    """

    def __init__(self, model: nn.Module, threshold: float = 100.0, alpha: float = 0.5) -> None:
        self._tau, self._share = _numbers("QKClip", threshold, alpha)
        modules = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
        if not modules:
            raise ArgumentError("`QKClip` found no `nn.MultiheadAttention` in the model; see `qk_clip_`", slug=_HEADS)
        if any(module.bias_k is not None for module in modules):
            raise UnsupportedError("`QKClip` does not cover `add_bias_kv=True`; use `qk_clip_`", slug=_HEADS)
        self._taps = [_Tap(module) for module in modules]
        self._taps_by_param = {id(param): tap for tap in self._taps for param in tap.params()}
        text = text_of(QKClip, model=None, threshold=self._tau, alpha=self._share).replace("QKClip(None", "qk_clip(<model>")
        self.policy: Policy = constraint(text, self._limit)

    def max_logits(self) -> list[Tensor]:
        """The largest logit of each head since the last step, one tensor of shape ``(num_heads,)`` for each module."""
        return [tap.largest.clone() for tap in self._taps if tap.largest is not None]

    def close(self) -> None:
        """Stop measuring. The policy does nothing from then on."""
        for tap in self._taps:
            tap.close()

    def _limit(self, place: Place) -> None:
        tap = self._taps_by_param.get(id(place.param))
        if tap is None or tap.largest is None:
            return
        tap.used = True
        q = _factors(tap.largest, self._tau, self._share)
        k = _factors(tap.largest, self._tau, 1.0 - self._share)
        param, module = place.param.detach(), tap.module
        if place.param is module.q_proj_weight:
            _scale_heads_(param, q)
        elif place.param is module.k_proj_weight:
            _scale_heads_(param, k)
        else:  # queries, keys, values on top of each other
            rows = module.embed_dim
            _scale_heads_(param[:rows], q)
            _scale_heads_(param[rows : 2 * rows], k)


class _Tap:
    """The largest logits of one module's heads since the last step."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        self.module = module
        self.largest: Tensor | None = None
        self.used = False
        self._handle = module.register_forward_pre_hook(self._measure, with_kwargs=True)

    def params(self) -> list[Tensor]:
        """What makes the queries and keys."""
        names = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight")
        return [param for name in names if (param := getattr(self.module, name)) is not None]

    def close(self) -> None:
        self._handle.remove()
        self.largest = None

    def _measure(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            return
        with torch.no_grad():
            found = _max_logits(self.module, *args, **kwargs)
        if self.largest is not None and not self.used:
            usable = torch.isfinite(self.largest)  # what was not finite belonged to a step that was not taken
            found = torch.where(usable, torch.maximum(found, self.largest), found)
        self.largest, self.used = found, False


def _max_logits(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Tensor:
    """The largest logit of each head; the arguments are those of the module's ``forward``."""
    del value, need_weights, average_attn_weights, is_causal
    heads, size = module.num_heads, module.head_dim
    batched = query.ndim == 3
    first = module.batch_first or not batched
    q, k = (x.unsqueeze(0) if not batched else x if first else x.transpose(0, 1) for x in (query, key))
    (w_q, b_q), (w_k, b_k) = _projections(module)
    q = nn.functional.linear(q, w_q, b_q).unflatten(2, (heads, size)).transpose(1, 2)
    k = nn.functional.linear(k, w_k, b_k).unflatten(2, (heads, size)).transpose(1, 2)
    logits = wide(q @ k.mT) / math.sqrt(size)  # (batch, heads, queries, keys)
    if attn_mask is not None:
        outside = _excluded(attn_mask)
        logits = logits.masked_fill(outside.view(-1, heads, *outside.shape[1:]) if outside.ndim == 3 else outside, -math.inf)
    if key_padding_mask is not None:
        logits = logits.masked_fill(_excluded(key_padding_mask).view(q.shape[0], 1, 1, -1), -math.inf)
    return logits.amax((0, 2, 3)) if logits.numel() else logits.new_full((heads,), -math.inf)


def _excluded(mask: Tensor) -> Tensor:
    """Where a mask keeps a key out: true, or an addend of minus infinity. Other addends are no part of the logit."""
    return mask if mask.dtype is torch.bool else mask == -math.inf


def _projections(module: Any) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Weight and bias of queries and of keys."""
    rows, packed, bias = module.embed_dim, module.in_proj_weight, module.in_proj_bias
    b_q, b_k = (None, None) if bias is None else (bias[:rows], bias[rows : 2 * rows])
    if packed is None:
        return (module.q_proj_weight, b_q), (module.k_proj_weight, b_k)
    return (packed[:rows], b_q), (packed[rows : 2 * rows], b_k)


def _factors(max_logits: Tensor, threshold: float, power: float) -> Tensor:
    """``min(1, threshold / max_logit) ** power``; exactly 1 where it does not bind or is not finite."""
    binding = (max_logits > threshold) & torch.isfinite(max_logits)
    return torch.where(binding, (threshold / torch.where(binding, max_logits, threshold)) ** power, 1.0)


def _scale_heads_(tensor: Tensor, factors: Tensor) -> None:
    """Multiply the rows of each head by its factor, in float32 or wider."""
    rows = factors.repeat_interleave(tensor.shape[0] // factors.numel())
    tensor.copy_(wide(tensor) * rows.view(-1, *(1,) * (tensor.ndim - 1)))


def _tensors(given: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return given if isinstance(given, tuple) else (given,)


def _numbers(call: str, threshold: float, alpha: float) -> tuple[float, float]:
    share = number(call, "alpha", alpha)
    if not 0.0 <= share <= 1.0:
        raise ArgumentError(f"`{call}` expected `alpha` in [0, 1], got {show(alpha)}", slug=SLUG)
    return positive(call, "threshold", threshold), share
