import math

import numpy as np
import pytest

from steadygrad.decide import aggc
from steadygrad.decision import Reason
from steadygrad.readings import Layout, Readings


def run(policy, rows, groups=()):
    """The norms that are let pass, and the last decision and state."""
    layout = Layout(tuple(f"p{i}" for i in range(len(rows[0]))), groups)
    state = policy.init(Readings(layout, np, np.ones(len(layout))))
    found = []
    for row in rows:
        decision, state = policy.decide(Readings(layout, np, np.square(np.array(row, np.float64))), state)
        found.append(np.array(row) * decision.scale)
    return np.array(found), decision, state


def test_a21_known_answer():
    found, decision, state = run(aggc(high=1.5, beta=0.5), [(2.0,), (4.0,), (0.1,)])
    # S: 2; then (0.25 * 2 + 0.5 * 3) / 0.75 = 8/3, and the third norm is below the band but not raised.
    assert found[:, 0].tolist() == pytest.approx([2.0, 3.0, 0.1], rel=1e-15)
    assert int(decision.reason) == Reason.NONE
    assert float(state["tensor_weight"][0]) == 0.875
    assert float(state["tensor_average"][0]) == pytest.approx(0.125 * 2.0 + 0.25 * 3.0 + 0.5 * 0.1, rel=1e-15)


def test_a21_known_answer_of_the_raised_norm():
    rows = [(2.0,), (4.0,), (0.4,)]
    found, decision, _ = run(aggc(high=1.5, low=0.6, beta=0.5, raise_small=True), rows)
    assert found[-1, 0] == pytest.approx(0.6 * 8.0 / 3.0, rel=1e-14)
    assert int(decision.reason) == Reason.NORMALIZED
    assert run(aggc(low=0.6, beta=0.5, raise_small=True, max_raise=2.0), rows)[0][-1, 0] == pytest.approx(0.8, rel=1e-14)
    assert run(aggc(low=0.0, beta=0.5, raise_small=True, min_norm=0.7), rows)[0][-1, 0] == pytest.approx(0.7, rel=1e-14)
    assert run(aggc(beta=0.5, raise_small=True, min_norm=1e9), rows)[0][-1, 0] == pytest.approx(1.5 * 8 / 3, rel=1e-14)
    assert run(aggc(raise_small=True), [(2.0,), (0.0,)])[0][-1, 0] == 0.0


def test_a21_the_second_step_is_not_scaled_to_nothing():
    found, _, _ = run(aggc(high=1.01), [(1.0,)] * 50)
    assert np.all(found == 1.0)


def naive(rows, groups, high, low, beta):
    """The rule in plain Python, with a correction for the start; both ends of the band."""
    sums, weights, found = {}, {}, []
    for row in rows:
        out = list(row)
        for group in set(groups):
            members = [i for i, owner in enumerate(groups) if owner == group]
            norm = math.sqrt(math.fsum(row[i] ** 2 for i in members))
            kept = norm
            if group in sums:
                average = sums[group] / weights[group]
                kept = min(max(norm, low * average), high * average)
            for i in members:
                out[i] = row[i] * kept / norm
            sums[group] = beta * sums.get(group, 0.0) + (1 - beta) * kept
            weights[group] = beta * weights.get(group, 0.0) + (1 - beta)
        found.append(out)
    return found


def test_agrees_with_the_rule_in_plain_python():
    groups = (2, 0, 2, 5, 0)
    rows = np.random.default_rng(0).lognormal(0.0, 0.8, (200, 5)).tolist()
    found, _, _ = run(aggc(1.3, 0.7, beta=0.9, raise_small=True, max_raise=1e9), rows, groups)
    np.testing.assert_allclose(found, naive(rows, groups, 1.3, 0.7, 0.9), rtol=1e-12)
    lowered, _, _ = run(aggc(1.3, beta=0.9), rows, groups)
    np.testing.assert_allclose(lowered, naive(rows, groups, 1.3, 0.0, 0.9), rtol=1e-12)


@pytest.mark.parametrize(("step", "high"), [(1, 2.0), (5, 2.0), (6, 1.75), (7, 1.5), (8, 1.5), (30, 1.5)])
def test_a21_the_band_changes_linearly(step, high):
    policy = aggc(2.0, num_steps=10, high_late=1.5, switch=0.5, transition=0.2)
    found, _, _ = run(policy, [(1.0,)] * step + [(1e6,)])
    assert found[-1, 0] == pytest.approx(high, rel=1e-12)


def test_a_bad_group_skips_the_step_and_moves_no_average():
    layout = Layout(("a", "b"), (0, 1))
    policy = aggc()
    _, _, state = run(policy, [(1.0, 1.0)] * 3, (0, 1))
    decision, after = policy.decide(Readings(layout, np, np.array([100.0, math.nan])), state)
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert all(np.asarray(after[key]).tobytes() == np.asarray(state[key]).tobytes() for key in state)


def test_a_new_level_is_accepted_in_the_promised_number_of_steps():
    found, _, _ = run(aggc(), [(1.0,)] * 500 + [(10.0,)] * 300)
    accepted = int(np.argmax(found[500:, 0] == 10.0))
    assert found[-1, 0] == 10.0
    assert accepted == pytest.approx(math.log(10 / 1.5) / math.log(1.01), abs=5)
