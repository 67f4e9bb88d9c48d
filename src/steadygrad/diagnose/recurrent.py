"""Recurrent weights: how their names look, and what helps when they explode."""

from __future__ import annotations

import re

_MARKS = re.compile(r"weight_hh|recurrent|rnn|lstm|gru", re.IGNORECASE)
_NOT = re.compile(r"weight_ih|bias", re.IGNORECASE)


def is_recurrent(name: str) -> bool:
    """Whether a parameter's name says that it is a recurrent weight.

    Example:
        >>> is_recurrent("rnn.weight_hh_l0"), is_recurrent("rnn.weight_ih_l0"), is_recurrent("fc.weight")
        (True, False, False)
    """
    return bool(_MARKS.search(name)) and not _NOT.search(name)


def recurrent_remedies() -> list[str]:
    """What to do about a recurrent weight that multiplies the gradient once per time step."""
    return [
        "Initialise the recurrent weight as an orthogonal matrix, or scale it so that its spectral radius is at most 1.",
        "Shorten the sequences, or truncate the backpropagation through time.",
    ]
