"""What holds for every policy and transform there is, on real optimizers: the property matrix, and that nothing is left out."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import SAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import steadygrad as sg
from steadygrad.policies import POLICIES, parse_policy

SHAPES = ((3, 4), (3,), (1,), (2, 3, 2, 2), (0,))
NAMES = ("a.weight", "a.bias", "gain", "conv.weight", "nothing")
NORMALISERS = {"gradient_stabilizer", "normalize", "smooth_normalize"}
each_policy = pytest.mark.parametrize("name", [name for name in SAMPLES if name in POLICIES])


def test_every_policy_has_a_sample():
    assert sorted(SAMPLES) == sorted(POLICIES)


def a_model(params):
    """A module that holds the parameters under their names, so that nobody has to search for them."""
    model = nn.Module()
    for name, param in zip(NAMES, params, strict=True):
        *path, last = name.split(".")
        owner = model
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(last, param)
    return model


class Bench:
    """Five parameters, an optimizer that the policy can work with, and a guard."""

    def __init__(self, name, dtype=torch.float32, lr=1e-3):
        generator = torch.Generator().manual_seed(1)
        self.params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
        self.model = a_model(self.params)
        policy = parse_policy(SAMPLES[name])
        adam = bool(policy.needs & {"second_moment", "update_rms"})
        kind = torch.optim.AdamW if adam else torch.optim.SGD
        self.optimizer = kind(self.params, lr=lr)
        self.guard = sg.Guard(self.optimizer, policy, model=self.model)

    def new_guard(self, **kwargs):
        """Another guard in the place of the first."""
        self.guard.detach()
        self.guard = sg.Guard(self.optimizer, self.guard.policy, model=self.model, **kwargs)

    def step(self, grads):
        """One step on these gradients; returns what became of them."""
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = None if grad is None else torch.as_tensor(grad, dtype=param.dtype).clone()
        self.optimizer.step()
        return [None if p.grad is None else p.grad.detach().double().numpy() for p in self.params]

    def state(self):
        """All that the guard remembers, without its counters."""
        saved = self.guard.state_dict()
        return {**saved["state"], **{f"memory {key}": value for key, value in saved["memory"].items()}}


def random_grads(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal(shape) for shape in SHAPES]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@each_policy
def test_the_text_parses_back(name):
    policy = parse_policy(SAMPLES[name])
    assert parse_policy(policy.text).text == policy.text
    assert policy.text.startswith(f"{name}(")


@each_policy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_finite_in_finite_out(name, dtype):
    largest = torch.finfo(dtype).max / 16
    bench = Bench(name, dtype)
    for seed, scale in enumerate((1.0, 1e-30, 1e-3, 1e30, 1e3, 0.0, 1e30, 1.0)):
        out = bench.step([np.clip(g, -largest, largest) for g in random_grads(seed, scale)])
        assert all(np.isfinite(g).all() for g in out)
    assert all(torch.isfinite(value).all() for value in bench.state().values() if value.is_floating_point())
    assert bench.guard.num_skipped == 0


@each_policy
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_enters_no_state(name, bad):
    bench = Bench(name)
    for seed in range(4):
        bench.step(random_grads(seed))
    state, weights = copy.deepcopy(bench.state()), [p.detach().clone() for p in bench.params]
    grads = random_grads(9)
    grads[3][0, 0, 0, 0] = bad
    bench.step(grads)
    after = bench.state()
    if bench.guard.skipped:
        assert same(*({key: value for key, value in s.items() if "consecutive" not in key} for s in (state, after)))
        assert all(torch.equal(p, w) for p, w in zip(bench.params, weights, strict=True))
    else:  # the few that say that NaN and Inf are not their concern
        assert name in ("clip_by_value", "decay", "block_descent") or parse_policy(SAMPLES[name]).constraints
        assert all(torch.isfinite(value).all() for value in after.values() if value.is_floating_point())


@each_policy
def test_zero_gradients_and_absent_ones(name):
    bench = Bench(name)
    for seed in range(8):
        grads = random_grads(seed)
        if seed % 2:
            grads = [np.zeros_like(g) for g in grads]
        if seed % 3 == 2:
            grads[1] = None
        out = bench.step(grads)
        assert all(g is None or np.isfinite(g).all() for g in out)
        assert (out[1] is None) == (grads[1] is None)
    assert all(torch.isfinite(p).all() for p in bench.params)
    out = bench.step(random_grads(100))
    if name not in ("block_descent", "coordinate_descent", "dgc", "prune_topk", "error_feedback", "prune_hard"):
        assert all(np.abs(g).sum() > 0 for g in out if g.size)  # nothing is throttled for good


@each_policy
@given(seed=st.integers(0, 1000), cut=st.integers(0, 5))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_restored_guard_goes_on_bit_for_bit(name, seed, cut):
    first, second = Bench(name), Bench(name)
    for i in range(10):
        if i == cut:
            saved = copy.deepcopy(second.guard.state_dict())
            second.new_guard()
            second.guard.load_state_dict(saved)
        grads = random_grads(1000 * seed + i, 10.0 ** (i % 3))
        for a, b in zip(first.step(grads), second.step(grads), strict=True):
            np.testing.assert_array_equal(a, b)
    assert same(first.state(), second.state())
    assert all(torch.equal(p, q) for p, q in zip(first.params, second.params, strict=True))


@each_policy
def test_checkpoints_load_without_running_code(name, tmp_path):
    bench = Bench(name)
    for seed in range(3):
        bench.step(random_grads(seed))
    torch.save(bench.guard.state_dict(), tmp_path / "guard.pt")
    loaded = torch.load(tmp_path / "guard.pt", weights_only=True)
    assert loaded["policy"] == repr(bench.guard.policy)


@each_policy
def test_parameters_may_be_added(name):
    bench = Bench(name)
    for seed in range(4):
        bench.step(random_grads(seed))
    bench.params.append(nn.Parameter(torch.ones(2, 2)))
    if name == "clip_by_group_norm":
        return
    bench.model.register_parameter("later", bench.params[-1])
    bench.optimizer.add_param_group({"params": [bench.params[-1]]})
    for seed in range(4):
        out = bench.step([*random_grads(seed), np.ones((2, 2))])
        assert all(np.isfinite(g).all() for g in out)


@each_policy
def test_host_and_device_engines_agree(name):
    """The device engine on CPU tensors: the same decisions from torch arithmetic."""
    benches = [Bench(name), Bench(name)]
    benches[1].new_guard(engine="foreach")
    for i in range(6):
        grads = random_grads(i, 10.0 ** (i % 3 - 1))
        for a, b in zip(benches[0].step(grads), benches[1].step(grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-30)
