"""Block descent: which parameters take part in a step."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import steadygrad as sg
from steadygrad.decide import block_descent, masked
from steadygrad.decide.blocks import RULES
from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings

each_rule = pytest.mark.parametrize("rule", RULES)
XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def read(norms, xp=np, present=None):
    squares = np.square(np.array(norms, np.float64))
    there = None if present is None else np.array(present)
    names = tuple(f"layers.{i}.weight" for i in range(len(norms)))
    return Readings(Layout(names), xp, torch.from_numpy(squares) if xp is torch else squares, there)


def choices(policy, readings, num_steps):
    """Who takes part in each of some steps, as lists of booleans."""
    state, found = policy.init(readings), []
    for _ in range(num_steps):
        decision, state = policy.decide(readings, state)
        found.append((~np.asarray(decision.withhold)).tolist())
    return found


@each_rule
@XP
def test_b9_a_share_of_one_withholds_nobody(rule, xp):
    assert choices(block_descent(1.0, select=rule), read([1.0, 0.0, 3.0], xp), 3) == [[True] * 3] * 3


@XP
def test_b9_gauss_southwell_takes_the_largest_norms(xp):
    assert choices(block_descent(num_blocks=2, select="gauss_southwell"), read([1.0, 5.0, 0.0, 3.0], xp), 1) == [
        [False, True, False, True]
    ]


@XP
def test_b9_cyclic_takes_one_after_the_other(xp):
    found = choices(block_descent(num_blocks=1, select="cyclic"), read([1.0] * 3, xp), 4)
    assert found == [[True, False, False], [False, True, False], [False, False, True], [True, False, False]]
    two = choices(block_descent(num_blocks=2, select="cyclic"), read([1.0] * 3, xp), 3)
    assert two == [[True, True, False], [True, False, True], [False, True, True]]


@each_rule
@XP
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_parameters_without_gradient_are_not_counted(rule, xp, share):
    present = [True, False] * 10
    found = choices(block_descent(share, select=rule), read(range(1, 21), xp, present), 30)
    for chosen in found:
        assert sum(flag for flag, there in zip(chosen, present, strict=True) if there) == round(share * 10)


@each_rule
def test_no_gradient_at_all(rule):
    decision, _ = block_descent(0.5, select=rule).decide(read([0.0, 0.0], present=[False, False]), {"step": np.int64(0)})
    assert decision.withhold is None
    assert not decision.skip
    assert block_descent(0.5, select=rule, unbiased=rule != "gauss_southwell").decide(read([]), {"step": np.int64(0)})


def test_random_takes_everybody_equally_often_and_independently():
    n, k, steps = 12, 3, 4000
    table = np.array(choices(block_descent(num_blocks=k), read([1.0] * n), steps))
    assert np.all(table.sum(axis=1) == k)
    p = k / n
    assert np.all(np.abs(table.mean(axis=0) - p) < 4.5 * math.sqrt(p * (1 - p) / steps))
    together = (table.T.astype(float) @ table / steps)[~np.eye(n, dtype=bool)]
    expected = p * (k - 1) / (n - 1)
    assert np.all(np.abs(together - expected) < 4.5 * math.sqrt(expected / steps))
    follow = (table[1:].T.astype(float) @ table[:-1]) / (steps - 1)  # step t + 1 tells nothing of step t
    assert np.all(np.abs(follow - p * p) < 4.5 * p / math.sqrt(steps))


def test_random_depends_on_seed_and_goes_on_from_a_saved_step():
    readings = read([1.0] * 8)
    first, other = (choices(block_descent(0.25, seed=seed), readings, 20) for seed in (0, 1))
    assert first != other
    state = {"step": np.int64(12)}
    assert (~block_descent(0.25).decide(readings, state)[0].withhold).tolist() == first[12]


@each_rule
@given(st.lists(st.floats(0.0, 1e150), min_size=1, max_size=9), st.floats(0.01, 1.0), st.integers(0, 2**62))
@example(norms=[1.0, 2.0, 3.0], share=1.0, step=2**62)  # a product of step and blocks would overflow
def test_numpy_and_torch_choose_alike_at_any_step(rule, norms, share, step):
    policy = block_descent(share, select=rule)
    ours, _ = policy.decide(read(norms), {"step": np.int64(step)})
    theirs, state = policy.decide(read(norms, torch), {"step": torch.tensor(step)})
    assert ours.withhold.tolist() == theirs.withhold.tolist()
    assert not ours.withhold.all()
    assert int(state["step"]) == step + 1


@each_rule
def test_jax_chooses_alike_with_integers_of_32_bits(rule):
    jax = pytest.importorskip("jax")
    policy = block_descent(num_blocks=2, select=rule)
    squares = np.array([1.0, 4.0, 9.0, 16.0, 25.0], np.float32)
    layout = read(squares).layout
    step = jax.jit(lambda values, state: policy.decide(Readings(layout, jax.numpy, values), state)[0].withhold)
    for number in range(20):
        ours, _ = policy.decide(Readings(layout, np, squares), {"step": np.int64(number)})
        assert step(squares, {"step": np.int32(number)}).tolist() == ours.withhold.tolist()


@XP
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_not_counted(xp, bad):
    decision, state = block_descent(0.5).decide(read([bad, 1.0], xp), {"step": np.int64(4)})
    assert decision.skip
    assert (int(decision.reason), int(state["step"])) == (Reason.NON_FINITE, 4)


def test_unbiased_multiplies_by_the_inverse_share():
    decision, _ = block_descent(num_blocks=2, unbiased=True).decide(read([1.0] * 5), {"step": np.int64(0)})
    assert decision.scale == 2.5
    assert block_descent(num_blocks=9, unbiased=True).decide(read([1.0] * 5), {"step": np.int64(0)})[0].scale == 1.0


def test_withheld_by_either_of_two_decisions_and_only_among_the_chosen():
    a, b = np.array([True, False, False]), np.array([False, False, True])
    assert Decision(withhold=a).then(Decision(withhold=b)).withhold.tolist() == [True, False, True]
    assert Decision(withhold=a).then(Decision()).withhold is a
    for xp in (np, torch):
        readings = read([9.0, 1.0, 2.0, 3.0], xp)
        policy = masked(block_descent(num_blocks=1, select="gauss_southwell"), "!layers.0.*")
        decision, _ = policy.decide(readings, policy.init(readings))
        assert np.asarray(decision.withhold).tolist() == [False, True, True, False]
        assert np.asarray(decision.withhold).dtype == bool


@each_rule
def test_withheld_parameters_and_their_moments_do_not_move(rule):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizer = torch.optim.AdamW(params, lr=0.1, weight_decay=0.5)
    guard = sg.Guard(optimizer, block_descent(num_blocks=1, select=rule))
    for step in range(12):
        before = [(p.detach().clone(), int(optimizer.state[p].get("step", 0))) for p in params]
        for i, p in enumerate(params):
            p.grad = torch.full((3,), 1.0 + (i + step) % 4)
        optimizer.step()
        moved = [not p.equal(old) for p, (old, _) in zip(params, before, strict=True)]
        counted = [int(optimizer.state[p].get("step", 0)) > count for p, (_, count) in zip(params, before, strict=True)]
        assert moved == counted == (~np.asarray(guard.decision.withhold)).tolist()
        assert sum(moved) == 1
        assert all(p.grad is not None for p in params)
    guard.detach()


def test_text_and_refusals():
    for text in ("block_descent(0.5, select='cyclic', unbiased=True, seed=-3)", "block_descent(num_blocks=2)"):
        assert parse_policy(text).text == text
    for bad in ({}, {"fraction": 0.5, "num_blocks": 1}, {"fraction": 0.0}, {"fraction": 1.5}, {"num_blocks": 0}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            block_descent(**bad)
    for bad in ({"fraction": 0.5, "select": "best"}, {"fraction": 0.5, "select": "gauss_southwell", "unbiased": True}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            block_descent(**bad)
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        block_descent(num_blocks=1.0)
