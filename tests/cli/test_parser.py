"""What may be typed: frozen, so that an option is added or lost only on purpose."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.cli.parser import LOG_FORMATS, build_parser, parse
from steadygrad.importing import FORMATS

OPTIONS = {
    "diagnose": ["--json", "RUN"],
    "import": ["--format", "--to", "FILE"],
    "policies": [],
    "report": ["--html", "--json", "RUN"],
    "run": ["--policy", "--record", "-m", "SCRIPT"],
}


def commands():
    [sub] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return sub.choices


def test_commands_and_options_are_frozen():
    found = {
        name: sorted(word for a in parser._actions if a.dest != "help" for word in a.option_strings or [a.metavar])
        for name, parser in commands().items()
    }
    assert found == OPTIONS


def test_formats_are_those_that_can_be_read():
    assert sorted(LOG_FORMATS) == sorted(FORMATS)


@pytest.mark.parametrize("name", [None, *OPTIONS])
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"] if name is None else [name, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert out.startswith("usage: steadygrad")
    assert max(map(len, out.splitlines())) <= 130


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("steadygrad 0.")


@pytest.mark.parametrize(
    ("line", "ours", "theirs"),
    [
        ("train.py", ("train.py", None, None, None), []),
        ("train.py --policy x -m y -- z", ("train.py", None, None, None), ["--policy", "x", "-m", "y", "--", "z"]),
        ("--policy p --record r train.py -h", ("train.py", None, "p", "r"), ["-h"]),
        ("--policy=p train.py train.py", ("train.py", None, "p", None), ["train.py"]),
        ("-m package --record r", (None, "package", None, None), ["--record", "r"]),
        ("--record r -mpackage.train -m", (None, "package.train", None, "r"), ["-m"]),
        ("-- train.py --version", ("train.py", None, None, None), ["--version"]),
        ("--policy train.py train.py", ("train.py", None, "train.py", None), []),
    ],
)
def test_options_end_at_the_script(line, ours, theirs):
    options = parse(["run", *line.split()])
    assert (options.script, options.module, options.policy, options.record) == ours
    assert options.args == theirs


@given(st.lists(st.text(), max_size=6))
def test_what_follows_the_script_is_never_touched(args):
    assert parse(["run", "--record", "r", "train.py", *args]).args == args
    assert parse(["run", "-m", "train", *args]).args == args


@pytest.mark.parametrize(
    "line", ["", "run", "run -m", "run --policy", "run --unknown x.py", "run --rec d x.py", "report", "fly", "import a b", "-x"]
)
def test_a_bad_line_is_one_line_and_code_2(line, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(line.split())
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.startswith("steadygrad: error: ")
    assert err.count("\n") == 1
    assert "--help`" in err
