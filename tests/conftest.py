"""What every test shares: fixed seeds, patient property tests, and the real data where it lies beside the checkout."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# A slow machine is no reason for a test to fail, and a failure has to come again when the test is run again.
settings.register_profile("steadygrad", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("steadygrad")


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of real data beside the checkout; the test is skipped where there is none."""
    path = ROOT / ".." / "shared"
    if not (path / "data").is_dir():
        pytest.skip("the real data is not beside this checkout (../shared/data)")
    return path.resolve()
