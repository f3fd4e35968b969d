"""Lines of ``metrics.jsonl`` between the epochs: one for each ``_log_interval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..callbacks.base import Logger
from ..checkpoint.plain import finite


class IntervalLines(Logger):
    """Adds a line ``{"step": 50, "loss": ..., "lr": ...}`` for each interval; the base writes those of epochs."""

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Know the file."""
        assert run_dir is not None  # only then a run has one of these
        self.path = run_dir / "metrics.jsonl"

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add one line, by one write, so that the lines of epochs come between."""
        own = {name.removeprefix("running/"): v for name, v in values.items() if name.startswith("running/")}
        if own:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite({"step": step, **own})) + "\n")
