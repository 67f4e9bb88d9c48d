import math

import numpy as np
import pytest

from steadygrad.arrays import Limiter
from steadygrad.decide import adagc


def run(policy, rows):
    """The norms that are let pass at each step, NaN where it is skipped, and the limiter."""
    limiter = Limiter(policy)
    taken = [limiter([np.array([norm]) for norm in row]) for row in rows]
    width = len(rows[0])
    return np.array([[math.nan] * width if grads is None else [g.item() for g in grads] for grads in taken]), limiter


def average(limiter):
    return limiter.state_dict()["tensor_average"]


@pytest.mark.parametrize(("norm", "out", "after"), [(2.0, 1.04, 1.0004), (1.03, 1.03, 1.0003)])
def test_a9_known_answer(norm, out, after):
    found, limiter = run(adagc(warmup=1), [(1.0,), (norm,)])
    assert found[-1, 0] == pytest.approx(out, rel=1e-15)
    assert float(limiter.decision.scale[0]) == pytest.approx(out / norm, rel=1e-15)
    assert average(limiter)[0] == pytest.approx(after, rel=1e-15)


def naive(rows, warmup, relative=1.04, beta=0.99, absolute=1.0):
    """The paper's algorithm for norms above zero."""
    gamma, found = None, []
    for t, norms in enumerate(np.array(rows)):
        if t < warmup:
            limited = norms * min(1.0, absolute / np.sqrt(np.sum(norms**2)))
            gamma = limited if gamma is None else np.minimum(gamma, limited)
        else:
            limited = np.minimum(norms, relative * gamma)
            gamma = beta * gamma + (1.0 - beta) * limited
        found.append(limited)
    return np.array(found), gamma


@pytest.mark.parametrize("warmup", [1, 10, 100])
def test_agrees_with_the_paper_on_norms_above_zero(warmup):
    rows = np.random.default_rng(0).lognormal(0.0, 0.3, (300, 4))
    found, limiter = run(adagc(warmup=warmup), rows)
    expected, gamma = naive(rows, warmup)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(average(limiter), gamma, rtol=1e-12)


def test_a9_a_zero_gradient_in_the_warmup_freezes_no_tensor():
    rows = [(1.0, 0.5)] * 3 + [(1.0, 0.0)] + [(1.0, 0.5)] * 20
    found, limiter = run(adagc(warmup=10, absolute=math.inf), rows)
    assert found[-1].tolist() == [1.0, 0.5]
    assert limiter.state_dict()["tensor_num_norms"].tolist() == [10, 10]


def test_a_tensor_that_joins_late_has_a_warmup_of_its_own():
    rows = [(0.5, 0.0)] * 6 + [(0.5, 0.3), (0.5, 0.2), (0.5, 9.0)]
    found, _ = run(adagc(warmup=2), rows)
    assert found[-3:-1, 1].tolist() == [0.3, 0.2]
    assert found[-1, 1] == pytest.approx(1.04 * 0.2, rel=1e-15)
    assert np.all(found[:, 0] == 0.5)


def test_a_spike_of_one_tensor_in_the_warmup_holds_no_other_one_down():
    rows = [(2.0, 1.0)] * 5 + [(2e6, 1.0)] + [(2.0, 1.0)] * 20
    assert average(run(adagc(warmup=10), rows[:10])[1])[1] == pytest.approx(1.0 / math.sqrt(5.0), rel=1e-12)
    found, _ = run(adagc(warmup=10), rows)
    assert found[5].tolist() == pytest.approx([1.0, 5e-7], rel=1e-6)
    assert found[-1, 1] > 1.0 / math.sqrt(5.0)


def test_no_warmup_takes_the_first_norm():
    found, _ = run(adagc(warmup=0, absolute=math.inf), [(3.0,), (6.0,)])
    assert found[:, 0].tolist() == pytest.approx([3.0, 3.12], rel=1e-15)


def test_a_nan_skips_the_step_and_the_tensor_stays_limited():
    found, _ = run(adagc(warmup=1), [(0.5, 0.5), (0.5, math.nan), (0.5, 100.0)])
    assert np.all(np.isnan(found[1]))
    assert found[-1, 1] == pytest.approx(0.52, rel=1e-15)


def steps_to_accept(policy, num):
    found, _ = run(policy, [(1.0,)] * 5 + [(10.0,)] * num)
    return int(np.argmax(found[5:, 0] == 10.0)) if np.any(found[5:, 0] == 10.0) else None


def test_a9_steps_until_ten_times_the_norm_is_accepted():
    assert steps_to_accept(adagc(warmup=5), 5900) == pytest.approx(math.log(10 / 1.04) / math.log(1.0004), abs=20)
    assert steps_to_accept(adagc(warmup=5, patience=20), 400) == pytest.approx(20 + 312, abs=5)


def test_the_limit_after_the_warmup_does_not_depend_on_the_unit():
    rows = np.random.default_rng(1).lognormal(0.0, 0.3, (40, 2))
    policy = adagc(warmup=5, absolute=math.inf)
    np.testing.assert_allclose(run(policy, 1e-12 * rows)[0], 1e-12 * run(policy, rows)[0], rtol=1e-13)
