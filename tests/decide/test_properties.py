"""What holds for every limit on a norm, whatever the numbers (the property matrix of the methods)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.arrays import Limiter
from steadygrad.decide import (
    chain,
    clip_by_global_norm,
    clip_by_group_norm,
    clip_by_norm,
    clip_by_rms,
    cosine,
    decay,
    exponential,
    inverse_time,
    masked,
    skip_nonfinite,
)
from steadygrad.measure.reference import measure_arrays
from steadygrad.readings import Layout, Readings, needs_for_norm

C = 0.75
GLOBAL = [clip_by_global_norm(C, p, eps=eps) for p in (1.0, 2.0, 2.5, math.inf) for eps in (0.0, 1e-6)]
LIMITS = [*GLOBAL, clip_by_norm(C), clip_by_norm(C, 1.0), clip_by_norm(C, math.inf), clip_by_rms(C), clip_by_group_norm(C)]
STATEFUL = [skip_nonfinite(3), decay(exponential(0.9)), decay(cosine(4)), decay(inverse_time(0.1)), decay(0.5)]
ALL = [
    *LIMITS,
    *STATEFUL,
    chain(skip_nonfinite(), decay(exponential(0.5)), clip_by_norm(C), clip_by_global_norm(C)),
    masked(chain(decay(exponential(0.5)), clip_by_global_norm(C)), ("p*", "!p1")),
]

numbers = st.floats(-1e150, 1e150) | st.floats(-2.0, 2.0)
gradients = st.lists(arrays(np.float64, st.integers(0, 4), elements=numbers), min_size=2, max_size=4)
small_gradients = st.lists(arrays(np.float64, st.integers(0, 4), elements=st.floats(-0.04, 0.04)), min_size=2, max_size=4)
norms = st.lists(st.floats(0.0, 1e150) | st.floats(0.0, 2.0) | st.sampled_from([math.nan, math.inf]), min_size=2, max_size=4)
each_limit = pytest.mark.parametrize("policy", LIMITS, ids=repr)
each_policy = pytest.mark.parametrize("policy", ALL, ids=repr)


def p_norm(grads, p):
    """The p-norm of arrays laid end to end, in Python's own arithmetic."""
    values = [abs(float(x)) for grad in grads for x in grad.ravel()]
    largest = max(values, default=0.0)
    if largest == 0.0 or p == math.inf:
        return largest
    return largest * math.fsum((x / largest) ** p for x in values) ** (1.0 / p)


def limited_norm(policy, grads):
    """The largest of the norms that the policy limits."""
    p = next((p for p in (1.0, 2.5, math.inf) if policy.needs == needs_for_norm(p)), 2.0)
    if "rms" in policy.text:
        return max(p_norm([g], 2.0) / math.sqrt(max(g.size, 1)) for g in grads)
    return p_norm(grads, p) if "global" in policy.text or "group" in policy.text else max(p_norm([g], p) for g in grads)


@each_limit
@given(gradients)
def test_finite_stays_finite_the_bound_holds_and_the_direction_stays(policy, grads):
    limited = Limiter(policy)(grads)
    assert limited is not None
    assert limited_norm(policy, limited) <= C * (1 + 1e-6)
    for before, after in zip(grads, limited, strict=True):
        assert np.all(np.isfinite(after))
        factor = p_norm([after], 2.0) / p_norm([before], 2.0) if np.any(before) else 1.0
        np.testing.assert_allclose(after, before * factor, rtol=1e-9, atol=1e-290)


@each_limit
@given(small_gradients)
def test_below_the_limit_every_bit_stays(policy, grads):
    limiter = Limiter(policy)
    assert [g.tobytes() for g in limiter(grads)] == [g.tobytes() for g in grads]
    assert np.all(limiter.decision.scale == 1.0)


@each_limit
@given(gradients)
def test_limiting_twice_is_limiting_once(policy, grads):
    limiter = Limiter(policy)
    once = limiter(grads)
    for a, b in zip(once, limiter(once), strict=True):
        # Rounding may leave the norm a digit above the limit; then the epsilon of torch's formula acts once more.
        np.testing.assert_allclose(b, a, rtol=1e-14 if "eps=0.0" in policy.text else 1.01e-6 / C, atol=0.0)


@each_limit
@given(gradients, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_bad_element_skips_the_step_and_scales_nothing_by_zero_or_nan(policy, grads, bad):
    limiter = Limiter(policy)
    assert limiter([*grads, np.array([1.0, bad])]) is None
    scale = np.asarray(limiter.decision.scale)
    assert np.all((scale > 0.0) & (scale <= 1.0))


def in_torch(readings):
    """The same readings as tensors."""
    to = torch.from_numpy
    norm_p = {p: to(value) for p, value in readings.norm_p.items()}
    return Readings(readings.layout, torch, to(readings.sum_sq), norm_p=norm_p, abs_max=to(readings.abs_max))


def as_numbers(decision, state):
    values = [decision.scale, decision.skip, decision.abort, decision.reason, *state.values()]
    return [np.asarray(1.0 if value is None else value) for value in values]


@each_policy
@given(st.lists(norms, min_size=1, max_size=4))
def test_numpy_and_torch_decide_alike_and_nothing_bad_enters_the_state(policy, steps):
    states = {}
    for step in steps:
        grads = [np.array([norm]) for norm in step]
        layout = Layout(tuple(f"p{i}" for i in range(len(grads))), shapes=((1,),) * len(grads))
        ours = measure_arrays(grads, layout, frozenset({"abs_max", "norm_p:1.0", "norm_p:2.5"}))
        results = []
        for xp, readings in ((np, ours), (torch, in_torch(ours))):
            decision, states[xp] = policy.decide(readings, states[xp] if xp in states else policy.init(readings))
            results.append(as_numbers(decision, states[xp]))
            assert all(np.all(np.isfinite(np.asarray(value))) for value in states[xp].values())
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("policy", STATEFUL, ids=repr)
@given(st.lists(norms, max_size=4), st.lists(norms, min_size=1, max_size=6))
def test_a_saved_state_gives_the_same_decisions_to_the_bit(policy, before, after):
    first, second = Limiter(policy), Limiter(policy)

    def run(limiter, steps):
        return [limiter([np.array([x]) for x in step]) for step in steps]

    assume(sum(not all(map(math.isfinite, step)) for step in before + after) <= 3)
    run(first, before)
    second.load_state_dict(first.state_dict())
    assert repr(run(first, after)) == repr(run(second, after))
