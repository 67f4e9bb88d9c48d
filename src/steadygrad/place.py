"""The directory of a run to be: found fit before the user's program starts, so that no training is lost to a typing error."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from steadygrad.errors import RunError
from steadygrad.schema import RUN_FILE


class Place:
    """A directory that was made, or found, and can be written to.

    Attributes:
        path: absolute, since the program may change the working directory.
        shown: as the user would write it.

    Example:
        >>> import tempfile
        >>> place = Place.reserve(Path(tempfile.mkdtemp(), "a", "b"))
        >>> place.path.is_dir()
        True
        >>> place.give_back()
        >>> place.path.parent.exists()
        False
    """

    def __init__(self, path: Path, made: Sequence[Path]) -> None:
        self.shown = str(path)
        self.path = path.absolute()
        self._made = [folder.absolute() for folder in made]

    @classmethod
    def reserve(cls, path: Path) -> Place:
        """Take the directory ``path``; make it, and its parents, where they are missing.

        Raises:
            RunError: it cannot be made or written to (slug ``run-unwritable``) or holds a run (slug ``run-exists``); nothing
                is left behind.
        """
        if (path / RUN_FILE).exists():
            raise RunError(
                f"`steadygrad run` expects a new directory to record in, but {str(path)!r} already holds a run; "
                f"choose another with `--record`, or remove it",
                slug="run-exists",
            )
        return cls._make(path, new=False)

    @classmethod
    def reserve_new(cls, label: str) -> Place:
        """Make ``runs/LABEL-DATE-TIME``; with -2, -3 ... behind it where another process was first.

        Raises:
            RunError: as for :meth:`reserve`.
        """
        stem = f"{label}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while True:
            with suppress(FileExistsError):
                return cls._make(Path("runs", stem if number == 1 else f"{stem}-{number}"), new=True)
            number += 1

    @classmethod
    def _make(cls, path: Path, *, new: bool) -> Place:
        place = cls(path, [folder for folder in (path, *path.parents) if not folder.exists()])
        try:
            path.mkdir(parents=True, exist_ok=not new)
            with tempfile.TemporaryFile(dir=path):
                return place
        except OSError as error:
            if new and isinstance(error, FileExistsError):
                raise
            place.give_back()
            raise RunError(
                f"`steadygrad run` expects a directory that it can write to, but {str(path)!r} cannot be written to "
                f"({error.strerror}); choose another with `--record`",
                slug="run-unwritable",
            ) from None

    def give_back(self) -> None:
        """Remove the directories that were made here and are still empty."""
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()
