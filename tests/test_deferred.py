"""Waiting for an import disturbs neither the import nor those who only look for the module."""

import importlib
import importlib.util
import sys

import pytest

from steadygrad.deferred import AfterImport


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """Waits for the module ``awaited``, which fails as long as the file ``broken`` is there; and the list of its calls."""
    (tmp_path / "awaited.py").write_text("import pathlib\nif pathlib.Path(__file__).with_name('broken').exists(): 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    calls = []
    hook = AfterImport("awaited", lambda: calls.append("awaited" in sys.modules))
    hook.install()
    yield hook, calls, tmp_path
    hook.remove()
    sys.modules.pop("awaited", None)


def test_called_once_after_the_import(waiting):
    hook, calls, _ = waiting
    module = importlib.import_module("awaited")
    assert calls == [True]
    assert hook not in sys.meta_path
    importlib.reload(module)
    assert calls == [True]


def test_the_module_keeps_its_real_loader(waiting):
    module = importlib.import_module("awaited")
    plain = importlib.util.spec_from_file_location("awaited", module.__file__)
    assert type(module.__spec__.loader) is type(plain.loader)
    assert "exec_module" not in vars(module.__loader__)


def test_looking_for_the_module_is_not_importing_it(waiting):
    _hook, calls, _ = waiting
    assert importlib.util.find_spec("awaited").origin.endswith("awaited.py")
    assert importlib.util.find_spec("awaited_by_nobody") is None
    assert calls == []
    importlib.import_module("awaited")
    assert calls == [True]


def test_an_import_that_fails_is_waited_for_again(waiting):
    _hook, calls, folder = waiting
    (folder / "broken").touch()
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("awaited")
    assert calls == []
    (folder / "broken").unlink()
    importlib.import_module("awaited")
    assert calls == [True]


def test_a_module_that_is_there_already():
    calls = []
    hook = AfterImport("sys", lambda: calls.append(1))
    hook.install()
    assert calls == [1]
    assert hook not in sys.meta_path
