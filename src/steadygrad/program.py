"""Run somebody else's program as ``__main__``, as ``python SCRIPT`` and ``python -m MODULE`` do.

A real module object is put at ``sys.modules["__main__"]`` and stays there, so ``atexit`` handlers, pickling and the children
of multiprocessing find the program's own names. (``runpy.run_path`` takes it away again before ``atexit`` handlers run.)

Modules, folders and zip files go through the function of :mod:`runpy` that the interpreter itself calls for them, so that even
the traceback of a failing ``-m`` program is the interpreter's own. A plain script does not go through ``runpy`` in Python
either: it is compiled and executed here.

What cannot be the same: ``sys.orig_argv`` is the real command line, and the call stack has a few frames of the launcher below
the program's first frame. :func:`program_frames` cuts them off a traceback.
"""

# Python does not normalise the paths that it shows to a program; pathlib would.
# ruff: noqa: PTH100, PTH109, PTH110, PTH118, PTH120

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import os
import pkgutil
import runpy
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from steadygrad.errors import ArgumentError

_run_as_main: Any = getattr(runpy, "_run_module_as_main")  # noqa: B009  what `python -m` calls; not public


class Program(ABC):
    """A program that is ready to run once: found, readable, and nothing changed yet.

    Attributes:
        label: a short name for people and for file names: the script's stem or the module's name.
        argv: ``sys.argv`` as the program will see it when it starts.

    Example:
        >>> import pathlib, tempfile
        >>> script = pathlib.Path(tempfile.mkdtemp(), "train.py")
        >>> _ = script.write_text("print('hello')")
        >>> Program.from_script(script, ["--lr", "0.1"]).argv[1:]
        ['--lr', '0.1']
    """

    label: str
    argv: list[str]

    @classmethod
    def from_script(cls, path: str | os.PathLike[str], args: Sequence[str] = ()) -> Program:
        """The program of a file, or of a folder or zip file that holds a ``__main__.py``.

        Args:
            path: the file as the user wrote it; ``sys.argv[0]`` keeps this spelling.
            args: what follows it on the command line.

        Raises:
            ArgumentError: there is nothing to run at ``path`` (slug ``script-missing``).
        """
        name = os.fspath(path)
        importer = pkgutil.get_importer(name) if os.path.exists(name) else None
        return _Script(name, args) if importer is None else _Archive(name, args, importer)

    @classmethod
    def from_module(cls, name: str, args: Sequence[str] = ()) -> Program:
        """The program of ``python -m name``.

        Only the first part of a dotted name is looked up here: finding the rest may import the packages around it, which is
        the program's own code.

        Raises:
            ArgumentError: no such module (slug ``module-missing``).
        """
        return _Module(name, args)

    def execute(self) -> None:
        """Run the program to its end, in this process. What it raises, ``SystemExit`` included, goes through."""
        main = ModuleType("__main__")
        vars(main).update(__builtins__=builtins, __loader__=importlib.machinery.BuiltinImporter)
        if sys.version_info < (3, 14):
            main.__annotations__ = {}
        sys.modules["__main__"] = main
        sys.argv = list(self.argv)
        self._start(vars(main))

    @abstractmethod
    def _start(self, namespace: dict[str, Any]) -> None:
        """Set ``sys.path[0]`` and execute the code in ``namespace``. The launcher's last frame is this one's."""


class _Script(Program):
    """``python SCRIPT``: a source file, or a compiled one."""

    def __init__(self, path: str, args: Sequence[str]) -> None:
        self.label = Path(path).stem
        self.argv = [path, *args]
        self._file = os.path.join(os.getcwd(), path)  # absolute but not normalised, like Python's own
        self._folder = os.path.dirname(os.path.realpath(path))
        try:
            # Read once, now: the path may be a pipe, and a script may change the file while it runs.
            self._source = Path(path).read_bytes()
        except OSError as error:
            raise ArgumentError(
                f"`steadygrad run` expects a Python script, but {path!r} cannot be read ({error.strerror}); "
                f"check the path, or use `-m` to run a module",
                slug="script-missing",
            ) from None

    def _start(self, namespace: dict[str, Any]) -> None:
        compiled = self._file.endswith(".pyc")
        loader = importlib.machinery.SourcelessFileLoader if compiled else importlib.machinery.SourceFileLoader
        namespace.update(__file__=self._file, __cached__=None, __loader__=loader("__main__", self._file))
        _replace_first_path(self._folder)
        code: CodeType
        if compiled:
            code = namespace["__loader__"].get_code("__main__")
        else:
            code = compile(self._source, self._file, "exec", dont_inherit=True)
        exec(code, namespace)


