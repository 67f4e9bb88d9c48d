"""Policies as Optax transformations: the decisions are those of NumPy, and a skipped step leaves no trace."""

import math
import subprocess
import sys

import numpy as np
import pytest
from helpers import SAMPLES

import steadygrad as sg
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError, NonFiniteGradientError, UnsupportedError
from steadygrad.measure.reference import measure_arrays
from steadygrad.policies import parse_policy

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install 'steadygrad[jax]'")
optax = pytest.importorskip("optax", reason="Optax is not installed: pip install 'steadygrad[jax]'")
jnp = jax.numpy

from steadygrad.integrations.optax import PolicyState, raise_if_aborted, transform  # noqa: E402

SHAPES = {"body.bias": (7,), "body.weight": (5, 8), "conv.weight": (3, 3, 2, 4), "gain": (1,), "silent.weight": (3, 2)}
LR = 0.5


def qualifies(text):
    policy = parse_policy(text)
    rewrites = any(stage.rewrite is not None for stage in policy.stages or (policy,))
    return not (rewrites or policy.constraints or policy.needs & {"update_rms", "second_moment"})


TEXTS = {name: text for name, text in SAMPLES.items() if qualifies(text)}
TEXTS |= {
    "two stages": "chain(clip_by_value(0.5), clip_by_global_norm(1.0), skip_nonfinite(2))",
    "other norms": "chain(clip_by_norm(2.0, 3.0), clip_by_global_norm(1.0, inf))",
    "masked": "masked(adagc(warmup=2), ('*.weight', '!conv.*'))",
}
REFUSED = [name for name, text in SAMPLES.items() if not qualifies(text)]


def random_tensors(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    drawn = {name: scale * 10.0 ** rng.uniform(-1, 1) * rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return {name: (value * (name != "silent.weight")).astype(np.float32) for name, value in drawn.items()}


def sequence(bad=(6,), spikes=(9,)):
    """Twelve steps: ordinary ones, one with NaN, one a thousand times too large."""
    steps = [random_tensors(seed, 1e3 if seed in spikes else 1.0) for seed in range(12)]
    for index in bad:
        steps[index]["gain"][0] = math.nan
    return steps


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def same_bits(one, other):
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture
def doubled():
    """JAX in 64 bits for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def on_numpy(policy, steps, weights):
    """Readings in float64, the policy on NumPy, each gradient scaled; ``None``: skipped. For policies of one stage."""
    unit_dims = tuple(len(shape) - 1 if len(shape) > 1 else -1 for shape in SHAPES.values())
    layout = sg.Layout(tuple(SHAPES), shapes=tuple(SHAPES.values()), unit_dims=unit_dims)
    starts, state, results = np.cumsum((0, *layout.num_units)), None, []
    for grads in steps:
        readings = measure_arrays(list(grads.values()), layout, policy.needs, list(weights.values()), [{"lr": LR}])
        decision, state = policy.decide(readings, policy.init(readings) if state is None else state)
        scale = np.broadcast_to(1.0 if decision.scale is None else decision.scale, (len(SHAPES),))
        parts = np.split(np.ones(starts[-1]) if decision.unit_scale is None else decision.unit_scale, starts[1:-1])
        scaled = {name: value * factor * part for (name, value), factor, part in zip(grads.items(), scale, parts, strict=True)}
        results.append((None if decision.skip else scaled, int(decision.reason)))
    return results


def through(optimizer, steps, weights=None):
    """Updates, and the state, of each step under `jax.jit`."""
    params = to_jax(weights or random_tensors(99))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    results = []
    for grads in steps:
        updates, state = update(to_jax(grads), state, params)
        results.append((jax.tree.map(np.asarray, updates), state))
    return results


def identity(text):
    """A policy whose optimizer hands on what it gets."""
    return transform(parse_policy(text), optax.scale(1.0), learning_rate=LR)


OTHERS = {"lr", "units", "param_norm"}
"""Readings that need more than gradients, which `Limiter` does not have."""


def limited(policy, steps):
    """What `Limiter` makes of each step's gradients; a reference that is not written here."""
    limiter, results = sg.Limiter(policy), []
    for grads in steps:
        values = limiter(grads)
        # An array that takes no part in the step is `None`.
        full = values and {name: np.zeros_like(grads[name]) if value is None else value for name, value in values.items()}
        results.append((full, int(limiter.reason)))
    return results


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_decisions_are_those_on_numpy(text, wide, request):
    if wide:
        request.getfixturevalue("doubled")
    steps, weights, policy = sequence(), random_tensors(99), parse_policy(text)
    of_gradients = not {need.partition(":")[0] for need in policy.needs} & OTHERS
    expected = limited(policy, steps) if of_gradients else on_numpy(policy, steps, weights)
    for (ours, state), (theirs, reason) in zip(through(identity(text), steps, weights), expected, strict=True):
        assert int(state.reason) == reason
        for name, value in ours.items():
            other = np.zeros_like(value) if theirs is None else theirs[name]
            largest = np.abs(np.nan_to_num(other)).max(initial=0.0)
            tolerance = (2.0**-23 if wide else 1e-5) * largest
            np.testing.assert_allclose(value, other, rtol=0, atol=tolerance, err_msg=name)


PEERS = {
    "clip_by_value(0.5)": lambda: optax.clip(0.5),
    "clip_by_global_norm(1.0, eps=0.0)": lambda: optax.clip_by_global_norm(1.0),
    "clip_by_rms(0.3)": lambda: optax.clip_by_block_rms(0.3),
    "adaptive_grad_clip(0.1)": lambda: optax.adaptive_grad_clip(0.1),
}


@pytest.mark.parametrize("text", PEERS)
def test_optax_clips_alike(text):
    steps, weights = sequence(bad=()), random_tensors(99)
    for (ours, _), (theirs, _) in zip(
        through(transform(parse_policy(text)), steps, weights), through(PEERS[text](), steps, weights), strict=True
    ):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=4e-7, atol=0, err_msg=name)


def test_units_may_lie_first():
    policy = sg.parse_policy("adaptive_grad_clip(0.1)")
    grads, weights = {"w": random_tensors(1)["body.weight"]}, {"w": random_tensors(99)["body.weight"]}
    [(ours, _)] = through(transform(policy, units="first"), [grads], weights)
    [(theirs, _)] = through(optax.adaptive_grad_clip(0.1, axis=1), [grads], weights)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=4e-7, atol=0)


