"""Call a function right after the program has imported a certain module, and not before.

Importing torch on the program's behalf, before its first line, would change it: ``OMP_NUM_THREADS`` and other variables that a
script sets above its own ``import torch`` are read only once, when the libraries are loaded. And a script that needs no torch
would pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AfterImport:
    """A finder in ``sys.meta_path`` that waits for one module, hands it to the real finders, and leaves.

    Args:
        name: the module's full name.
        then: called once, when the module has run to its end; at once if it was there already.

    Example:
        >>> import sys
        >>> _ = sys.modules.pop("this", None), sys.modules.pop("colorsys", None)
        >>> waiting = AfterImport("colorsys", lambda: print("imported"))
        >>> waiting.install()
        >>> import colorsys
        imported
        >>> waiting in sys.meta_path
        False
    """

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name = name
        self.then = then

    def install(self) -> None:
        """Start to wait."""
        if self.name in sys.modules:
            self.then()
        else:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Stop to wait; does nothing where nobody waits."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What the other finders find; for the one module, with a loader that calls back."""
        if fullname != self.name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                self._call_back(spec.loader)
                return spec
        return None

    def _call_back(self, loader: Any) -> None:
        """Let ``loader`` call back once; it stays the real loader in every other respect."""
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # uncovers the method of its class
            load(module)
            if self in sys.meta_path:  # a program may only look for the module (`find_spec`), or load it twice
                self.remove()
                self.then()

        loader.exec_module = exec_module
