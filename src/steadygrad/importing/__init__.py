"""Logs that people already have, turned into runs: CSV, TensorBoard, Hugging Face ``trainer_state.json``. Needs no torch."""

from steadygrad.importing.convert import FORMATS, import_log

__all__ = ["FORMATS", "import_log"]