@pytest.mark.parametrize("text", ["clip_by_global_norm(1.0)", "zclip(warmup=3)", "auto()", "adagc(warmup=3)", "normalize()"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_step_leaves_policy_optimizer_and_parameters_as_they_were(text, bad):
    optimizer = transform(parse_policy(text), inner=optax.adamw(0.1, weight_decay=0.1), learning_rate=0.1)
    params = to_jax(random_tensors(99))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for grads in sequence(bad=()):
        updates, state = update(to_jax(grads), state, params)
        params = optax.apply_updates(params, updates)
    grads = sequence(bad=())[0]
    grads["conv.weight"][1, 2, 0, 3] = bad
    updates, after = update(to_jax(grads), state, params)
    assert int(after.reason) == Reason.NON_FINITE
    assert jax.tree.all(jax.tree.map(np.array_equal, optax.apply_updates(params, updates), params))
    assert same_bits((after.policy, after.inner, after.count), (state.policy, state.inner, state.count))
    assert (int(state.count), int(after.num_skipped)) == (12, 1)


def test_without_inner_a_skipped_step_hands_on_zeros_from_which_adam_still_moves():
    optimizer = optax.chain(transform(sg.skip_nonfinite()), optax.adam(0.1))
    (_, before), (updates, after) = through(optimizer, [random_tensors(0), {**random_tensors(1), "gain": np.array([np.nan])}])
    assert np.abs(updates["gain"]).item() > 0.0
    assert not same_bits(before[1], after[1])


def test_what_is_not_limited_keeps_its_bits():
    grads = random_tensors(3)
    [(ours, state)] = through(transform(sg.chain(sg.clip_by_norm(1e6), sg.clip_by_global_norm(1e6))), [grads])
    assert same_bits(ours, grads)
    assert int(state.reason) == Reason.NONE


def test_names_come_from_the_paths():
    tree = {"layers": [{"bias": jnp.ones(4)}, {"bias": 2 * jnp.ones(4)}], "out": (jnp.ones(4),)}
    optimizer = transform(sg.masked(sg.clip_by_norm(1.0), ("layers.*.bias", "!layers.1.*")))
    updates, _ = optimizer.update(tree, optimizer.init(tree))
    assert [float(jnp.sum(value)) for value in jax.tree.leaves(updates)] == [2.0, 8.0, 4.0]
    with pytest.raises(ArgumentError, match="pattern-no-match"):
        transform(sg.masked(sg.clip_by_norm(1.0), "head")).init(tree)


def test_a_lone_array_is_a_tree():
    optimizer = transform(sg.masked(sg.clip_by_norm(1.0), "param"))
    updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(jnp.zeros(2)))
    assert updates.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_no_parameters_at_all():
    optimizer = transform(sg.chain(sg.skip_nonfinite(), sg.clip_by_global_norm(1.0)), optax.adam(0.1))
    updates, state = jax.jit(optimizer.update)({}, optimizer.init({}), {})
    assert updates == {}
    assert int(state.reason) == Reason.NONE


def test_none_is_a_parameter_without_gradient():
    params = {"a": jnp.ones(2), "frozen": jnp.ones(3), "z": jnp.ones(1)}
    optimizer = transform(sg.clip_by_global_norm(1.0, eps=0.0))
    updates, _ = jax.jit(optimizer.update)(
        {"a": jnp.array([3.0, 0.0]), "frozen": None, "z": jnp.array([4.0])}, optimizer.init(params)
    )
    assert updates["frozen"] is None
    np.testing.assert_allclose([updates["a"][0], updates["z"][0]], [0.6, 0.8], rtol=1e-6)


def test_whole_numbers_have_no_gradient():
    params = {"a": jnp.array([3.0, 4.0]), "n": jnp.array(3)}
    grads = jax.grad(lambda p: 0.5 * jnp.sum(p["a"] ** 2) * p["n"], allow_int=True)(params)
    optimizer = transform(sg.clip_by_global_norm(1.0, eps=0.0))
    updates, _ = optimizer.update(grads, optimizer.init(params))
    assert updates["a"].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    assert updates["n"].dtype == jax.dtypes.float0
    with pytest.raises(ArgumentTypeError, match="gradient-dtype"):
        optimizer.update({"a": grads["a"], "n": jnp.array(1)}, optimizer.init(params))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_added_up_in_float32(dtype):
    grads = jnp.full(4096, 300.0, dtype)  # 300 * 300 overflows float16, and bfloat16 would lose most of the sum
    optimizer = transform(sg.clip_by_global_norm(1.0, eps=0.0))
    updates, state = optimizer.update(grads, optimizer.init(grads))
    assert float(state.total_norm) == 64.0 * 300.0
    assert updates.dtype == grads.dtype
    assert float(updates[0]) == 1.0 / 64.0


HUGE = {"a": np.full(64, 1e37, np.float32), "b": np.full(36, 1e37, np.float32), "c": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip_by_global_norm(1.0, eps=0.0)", [0.1, 0.1, 1e-38]),
        ("clip_by_norm(1.0)", [1 / 8, 1 / 6, 0.5]),
        ("normalize(eps=0.0)", [0.1, 0.1, 1e-38]),
        ("adaptive_grad_clip(1.0, eps=1.0)", [1 / 8, 1 / 6, 0.5]),
        ("skip_nonfinite()", [1e37, 1e37, 1.0]),
        ("clip_by_global_norm(inf)", [1e37, 1e37, 1.0]),
        ("clip_by_value(2.0)", [2.0, 2.0, 1.0]),
    ],
)
def test_a_norm_beyond_float32_is_that_of_a_finite_gradient(text, expected):
    weights = jax.tree.map(np.zeros_like, HUGE)
    [(ours, state)] = through(transform(parse_policy(text)), [HUGE], weights)
    assert int(state.reason) != Reason.NON_FINITE
    assert math.isfinite(float(state.total_norm))
    np.testing.assert_allclose([ours["a"][5], ours["b"][5]], expected[:2], rtol=1e-6)
    np.testing.assert_allclose(ours["c"][0], expected[2], rtol=1e-6, atol=1e-37)


