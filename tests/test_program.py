"""Programs under ``steadygrad run`` beside plain Python: same output, same traceback, same end.

None of these programs imports torch, so nothing is recorded; `test_launch.py` has those that do.
"""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from steadygrad.errors import ArgumentError
from steadygrad.program import Program, program_frames

SEEN = """
import sys
for k, v in sorted(globals().copy().items()):
    print(k, type(v).__name__ if " at 0x" in repr(v) or k == "__builtins__" else repr(v))
print(sys.argv, sys.path, sys.modules["__main__"].__dict__ is globals(), sys.flags.optimize, sys.stdout.line_buffering)
"""

SCRIPTS = {
    "sees": SEEN,
    "exit-3": "import sys; sys.exit(3)",
    "exit-300": "import sys; sys.exit(300)",
    "exit-text": "import sys; sys.exit('cannot go on')",
    "exit-none": "import sys; sys.exit()",
    "exit-object": "raise SystemExit([1, 2])",
    "exit-at-once": "import os; print('x', flush=True); os._exit(4)",
    "exception": "def f(x):\n    return 1 / x\n\ntry:\n    {}['a']\nexcept KeyError:\n    f(0)\n",
    "exception-cause": "try:\n    int('x')\nexcept ValueError as e:\n    raise RuntimeError('chain') from e\n",
    "exception-no-frames": "class E(Exception):\n    def __str__(self): return 'héllo'\nraise E",
    "syntax": "x = (1,\ny = 2\n",
    "own-excepthook": "import sys\nsys.excepthook = lambda k, e, t: print(k, e, t.tb_frame.f_lineno, t.tb_next)\n1 / 0",
    "last-traceback": """
import atexit, sys
atexit.register(lambda: print(sys.last_type, sys.last_traceback.tb_frame.f_globals["__name__"]))
1 / 0
""",
    "interrupt": """
import atexit, os, signal
atexit.register(print, "bye")
os.kill(os.getpid(), signal.SIGINT)
for i in range(9**9): pass
""",
    "interrupt-and-exec": """
import atexit, collections, os, signal
atexit.register(collections.namedtuple, "A", "b")
os.kill(os.getpid(), signal.SIGINT)
for i in range(9**9): pass
""",
    "interrupt-subclass": "class Stop(KeyboardInterrupt): pass\nraise Stop",
    "atexit": """
import atexit, pickle, sys
class A: pass
@atexit.register
def late():
    print(sys.modules["__main__"].A is A, type(pickle.loads(pickle.dumps(A()))))
""",
    "pickle": "import pickle\nclass A: pass\nprint(A.__module__, isinstance(pickle.loads(pickle.dumps(A())), A))",
    "del-at-exit": "class A:\n    def __del__(self): print('gone', __name__)\na = A()\n",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('done'))).start()\n1 / 0",
    "stdin": "import sys\nprint(input(), sys.stdin.read())",
    "no-future": "def f(x: print('annotations are evaluated')): ...",
    "warning": "import warnings\nwarnings.warn('old', DeprecationWarning)",
    "fork": "import os, sys\npid = os.fork()\nif pid == 0: sys.exit(5)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    "missing-import": "import not_there_at_all",
    "main-import": "import __main__\nprint(__main__.__file__)",
}

POOL = """
import multiprocessing as mp, os, sys
class Box:
    def __init__(self, x): self.x = x
def double(box): return Box(box.x * 2)
if __name__ == "__main__":
    with mp.get_context(sys.argv[1]).Pool(2) as pool:
        print([b.x for b in pool.map(double, [Box(i) for i in range(4)])])
"""


@pytest.fixture
def run(tmp_path, root):
    """Runs one command line in an empty folder, as plain Python or watched; returns exit code, stdout, stderr, our lines."""

    def run(*args, watched, flags=(), text=""):
        launcher = ["-m", "steadygrad", "run"] if watched else []
        done = subprocess.run(
            [sys.executable, *flags, *launcher, *args],
            cwd=tmp_path,
            input=text,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONIOENCODING": "utf-8"},
            timeout=60,
        )
        lines = done.stderr.splitlines(keepends=True)
        theirs = "".join(line for line in lines if not line.startswith("steadygrad: "))
        return (done.returncode, done.stdout, theirs), [line for line in lines if line.startswith("steadygrad: ")]

    return run


