"""Lines of ``metrics.jsonl`` between the epochs: one for each ``_log_interval``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..callbacks.base import Logger
from ..rundir import layout
from ..rundir.folder import append_line


class IntervalLines(Logger):
    """Adds a line ``{"step": 50, "loss": ..., "lr": ...}`` for each interval; the base writes those of epochs."""

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Know the file."""
        assert run_dir is not None  # only then a run has one of these
        self.path = run_dir / layout.METRICS

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add one line."""
        own = {name.removeprefix("running/"): v for name, v in values.items() if name.startswith("running/")}
        if own:
            append_line(self.path, {"step": step, **own})
