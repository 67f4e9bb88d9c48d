"""The files around the package agree with one another."""

import re

import pytest

import steadygrad
from steadygrad.policies import POLICIES


@pytest.fixture
def read(root):
    """Reads a text file of the repository."""
    return lambda name: (root / name).read_text(encoding="utf-8")


def targets(makefile):
    return set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_make_commands_in_the_documentation_exist(read, name):
    calls = re.findall(r"\bmake((?: [a-z-]+)+)(?=`|\s*$|\s+#)", read(name), flags=re.M)
    named = {word for call in calls for word in call.split()}
    assert named - targets(read("Makefile")) == set()
    assert "test" in named


def test_make_has_the_promised_targets(read):
    makefile = read("Makefile")
    assert {"demo", "test", "lint", "bench", "docs", "help"} <= targets(makefile)
    assert ".DEFAULT_GOAL := help" in makefile


def test_one_version_everywhere(read):
    assert 'dynamic = ["version"]' in read("pyproject.toml")
    assert f"version: {steadygrad.__version__}\n" in read("CITATION.cff")
    assert f"## [{steadygrad.__version__}]" in read("CHANGELOG.md")


def test_every_call_of_pip_is_constrained(read):
    calls = [line for line in read("Makefile").splitlines() if "pip install" in line]
    assert calls
    assert [line for line in calls if "-c constraints.txt" not in line] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_local_links_lead_somewhere(root, read, name):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", read(name))
    assert links
    assert [link for link in links if not (root / name).parent.joinpath(link).exists()] == []


def test_every_policy_is_documented(read):
    page = read("docs/policies.md")
    assert [name for name in POLICIES if not re.search(rf"^\.\. autofunction:: \S+\.{name}$", page, flags=re.M)] == []


def slugs(files):
    pattern = r'(?:slug=|SLUG = |_STEP = )"([a-z-]+)"'
    return sorted({slug for path in files for slug in re.findall(pattern, path.read_text(encoding="utf-8"))})


def test_every_finding_is_documented(root, read):
    found = slugs((root / "src/steadygrad/diagnose").glob("*.py"))
    assert "spike" in found
    assert [slug for slug in found if f"### `{slug}`\n" not in read("docs/findings.md")] == []


def test_every_error_and_warning_is_documented(root, read):
    found = slugs(path for path in (root / "src").rglob("*.py") if "diagnose" not in path.parts)
    assert "run-missing" in found
    assert [slug for slug in found if f"`{slug}`" not in read("docs/errors.md")] == []
