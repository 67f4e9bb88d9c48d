"""Reports from runs and their findings: text, JSON, and one self-contained HTML page. Needs no torch."""

from steadygrad.report.html import html_report
from steadygrad.report.jsonreport import json_report
from steadygrad.report.text import text_report
from steadygrad.report.verdict import Verdict, verdict_of

__all__ = ["Verdict", "html_report", "json_report", "text_report", "verdict_of"]
