import math

import numpy as np
import pytest
import torch

from steadygrad.decide import cosine, decay, exponential, inverse_time
from steadygrad.decision import Reason

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def factors(policy, all_readings):
    state, result = policy.init(all_readings[0]), []
    for readings in all_readings:
        decision, state = policy.decide(readings, state)
        result.append(float(decision.scale))
    return result


@XP
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (exponential(0.5), [1.0, 0.5, 0.25, 0.125]),
        (exponential(0.5, initial=0.5), [0.5, 0.25, 0.125, 0.0625]),
        (inverse_time(1.0), [1.0, 1 / 2, 1 / 3, 1 / 4]),
        (cosine(2, final=0.2), [1.0, 0.6, 0.2, 0.2]),
        (lambda step: 1.0 / (1.0 + step), [1.0, 1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_B6_known_answers(xp, schedule, expected, readings_of):
    assert factors(decay(schedule), [readings_of(xp, [1.0])] * 4) == pytest.approx(expected, rel=1e-15)


def test_B6_a_constant_has_no_state_and_reports_itself(readings_of):
    policy = decay(0.5)
    readings = readings_of(np, [1.0])
    decision, state = policy.decide(readings, policy.init(readings))
    assert (decision.scale, decision.reason, state) == (0.5, Reason.DECAYED, {})


def test_B6_a_factor_of_one_changes_nothing(readings_of):
    decision, _ = decay(1).decide(readings_of(np, [1.0]), {})
    assert (decision.scale, decision.reason) == (None, 0)


@XP
def test_B6_a_step_that_is_not_finite_does_not_advance_the_schedule(xp, readings_of):
    good, bad = readings_of(xp, [1.0]), readings_of(xp, [math.nan])
    assert factors(decay(exponential(0.5)), [good, bad, bad, good, good]) == [1.0, 1.0, 1.0, 0.5, 0.25]


def test_B6_factors_are_exact_long_after_float32_has_stopped_counting(readings_of):
    policy = decay(inverse_time(1.0))
    decision, state = policy.decide(readings_of(torch, [1.0]), {"step": torch.tensor(2**24 + 1)})
    assert int(state["step"]) == 2**24 + 2
    assert float(decision.scale) == 1.0 / (2**24 + 2)


def test_B6_sgd_with_factor_k_is_sgd_with_learning_rate_k_times_lr():
    slow, decayed = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    decision, _ = decay(0.25).decide(None, {})
    for param, lr, scale in [(slow, 0.1 * 0.25, 1.0), (decayed, 0.1, decision.scale)]:
        optimizer = torch.optim.SGD([param], lr=lr)
        (param**2).sum().backward()
        param.grad.mul_(scale)
        optimizer.step()
    torch.testing.assert_close(slow, decayed)


def test_B6_adam_divides_a_constant_factor_out_again():
    plain, decayed = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    for param, scale in [(plain, 1.0), (decayed, decay(0.25).decide(None, {})[0].scale)]:
        optimizer = torch.optim.Adam([param], lr=0.1, eps=0.0)
        for _ in range(5):
            optimizer.zero_grad()
            (param**4).sum().backward()
            param.grad.mul_(scale)
            optimizer.step()
    torch.testing.assert_close(plain, decayed, rtol=1e-12, atol=0.0)