def test_one_huge_element_beside_nan_is_skipped():
    grads = {**HUGE, "c": np.array([np.nan, 1, 1, 1], np.float32)}
    [(ours, state)] = through(transform(sg.clip_by_norm(1.0)), [grads], HUGE)
    assert int(state.reason) == Reason.NON_FINITE
    assert not any(value.any() for value in ours.values())


def test_64_bits_hold_the_square_of_every_float32(doubled):
    [(ours, state)] = through(transform(sg.clip_by_global_norm(1.0, eps=0.0)), [HUGE], HUGE)
    np.testing.assert_allclose(float(state.total_norm), 1e38, rtol=1e-7)
    assert ours["a"].dtype == np.float32
    np.testing.assert_allclose(ours["a"], 0.1, rtol=1e-7)


def test_complex_gradients_count_by_their_modulus():
    grads = {"z": np.array([3.0 + 4.0j], np.complex64)}
    [(ours, _)] = through(transform(sg.clip_by_global_norm(1.0, eps=0.0)), [grads], grads)
    np.testing.assert_allclose(ours["z"], [0.6 + 0.8j], rtol=1e-6)
    with pytest.raises(UnsupportedError, match="complex-value-clip"):
        through(transform(sg.clip_by_value(1.0)), [grads], grads)


