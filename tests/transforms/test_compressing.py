"""What holds for every transform that compresses, and for the tools that they share."""

import math
import weakref

import numpy as np
import pytest
import torch
from helpers import run_transform
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils._python_dispatch import TorchDispatchMode

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.policy import Place
from steadygrad.transforms import fp8, quantize, sign
from steadygrad.transforms.compressing import mean_over, power_of_two, round_randomly_, saturate_

MAX = torch.finfo(torch.float32).max
FORGETFUL = [
    "qsgd()",
    "qsgd(1, bucket=3, seed=5)",
    "terngrad()",
    "terngrad(clip_sigma=None, seed=-1)",
    "sign()",
    "sign(scaled=True)",
    "onebit(feedback=False)",
    "fp8()",
    "fp8('e4m3', stochastic=True)",
    "prune_hard(0.5)",
    "prune_soft(0.5)",
    "prune_topk(0.3)",
]
REMEMBERING = ["onebit()", "dgc(0.3)", "dgc(warmup=3, max_norm=1.0)", *(f"error_feedback({t})" for t in FORGETFUL)]
ABSOLUTE = ("prune_hard", "prune_soft", "sign()")
any_number = st.floats(-MAX, MAX, width=32) | st.floats(-2.0, 2.0, width=32) | st.sampled_from([MAX, -MAX, 0.0, 1e30, 1e-30])
gradients = arrays(np.float32, st.integers(0, 12), elements=any_number).map(torch.from_numpy)
ordinary = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32)).map(torch.from_numpy)
each = pytest.mark.parametrize("text", FORGETFUL + REMEMBERING)
each_forgetful = pytest.mark.parametrize("text", FORGETFUL)


@each
@given(gradients)
def test_finite_gradients_give_finite_ones_and_a_finite_memory(text, grad):
    policy, memory = parse_policy(text), {}
    for step in range(3):  # the same gradient again and again is the hardest for a memory
        out = run_transform(policy, grad, memory, step=step)
        assert torch.isfinite(out).all()
        assert all(torch.isfinite(tensor).all() for tensor in memory.values())


@each_forgetful
@given(gradients)
def test_no_element_changes_its_sign_and_zeros_stay(text, grad):
    out = run_transform(parse_policy(text), grad)
    assert bool((out.sign() * grad.sign() >= 0).all())
    assert bool((out[grad == 0] == 0).all())


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_asks_for_a_skip(text, bad):
    policy = parse_policy(text)
    assert run_transform(policy, torch.tensor([1.0, bad])) is None
    assert run_transform(policy, torch.tensor([1.0, 2.0])) is not None


@each
@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (2, 1, 3)])
def test_zeros_of_any_shape_stay_zeros(text, shape):
    grad = torch.zeros(shape)
    assert torch.equal(run_transform(parse_policy(text), grad), grad)


@each
def test_strides_make_no_difference(text):
    straight = torch.randn(4, 5, 3, 2)
    strided = straight.contiguous(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    expected, out = (run_transform(parse_policy(text), grad, step=3) for grad in (straight, strided))
    assert torch.equal(out, expected)
    assert not torch.equal(out, straight)
    assert out.stride() == strided.stride()


@pytest.mark.parametrize("text", [t for t in FORGETFUL if not t.startswith(ABSOLUTE)])
@given(ordinary, st.integers(-30, 30))
def test_scaling_by_a_power_of_two_scales_every_bit(text, grad, power):
    grad = grad.where(grad.abs() > 1e-20, 0.0)
    scaled = run_transform(parse_policy(text), grad * 2.0**power)
    assert torch.equal(scaled, run_transform(parse_policy(text), grad) * 2.0**power)


@pytest.mark.parametrize(
    "text", ["sign()", "fp8()", "fp8(format='e4m3')", "fp8(stochastic=True)", "prune_hard(0.5)", "prune_topk(0.3)"]
)
@given(ordinary)
def test_twice_is_once(text, grad):
    once = run_transform(parse_policy(text), grad)
    assert torch.equal(run_transform(parse_policy(text), once, step=1), once)


@pytest.mark.parametrize("text", ["qsgd(4, seed=0)", "terngrad(seed=0)", "fp8(stochastic=True, seed=0)"])
def test_random_numbers_belong_to_seed_step_name_and_shard(text):
    grad, policy = torch.randn(50), parse_policy(text)
    first = run_transform(policy, grad)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert torch.equal(run_transform(policy, grad), first)
    assert torch.equal(torch.get_rng_state(), before)
    for other in ({"step": 1}, {"name": "v"}, {"shard": 1}):
        assert not torch.equal(run_transform(policy, grad, **other), first)
    assert not torch.equal(run_transform(parse_policy(text.replace("seed=0", "seed=1")), grad), first)


@each
def test_float64_stays_float64(text):
    out = run_transform(parse_policy(text), torch.randn(9, dtype=torch.float64))
    assert out.dtype == torch.float64


@each
def test_texts_parse_back_to_themselves(text):
    canonical = parse_policy(text).text
    assert parse_policy(canonical).text == canonical
    assert parse_policy(text).rewrites


def test_defaults_are_left_out_of_the_text():
    for name in ("qsgd", "terngrad", "sign", "onebit", "fp8", "prune_topk", "dgc"):
        assert parse_policy(name).text == f"{name}()"
    assert parse_policy("qsgd(127, bucket=512, seed=1)").text == "qsgd(seed=1)"
    assert parse_policy("prune_topk(0.05)").text == "prune_topk(0.05)"


class Watch(TorchDispatchMode):
    """Counts the live tensors of a size that appear, and refuses to let the host wait for the device."""

    def __init__(self, numel, known):
        super().__init__()
        self.numel, self.known, self.live, self.peak = numel, {t.untyped_storage()._cdata for t in known}, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "the host waits for the device"
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.numel and tensor.element_size() >= 4:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage):
        key = storage._cdata
        if key not in self.known and key not in self.live:
            self.live.add(key)
            self.peak = max(self.peak, len(self.live))
            weakref.finalize(storage, self.live.discard, key)


