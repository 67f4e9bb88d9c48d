"""Decisions compose."""

import numpy as np
import pytest
import torch

from steadygrad.decision import Decision, Reason


def test_neutral_element():
    decision = Decision(scale=0.5, clamp=(-1.0, 1.0), skip=True, reason=int(Reason.CLIPPED), threshold=2.0)
    assert Decision().then(decision) == decision == decision.then(Decision())


def test_composition_equals_doing_one_after_the_other():
    x = np.linspace(-4, 4, 33)

    def done(d, x):
        x = x if d.scale is None else x * d.scale
        return x if d.clamp is None else np.clip(x, *d.clamp)

    a, b = Decision(scale=0.7, clamp=(-1.0, 2.0)), Decision(scale=0.9, clamp=(-0.5, 0.2))
    np.testing.assert_allclose(done(a.then(b), x), done(b, done(a, x)))
    apart = Decision(clamp=(3.0, 4.0))
    np.testing.assert_allclose(done(a.then(apart), x), done(apart, done(a, x)))


@pytest.mark.parametrize("xp", [np, torch])
def test_bounds_per_tensor_compose(xp):
    scale = xp.asarray([1.0, 0.1])
    both = Decision(clamp=(-1.0, 1.0)).then(Decision(scale=scale), xp).then(Decision(clamp=(-0.5, 0.5)), xp)
    low, high = both.clamp
    assert [float(v) for v in low] == [-0.5, pytest.approx(-0.1)]
    assert [float(v) for v in high] == [0.5, pytest.approx(0.1)]


def test_the_worse_reason_is_reported():
    clipped, skipped = np.int64(Reason.CLIPPED), np.int64(Reason.NON_FINITE)
    assert Decision(reason=clipped).then(Decision(reason=skipped), np).reason == Reason.NON_FINITE
    assert Decision(reason=skipped).then(Decision(reason=0)).reason == Reason.NON_FINITE
    with pytest.raises(TypeError, match="xp"):
        Decision(reason=clipped).then(Decision(reason=skipped))


def test_every_reason_has_a_message():
    assert all(reason.message for reason in Reason)
