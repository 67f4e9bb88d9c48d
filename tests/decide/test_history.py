"""The parts that policies with a memory share, and what holds for all of these policies."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from steadygrad.decide import adagc, aggc, autoclip, clip_by_growth, percentile_clip, zclip
from steadygrad.decide.history import as_fraction, ascending, inserted, interpolated, shifted
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings

POLICIES = [
    autoclip(),
    autoclip(90.0, window=3),
    percentile_clip(50, window=3),
    zclip(warmup=2, max_norm=None),
    zclip(warmup=3, mode="mean", patience=2),
    zclip(warmup=1, mode="threshold", max_norm=2.0, patience=None, skip_spikes=True, alpha=0.5),
    adagc(warmup=2),
    adagc(1.5, warmup=0, absolute=math.inf, patience=2),
    clip_by_growth(),
    clip_by_growth(1.5, beta=0.9, floor=0.5),
    aggc(),
    aggc(raise_small=True, min_norm=0.1, num_steps=4, high_late=1.2, low_late=0.9),
]
LAYOUT = Layout(("a", "b", "c"), groups=(0, 1, 0))
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
sizes = st.floats(0.0, 2.0) | st.floats(1e-30, 1e30) | st.sampled_from([0.0, 1e-30, 1e30, 1e-70, 1e70])
steps = st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=8)
bad = st.sampled_from([math.nan, math.inf])


def read(norms, xp=np, layout=LAYOUT):
    squares = np.square(np.array(norms, dtype=np.float64))
    return Readings(layout, xp, torch.from_numpy(squares) if xp is torch else squares)


def begin(policy, xp=np, layout=LAYOUT):
    """The first state, of the namespace's own arrays, as a guard makes it."""
    state = policy.init(read([1.0] * len(layout), xp, layout))
    return {key: torch.as_tensor(value) for key, value in state.items()} if xp is torch else state


def run(policy, rows, xp=np, state=None, layout=LAYOUT):
    """The decision at each step, and the last state."""
    state = begin(policy, xp, layout) if state is None else state
    decisions = []
    for row in rows:
        decision, state = policy.decide(read(row, xp, layout), state)
        decisions.append(decision)
    return decisions, state


def scales(decision, n=3):
    return np.broadcast_to(np.asarray(decision.scale), (n,))


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


@each_policy
@given(steps)
def test_finite_norms_give_finite_factors_and_a_finite_state(policy, rows):
    decisions, state = run(policy, rows)
    for decision in decisions:
        assert np.all(np.isfinite(scales(decision)))
        assert np.all(scales(decision) > 0.0)
        assert "raise_small" in policy.text or np.all(scales(decision) <= 1.0)
        assert "skip_spikes" in policy.text or not decision.skip
    assert all(np.all(np.isfinite(value)) for value in state.values())


@each_policy
@given(steps, st.integers(0, 2), bad)
def test_a_step_that_is_not_finite_is_skipped_and_leaves_the_state_to_the_bit(policy, rows, position, value):
    state = run(policy, rows)[1]
    row = [1.0, 3.0, 0.5]
    row[position] = value
    (decision,), after = run(policy, [row], state=state)
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert np.all(np.isfinite(scales(decision)))
    assert same_bits(after, state)


@each_policy
@given(steps)
def test_a_step_of_zeros_changes_neither_gradient_nor_statistic(policy, rows):
    state = run(policy, rows)[1]
    (decision,), after = run(policy, [(0.0, 0.0, 0.0)], state=state)
    assert np.all(scales(decision) == 1.0)
    assert not decision.skip
    assert same_bits({**after, "step": 0}, {**state, "step": 0})  # a schedule goes on


@each_policy
@given(st.lists(st.tuples(sizes, sizes, sizes), max_size=5), steps)
def test_a_copied_state_gives_the_same_decisions_to_the_bit(policy, before, after):
    state = run(policy, before)[1]
    saved = {key: np.array(value) for key, value in copy.deepcopy(state).items()}
    first, last = run(policy, after, state=state)
    second, again = run(policy, after, state=saved)
    assert [scales(d).tobytes() for d in first] == [scales(d).tobytes() for d in second]
    assert same_bits(last, again)


