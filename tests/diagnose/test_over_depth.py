"""Vanishing and exploding over depth."""

import numpy as np
import pytest
from helpers import make_run

from steadygrad.diagnose.over_depth import depth_trend, over_depth
from steadygrad.diagnose.series import series_of


def deep(factor, layers=10, rows=50, extra=(), shape=(32, 32)):
    """Weights and biases of a deep model whose gradient norm changes by ``factor`` per layer towards the output."""
    rng = np.random.default_rng(0)
    sizes = factor ** np.arange(layers)
    norms = np.repeat(sizes, 2) * np.exp(rng.normal(0, 0.1, (rows, 2 * layers)))
    names = tuple(f"layers.{i}.{kind}" for i in range(layers) for kind in ("weight", "bias"))
    shapes = (shape, (32,)) * layers
    return make_run(grad_norm=norms, loss=np.linspace(3, 2, rows), names=names, shapes=shapes)


def test_vanishing_gives_the_factor_and_the_ends():
    (finding,) = over_depth(deep(5.0))
    assert (finding.slug, finding.severity) == ("vanishing-over-depth", "error")
    assert finding.evidence["factor_per_layer"] == pytest.approx(5.0, rel=0.05)
    assert finding.evidence["end_to_end_ratio"] == pytest.approx(5.0**9, rel=0.3)
    assert finding.evidence["rms_first"] == pytest.approx(1 / 32, rel=0.1)
    assert finding.evidence["matrices"] == 10
    assert finding.where == ("layers.0.weight", "layers.1.weight", "layers.2.weight")


def test_exploding_towards_the_input():
    (finding,) = over_depth(deep(1 / 2.2))
    assert (finding.slug, finding.severity) == ("exploding-over-depth", "warning")
    assert finding.evidence["factor_per_layer"] == pytest.approx(2.2, rel=0.05)


@pytest.mark.parametrize("factor", [1.0, 1.2, 1 / 1.2])
def test_a_mild_trend_is_healthy(factor):
    assert not list(over_depth(deep(factor)))


def test_three_matrices_make_no_trend():
    assert depth_trend(*(run := deep(100.0, layers=3), series_of(run)[0])) is None


def test_widths_that_grow_with_depth_are_no_trend():
    sizes = [16 * 4**i for i in range(8)]
    shapes = tuple((n, n) for n in sizes)
    run = make_run(grad_norm=np.ones((40, 8)), loss=np.ones(40), shapes=shapes)
    assert not list(over_depth(run))


def test_a_zero_or_missing_gradient_does_not_break_the_fit():
    run = deep(5.0)
    run.grad_norm[:, 4] = 0.0
    run.grad_norm[3, :] = np.nan
    (finding,) = over_depth(run)
    assert finding.evidence["matrices"] == 9
