"""The same policies under `jax.jit`: nothing in them may look at a value."""

import math

import numpy as np
import pytest

from steadygrad.decide import chain, clip_by_global_norm, clip_by_norm, clip_by_rms, decay, exponential, skip_nonfinite
from steadygrad.readings import Layout, Readings

jax = pytest.importorskip("jax")
LAYOUT = Layout(("a.w", "a.b", "c.w"), (0, 1, 0), ((4,), (1,), (2, 2)))
# Policies that select rows (groups, masks) are not here: `Readings.select` indexes with a list, which JAX refuses.
POLICIES = [
    clip_by_global_norm(1.0),
    clip_by_global_norm(1.0, math.inf),
    clip_by_norm(1.0, 1.0),
    clip_by_rms(0.5),
    decay(exponential(0.5)),
    chain(skip_nonfinite(2), clip_by_norm(1.0), clip_by_global_norm(1.0)),
]


def read(xp, norms):
    norms = xp.asarray(norms)
    return Readings(LAYOUT, xp, norms * norms, norm_p={1.0: norms}, abs_max=norms)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("norms", [[3.0, 4.0, 0.0], [0.1, 0.0, 0.1], [1.0, math.nan, 2.0]])
def test_decisions_under_jit_are_those_on_numpy(policy, norms):
    @jax.jit
    def step(norms, state):
        decision, state = policy.decide(read(jax.numpy, norms), state)
        return decision.scale, decision.skip, decision.reason, state

    state = policy.init(read(jax.numpy, norms))
    expected, expected_state = policy.decide(read(np, norms), policy.init(read(np, norms)))
    scale, skip, reason, state = step(np.array(norms, np.float32), state)
    np.testing.assert_allclose(scale, expected.scale, rtol=1e-6)
    assert (skip is None) == (expected.skip is None)
    assert skip is None or bool(skip) == bool(expected.skip)
    assert int(reason) == int(expected.reason)
    assert {key: int(value) for key, value in state.items()} == {key: int(value) for key, value in expected_state.items()}
