import math

import numpy as np
import pytest
import torch

from steadygrad.decide import skip_nonfinite
from steadygrad.decision import Reason

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


@XP
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_skips_where_any_tensor_is_not_finite(xp, bad, readings_of):
    policy = skip_nonfinite()
    readings = readings_of(xp, [1.0, bad])
    decision, state = policy.decide(readings, policy.init(readings))
    assert decision.skip
    assert decision.scale is None
    assert not decision.abort
    assert int(decision.reason) == Reason.NON_FINITE
    assert int(state["consecutive"]) == 1


@XP
def test_leaves_finite_gradients_alone_however_large(xp, readings_of):
    policy = skip_nonfinite()
    readings = readings_of(xp, [1e150, 0.0])
    decision, state = policy.decide(readings, policy.init(readings))
    assert not decision.skip
    assert int(decision.reason) == Reason.NONE
    assert int(state["consecutive"]) == 0


@XP
def test_aborts_once_the_count_exceeds_the_limit(xp, readings_of):
    policy = skip_nonfinite(max_consecutive=2)
    good, bad = readings_of(xp, [1.0]), readings_of(xp, [math.nan])
    state, aborts, counts = policy.init(good), [], []
    for readings in [bad, bad, good, bad, bad, bad]:
        decision, state = policy.decide(readings, state)
        aborts.append(bool(decision.abort))
        counts.append(int(state["consecutive"]))
    assert aborts == [False] * 5 + [True]
    assert counts == [1, 2, 0, 1, 2, 3]
    assert int(decision.reason) == Reason.TOO_MANY_NON_FINITE


def test_none_never_aborts(readings_of):
    policy = skip_nonfinite(None)
    readings = readings_of(np, [math.nan])
    decision, _ = policy.decide(readings, {"consecutive": np.array(10**6)})
    assert decision.abort is None
    assert policy.text == "skip_nonfinite(None)"


@XP
def test_the_count_is_an_integer_array_of_the_namespace(xp, readings_of):
    state = skip_nonfinite().init(readings_of(xp, [math.nan, 1.0]))
    assert str(state["consecutive"].dtype).endswith("int64")
    assert state["consecutive"].shape == ()
