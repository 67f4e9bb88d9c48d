"""A finding: one thing that is wrong with a run, with its evidence, its likely cause and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "info"]
Evidence = dict[str, "float | int | str | list[str] | list[int] | list[float]"]

RANK: dict[str, int] = {"error": 0, "warning": 1, "info": 2}
"""Order of the severities, worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found in a run.

    Attributes:
        slug: the stable name of the problem (``exploding-over-time``); it never changes its meaning.
        severity: ``error`` (training is damaged), ``warning`` (worth a change), ``info`` (good to know).
        title: one short clause for people, without a full stop.
        where: names of the parameters concerned, the most telling one first; empty if none is known.
        step: the first step concerned, or ``None`` if the finding is about the whole run.
        evidence: the numbers that the finding rests on, as plain Python values.
        cause: what was seen and what most likely caused it, one or two sentences.
        remedies: what to do, the first to try first.

    Example:
        >>> Finding("spike", "warning", "1 spike").slug
        'spike'
    """

    slug: str
    severity: Severity
    title: str
    where: tuple[str, ...] = ()
    step: int | None = None
    evidence: Evidence = field(default_factory=dict[str, "float | int | str | list[str] | list[int] | list[float]"])
    cause: str = ""
    remedies: tuple[str, ...] = ()

    def order(self) -> tuple[int, int]:
        """The key that sorts findings: worst first, then earliest; those about the whole run come last."""
        return RANK[self.severity], 2**62 if self.step is None else self.step
