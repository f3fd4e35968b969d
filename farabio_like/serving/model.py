"""`ModelPredictor`: a trained model, with the preparation of inputs that belongs to it, as what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..checks import hooks
from ..errors import ConfigError, DataError
from ..export.trained import Sample, TrainedModel
from .predictor import Predictor, RequestError


class ModelPredictor(Predictor):
    """The model of a run, or of an exported file, with the preparation of pictures that belongs to it.

    Parameters
    ----------
    path : Path
    checkpoint : str, optional
    """

    def __init__(self, path: Path, checkpoint: str | None = None) -> None:
        self.path = path
        self.checkpoint = checkpoint

    def setup(self) -> None:
        """Load the model."""
        # A run computes where its trainer does, ONNX on the CPU.
        device = None if self.path.is_dir() or self.path.suffix == ".onnx" else self.device
        self.model = TrainedModel.load(self.path, self.checkpoint, device)
        example = self.model.input_shapes()
        self.array_axes = len(example[0][0]) if example is not None and len(example) == 1 else None
        trainer = self.model.trainer
        own = trainer is not None and not hooks.is_default(trainer, "prepare_input")
        self.takes_pixels = own or self.model.description.input is not None

    def decode(self, item: Any) -> Sample:
        """Return a picture, an array or numbers as an input of the model."""
        try:
            if isinstance(item, bytes):
                self.opened_image(item)
                return self.model.prepare(item, self.max_pixels)
            if not isinstance(item, np.ndarray):
                item = _arrays(item)
            alone = item[None] if self.array_axes is None and isinstance(item, np.ndarray) else item
            samples = self.model.samples(alone, "the input")
        except (DataError, ConfigError) as error:
            raise RequestError(422, str(error)) from None
        if len(samples) != 1:
            raise RequestError(422, f"an entry of the inputs holds {len(samples)} of them; expected one")
        return samples[0]

    def predict(self, inputs: list[Any]) -> list[Any]:
        """Return the answers of the model."""
        try:
            return self.model.predict(inputs)
        except DataError as error:
            raise RequestError(422, str(error)) from None

    def encode(self, output: Any) -> Any:
        """Return masks and pictures as such, anything else as it is."""
        if not isinstance(output, np.ndarray):
            return output
        if self.model.kind == "masks" and output.ndim == 2 and output.dtype == np.uint8:
            return _picture(output)
        if self.model.kind == "images" and output.ndim == 3 and len(output) in (1, 3):
            pixels = np.rint(output * 255).astype(np.uint8)
            return _picture(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return output


def _arrays(value: Any) -> Any:
    """Return nested lists as an array; a mapping of them as one of arrays."""
    if isinstance(value, dict):
        return {name: _arrays(part) for name, part in value.items()}
    try:
        return np.asarray(value)
    except ValueError:
        raise RequestError(422, "an input is a list of lists of different lengths") from None


def _picture(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)