@each
@pytest.mark.parametrize("contiguous", [True, False])
def test_at_most_one_tensor_of_the_gradients_size_is_allocated(text, contiguous, monkeypatch):
    for module in (quantize, sign, fp8):
        monkeypatch.setattr(module, "PIECE", 1024)
    grad = torch.randn(2, 4096) if contiguous else torch.randn(4096, 2).t()
    policy, memory = parse_policy(text), {}
    run_transform(policy, grad, memory)  # the memory is made
    place = Place("w", grad, {}, {}, memory, {"clip": torch.tensor(0.5)}, step=1)
    with torch.no_grad(), Watch(grad.numel(), [grad, *memory.values()]) as watch:
        policy.rewrite(grad, place)
    assert watch.peak <= 1


def test_the_watch_counts_what_is_alive():
    grad = torch.ones(100)
    with Watch(100, [grad]) as watch:
        for _ in range(3):
            grad.abs().neg_()
        assert watch.peak == 1
        held = grad.abs(), grad.neg()
        assert watch.peak == len(held)
        with pytest.raises(AssertionError, match="waits"):
            grad.sum().item()


@given(st.floats(float(np.float32(1e-45)), MAX, width=32, allow_subnormal=True))
def test_the_power_of_two_below_a_number(x):
    found = float(power_of_two(torch.tensor(x, dtype=torch.float32)))
    assert found == 2.0 ** (math.frexp(x)[1] - 1)


def test_rounding_at_random_keeps_integers_and_the_mean():
    integers, random = torch.tensor([-3.0, 0.0, 7.0, 2.0**20]), torch.Generator().manual_seed(0)
    for _ in range(100):
        x = integers.clone()
        round_randomly_(x, random)
        assert torch.equal(x, integers)
    x = torch.tensor([-2.25, 0.25, 0.5]).repeat(20_000, 1)
    round_randomly_(x, random)
    assert set(x[:, 0].tolist()) == {-3.0, -2.0}
    assert x.mean(0).tolist() == pytest.approx([-2.25, 0.25, 0.5], abs=0.02)  # 6 standard deviations


def test_mean_over_pieces():
    pieces = torch.arange(10.0).split(4)
    assert float(mean_over((p.sum(), p.numel()) for p in pieces)) == 4.5
    assert float(mean_over([(torch.tensor(0.0), 0)])) == 0.0


def test_saturating_brings_infinity_to_the_largest_number():
    x = torch.tensor([math.inf, -math.inf, 1.0])
    saturate_(x)
    assert x.tolist() == [MAX, -MAX, 1.0]


REFUSED = ["qsgd(0)", "qsgd(2000000)", "qsgd(bucket=0)", "qsgd(bucket=2000000)", "terngrad(clip_sigma=0)", "fp8('e3m4')"]
REFUSED += ["prune_hard(0)", "prune_soft(-1)", "prune_topk(0)", "prune_topk(1.1)", "dgc(0)", "dgc(momentum=1)", "dgc(warmup=-1)"]
REFUSED += ["dgc(max_norm=0)"]
OF_ANOTHER_KIND = ["qsgd(1.5)", "qsgd(seed=1.0)", "qsgd(seed=True)", "terngrad(clip_sigma='a')", "sign(scaled=1)", "fp8(5)"]
OF_ANOTHER_KIND += ["onebit(feedback=None)", "fp8(stochastic=1)", "prune_hard('a')", "prune_topk(True)", "dgc(warmup=1.5)"]
OF_ANOTHER_KIND += ["dgc(warmup=False)"]


@pytest.mark.parametrize("text", REFUSED)
def test_settings_that_cannot_work_are_refused(text):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        parse_policy(text)


@pytest.mark.parametrize("text", OF_ANOTHER_KIND)
def test_settings_of_another_kind_are_refused(text):
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        parse_policy(text)
