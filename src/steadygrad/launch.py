"""``steadygrad run``: watch a program from outside, and say at the end what was seen.

The order of events: everything that can be refused is refused; the program starts; when it imports torch, the watch begins;
when its main code has ended, the interpreter prints the traceback if there is one (with the launcher's frames cut off) and
waits for the program's threads; then the watch ends, and the verdict goes to stderr. Exit code, traceback and death by Ctrl-C
are never imitated: the program's own exception leaves through :func:`run_watched`, and the interpreter deals with it.

The last part is an ``atexit`` function for three reasons: it must come after the traceback and the threads; whatever goes wrong
in it is shown and cannot change the exit code; and the files stay complete up to the last step.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from steadygrad.deferred import AfterImport
from steadygrad.errors import RunError, SteadygradError
from steadygrad.place import Place
from steadygrad.program import Program, program_frames

if TYPE_CHECKING:  # it loads NumPy, which reads the environment of the process as torch does
    from steadygrad.policy import Policy

_NO_STEP = "no-optimizer-step"
_getpid = os.getpid  # kept, since the program may replace what is in `os`


def run_watched(program: Program, *, record: Place, policy: Policy | None, command: Sequence[str] = ()) -> int:
    """Run a program to its end and record its training steps.

    Args:
        program: what to run.
        record: where to record; given back if the program never imports torch.
        policy: what protects the training; ``None`` only looks.
        command: the command line to note in the run; ``program.argv`` if empty.

    Returns:
        0, where the program runs off its end. Otherwise its own exception goes through, ``SystemExit`` and
        ``KeyboardInterrupt`` included, and must be left to the interpreter.
    """
    with Watching(record, policy, list(command) or program.argv):
        program.execute()
    return 0


class Watching:
    """Around the program: begins the watch when torch is there; ends it, with the verdict, when the program has ended."""

    def __init__(self, place: Place, policy: Policy | None, argv: Sequence[str]) -> None:
        self._place = place
        self._policy = policy
        self._argv = list(argv)
        self._pid = _getpid()
        self._torch = AfterImport("torch", self._begin)
        self._watch: Any = None
        self._session: Any = None
        self._refused = ""
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        self._torch.install()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._error = error
        if error is not None and not isinstance(error, SystemExit):
            sys.excepthook = _CutTraceback(getattr(sys, "excepthook", sys.__excepthook__))
        # `atexit` runs the newest function first, so this comes before the program's own and before the libraries'.
        atexit.register(self._end)

    def _begin(self) -> None:
        """Start to watch; called when the program has imported torch."""
        if _getpid() != self._pid:
            return  # a forked child of the program
        # Here and in `_verdict` our own modules are loaded late, because they load torch or NumPy; see `deferred`.
        watch = import_module("steadygrad.watching").watch(self._place.path, policy=self._policy, argv=self._argv)
        try:
            self._session = watch.__enter__()
        except RunError as error:
            if self._policy is not None:
                raise  # a protection that fails must fail loudly
            self._refused = str(error)
        else:
            self._watch = watch

    def _end(self) -> None:
        """The ``atexit`` function."""
        if _getpid() != self._pid:
            return
        self._torch.remove()
        error, self._error = self._error, None
        try:
            self._conclude(error)
        finally:
            if type(error) is KeyboardInterrupt:
                # CPython remembers that Ctrl-C ended the program, to die of SIGINT in the end; whatever executes text
                # (a dataclass in a module imported above) makes it forget, and this makes it remember.
                with suppress(KeyboardInterrupt):
                    exec("raise KeyboardInterrupt")

    def _conclude(self, error: BaseException | None) -> None:
        """End the watch and speak."""
        if self._session is None:
            self._place.give_back()
            _say([("not recorded", self._refused or _no_torch(error))])
            return
        failed = error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0))
        self._watch.__exit__(*((type(error), error, error.__traceback__) if failed and error else (None, None, None)))
        stepped = self._session.num_steps > 0
        _say(("note", note) for note in self._session.notes if not note.startswith(_NO_STEP))
        _say(_verdict(self._place) if stepped else _no_step(error))


class _CutTraceback:
    """A ``sys.excepthook`` for one exception: cuts the launcher's frames off, then calls the program's own hook."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.excepthook = self._hook
        cut = program_frames(traceback)
        error.__traceback__ = sys.last_traceback = cut
        self._hook(kind, error, cut)


def _verdict(place: Place) -> list[tuple[str, str]]:
    try:
        run = import_module("steadygrad.runs").load_run(place.path)
        findings = import_module("steadygrad.diagnose").diagnose(run)
        verdict = import_module("steadygrad.report").verdict_of(run, findings)
    except SteadygradError as error:
        return [("no verdict", str(error)), ("run", place.shown)]
    more = f"{place.shown}  (more: steadygrad report {place.shown})"
    return [("verdict", verdict.verdict), ("why", verdict.why), ("next", verdict.next), ("run", more)]


def _no_torch(error: BaseException | None) -> str:
    ended = "the program ended" if error is None else f"the program ended with {type(error).__name__}"
    return f"{ended} without importing torch in its own process, so there was no training to watch [no-torch]"


def _no_step(error: BaseException | None) -> list[tuple[str, str]]:
    """What to say where nothing was recorded, instead of a verdict on nothing."""
    causes = [
        "training ran in another process (torchrun, mp.spawn, a job): watch inside it with `steadygrad.watch`",
        "the optimizer is not a subclass of torch.optim.Optimizer",
        "nothing was trained yet (an evaluation, `--help`, too few batches)",
    ]
    if error is not None:
        causes.insert(0, f"the program ended with {type(error).__name__} before its first step")
    return [
        ("verdict", f"No optimizer took a step, so there is nothing to report [{_NO_STEP}]."),
        ("why", "Likely causes: " + "; ".join(causes) + "."),
        ("next", "Run it until the first `optimizer.step()`, or use `with steadygrad.watch(DIR):` where the training is."),
    ]


def _say(lines: Iterable[tuple[str, str]]) -> None:
    """Messages for people, on stderr, each line marked as ours. Without a stderr there is nobody to tell."""
    if sys.stderr is None or getattr(sys.stderr, "closed", False):  # pyright: ignore[reportUnnecessaryComparison]  None under pythonw
        return
    for label, text in lines:
        for line in text.splitlines():
            print(f"steadygrad: {label:<8} {line}", file=sys.stderr)
    sys.stderr.flush()
