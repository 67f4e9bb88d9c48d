"""The HTML page: well-formed, self-contained, escaped, and small enough."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import make_run

from steadygrad.errors import UnsupportedError
from steadygrad.report import html, html_report

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text, self.scripts = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "action", "data")]
        assert not [key for key, _ in attrs if key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    @property
    def figures(self):
        return json.loads(self.scripts[0])


def page_of(*runs):
    page = Page(html_report(runs))
    assert page.open == []
    return page


def test_every_odd_run_renders(odd_run):
    page = page_of(odd_run)
    assert "curves" in page.figures
    assert page.tags.count("script") == 3


def test_no_runs_at_all():
    assert "No runs were given." in "".join(page_of().text)


def test_nothing_is_loaded_from_anywhere(exploded, clipped):
    page = html_report([exploded, clipped])
    assert Page(page).links == []
    assert "default-src 'none'" in page
    assert "@import" not in html._own("page.css")
    assert "url(" not in html._own("page.css")


def test_names_from_user_code_are_escaped_everywhere(exploded):
    page = page_of(exploded)
    assert page.tags.count("script") == 3
    assert "img" not in page.tags
    assert any("</script><script>alert(1)</script>" in text for text in page.text)
    names = page.figures["heat-0"]["data"][0]["names"]
    assert names[2] == "&lt;img src=x onerror=alert(2)&gt;"


def test_the_verdict_comes_first(exploded):
    text = " ".join(page_of(exploded).text)
    assert text.index("Exploded at step 203") < text.index("Over time") < text.index("Parameters")
    assert "rnn.weight_hh_l0" in text
    assert "2.13.0" in text


def test_the_heat_map_shows_states_apart(exploded):
    exploded.present[:, 2] = False
    norms, states = page_of(exploded).figures["heat-0"]["data"]
    assert norms["z"][0][-1] is None
    assert (states["z"][0][-1], states["z"][2][0], states["z"][1][0]) == (3, 1, None)
    assert norms["z"][1][230] == pytest.approx(8.0, abs=0.3)


def test_curves_of_several_runs_lie_in_one_figure(exploded, clipped):
    figures = page_of(exploded, clipped).figures
    names = [trace["name"] for trace in figures["curves"]["data"]]
    assert {"clipped", "clipped: norm after", "clipped: threshold", "clipped: coefficient", "clipped: skipped step"} <= set(names)
    assert {"heat-0", "heat-1"} <= set(figures)
    layout = figures["curves"]["layout"]
    assert layout["yaxis2"]["type"] == "log"
    assert layout["shapes"][0]["x0"] == 203


def test_long_runs_stay_small():
    rows, n = 20_000, 300
    norms = np.exp(np.random.default_rng(0).normal(0, 0.2, (rows, n))).astype(np.float32)
    run = make_run(grad_norm=norms, loss=np.linspace(3, 1, rows))
    own = len(html_report([run])) - len(html.plotly_script())
    assert own < 2_000_000


def test_without_plotly_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(html.importlib.util, "find_spec", lambda name: None)
    html.plotly_script.cache_clear()
    with pytest.raises(UnsupportedError, match=r"pip install plotly.*\[plotly-missing\]"):
        html.plotly_script()


def test_reporting_imports_neither_torch_nor_plotly():
    code = "import sys, steadygrad.report; print(sorted({'torch', 'plotly', 'pandas', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_colours_of_text_have_contrast_in_both_themes():
    css = html._own("page.css")
    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(themes) == 2
    pairs = [("text", "card"), ("soft", "card"), ("text", "bg"), ("soft", "bg"), ("text", "code"), ("accent", "card")]
    pairs += [(name, f"{name}-bg") for name in ("error", "warning", "info", "ok")]
    for theme in themes:
        for front, back in pairs:
            assert contrast(theme[front], theme[back]) >= 4.5, (front, back)


def contrast(a, b):
    """The contrast ratio of two colours as WCAG defines it."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
