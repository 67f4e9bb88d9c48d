"""Every example runs in a short form, as it is and under ``steadygrad run``."""

import os
import re
import subprocess
import sys

import pytest

import steadygrad

SHORT = {
    "sequential_digits.py": ["--steps", "20", "--log-every", "10"],
    "lenet5.py": ["--steps", "20", "--log-every", "10"],
    "mlp.py": ["--steps", "100", "--log-every", "50"],
    "linear_regression.py": [],
}
TORCH = [name for name in SHORT if name != "linear_regression.py"]
POLICY = "chain(skip_nonfinite(), clip_by_global_norm(1.0))"


@pytest.fixture
def python(root):
    """Runs Python at the root of the repository and returns its output; the exit code has to be 0."""

    def run(*args):
        env = os.environ | {"PYTHONPATH": str(root / "src"), "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *map(str, args)], cwd=root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def final_accuracy(output):
    return float(re.search(r"final test accuracy ([\d.]+)", output).group(1))


def test_every_example_is_tested(root):
    assert {path.name for path in (root / "examples").glob("*.py")} == set(SHORT)


def test_the_examples_readme_names_every_example(root):
    readme = (root / "examples" / "README.md").read_text(encoding="utf-8")
    assert [name for name in SHORT if name not in readme] == []


@pytest.mark.parametrize("name", TORCH)
def test_example_runs_under_steadygrad_and_learns_the_same(python, name, tmp_path):
    watched = python("-m", "steadygrad", "run", "--record", tmp_path / "run", f"examples/{name}", *SHORT[name])
    bare = python(f"examples/{name}", *SHORT[name])
    assert watched == bare
    assert "loss" in bare
    assert final_accuracy(bare) > 0.05
    assert len(steadygrad.load_run(tmp_path / "run")) == int(SHORT[name][1])


@pytest.mark.parametrize("name", ["sequential_digits.py", "lenet5.py", "linear_regression.py"])
def test_plain_examples_do_not_import_what_they_do_without(python, root, name):
    absent = "torch" if name == "linear_regression.py" else "steadygrad"
    run = f"import runpy, sys; sys.argv[1:] = ['--steps', '1']; runpy.run_path('examples/{name}')"
    assert python("-c", f"{run}; print({absent!r} in sys.modules)").splitlines()[-1] == "False"


def test_mlp_learns_with_each_tensor_clipped_by_its_own_norm(python, tmp_path):
    command = ["run", "--policy", "clip_by_norm(1.0)", "--record", tmp_path / "run", "examples/mlp.py", *SHORT["mlp.py"]]
    assert final_accuracy(python("-m", "steadygrad", *command)) > 0.9


def test_sequential_digits_explodes_bare_and_not_when_clipped(python, tmp_path):
    fast = ["examples/sequential_digits.py", "--lr", "0.3", "--steps", "150"]
    assert "loss       nan" in python(*fast)
    clipped = python("-m", "steadygrad", "run", "--policy", POLICY, "--record", tmp_path / "run", *fast)
    assert "nan" not in clipped
    assert final_accuracy(clipped) > 0.2


@pytest.mark.slow
def test_the_demo_trains_when_clipped(python, tmp_path):
    script = "examples/sequential_digits.py"
    clipped = python("-m", "steadygrad", "run", "--policy", POLICY, "--record", tmp_path / "run", script)
    assert final_accuracy(clipped) > 0.8


def test_linear_regression_reaches_least_squares_only_when_clipped(python):
    last = python("examples/linear_regression.py").splitlines()[-1]
    bare, clipped = map(float, re.search(r"bare (\S+), clipped (\S+)", last).groups())
    assert not bare < 1
    assert clipped < 1e-6


def test_lenet_reads_idx_files(python, shared):
    output = python("examples/lenet5.py", "--data", shared / "data" / "mnist", "--steps", "60", "--log-every", "60")
    assert final_accuracy(output) > 0.7