def test_steps_may_be_a_scan():
    optimizer = transform(parse_policy("chain(skip_nonfinite(3), zclip(warmup=3), adagc(warmup=3))"), optax.adam(0.1))
    steps, params = sequence(), to_jax(random_tensors(99))

    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), state.reason

    stacked = jax.tree.map(lambda *values: jnp.stack(values), *steps)
    (_, state), reasons = jax.lax.scan(step, (params, jax.jit(optimizer.init)(params)), stacked)
    assert reasons.tolist() == [int(after.reason) for _, after in through(optimizer, steps)]
    assert reasons[6] == Reason.NON_FINITE
    assert int(state.count) == 11


def test_a_saved_state_goes_on_bit_for_bit():
    optimizer = transform(parse_policy("auto()"), optax.adam(0.1), learning_rate=0.1)
    steps, params = sequence(), to_jax(random_tensors(99))
    whole = through(optimizer, steps)
    leaves, treedef = jax.tree.flatten(whole[4][1])
    state = jax.tree.unflatten(treedef, [jnp.asarray(np.array(leaf)) for leaf in leaves])
    assert isinstance(state, PolicyState)
    for grads, (updates, after) in zip(steps[5:], whole[5:], strict=True):
        ours, state = jax.jit(optimizer.update)(to_jax(grads), state, params)
        assert same_bits((ours, state), (updates, after))


def test_a_schedule_is_read_at_the_number_of_steps_taken():
    rates = []
    optimizer = transform(
        sg.parse_policy("weight_relative_clip(0.5)"), learning_rate=lambda count: rates.append(int(count)) or 1.0
    )
    params = {"w": jnp.ones(4)}
    state = optimizer.init(params)
    for value in [1.0, math.nan, 1.0, 1.0]:
        updates, state = optimizer.update({"w": jnp.full(4, value)}, state, params)
    assert rates == [0, 1, 1, 2]
    np.testing.assert_allclose(updates["w"], 0.5, rtol=1e-6)  # half of the norm of the weights at a rate of one


def test_parameters_left_out_of_a_step_keep_their_moments():
    optimizer = transform(sg.parse_policy("block_descent(0.5, select='gauss_southwell')"), inner=optax.adam(0.1))
    first, second = [{"a": np.full(2, a, np.float32), "b": np.ones(2, np.float32)} for a in (0.5, 5.0)]
    (_, before), (updates, after) = through(optimizer, [first, second], first)
    before, after = before.inner[0], after.inner[0]
    assert updates["b"].tolist() == [0.0, 0.0]
    assert same_bits((after.mu["b"], after.nu["b"]), (before.mu["b"], before.nu["b"]))
    np.testing.assert_allclose(before.mu["b"], 0.1, rtol=1e-6)  # (1 - 0.9) * 1, of the step that `b` took part in
    np.testing.assert_allclose(after.mu["a"], 0.5, rtol=1e-6)
    assert int(after.count) == 2