def same(run, *args, **more):
    """What both have in common; fails if they differ."""
    plain, _ = run(*args, watched=False, **more)
    watched, ours = run(*args, watched=True, **more)
    assert watched == plain
    return plain, ours


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_as_under_plain_python(run, tmp_path, name):
    (tmp_path / "train.py").write_text(SCRIPTS[name], encoding="utf-8")
    (code, _, _), ours = same(run, "train.py", "--lr", "0.1", "-m", "--policy", text="one\ntwo\nthree")
    assert code == {"interrupt": -signal.SIGINT, "exit-3": 3, "exit-300": 44}.get(name, code)
    assert len(ours) == (0 if name == "exit-at-once" else 1)
    assert (tmp_path / "runs").exists() == (name == "exit-at-once")  # nothing was recorded, so nothing is left


def test_spellings_of_a_script(run, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "train.py").write_text(SEEN)
    (tmp_path / "link.py").symlink_to("inner/train.py")
    for spelling in ("./inner/../inner/train.py", "link.py", str(inner / "train.py")):
        same(run, spelling)


@pytest.mark.parametrize("flags", [["-O"], ["-u"], ["-W", "error"], ["-P"], ["-X", "dev"]])
def test_interpreter_flags(run, tmp_path, flags):
    if flags == ["-P"] and sys.version_info < (3, 11):
        pytest.skip("-P is new in Python 3.11")
    (tmp_path / "train.py").write_text("import sys\nprint(list(sys.flags), __debug__, sys.path)\nassert not sys.argv[1:]")
    same(run, "train.py", "x", flags=flags)


def test_modules_folders_and_zip_files(run, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("import sys; print('init', sys.argv)")
    (package / "__main__.py").write_text("from .part import value\nprint(value)\n" + SEEN)
    (package / "part.py").write_text("value = 7\nif __name__ == '__main__': 1 / 0")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", SEEN)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(SEEN + "raise ValueError('in a folder')")
    for args in (["-m", "package"], ["-m", "package.part"], ["-m", "package.typo"], ["folder"], ["./app.zip"], ["-mpackage"]):
        (code, out, err), _ = same(run, *args, "a", "--record", "b")
        assert out or err
        assert code == (1 if {"folder", "package.part", "package.typo"} & set(args) else 0)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(run, tmp_path, method):
    (tmp_path / "pool.py").write_text(POOL)
    (_, out, _), ours = same(run, "pool.py", method)
    assert out == "[0, 2, 4, 6]\n"
    assert len(ours) == 1  # the children say nothing
    same(run, "-m", "pool", method)


def test_a_ctrl_c_from_outside(tmp_path, root):
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-m", "steadygrad", "run", "train.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert err.startswith('Traceback (most recent call last):\n  File "' + str(tmp_path / "train.py"))


@pytest.mark.parametrize(
    ("make", "slug"),
    [
        (lambda folder: Program.from_script(folder / "nowhere.py"), "script-missing"),
        (lambda folder: Program.from_script(folder), "script-missing"),
        (lambda folder: Program.from_module("there_is_no_such_module"), "module-missing"),
        (lambda folder: Program.from_module(".relative"), "module-missing"),
        (lambda folder: Program.from_module(""), "module-missing"),
    ],
)
def test_nothing_to_run(tmp_path, make, slug):
    before = list(sys.path), list(sys.argv), sys.modules["__main__"]
    with pytest.raises(ArgumentError) as caught:
        make(tmp_path)
    assert caught.value.slug == slug
    assert before == (list(sys.path), list(sys.argv), sys.modules["__main__"])


def test_labels(tmp_path):
    (tmp_path / "train.v2.py").touch()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").touch()
    assert Program.from_script(tmp_path / "train.v2.py").label == "train.v2"
    assert Program.from_script(f"{tmp_path}/app/").label == "app"
    assert Program.from_module("json.tool").label == "json.tool"


def test_a_traceback_without_a_program_is_left_alone():
    with pytest.raises(OSError, match="nowhere") as caught:
        Path("nowhere").read_bytes()
    assert program_frames(caught.tb) is caught.tb
