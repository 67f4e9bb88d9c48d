"""Names, units and version of every field of a recorded run; the writer and the reader share this file.

A run is a directory::

    RUN/run.json                       what ran, where, on which parameters, under which policy; how it ended
    RUN/steps/part-AAAAAAAAA-BBBBBBBBB.parquet      one row per optimizer step; rows A to B inclusive
    RUN/checkups/part-AAAAAAAAA-BBBBBBBBB.parquet   the sampled, dearer readings
    RUN/events.jsonl                   what happened, as it happened: one JSON object a line

Parts are written whole under a temporary name and renamed. Small parts are merged now and then: the merged part covers the
rows of those that it replaces, so where a crash leaves both, the part with the wider range of rows is the one that counts.

Unknown is null, and NaN is a value that was NaN. Where parameters were added during a run, older parts may have shorter
per-tensor lists: new parameters are always appended.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = "steadygrad-run"
VERSION = 1
"""History. 1: first version."""

RUN_FILE = "run.json"
EVENTS_FILE = "events.jsonl"
STEPS_DIR = "steps"
CHECKUPS_DIR = "checkups"
PART_NAME = "part-{first:09d}-{last:09d}.parquet"
PART_GLOB = "part-*.parquet"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: name, Arrow type as text, unit and meaning.

    A ``per_tensor`` column is a fixed-size list with one value per parameter of the run, in the order of
    ``run.json``'s ``parameters``; null where that parameter has no value in that row.
    """

    name: str
    kind: str
    unit: str
    meaning: str
    per_tensor: bool = False


STEPS = (
    Column("row", "int64", "", "position of the row in the run, from 0; a gap where rows could not be written"),
    Column("step", "int64", "steps", "the optimizer's own count of steps, from 1; a skipped step counts"),
    Column("optimizer", "int16", "", "index into `optimizers` of run.json"),
    Column("time", "float64", "s", "seconds since the run began; null if unknown"),
    Column("loss", "float64", "", "the loss that backward was called on since the step before; null if unknown"),
    Column("total_norm", "float64", "", "2-norm of all gradients before anything was done to them; null if not logged"),
    Column(
        "total_norm_after", "float64", "", "the same norm after scaling; null where a clamp followed and it was not read again"
    ),
    Column("coefficient", "float64", "", "total_norm_after / total_norm; 1 where nothing was done; null where a clamp followed"),
    Column("skipped", "bool", "", "whether the optimizer was kept from stepping"),
    Column("reason", "int16", "", "a `Reason` of steadygrad.decision"),
    Column("lr", "float64", "", "learning rate of the first parameter group"),
    Column("threshold", "float64", "", "the limit that the policy compared with; null if none"),
    Column("grad_norm", "float32", "", "2-norm of each gradient before; null where there was no gradient", per_tensor=True),
    Column(
        "scale", "float32", "", "factor applied to each tensor; null where one factor (`coefficient`) served all", per_tensor=True
    ),
)

CHECKUPS = (
    Column("row", "int64", "", "the row of `steps` that this belongs to"),
    Column("step", "int64", "steps", "as in `steps`"),
    Column("optimizer", "int16", "", "as in `steps`"),
    Column("abs_max", "float32", "", "largest modulus in each gradient", per_tensor=True),
    Column("param_norm", "float32", "", "2-norm of each parameter before the step", per_tensor=True),
    Column(
        "update_ratio",
        "float32",
        "",
        "norm of the step's change / norm of the parameter, on a sample of elements",
        per_tensor=True,
    ),
)

EVENT_KINDS = {
    "nonfinite": "gradients with NaN or Inf: `nan`, `inf`, `overflowed` and `finite` list parameter names",
    "skip": "a step was skipped; `reason` says why",
    "attach": "an optimizer was seen for the first time, or its parameters changed",
    "warning": "something the reader should know; `slug` names it",
}
"""Every event also has `time` (s since the start), `step`, `optimizer` and `message`."""

RUN_FIELDS = {
    "schema": "name and version of this format",
    "status": "`running`, `finished`, `crashed` or `interrupted`; a run that was killed still says `running`",
    "created": "when the run began, UTC, ISO 8601",
    "ended": "when it ended, likewise",
    "seconds": "how long it took",
    "argv": "command line of the script",
    "cwd": "directory that it was started in; empty if unknown",
    "git_commit": "commit of that directory; null if unknown",
    "git_dirty": "whether tracked files differed from the commit; null if unknown",
    "policy": "text of the policy; empty where the run was only observed",
    "environment": "versions of Python, of the system and of the libraries that were imported",
    "optimizers": "one object per optimizer, in the order of the column `optimizer`",
    "parameters": "name, shape, dtype, numel, optimizer and group, in the order of the per-tensor columns",
    "steps": "rows that were written",
    "dropped": "rows that could not be written",
    "problem": "the first thing that went wrong while writing, in words; null: nothing",
    "error": "type and message of what ended the run; null: nothing",
    "imported": "source, format and column names of the log that the run was made from; only there where it was",
}
"""What ``run.json`` holds. `ended`, `seconds` and `steps` to `error` are there once the run has ended."""
