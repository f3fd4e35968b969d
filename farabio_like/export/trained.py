"""`TrainedModel`: from the folder of a run, or an exported file, to something that is called with pictures and arrays.

Prediction, services and queues all go through it, so that a picture is the same input for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import launch
from ..checkpoint import access
from ..checks import hooks
from ..data import image_files
from ..data.input_spec import name_of
from ..data.output_spec import Description
from ..errors import ConfigError, DataError, FarabioError
from ..inference.model import leaves, like
from ..loop import batch as loop_batch
from ..rundir import layout
from ..trainer import ConvnetTrainer
from . import formats
from .calls import quiet, real_batch
from .checkpoints import checkpoint_file


@dataclass
class Sample:
    """One input.

    Attributes
    ----------
    value : Tensor, or dict, list or tuple of them
        Without a batch axis.
    size : pair of int, optional
        Height and width of the picture that it was made of: a mask gets that size again.
    """

    value: Any
    size: tuple[int, int] | None = None


class TrainedModel:
    """A trained model with all that is between pictures and answers.

    It is made by `load` or `of`. It is for one thread at a time.

    Attributes
    ----------
    name : str
        Of the trainer's class.
    source : str
        Which weights it has.
    description : Description
        How a picture becomes an input, where that is known, and what the outputs mean.
    kind : {"classes", "masks", "images", "arrays"}
        What `predict` returns.
    trainer : ConvnetTrainer or None
        None of an exported file.
    """

    def __init__(self, name: str, source: str, description: Description) -> None:
        self.name, self.source, self.description = name, source, description
        self.trainer: ConvnetTrainer | None = None
        self._program: formats.Program | None = None
        self._about: dict[str, Any] = {}
        self._example: list[tuple[tuple[int, ...], torch.dtype]] | None = None

    @classmethod
    def load(cls, path: str | Path, checkpoint: str | None = None, device: str | None = None) -> TrainedModel:
        """Return the model of a run, built by the code in its folder, or that of an exported file.

        Parameters
        ----------
        path : path
            The folder of a run, or a file that `export` wrote.
        checkpoint : str, optional
            Of a run which weights: see `checkpoint_file`; default: those that a test of it takes.
        device : str, optional
            Of an exported file where it computes; default: the CPU. A run computes where its trainer does.

        Raises
        ------
        ConfigError
            If it is neither, or the trainer cannot be built.
        FileNotFoundError, CheckpointError
            For weights that are not there, or damaged.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            if checkpoint is not None:
                raise ConfigError(f"{path} is no folder of a run, and has no checkpoint {checkpoint!r}.")
            return cls._of_file(path, device)
        found = cls.of(open_run(path, checkpoint)[0])
        trainer = found.trainer
        assert trainer is not None
        if device is not None and torch.device(device).type != trainer.device.type:
            raise ConfigError(f"the trainer of {path} computes on {trainer.device}; device={device!r} is for files.")
        return found

    @classmethod
    def of(cls, trainer: ConvnetTrainer) -> TrainedModel:
        """Return the model of a trainer, with the weights that it has now; it predicts as `ConvnetTrainer.predict`."""
        source = trainer._run_state.loaded or "the weights in memory"
        found = cls(type(trainer).__name__, source, Description.of(trainer.input_spec))
        found.trainer = trainer
        return found

    @classmethod
    def _of_file(cls, path: Path, device: str | None) -> TrainedModel:
        program, about = formats.load(path)
        described = about.get("description")
        found = cls(
            str(about.get("class", "a model")),
            str(path),
            Description.of(None) if described is None else Description.from_dict(described),
        )
        if device is not None and device != "cpu":
            if not formats.is_module(program):
                raise ConfigError(f"{path} runs on the CPU; device={device!r} is for files of jit and export.")
            program = program.to(device)  # type: ignore[attr-defined]
        found._program, found._about = program, {**about, "device": device or "cpu"}
        return found

    @property
    def kind(self) -> str:
        """What `predict` returns."""
        return str(self.description.output.output)

    # ---------------------------------------------------------------- inputs

    def prepare(self, image: Any, most_pixels: int | None = None) -> Sample:
        """Return a picture as an input.

        Parameters
        ----------
        image : path, bytes of a file, open binary file, PIL.Image.Image, or array of height x width (x channels)
        most_pixels : int, optional
            A picture of more is refused before it is decoded.

        Raises
        ------
        ConfigError
            Where nothing says how a picture becomes an input, with the line to write.
        DataError
            For what is no picture.
        """
        trainer = self.trainer
        if trainer is not None and not hooks.is_default(trainer, "prepare_input"):
            picture = _opened(image, most_pixels)
            value = trainer.prepare_input(picture)
            if not isinstance(value, Tensor):
                raise DataError(f"{self.name}.prepare_input returned a {type(value).__name__}; expected a tensor.")
            return Sample(value, (picture.size[1], picture.size[0]))
        spec = self.description.needs_input(self.name)
        pixels = image_files.pixels_of(image, name_of(image), most_pixels)
        return Sample(spec.prepare(pixels, name=name_of(image)), pixels.shape[:2])

    def check_pictures(self) -> None:
        """Raise a ConfigError, with the line to write, where nothing says how a picture becomes an input."""
        own = self.trainer is not None and not hooks.is_default(self.trainer, "prepare_input")
        if not own:
            self.description.needs_input(self.name)

    def samples(self, value: Any, name: str = "the array") -> list[Sample]:
        """Return arrays as inputs: pictures, or what the model takes; a leading batch axis makes several.

        Whole numbers of 8 or 16 bits without a sign are pixels, height x width (x channels), of tensors (channels x)
        height x width, where it is known how a picture becomes an input. Anything else is an input as it is.

        Parameters
        ----------
        value : array, Tensor, or dict, list or tuple of them
        name : str
            What a message calls it.

        Raises
        ------
        DataError
            For another number of dimensions than an input has.
        """
        value = _with_arrays(value, name)
        tensors = {place: _as_tensor(part, name) for place, part in leaves(value).items()}
        if not tensors:
            raise DataError(f"{name} is empty.")
        if len(tensors) == 1 and "" in tensors and (pictures := self._pictures(value, name)) is not None:
            return pictures
        example = self.input_shapes()
        if example is None or len(example) != len(tensors):
            sizes = {len(t) for t in tensors.values() if t.ndim > 0}
            if len(sizes) != 1:
                raise DataError(f"{name}: its tensors have no batch axis in common; expected one, the first.")
            return _divided(value, tensors, sizes.pop())
        fitted, several = {}, set()
        for (place, tensor), (shape, dtype) in zip(tensors.items(), example, strict=True):
            if tensor.ndim not in (len(shape), len(shape) + 1):
                raise DataError(
                    f"{name}{place} has the shape {tuple(tensor.shape)}; expected that of an input, as {shape}, or of "
                    f"a batch, N x {shape}."
                )
            several.add(len(tensor) if tensor.ndim > len(shape) else None)
            fitted[place] = _of_type(tensor, dtype, f"{name}{place}")
        if len(several) != 1:
            raise DataError(f"{name}: some of its tensors have a batch axis, or batches differ in length.")
        count = several.pop()
        return [Sample(like(value, fitted))] if count is None else _divided(value, fitted, count)

    def _pictures(self, value: Any, name: str) -> list[Sample] | None:
        """Return an array of pixels as inputs, None where it is none."""
        spec = self.description.input
        own = self.trainer is not None and not hooks.is_default(self.trainer, "prepare_input")
        array = value
        if isinstance(value, Tensor) and value.dtype in (torch.uint8, torch.uint16, torch.bool):
            array = (value.movedim(-3, -1) if value.ndim > 2 else value).detach().cpu().numpy()  # channels come first
        if not isinstance(array, np.ndarray) or (spec is None and not own):
            return None
        if array.dtype not in (np.uint8, np.uint16, np.bool_):
            return None
        if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[-1] > 4 and spec and spec.mode == "RGB":
            raise DataError(
                f"{name} has the shape {array.shape}, like channels x height x width; expected the channels "
                "last: array.transpose(1, 2, 0). Several grey pictures are array[..., None]."
            )
        colours = array.ndim > 2 and array.shape[-1] in (1, 3, 4)
        if array.ndim == (3 if colours else 2):
            return [self.prepare(array)]
        if array.ndim == (4 if colours else 3):
            return [self.prepare(each) for each in array]
        raise DataError(
            f"{name} is an array of {array.dtype} and the shape {array.shape}; expected pixels, height x width, or "
            "height x width x channels, or several of them. An input of the model has floating-point numbers."
        )

    def input_shapes(self) -> list[tuple[tuple[int, ...], torch.dtype]] | None:
        """Return shape and type of each tensor of an input, without a batch, None where they are not known.

        Where the description has no size, height and width are 1; by a trainer's loaders they are those of their first
        batch.
        """
        if self._example is not None:
            return self._example
        spec = self.description.input
        if spec is not None:
            shape = (spec.channels, *(spec.size or (1, 1)))
            self._example = [(shape, torch.float32)]
        elif self.trainer is not None:
            self._example = _shapes_of(self.trainer)
        else:
            shapes, kinds = self._about.get("shapes"), self._about.get("types")
            if isinstance(shapes, list) and isinstance(kinds, list) and len(shapes) == len(kinds):
                types = [getattr(torch, str(kind), None) for kind in kinds]
                if all(isinstance(each, torch.dtype) for each in types):
                    self._example = [(tuple(s), t) for s, t in zip(shapes, types, strict=True)]  # type: ignore[misc]
        return self._example

    # ---------------------------------------------------------------- answers

    def predictions(self, samples: Sequence[Sample | Any]) -> list[Any]:
        """Return the prediction for each input: tensors on the CPU, as `ConvnetTrainer.predict` gives them.

        Inputs that follow each other and have the same shape are one batch.

        Parameters
        ----------
        samples : sequence of Sample or Tensor

        Raises
        ------
        DataError
            Where the model does not take an input, or does not give a number of predictions that fits.
        """
        values = [sample.value if isinstance(sample, Sample) else sample for sample in samples]
        found: list[Any] = []
        for _, group in groupby(values, key=_kind_of):
            together = list(group)
            found += self._of_batch(together)
        return found

    def predict(self, samples: Sequence[Sample | Any]) -> list[Any]:
        """Return the answer for each input, as `OutputSpec.answer` makes it; masks in the size of their picture."""
        answers = [self.description.output.answer(each) for each in self.predictions(samples)]
        if self.kind == "masks":
            answers = [self._restored(answer, sample) for answer, sample in zip(answers, samples, strict=True)]
        return answers

    def _restored(self, mask: Any, sample: Any) -> Any:
        spec, size = self.description.input, getattr(sample, "size", None)
        if spec is None or size is None or mask.ndim not in (2, 3):
            return mask
        return spec.restore(mask, size) if mask.ndim == 2 else np.stack([spec.restore(each, size) for each in mask])

    def _of_batch(self, values: list[Any]) -> list[Any]:
        parts = [leaves(value) for value in values]
        batch = like(values[0], {place: torch.stack([part[place] for part in parts]) for place in parts[0]})
        try:
            outputs = self._run(batch)
        except (FarabioError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of shapes, mostly, which PyTorch and its like find deep within
            shapes = ", ".join(str(tuple(part.shape)) for part in leaves(batch).values())
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.name} does not take inputs of the shape {shapes}: {said}") from error
        parts_of = {place: part for place, part in leaves(outputs).items() if isinstance(part, Tensor)}
        outputs = outputs if len(parts_of) == len(leaves(outputs)) else list(parts_of.values())
        tensors = {p: part.detach().cpu() for p, part in leaves(outputs).items()}
        for place, tensor in tensors.items():
            if tensor.ndim == 0 or len(tensor) != len(values):
                raise DataError(
                    f"{self.name} gives a prediction{place} of the shape {tuple(tensor.shape)} for {len(values)} "
                    "inputs; expected one for each, along the first axis."
                )
        return [like(outputs, {p: tensor[k] for p, tensor in tensors.items()}) for k in range(len(values))]

    def _run(self, batch: Any) -> Any:
        if self.trainer is not None:
            # A list or tuple of inputs would be taken for a pair of inputs and targets.
            given = batch if isinstance(batch, (Tensor, dict)) else {"inputs": batch}
            (outputs,) = self.trainer.predict(given)
            if hooks.is_default(self.trainer, "prediction_transform"):
                outputs = self.description.output.activated(outputs)
            return outputs
        assert self._program is not None
        device = self._about["device"]
        with torch.no_grad(), quiet():
            outputs = self._program(*(tensor.to(device) for tensor in leaves(batch).values()))
        if isinstance(self._about.get("outputs"), (dict, list)):  # several, of which some formats keep no names
            structure, found = self._about["outputs"], list(leaves(outputs).values())
            numbers = {place: k for place, k in leaves(structure).items() if type(k) is int and 0 <= k < len(found)}
            places = leaves(structure)
            outputs = like(structure, {place: found[numbers[place]] if place in numbers else None for place in places})
        return self.description.output.activated(outputs)