def test_leaving_parameters_out_needs_the_optimizer():
    optimizer = transform(sg.parse_policy("block_descent(0.5)"))
    with pytest.raises(UnsupportedError, match="inner-missing"):
        optimizer.update({"w": jnp.ones(2), "b": jnp.ones(2)}, optimizer.init({"w": jnp.ones(2), "b": jnp.ones(2)}))


def test_too_many_skips_are_a_flag():
    bad, good = {"w": np.array([np.nan], np.float32)}, {"w": np.array([1.0], np.float32)}
    optimizer = optax.chain(transform(sg.skip_nonfinite(2), inner=optax.sgd(0.1)))
    steps = through(optimizer, [bad, bad, good, bad, bad, bad, good], good)
    assert [bool(state[0].aborted) for _, state in steps] == [False] * 5 + [True] * 2
    assert [int(state[0].reason) for _, state in steps][4:6] == [Reason.NON_FINITE, Reason.TOO_MANY_NON_FINITE]
    raise_if_aborted(steps[4][1])
    with pytest.raises(NonFiniteGradientError, match="too-many-nonfinite"):
        raise_if_aborted(steps[-1][1])


def test_a_stage_behind_a_skip_is_not_run():
    optimizer = transform(sg.chain(sg.skip_nonfinite(), sg.clip_by_value(1.0), sg.skip_nonfinite(1)))
    bad = {"w": np.array([np.nan], np.float32)}
    [*_, (_, state)] = through(optimizer, [bad] * 4, bad)
    assert len(state.policy) == 2
    assert int(state.policy[1]["consecutive"]) == 0
    assert not state.aborted


def test_a_stage_behind_a_skip_does_not_abort():
    text = "chain(masked(skip_nonfinite(), 'a'), clip_by_value(1.0), skip_nonfinite(1))"
    good, bad = np.ones(1, np.float32), np.array([np.nan], np.float32)
    (_, first), (_, second), (_, third) = through(
        transform(parse_policy(text)), [{"a": a, "b": bad} for a in (good, bad, good)], {"a": good, "b": good}
    )
    assert [int(state.policy[1]["consecutive"]) for state in (first, second, third)] == [1, 1, 2]
    assert [bool(state.aborted) for state in (first, second, third)] == [False, False, True]


def test_extra_arguments_reach_the_optimizer():
    def update(updates, state, params=None, *, factor):
        return jax.tree.map(lambda g: factor * g, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer = transform(sg.skip_nonfinite(), inner)
    updates, _ = optimizer.update({"w": jnp.ones(2)}, optimizer.init({"w": jnp.ones(2)}), factor=3.0)
    assert updates["w"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_when_it_is_made(name):
    with pytest.raises(UnsupportedError, match=r"optax-unsupported|reading-unknown") as refusal:
        transform(parse_policy(SAMPLES[name]), learning_rate=0.1)
    assert name in str(refusal.value)


def test_what_is_missing_is_said():
    with pytest.raises(ArgumentError, match="learning-rate-missing"):
        transform(parse_policy("auto()"))
    with pytest.raises(ArgumentTypeError, match="policy-expected"):
        transform("auto()")
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        transform(sg.skip_nonfinite(), units="middle")
    tree = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    optimizer = transform(parse_policy("adaptive_grad_clip()"))
    with pytest.raises(ArgumentError, match="params-missing"):
        optimizer.update(tree, optimizer.init(tree))
    with pytest.raises(ArgumentError, match="gradient-count"):
        optimizer.update(tree, optimizer.init(tree), {"w": tree["w"]})


def test_importing_it_loads_no_torch():
    program = "import steadygrad.integrations.optax, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
