"""`WandbLogger`: Weights & Biases, and trackio, which has the same functions."""

from __future__ import annotations

import html
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..callbacks.base import Logger
from ..config.secrets import Secrets
from ..errors import ConfigError
from ..packages import needs
from .images import as_bytes, figure_png, grid

SERVICES = ("wandb", "trackio")


class WandbLogger(Logger):
    """Records on Weights & Biases, or on trackio, which stays on this machine.

    The run goes on under the same name when the trainer trains again.

    Parameters
    ----------
    project : str, optional
        Default: the name of the trainer's class.
    service : {"wandb", "trackio"}
    **options
        For ``init`` of the service: ``mode="offline"``, ``entity``, ``group``.

    Raises
    ------
    ConfigError
        Where the package is missing, or there is no such service.
    """

    close_seconds = 30.0  # what is left is sent then

    def __init__(self, project: str | None = None, service: str = "wandb", **options: Any) -> None:
        if service not in SERVICES:
            raise ConfigError(f"WandbLogger: service is {service!r}; expected one of {SERVICES}.")
        needs(service, f"WandbLogger with service={service!r}")
        self.project = project
        self.service = service
        self.options = options
        self.name: str | None = None
        self.run: Any = None
        # Here and not on the logger's thread: others import at the same time.
        importlib.import_module(service)

    def __repr__(self) -> str:
        given = [repr(self.project)] if self.project is not None else []
        given += [f"service={self.service!r}"] if self.service != "wandb" else []
        return f"WandbLogger({', '.join([*given, *(f'{name}={value!r}' for name, value in self.options.items())])})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "run": None}

    @property
    def module(self) -> Any:
        """The package."""
        return importlib.import_module(self.service)

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Open a run with the configuration."""
        config = Secrets(config).values(config)
        options: dict[str, Any] = {"project": self.project or (run_dir.parent.name if run_dir else "farabio_like")}
        if run_dir is not None:
            options["name"] = f"{run_dir.parent.name}-{run_dir.name}"
        if self.service == "wandb":
            options["dir"] = str(run_dir) if run_dir is not None else None
            if self.name is not None:
                options.update(id=self.name, resume="allow")
        else:
            config = {name.lstrip("_"): value for name, value in config.items()}  # trackio keeps the others to itself
            if self.name is not None:
                options.update(name=self.name, resume="allow")
        self.run = self.module.init(config=config, **{**options, **self.options})
        self.name = self.run.id if self.service == "wandb" else self.run.name

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Record numbers."""
        self.run.log(values, step=step)

    def images(self, name: str, images: Tensor, step: int) -> None:
        """Record images: one after the other, trackio as a grid."""
        if self.service == "wandb":
            pictures = [image.permute(1, 2, 0).numpy() for image in as_bytes(images)]
        else:
            pictures = [grid(images).permute(1, 2, 0).contiguous().numpy()]
        found = [self.module.Image(picture) for picture in pictures]
        self.run.log({name: found if self.service == "wandb" else found[0]}, step=step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Record a figure as a picture."""
        from PIL import Image

        picture = np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))
        self.run.log({name: self.module.Image(picture)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Record a text."""
        if self.service == "wandb":
            self.run.log({name: self.module.Html(f"<pre>{html.escape(text)}</pre>", inject=False)}, step=step)
        else:
            self.run.log({name: self.module.Markdown(f"```\n{text}\n```")}, step=step)

    def finish(self, status: str) -> None:
        """End the run."""
        run, self.run = self.run, None
        if self.service == "wandb":
            run.finish(exit_code=0 if status == "finished" else 1)
        else:
            run.finish()
