"""The public surface is frozen: a new name is a decision, not an accident."""

import importlib

import pytest

import steadygrad as sg

PUBLIC = [
    "ArgumentError",
    "Decision",
    "Guard",
    "Layout",
    "Limiter",
    "NonFiniteGradientError",
    "Policy",
    "Readings",
    "SteadygradError",
    "SteadygradWarning",
    "chain",
    "clip_by_global_norm",
    "clip_by_group_norm",
    "clip_by_norm",
    "clip_by_rms",
    "clip_by_value",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "decay",
    "get_total_norm",
    "load_run",
    "masked",
    "parse_policy",
    "skip_nonfinite",
    "watch",
]


def test_public_names_are_these():
    assert sg.__all__ == PUBLIC == sorted(PUBLIC)
    assert len(PUBLIC) <= 30


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example(name):
    doc = getattr(sg, name).__doc__
    assert doc
    assert ">>>" in doc or issubclass(getattr(sg, name), Exception) or name in ("Layout",)


def test_submodules_do_not_hide_public_names():
    importlib.import_module("steadygrad.watching")
    importlib.import_module("steadygrad.cli")
    assert callable(sg.watch)
    assert not set(PUBLIC) & {"errors", "guard", "runs", "report", "diagnose"}


def test_policies_of_the_registry_are_public():
    policies = importlib.import_module("steadygrad.policies").POLICIES
    assert {name for name in policies if not hasattr(sg, name)} <= {"cosine", "exponential", "inverse_time"}


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'clip'"):
        _ = sg.clip
