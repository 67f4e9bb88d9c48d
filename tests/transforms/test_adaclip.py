"""The limit that follows each tensor's largest element."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError
from steadygrad.policies import parse_policy
from steadygrad.policy import Place
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.adaclip import adaclip

peaks = st.lists(st.floats(1e-30, 1e30) | st.sampled_from([0.0, math.nan, math.inf]), min_size=2, max_size=2)


def readings(values, xp=np):
    values = np.array(values, np.float64)
    as_array = torch.from_numpy if xp is torch else np.asarray
    with np.errstate(over="ignore"):
        return Readings(Layout(("a", "b")[: len(values)]), xp, as_array(values**2), abs_max=as_array(values))


def run(policy, steps, xp=np):
    """The last decision and the state after these largest elements."""
    state, decision = None, None
    for step in steps:
        now = readings(step, xp)
        if state is None:
            state = {key: torch.from_numpy(v) if xp is torch else v for key, v in policy.init(now).items()}
        decision, state = policy.decide(now, state)
    return decision, state


def published(maxima, beta):
    """The paper's limit at each step: a running mean from zero, divided by the weight of what entered."""
    mean, limits = 0.0, []
    for t, peak in enumerate(maxima, 1):
        mean = beta * mean + (1 - beta) * peak
        limits.append(mean / (1 - beta**t))
    return limits


@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
def test_a11_known_answer(xp, rewritten):
    decision, _ = run(adaclip(), [[1.0], [10.0]], xp)
    assert float(decision.numbers["limit"][0]) == pytest.approx(5.50225, abs=1e-5)
    grad = torch.tensor([10.0, -8.0, 5.5, 1.0], dtype=torch.float64)
    out = rewritten(adaclip(), grad, **{key: value[0] for key, value in decision.numbers.items()})
    assert out.tolist() == pytest.approx([5.50225, -0.8 * 5.50225, 5.5, 1.0], abs=1e-5)


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=30), st.sampled_from([0.0, 0.5, 0.999]))
def test_it_is_the_paper_while_maxima_stay_within_the_allowed_growth(maxima, beta):
    for t in range(1, len(maxima) + 1):
        decision, _ = run(adaclip(beta), [[peak] for peak in maxima[:t]])
        assert float(decision.numbers["limit"][0]) == pytest.approx(published(maxima, beta)[t - 1], rel=1e-9)


def test_it_is_the_paper_with_unbounded_growth():
    maxima = [1.0, 1e6, 3.0, 1e-9]
    decision, _ = run(adaclip(0.9, max_growth=math.inf), [[peak] for peak in maxima])
    assert float(decision.numbers["limit"][0]) == pytest.approx(published(maxima, 0.9)[-1], rel=1e-12)


def test_a_spike_is_limited_to_the_usual_size_and_leaves_no_scar():
    decision, state = run(adaclip(), [[1.0]] * 1000 + [[1e6]])
    assert float(decision.numbers["limit"][0]) < 1.015
    assert published([1.0] * 1000 + [1e6], 0.999)[-1] > 1000.0
    decision, _ = adaclip().decide(readings([1.0]), state)
    assert decision.numbers["divisor"].tolist() == [1.0]


def test_a_lasting_growth_is_accepted():
    _, state = run(adaclip(), [[1.0]] * 1000 + [[1e3]] * 3000)
    assert float(state["tensor_max"][0]) > 500.0


@given(st.lists(peaks, min_size=1, max_size=6), peaks)
def test_nothing_but_finite_maxima_of_finite_steps_enters(steps, last):
    _, before = run(adaclip(), [[1.0, 2.0], *steps])
    decision, after = adaclip().decide(readings(last), before)
    assert all(np.isfinite(value).all() for value in after.values())
    finite = np.isfinite(np.sum(np.square(last)))
    assert bool(decision.skip) == (not finite)
    for row, peak in enumerate(last):
        stays = not finite or peak == 0.0
        assert all((after[key][row] == before[key][row]) for key in after) or not stays
    if not finite:
        assert int(decision.reason) == Reason.NON_FINITE
        assert all(after[key].tobytes() == before[key].tobytes() for key in after)


@given(st.lists(peaks, min_size=1, max_size=6))
def test_numpy_and_torch_agree(steps):
    results = [run(adaclip(), steps, xp) for xp in (np, torch)]
    for a, b in zip(*[[*d.numbers.values(), *s.values()] for d, s in results], strict=True):
        if not bool(results[0][0].skip):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-14)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6), st.integers(-60, 60))
def test_it_is_equivariant(maxima, power):
    plain, scaled = (run(adaclip(), [[peak * k] for peak in maxima])[0] for k in (1.0, 2.0**power))
    assert float(scaled.numbers["limit"][0]) == float(plain.numbers["limit"][0]) * 2.0**power


@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30), st.integers(0, 2**31))
def test_the_bound_holds_and_what_is_below_keeps_its_bits(limit, peak, seed):
    rng = np.random.default_rng(seed)
    grad = (rng.uniform(-1, 1, 50) * peak).astype(np.float32)
    grad[0] = peak
    divisor = math.sqrt(peak / limit) if peak > limit else 1.0
    out = torch.from_numpy(grad.copy())
    adaclip().rewrite(out, _place(limit=np.float64(limit), divisor=np.float64(divisor)))
    out = out.numpy()
    below = np.abs(grad) <= np.float32(limit)
    assert out[below].tobytes() == grad[below].tobytes()
    assert np.all(np.abs(out) <= limit * (1 + 1e-6))
    np.testing.assert_allclose(out[~below], grad[~below].astype(np.float64) * (limit / peak), rtol=2e-6, atol=1e-44)


def test_tensors_as_numbers_give_the_same(rewritten):
    grad = torch.linspace(-10, 10, 41)
    host = rewritten(adaclip(), grad, limit=np.float64(2.5), divisor=np.float64(2.0))
    device = rewritten(adaclip(), grad, limit=torch.tensor(2.5, dtype=torch.float64), divisor=torch.tensor(2.0))
    assert host.equal(device)
    assert rewritten(adaclip(), grad, limit=torch.tensor(2.5), divisor=torch.tensor(1.0)).equal(grad)


def test_text_and_refusals():
    assert adaclip().text == "adaclip()"
    assert parse_policy("adaclip(0.9, max_growth=inf)").text == "adaclip(0.9, max_growth=inf)"
    for bad in ({"beta": 1.0}, {"beta": -0.1}, {"max_growth": 1.0}, {"max_growth": math.nan}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            adaclip(**bad)


def _place(**numbers):
    return Place("w", None, {}, {}, {}, numbers, 0)