class _Archive(Program):
    """``python FOLDER`` and ``python FILE.zip``."""

    def __init__(self, path: str, args: Sequence[str], importer: Any) -> None:
        self.label = Path(os.path.abspath(path)).stem
        self.argv = [path, *args]
        self._path = os.path.join(os.getcwd(), path)
        if importer.find_spec("__main__") is None:
            raise ArgumentError(
                f"`steadygrad run` expects a Python script, but {path!r} is a folder or archive without a `__main__.py`; "
                f"name the script inside it",
                slug="script-missing",
            )

    def _start(self, namespace: dict[str, Any]) -> None:
        del namespace
        if _safe_path():
            sys.path.insert(0, self._path)  # Python adds it even then: nothing could be found without it
        else:
            sys.path[0] = self._path
        _run_as_main("__main__", alter_argv=False)


class _Module(Program):
    """``python -m MODULE``."""

    def __init__(self, name: str, args: Sequence[str]) -> None:
        self.label = name.removesuffix(".__main__")
        self.argv = ["-m", *args]  # runpy puts the file's path in place of "-m" once it has found it
        self._name = name
        if not _is_importable(name.partition(".")[0]):
            raise ArgumentError(
                f"`steadygrad run -m` expects the name of a module, but there is no module {name!r} in the current directory "
                f"or on the Python path; check the name, or leave `-m` out to run a file",
                slug="module-missing",
            )

    def _start(self, namespace: dict[str, Any]) -> None:
        del namespace
        _replace_first_path(os.getcwd())
        _run_as_main(self._name)


def program_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that belongs to the program; all of it where no program was running.

    A ``SyntaxError`` in a script has no such frame: the result is ``None``.
    """
    entry = traceback
    while entry is not None:
        if entry.tb_frame.f_code in _LAST_FRAMES:
            return _without_wrappers(entry.tb_next)
        entry = entry.tb_next
    return traceback


def _without_wrappers(traceback: TracebackType | None) -> TracebackType | None:
    """Take out our frames that only pass a call on, around ``backward`` and closures; where the error is ours, all stay."""
    frames: list[TracebackType] = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    if not frames or _is_ours(frames[-1]):
        return frames[0] if frames else None
    kept = [frame for frame in frames if not _is_ours(frame)]
    for frame, following in zip(kept, [*kept[1:], None], strict=True):
        frame.tb_next = following
    return kept[0]


def _is_ours(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(_PACKAGE)


_PACKAGE = os.path.join(os.path.dirname(__file__), "")
_LAST_FRAMES = frozenset(kind._start.__code__ for kind in (_Script, _Archive, _Module))  # pyright: ignore[reportPrivateUsage]


def _is_importable(name: str) -> bool:
    """Whether a top-level module would be found with ``sys.path`` as the program will see it."""
    if not name:
        return False
    path = sys.path if _safe_path() else [os.getcwd(), *sys.path[1:]]
    if importlib.machinery.PathFinder.find_spec(name, path) is not None:
        return True
    return name in sys.modules or importlib.util.find_spec(name) is not None  # built in, frozen, or a custom finder's


def _replace_first_path(folder: str) -> None:
    """Put ``folder`` where Python put the launcher's own folder; nowhere if it was told not to (``-P``, ``-I``)."""
    if not _safe_path():
        sys.path[0] = folder


def _safe_path() -> bool:
    return bool(getattr(sys.flags, "safe_path", sys.flags.isolated))
