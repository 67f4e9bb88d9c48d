"""The numbers of a run, against a naive calculation."""

import numpy as np
import pytest
from helpers import make_run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.report import summary
from steadygrad.report.downsample import INF, NAN, NO_GRADIENT, OK, heat, peaks
from steadygrad.report.numbers import strict
from steadygrad.report.summary import labels, parameters_of

NORMS = arrays(np.float32, (23, 3), elements=st.sampled_from([0.0, 0.5, 2.0, 7.0, float("nan"), float("inf")]))
PRESENT = arrays(np.bool_, (23, 3))


@given(norms=NORMS, present=PRESENT)
def test_parameters_against_the_naive_twin(norms, present):
    run = make_run(grad_norm=norms, present=present, loss=np.ones(23), total_norm=np.ones(23))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "CHUNK_CELLS", 15)  # five rows at a time
        found = parameters_of(run)
    for i, parameter in enumerate(found):
        seen = norms[:, i][present[:, i]]
        finite = seen[np.isfinite(seen)]
        assert parameter.missing == 23 - len(seen)
        assert parameter.nonfinite == len(seen) - len(finite)
        assert same(parameter.maximum, finite.max() if len(finite) else np.nan)
        assert same(parameter.median, np.median(finite) if len(finite) else np.nan)
        assert same(parameter.last, seen[-1] if len(seen) else np.nan)


@given(norms=NORMS, present=PRESENT)
def test_the_heat_map_without_binning_is_the_table(norms, present):
    grid = heat(np.arange(23), norms, present)
    assert grid.log_norm.shape == grid.state.shape == (3, 23)
    for i in range(3):
        for k in range(23):
            value = norms[k, i]
            state = NO_GRADIENT if not present[k, i] else NAN if np.isnan(value) else INF if np.isinf(value) else OK
            assert grid.state[i, k] == state
            assert np.isfinite(grid.log_norm[i, k]) == (state == OK)


def test_the_heat_map_keeps_peaks_and_the_worst_state():
    norms = np.ones((10_000, 2), np.float32)
    norms[5000, 0], norms[7000, 1] = 1000.0, np.nan
    grid = heat(np.arange(10_000), norms, np.ones((10_000, 2), bool))
    assert grid.log_norm.shape[1] == 600
    assert grid.log_norm[0].max() == pytest.approx(3.0)
    assert (grid.state == NAN).sum() == 1


def test_the_heat_map_does_not_hide_an_explosion_under_its_nan():
    norms = np.ones((10_000, 1), np.float32)
    norms[7000:7003, 0], norms[7003:, 0] = 1e6, np.nan
    grid = heat(np.arange(10_000), norms, np.ones((10_000, 1), bool))
    assert np.nanmax(grid.log_norm) == pytest.approx(6.0)
    assert grid.x[grid.state[0] == NAN][0] == 7003


@given(y=arrays(np.float64, st.integers(0, 400), elements=st.floats(-1e6, 1e6)), bins=st.integers(1, 20))
def test_thinned_curves_keep_their_range_and_order(y, bins):
    x, thin = peaks(np.arange(len(y)), y, bins)
    assert len(x) <= max(2 * bins, min(len(y), 2 * bins))
    assert (np.diff(x) > 0).all()
    assert thin.tolist() == y[x].tolist()
    if len(y):
        assert (thin.min(), thin.max()) == (y.min(), y.max())


def test_labels_tell_runs_of_the_same_name_apart():
    runs = [make_run(path="a/run"), make_run(path="b/run"), make_run(path="c/other")]
    assert labels(runs) == ["run (1)", "run (2)", "other"]


def test_strict_takes_numpy_values():
    assert strict({"a": np.float32("nan"), "b": np.array([1.0, np.inf]), "c": np.int64(3)}) == {
        "a": None,
        "b": [1.0, "Infinity"],
        "c": 3,
    }


def same(a, b):
    return a == pytest.approx(b, rel=1e-6, nan_ok=True)
