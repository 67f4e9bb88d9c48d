"""Limits against Adam's second moment, resets, and the warm-up after them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import steadygrad as sg
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.spam import spam

ON = {"keep": 1.0, "clip": 1.0}
grads = arrays(np.float32, 8, elements=st.floats(-(2.0**100), 2.0**100, width=32))
seconds = arrays(np.float32, 8, elements=st.floats(0.0, 2.0**60, width=32))


def readings(value=1.0, xp=np):
    return Readings(Layout(("a", "b")), xp, torch.tensor([value, 1.0]) if xp is torch else np.array([value, 1.0]))


def decisions(policy, num_steps, xp=np):
    state = policy.init(readings(xp=xp))
    if xp is torch:
        state = {key: torch.as_tensor(value) for key, value in state.items()}
    found = []
    for _ in range(num_steps):
        decision, state = policy.decide(readings(xp=xp), state)
        found.append(decision)
    return found


def test_a10_known_answer(rewritten):
    slots = {"exp_avg_sq": torch.ones(2)}
    assert rewritten(spam(), [100.0, -3.0], slots=slots, **ON).tolist() == pytest.approx([70.711, -3.0], abs=1e-3)
    assert rewritten(spam(), [-100.0, -3.0], slots=slots, **ON).tolist() == pytest.approx([-70.711, -3.0], abs=1e-3)


@given(grads, seconds)
def test_it_is_the_masked_formula_where_there_is_a_second_moment(rewritten, grad, second):
    out = rewritten(spam(4.0), grad, slots={"exp_avg_sq": torch.from_numpy(second.copy())}, **ON).numpy()
    bound = 2.0 * np.sqrt(second)
    spikes = (np.abs(grad) > bound) & (second > 0)
    np.testing.assert_allclose(out[spikes], np.sign(grad[spikes]) * bound[spikes], rtol=1e-6)
    assert out[~spikes].tobytes() == grad[~spikes].tobytes()
    again = rewritten(spam(4.0), out, slots={"exp_avg_sq": torch.from_numpy(second.copy())}, **ON).numpy()
    assert again.tobytes() == out.tobytes()


def test_no_second_moment_is_no_limit_of_zero(rewritten):
    grad = torch.tensor([5.0, -7.0])
    assert rewritten(spam(), grad, **ON).equal(grad)
    assert rewritten(spam(), grad, slots={"exp_avg_sq": torch.zeros(2)}, **ON).equal(grad)


def test_second_moments_in_half_precision(rewritten):
    slots = {"exp_avg_sq": torch.tensor([1.0, 0.0], dtype=torch.bfloat16)}
    assert rewritten(spam(4.0), torch.tensor([5.0, 5.0]), slots=slots, **ON).tolist() == [2.0, 5.0]


def test_flags_on_a_device_do_the_same(rewritten):
    slots = {name: torch.ones(2) for name in ("exp_avg", "exp_avg_sq")}
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert rewritten(spam(4.0), [5.0, 1.0], slots=slots, keep=one, clip=one).tolist() == [2.0, 1.0]
    assert rewritten(spam(4.0), [5.0, 1.0], slots=slots, keep=one, clip=zero).tolist() == [5.0, 1.0]
    assert rewritten(spam(4.0), [5.0, 1.0], slots=slots, keep=zero, clip=zero).tolist() == [5.0, 1.0]
    assert slots["exp_avg"].tolist() == slots["exp_avg_sq"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
def test_the_calendar_of_resets_guard_steps_and_warm_up(xp):
    found = decisions(spam(reset_every=6, warmup=4, guard_steps=2), 14, xp)
    assert [float(d.numbers["keep"]) for d in found] == [1.0] * 6 + [0.0] + [1.0] * 5 + [0.0, 1.0]
    assert [float(d.numbers["clip"]) for d in found] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0] * 2 + [0.0, 0.0]
    wave = [1 - 0.99 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    expected = [1.0] * 6 + [*wave, 1.0, 1.0] + wave[:2]
    assert [float(d.update_scale[1]) for d in found] == pytest.approx(expected, rel=1e-6)
    assert [float(d.update_scale[1]) == 1.0 for d in found] == [value == 1.0 for value in expected]


def test_without_warm_up_the_update_is_left_alone():
    assert all(d.update_scale is None for d in decisions(spam(reset_every=2, warmup=0), 5))


def test_a_skipped_step_is_not_counted_and_loses_no_reset():
    policy = spam(reset_every=1)
    decision, state = policy.decide(readings(math.nan), {"step": np.int64(1)})
    assert decision.skip
    assert (int(decision.reason), int(state["step"])) == (Reason.NON_FINITE, 1)
    assert float(policy.decide(readings(), state)[0].numbers["keep"]) == 0.0


def test_a_reset_and_its_warm_up_on_adam():
    """The naive twin: Adam by hand, its moments zero before the second step, and the update times 0.01."""
    param = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([param], lr=0.1, eps=0.0)
    guard = sg.Guard(optimizer, spam(reset_every=1, warmup=10))
    for grad in (1.0, 3.0):
        before = param.item()
        param.grad = torch.full((1,), grad, dtype=torch.float64)
        optimizer.step()
    guard.detach()
    moments = (0.1 * 3.0 / (1 - 0.9**2), 0.001 * 9.0 / (1 - 0.999**2))
    assert param.item() - before == pytest.approx(-0.01 * 0.1 * moments[0] / math.sqrt(moments[1]), rel=1e-6)
    assert optimizer.state[param]["exp_avg"].item() == pytest.approx(0.3)


def test_spikes_do_not_enter_adams_moments():
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([param])
    guard = sg.Guard(optimizer, spam(100.0, guard_steps=0))
    for grad in [1.0] * 50 + [1e6]:
        param.grad = torch.full((1,), grad)
        before = float(optimizer.state[param]["exp_avg_sq"]) if optimizer.state else 0.0
        optimizer.step()
    guard.detach()
    assert float(optimizer.state[param]["exp_avg_sq"]) == pytest.approx(0.999 * before + 0.001 * 100 * before, rel=1e-5)


def test_it_wants_an_optimizer_with_a_second_moment():
    with pytest.raises(UnsupportedError, match="policy-optimizer"):
        sg.Guard(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), spam())


def test_text_and_refusals():
    assert spam().text == "spam()"
    text = "spam(10.0, reset_every=7, warmup=0, guard_steps=0)"
    assert parse_policy(text).text == parse_policy("spam(10, reset_every=7, warmup=0, guard_steps=0)").text == text
    for bad in ({"threshold": 0.0}, {"reset_every": 0}, {"warmup": -1}, {"guard_steps": -1}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            spam(**bad)
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        spam(warmup=1.5)