@each_policy
@given(st.lists(st.tuples(sizes | bad, sizes, sizes), min_size=1, max_size=6))
def test_numpy_and_torch_decide_alike(policy, rows):
    ours, state = run(policy, rows)
    theirs, other = run(policy, rows, torch)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(scales(a), scales(b), rtol=1e-12)
        assert (bool(a.skip), int(a.reason)) == (bool(b.skip), int(b.reason))
    for key, value in state.items():
        assert other[key].numpy().dtype == np.asarray(value).dtype
        np.testing.assert_allclose(value, other[key].numpy(), rtol=1e-12)


@each_policy
@given(steps)
def test_decide_changes_no_state_in_place(policy, rows):
    for row in rows:
        state = begin(policy)
        kept = copy.deepcopy(state)
        run(policy, [row], state=state)
        assert same_bits(state, kept)


SCALE_FREE = [
    autoclip(),
    autoclip(90.0, window=3),
    percentile_clip(50, window=3),
    zclip(warmup=2, max_norm=None),
    adagc(warmup=2, absolute=math.inf),
    clip_by_growth(beta=0.5),
    aggc(),
    aggc(raise_small=True),
]


@pytest.mark.parametrize("policy", SCALE_FREE, ids=repr)
@given(st.lists(st.tuples(*[st.floats(0.01, 10.0)] * 3), min_size=1, max_size=8), st.integers(-60, 60))
def test_scaling_a_whole_run_changes_no_factor(policy, rows, power):
    factor = 2.0**power  # rounds nothing, so that no bit may change
    plain, larger = run(policy, rows)[0], run(policy, [[factor * x for x in row] for row in rows])[0]
    for a, b in zip(plain, larger, strict=True):
        np.testing.assert_array_equal(scales(a), scales(b))


@each_policy
def test_equal_norms_keep_every_bit(policy):
    decisions, _ = run(policy, [(0.3, 0.1, 0.2)] * 40)
    assert all(np.all(scales(decision) == 1.0) for decision in decisions)
    assert all(int(decision.reason) == Reason.NONE for decision in decisions)


@each_policy
def test_tensors_that_are_absent_or_empty_do_not_count(policy):
    empty = Layout(())
    decisions, _ = run(policy, [()] * 3, layout=empty)
    assert not any(decision.skip for decision in decisions)
    one = Layout(("a",))
    with_absent, _ = run(policy, [(0.3, 0.0, 0.0)] * 5 + [(0.9, 0.0, 0.0)])
    alone, _ = run(policy, [(0.3,)] * 5 + [(0.9,)], layout=one)
    for a, b in zip(with_absent, alone, strict=True):
        assert scales(a)[0] == np.ravel(b.scale)[0]


@each_policy
def test_the_text_makes_the_same_policy(policy):
    assert parse_policy(policy.text).text == policy.text
    rows = [(1.0, 0.5, 0.1), (1.5, 0.1, 0.1), (90.0, 3.0, 0.0), (0.1, 0.1, 0.1)] * 3
    pairs = zip(run(policy, rows)[0], run(parse_policy(policy.text), rows)[0], strict=True)
    assert all(scales(a).tobytes() == scales(b).tobytes() for a, b in pairs)


@each_policy
def test_decisions_under_jit_are_those_on_numpy(policy):
    jax = pytest.importorskip("jax")

    @jax.jit
    def step(squares, state):
        decision, state = policy.decide(Readings(LAYOUT, jax.numpy, squares), state)
        return decision.scale, decision.skip, decision.reason, state

    ours, theirs = begin(policy), begin(policy)
    for row in [(1.0, 0.5, 0.1), (1.5, 0.1, 0.1), (90.0, math.nan, 0.0), (90.0, 3.0, 0.0), (0.1, 0.1, 0.1)] * 3:
        expected, ours = policy.decide(read(row), ours)
        scale, skip, reason, theirs = step(np.square(np.array(row, np.float32)), theirs)
        np.testing.assert_allclose(np.broadcast_to(scale, 3), scales(expected), rtol=1e-5)
        assert (bool(skip), int(reason)) == (bool(expected.skip), int(expected.reason))


