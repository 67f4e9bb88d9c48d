"""Writing a run while it trains: cheap for the step, safe against crashes and bad disks. Needs no torch."""

from steadygrad.record.meta import create_run, new_meta
from steadygrad.record.recorder import Recorder
from steadygrad.record.rows import StepRecord

__all__ = ["Recorder", "StepRecord", "create_run", "new_meta"]