def open_run(folder: Path, checkpoint: str | None = None) -> tuple[ConvnetTrainer, Path]:
    """Return the trainer of a run, built by the code in its folder, and the file of the weights that it has now.

    Raises
    ------
    ConfigError
        If it is no run folder, or the trainer cannot be built.
    FileNotFoundError, CheckpointError
        For weights that are not there, or damaged.
    """
    trainer = launch.rebuild(folder)
    file = checkpoint_file(folder, checkpoint, trainer._stages, trainer._start_epoch)
    trainer.load_model(file)
    if trainer.input_spec is None and (folder / layout.INPUT).is_file():  # a hook of the run has set it
        try:
            recorded = Description.from_dict(access.read_object(folder / layout.INPUT, folder))
        except (OSError, ValueError) as error:  # a ConfigError too
            raise ConfigError(f"{folder / layout.INPUT} cannot be used: {error}") from error
        given = {} if recorded.input is None else recorded.input.to_dict()
        trainer.input_spec = {**given, **recorded.output.to_dict()}
    return trainer, file


def _opened(image: Any, most_pixels: int | None) -> Any:
    """Return a picture as an image of Pillow's, upright."""
    array = image_files.pixels_of(image, name_of(image), most_pixels)
    try:
        return image_files.pillow().fromarray(array)
    except TypeError as error:
        raise DataError(f"{name_of(image)} has pixels that Pillow does not know: {error}") from error