class NoSync(TorchDispatchMode):
    """Fails where the host would wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func)
        return func(*args, **(kwargs or {}))


@each_policy
def test_no_value_is_looked_at(policy):
    with NoSync():
        run(policy, [(1.0, 2.0, 3.0), (9.0, 0.0, 1.0), (math.nan, 1.0, 1.0)], torch)
    with pytest.raises(AssertionError), NoSync():
        torch.ones(1).item()


norm_lists = st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=30)


@given(norm_lists, st.floats(0.0, 100.0), st.sampled_from([np, torch]))
def test_the_percentile_of_a_sorted_buffer_is_numpys(norms, percentile, xp):
    percentile = round(percentile, 2)
    values = np.sort(np.concatenate((np.zeros(7), norms)))
    num = np.int64(len(norms))
    if xp is torch:
        values, num = torch.from_numpy(values), torch.tensor(num)
    found = float(interpolated(xp, values, num, as_fraction(percentile)))
    assert found == pytest.approx(np.percentile(norms, percentile), rel=1e-9)
    assert min(norms) <= found <= max(norms) * (1 + 1e-15)


@given(norm_lists, st.sampled_from([np, torch]))
def test_inserting_one_by_one_is_sorting(norms, xp):
    make = torch.tensor if xp is torch else np.array
    ordered = make([0.0] * (len(norms) + 3), dtype=xp.float64)
    for norm in norms:
        ordered = inserted(xp, ordered, make(norm, dtype=xp.float64))
        ordered = inserted(xp, ordered, make(0.0, dtype=xp.float64))
    assert ordered.tolist() == [0.0, 0.0, 0.0, *sorted(norms)]


@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
def test_rows_shift_only_where_a_norm_enters(xp):
    make = torch.tensor if xp is torch else np.array
    rows = shifted(xp, make([[1.0, 2.0], [3.0, 4.0]]), make([5.0, 6.0]), make([True, False]))
    assert rows.tolist() == [[2.0, 5.0], [3.0, 4.0]]
    assert ascending(xp, make([[2.0, 1.0], [0.0, 4.0]])).tolist() == [[1.0, 2.0], [0.0, 4.0]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: autoclip(-1.0),
        lambda: autoclip(100.1),
        lambda: autoclip(math.nan),
        lambda: autoclip(window=0),
        lambda: percentile_clip(101),
        lambda: percentile_clip(window=0),
        lambda: zclip(alpha=1.0),
        lambda: zclip(alpha=-0.1),
        lambda: zclip(z_threshold=0.0),
        lambda: zclip(warmup=0),
        lambda: zclip(max_norm=0.0),
        lambda: zclip(mode="median"),
        lambda: zclip(clip_factor=0.0),
        lambda: zclip(eps=-1e-6),
        lambda: zclip(patience=0),
        lambda: adagc(1.0),
        lambda: adagc(math.inf),
        lambda: adagc(beta=1.0),
        lambda: adagc(warmup=-1),
        lambda: adagc(absolute=0.0),
        lambda: adagc(patience=0),
        lambda: clip_by_growth(1.0),
        lambda: clip_by_growth(beta=1.0),
        lambda: clip_by_growth(floor=0.0),
        lambda: aggc(1.0),
        lambda: aggc(low=1.5),
        lambda: aggc(high_late=2.0),
        lambda: aggc(num_steps=0),
        lambda: aggc(max_raise=1.0),
        lambda: aggc(num_steps=10, transition=0.0),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        make()
