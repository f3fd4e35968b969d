"""`TensorBoardLogger`: event files for TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..callbacks.base import Logger
from ..config.secrets import Secrets
from ..packages import needs
from ..plots.figure import printable
from .images import as_bytes, figure_png


class TensorBoardLogger(Logger):
    """Writes event files into ``tensorboard`` in the run folder; ``tensorboard --logdir runs`` shows them.

    Parameters
    ----------
    folder : path, optional
        Another place.

    Raises
    ------
    ConfigError
        Where the package tensorboard is missing.
    """

    close_seconds = 60.0  # a busy machine may take long to import and to write; nothing here hangs for good

    def __init__(self, folder: str | Path | None = None) -> None:
        needs("tensorboard", "TensorBoardLogger")
        # Here and not on the logger's thread: torch and tensorboard import a lot, and may do so elsewhere meanwhile.
        import torch.utils.tensorboard  # noqa: F401

        if folder is not None and "://" not in str(folder):
            folder = Path(folder).absolute()  # a hook may change the working folder
        self.folder = folder
        self.writer: Any = None
        self.started: tuple[str, dict[str, Any]] = ("", {})
        self.opened = ""  # the folder that this one has written to

    def __repr__(self) -> str:
        return f"TensorBoardLogger({'' if self.folder is None else repr(str(self.folder))})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "writer": None, "opened": ""}  # a copy opens files of its own

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Note the folder; the first record opens an event file."""
        folder = self.folder or (run_dir / "tensorboard" if run_dir is not None else "tensorboard")
        self.started = (str(folder), Secrets(config).values(config))

    def _opened(self, step: int) -> Any:
        """Return the writer; the first record opens the file, with the step that a run goes on from.

        What came after that step, before the process was killed, comes again: TensorBoard leaves out the older points.
        """
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder, config = self.started
            goes_on = step > 0 and folder != self.opened
            self.writer, self.opened = SummaryWriter(folder, purge_step=step + 1 if goes_on else None), folder
            if config:
                rows = (f"| {_cell(name)} | {_cell(str(value))} |" for name, value in config.items())
                self.writer.add_text("config", "\n".join(["| | |\n|-|-|", *rows]))
        return self.writer

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers."""
        for name, value in values.items():
            self._opened(step).add_scalar(name, value, step)

    def images(self, name: str, images: torch.Tensor, step: int) -> None:
        """Write a batch of images."""
        self._opened(step).add_images(name, as_bytes(images).numpy(), step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Write a figure as a picture, without pyplot."""
        from PIL import Image

        picture = np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))
        self._opened(step).add_image(name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        """Write a text, which TensorBoard takes for Markdown: as a block that keeps its lines."""
        self._opened(step).add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), step)

    def flush(self) -> None:
        """Hand what is written to the system."""
        if self.writer is not None:
            self.writer.flush()

    def finish(self, status: str) -> None:
        """Close the file; its thread ends."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def _cell(text: str) -> str:
    """Return a text as a cell of a table in Markdown, of which no part is taken for more than text."""
    signs = {sign: f"&#{ord(sign)};" for sign in "&<>|*_`[]$\\"}
    return "".join(signs.get(sign, sign) for sign in printable(text))