def _with_arrays(value: Any, name: str) -> Any:
    """Return numbers in lists as an array; dicts and lists of arrays as they are."""
    if isinstance(value, Mapping):
        return {key: _with_arrays(part, name) for key, part in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    if any(isinstance(part, (Tensor, np.ndarray, Mapping)) for part in value):
        return [_with_arrays(part, name) for part in value]
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name} is a list of lists of different lengths.") from error


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "buif":
            raise TypeError(f"of {array.dtype}")
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} holds no numbers that torch has ({error}).") from error


def _of_type(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if dtype.is_floating_point or not tensor.is_floating_point():
        return tensor.to(dtype)
    raise DataError(f"{name} has numbers of {tensor.dtype}; expected whole numbers, {dtype}.")


def _divided(value: Any, tensors: dict[str, Tensor], count: int) -> list[Sample]:
    return [Sample(like(value, {place: t[k] for place, t in tensors.items()})) for k in range(count)]


def _kind_of(value: Any) -> Any:
    return [(place, tuple(part.shape), part.dtype) for place, part in leaves(value).items()]


def _shapes_of(trainer: ConvnetTrainer) -> list[tuple[tuple[int, ...], torch.dtype]] | None:
    """Return shape and type of an input by the first batch of the loaders, None where they give none."""
    try:
        batch = real_batch(trainer, least=1)
    except DataError:
        return None
    with loop_batch.single_batch(trainer, batch):
        trainer.take_batch((0, batch))
        inputs = leaves(trainer.inputs)
    if not all(isinstance(part, Tensor) and part.ndim > 0 for part in inputs.values()):
        return None
    return [(tuple(part.shape[1:]), part.dtype) for part in inputs.values()]
