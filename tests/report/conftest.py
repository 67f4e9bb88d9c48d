"""Runs that every kind of report must be able to show."""

import numpy as np
import pytest
from helpers import make_run

NAN = float("nan")
ODD_RUNS = {
    "no rows": lambda: make_run(),
    "no rows, two parameters": lambda: make_run(names=("a", "b")),
    "one step": lambda: make_run(grad_norm=[[1.0, 2.0]], loss=[1.0]),
    "all losses NaN": lambda: make_run(grad_norm=np.ones((30, 2)), loss=[NAN] * 30),
    "no parameters": lambda: make_run(loss=np.linspace(3, 1, 50), total_norm=np.linspace(1, 0.5, 50)),
    "everything NaN": lambda: make_run(grad_norm=np.full((30, 2), NAN), loss=[NAN] * 30),
    "everything Inf": lambda: make_run(grad_norm=np.full((30, 2), np.inf), loss=[np.inf] * 30),
    "all zero": lambda: make_run(grad_norm=np.zeros((30, 2)), loss=np.zeros(30)),
    "no gradient": lambda: make_run(grad_norm=np.ones((30, 2)), present=np.zeros((30, 2), bool), loss=np.ones(30)),
}


@pytest.fixture(params=ODD_RUNS)
def odd_run(request):
    return ODD_RUNS[request.param]()


@pytest.fixture
def exploded():
    """A run whose second parameter explodes, with names as only a user can invent them."""
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(0, 0.1, (300, 3)))
    norms[200:, 1] *= 10.0 ** np.minimum(np.arange(100), 8)
    norms[280:] = NAN
    loss = np.where(np.arange(300) < 205, 1.5, NAN)
    names = ("</script><script>alert(1)</script>", "rnn.weight_hh_l0", "<img src=x onerror=alert(2)>")
    meta = {"policy": "", "argv": ["train.py", "<b>"], "environment": {"torch": "2.13.0"}}
    return make_run(grad_norm=norms, loss=loss, names=names, meta=meta, path="runs/<i>plain</i>")


@pytest.fixture
def clipped():
    norms = np.exp(np.random.default_rng(1).normal(0, 0.3, (300, 3)))
    return make_run(
        grad_norm=norms, loss=np.linspace(2, 1, 300), threshold=2.0, path="runs/clipped", skipped=np.arange(300) == 50
    )
