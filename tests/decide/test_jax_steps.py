"""Normalising, unit-wise and relative limits under `jax.jit`: nothing in them may look at a value."""

import math

import numpy as np
import pytest

from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings

jax = pytest.importorskip("jax")
LAYOUT = Layout(("a", "b"), shapes=((2, 2), (3,)))
POLICIES = [
    "adaptive_grad_clip(exclude='b')",
    "normalize()",
    "normalize('tensor')",
    "smooth_normalize()",
    "soft_clip_norm(1.0)",
    "soft_clip_norm(1.0, form='sqrt', scope='tensor')",
    "gradient_stabilizer()",
    "weight_relative_clip()",
    "clip_update_rms()",
]


def read(xp, norms):
    norms = xp.asarray(norms)
    units, ones = xp.stack([norms[0] * 0.6, norms[0] * 0.8, norms[1]]), xp.ones_like(norms)
    extra = {"unit_sum_sq": units * units, "unit_param_norm": xp.ones_like(units), "lr": ones, "param_norm": ones}
    return Readings(LAYOUT, xp, norms * norms, **extra, update_rms=norms)


def values(decision, state):
    return [decision.scale, decision.unit_scale, decision.update_scale, decision.skip, decision.reason, state]


@pytest.mark.parametrize("text", POLICIES)
@pytest.mark.parametrize("norms", [[3.0, 4.0], [0.0, 0.5], [1.0, math.nan]])
def test_decisions_under_jit_are_those_on_numpy(text, norms):
    policy, norms = parse_policy(text), np.array(norms, np.float32)
    jitted = jax.jit(lambda norms, state: values(*policy.decide(read(jax.numpy, norms), state)))
    ours = jitted(norms, policy.init(read(jax.numpy, norms)))
    expected = values(*policy.decide(read(np, norms), policy.init(read(np, norms))))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
