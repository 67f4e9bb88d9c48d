"""The files of a run, below any idea of training: parts and their merging, ``run.json``, ``events.jsonl``. Needs no torch."""

from steadygrad.store.arrow import Table, Values, concatenate
from steadygrad.store.files import append_lines, plain, write_json
from steadygrad.store.parts import PartWriter, list_parts, read_part, read_parts, write_part

__all__ = [
    "PartWriter",
    "Table",
    "Values",
    "append_lines",
    "concatenate",
    "list_parts",
    "plain",
    "read_part",
    "read_parts",
    "write_json",
    "write_part",
]
