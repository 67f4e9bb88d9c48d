"""Values to put into a remedy: a threshold that comes from the run itself."""

from __future__ import annotations

import numpy as np

from steadygrad.diagnose.numbers import two_digits

FALLBACK = 1.0
"""The threshold most published recipes start from; used where a run has too few healthy steps to say better."""
MIN_NORMS = 5


def max_norm_from(norms: np.ndarray, percentile: float) -> tuple[float, str]:
    """A threshold for ``clip_by_global_norm`` and where it comes from.

    Args:
        norms: total norms of healthy steps, shape ``(n,)``; values that are not finite or not above 0 are left out.
        percentile: which percentile of them to take, 0 to 100.

    Returns:
        The threshold, rounded to two digits, and its origin in words.

    Example:
        >>> import numpy as np
        >>> max_norm_from(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 50)
        (3.0, 'the median norm of 5 healthy steps')
    """
    good = norms[np.isfinite(norms) & (norms > 0)]
    if len(good) < MIN_NORMS:
        return FALLBACK, "a common first choice; the run has too few healthy steps to derive one"
    name = "median" if percentile == 50 else f"{percentile:g}th percentile of the"
    return two_digits(float(np.percentile(good, percentile))), f"the {name} norm of {len(good):,} healthy steps"


def clip_flag(max_norm: float, *, skip: bool = False) -> str:
    """The command-line flag that protects a run with this threshold.

    Example:
        >>> print(clip_flag(2.5))
        --policy "clip_by_global_norm(2.5)"
    """
    clip = f"clip_by_global_norm({max_norm!r})"
    return f'--policy "chain(skip_nonfinite(), {clip})"' if skip else f'--policy "{clip}"'
