"""What importing costs is frozen: which modules are loaded, in a process of its own, rather than a clock on a busy machine."""

import subprocess
import sys

import pytest


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing():
    loaded = modules_after("import steadygrad")
    assert not loaded & {"torch", "numpy", "pyarrow", "rich", "plotly"}
    assert {m for m in loaded if m.startswith("steadygrad.")} == set()


@pytest.mark.parametrize(
    "name", ["load_run", "clip_by_global_norm", "chain", "parse_policy", "Limiter", "clip_by_value", "skip_nonfinite", "Readings"]
)
def test_names_that_need_no_torch_load_none(name):
    assert "torch" not in modules_after(f"import steadygrad; steadygrad.{name}")


def test_the_drop_ins_load_no_more_than_torch_and_a_few_modules_of_ours():
    loaded = modules_after("import torch; import sys; before = set(sys.modules); import steadygrad; steadygrad.clip_grad_norm_")
    assert not loaded & {"pyarrow", "rich", "plotly", "pandas"}
