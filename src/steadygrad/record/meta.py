"""The content of ``run.json``: what ran, where, from which commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from steadygrad.errors import RunError
from steadygrad.schema import FORMAT, PART_GLOB, RUN_FILE, STEPS_DIR, VERSION
from steadygrad.store import write_json

_LIBRARIES = ("torch", "numpy", "jax", "keras", "tensorflow", "transformers", "lightning", "accelerate")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def new_meta(*, argv: Sequence[str] = (), policy: str = "") -> dict[str, Any]:
    """What is known when a run begins.

    Args:
        argv: the command line of the script.
        policy: text of the policy; empty where the run is only observed.
    """
    return {
        "schema": {"name": FORMAT, "version": VERSION},
        "status": "running",
        "created": now(),
        "argv": [str(each) for each in argv],
        "cwd": str(Path.cwd()),
        "git_commit": None,
        "git_dirty": None,
        "policy": policy,
        "environment": environment(),
        "optimizers": [],
        "parameters": [],
    }


def environment() -> dict[str, Any]:
    """Versions of Python, of the machine's system and of the libraries that are already imported; nothing is imported for it."""
    try:
        own = metadata.version("steadygrad")
    except metadata.PackageNotFoundError:  # run from a checkout
        own = None
    versions = {name: str(getattr(sys.modules[name], "__version__", "")) for name in _LIBRARIES if name in sys.modules}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "steadygrad": own,
        **versions,
    }


def git_state(folder: str) -> dict[str, Any]:
    """Commit and whether tracked files were changed, as ``git`` tells; empty where it cannot tell within three seconds."""
    command = ["git", "-C", folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # so that looking changes nothing in the user's repository
    try:
        done = subprocess.run(command, capture_output=True, timeout=3, check=False, env=quiet, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = done.stdout.decode(errors="replace").splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if done.returncode != 0 or commit is None or commit == "(initial)":
        return {}
    return {"git_commit": commit, "git_dirty": any(not line.startswith("#") for line in lines)}


def create_run(path: Path, meta: dict[str, Any]) -> None:
    """Make the directory of a run and its ``run.json``, or leave everything as it was.

    Raises:
        RunError: the directory holds a run already (``run-exists``), or cannot be written (``run-unwritable``).
    """
    created: list[Path] = []
    try:
        taken = (path / RUN_FILE).exists() or any((path / STEPS_DIR).glob(PART_GLOB))
        if not taken:
            created = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / RUN_FILE, meta)
    except OSError as error:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
        why = "it is a file" if path.is_file() else error.strerror or str(error)
        text = f"expected a directory to write the run to, but {path} cannot be used ({why}); choose another"
        raise RunError(text, slug="run-unwritable") from error
    if taken:
        raise RunError(f"expected a new directory for the run, but {path} holds a run already; choose another", slug="run-exists")
