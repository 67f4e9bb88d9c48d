"""What a policy needs of an optimizer, checked when it is attached rather than at step 1000."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Adamax, Optimizer, SparseAdam

from steadygrad.errors import UnsupportedError
from steadygrad.policy import Policy

SECOND_MOMENT = frozenset({"second_moment", "update_rms"})


def require(policy: Policy, optimizer: Optimizer) -> None:
    """Check that the optimizer has what the policy needs.

    Raises:
        UnsupportedError: it has not (``policy-optimizer``).
    """
    if policy.needs & SECOND_MOMENT and not _has_second_moment(optimizer):
        _refuse(policy, optimizer, "keeps a running mean of squared gradients `exp_avg_sq`, such as AdamW")
    settings: Iterable[str] = {name for constraint in policy.constraints for name in constraint.wants}
    for name in sorted(settings | ({"lr"} if "lr" in policy.needs else set())):
        if any(name not in group for group in optimizer.param_groups):
            _refuse(policy, optimizer, f"has the setting {name!r} in each parameter group")


def _has_second_moment(optimizer: Optimizer) -> bool:
    if isinstance(optimizer, (Adamax, SparseAdam)):
        return False
    known: list[dict[str, Any]] = [slots for slots in optimizer.state.values() if slots]
    if known:
        return any("exp_avg_sq" in slots for slots in known)
    return all(len(group.get("betas", ())) == 2 for group in optimizer.param_groups)


def _refuse(policy: Policy, optimizer: Optimizer, what: str) -> None:
    raise UnsupportedError(
        f"`{policy.text}` expected an optimizer that {what}; {type(optimizer).__name__} does not. Take another policy or "
        f"another optimizer",
        slug="policy-optimizer",
    )
