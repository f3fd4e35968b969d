"""`MLflowLogger`: a run in MLflow's tracking, in files, in a database, or on a server."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from ..callbacks.base import Logger
from ..config.secrets import Secrets
from ..packages import needs
from .images import figure_png, grid, png

LONGEST_NAME = 200  # characters, of 250 that MLflow takes
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflowLogger(Logger):
    """Records on MLflow; the run goes on when the trainer trains again.

    Parameters
    ----------
    uri : str, optional
        ``sqlite:///mlflow.db``, ``http://127.0.0.1:5000``; default: what MLflow takes, from ``MLFLOW_TRACKING_URI``
        for one.
    experiment : str, optional
        Default: the name of the trainer's class.

    Raises
    ------
    ConfigError
        Where the package mlflow is missing.
    """

    close_seconds = 15.0

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        needs("mlflow", "MLflowLogger")
        # Here and not on the logger's thread: others import at the same time.
        import mlflow  # noqa: F401

        self.uri = uri
        self.experiment = experiment
        self.run: str | None = None
        self.client: Any = None

    def __repr__(self) -> str:
        return f"MLflowLogger(experiment={self.experiment!r})"  # an address may hold a password

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "client": None}

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Open a run with the configuration as parameters."""
        self.client = self._client()
        if self.run is not None:
            self._ask(self.client.update_run, self.run, "RUNNING")
            return
        name = self.experiment or (run_dir.parent.name if run_dir is not None else "farabio_like")
        found = self._ask(self.client.get_experiment_by_name, name)
        experiment = found.experiment_id if found is not None else self._ask(self.client.create_experiment, name)
        run_name = f"{run_dir.parent.name}-{run_dir.name}" if run_dir is not None else None
        run = self._ask(self.client.create_run, experiment, run_name=run_name).info.run_id
        for key, value in Secrets(config).values(config).items():
            self._ask(self.client.log_param, run, _name(key), str(value)[:500])
        if run_dir is not None:
            self._ask(self.client.set_tag, run, "run_dir", str(run_dir))
        self.run = run

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Record numbers, all by one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, now, step) for name, value in values.items() if not math.isnan(value)]
        self._ask(self.client.log_batch, self.run, metrics=metrics)

    def images(self, name: str, images: Tensor, step: int) -> None:
        """Keep a grid of images as an artifact."""
        self._picture(name, png(grid(images)), step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Keep a figure as an artifact."""
        self._picture(name, figure_png(figure), step)

    def text(self, name: str, text: str, step: int) -> None:
        """Keep a text as an artifact."""
        self._ask(self.client.log_text, self.run, text, f"{_file(name)}.txt")

    def finish(self, status: str) -> None:
        """End the run."""
        self._ask(self.client.set_terminated, self.run, STATUS[status])
        self.client = None

    def _client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.uri)

    def _picture(self, name: str, file: bytes, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{_file(name)}-{step:07}.png"
            path.write_bytes(file)
            self._ask(self.client.log_artifact, self.run, str(path), "pictures")

    @staticmethod
    def _ask(function: Any, *arguments: Any, **named: Any) -> Any:
        """Call MLflow; where its store is not there, raise the OSError by which the record is kept.

        MLflow has one exception for a server that is away and for a value that it refuses; only the second has the
        code of a bad request.
        """
        from mlflow.exceptions import MlflowException

        try:
            return function(*arguments, **named)
        except MlflowException as error:
            if error.get_http_status_code() < 500:
                raise
            raise OSError(f"MLflow: {error}") from None


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _name(name: str) -> str:
    """Return a name that MLflow takes, for a metric or a parameter: it is a path there, of few signs, and not long.

    Where something is replaced, a few digits tell two names apart.
    """
    parts = [part for part in re.sub(r"[^/\w.\- :]", "_", name).split("/") if part not in ("", ".", "..")]
    found = "/".join(parts)[:LONGEST_NAME]
    return found if found == name else f"{found}.{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:6]}"
