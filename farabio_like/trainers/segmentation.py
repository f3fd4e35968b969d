"""`SegmentationTrainer`: a class for every pixel. Its parts are made in `losses`, `callbacks`, `inference`, `masks`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import components, distributed, losses
from ..callbacks import ConfusionMatrix, Dice, IoU
from ..config.allowed import Allowed, flag, whole
from ..config.config import Config
from ..errors import ConfigError, DataError, HookError, closest
from ..inference import flips, sliding_window
from .hausdorff import HausdorffDistance
from .masks import Named, SaveMasks, safe_path, write_mask, write_overlay
from .ready_made import ReadyMadeTrainer, above_zero, measured, part_of_one, paths_of, several, told

#: The losses by name: ``"dice"``, ``"dice_ce"``, ``"focal_tversky"``, ...
LOSSES: dict[str, type[nn.Module]] = {
    function.removesuffix("_loss"): getattr(losses, name)
    for function in losses.__all__
    for name in losses.__all__
    if function.endswith("_loss") and name.lower() == function.replace("_", "")
}


class SegmentationTrainer(ReadyMadeTrainer):
    """Trains a network that gives every pixel a class, of images and volumes.

    Measured are the Dice coefficient and the IoU of every class, with several classes also the confusion matrix. `test`
    writes masks, overlays and a table of all images, see `SaveMasks`. The epoch with the best Dice coefficient is best.

    A network with deep supervision gives several outputs in training: each gets the loss, the first one with the weight
    1, each further one with half of that before, divided by their sum (Isensee et al., "nnU-Net", Nature Methods 18,
    2021).

    Parameters
    ----------
    config : None, dict, argparse.Namespace, dataclass, or any object with attributes, optional
        Options may stand in it too, under their names.
    model : module, or callable that returns one
        Gives logits: one channel for a binary mask, else one for each class.
    train, valid, test : Dataset, DataLoader or iterable of batches, optional
        Of images and masks: `ImageMaskFolder`, say.
    classes : int or sequence of str, optional
        Default: as many as an `ImageMaskFolder` tells, else one, a binary mask. Of several, class 0 is the background.
    mode : {"binary", "multiclass", "multilabel"}, optional
        Default: multiclass for several classes. Multilabel: masks of N x classes x height x width, which may overlap.
    loss : str, callable or dict of them, optional
        A name in ``farabio_like.trainers.segmentation.LOSSES``, or a function of outputs and targets; a dict is their
        sum, weighed by ``_loss_weights``. Default: ``"dice_bce"``, for multiclass ``"dice_ce"``.
    optimizer, scheduler, callbacks
        See `ReadyMadeTrainer`.
    **options
        ``lr`` (0.001), ``batch_size`` (8, of all ranks together), ``num_workers`` (0); ``class_weights``,
        ``smoothing`` and ``ignore_index`` of losses given by name, ``ignore_index`` also of metrics (default: that of
        an `ImageMaskFolder`); ``window`` (evaluate and test by windows of so many pixels, one image after the other),
        ``overlap`` (0.25), ``flips`` (the mean over mirror images, in evaluation and test); ``hausdorff`` (the 95 %
        Hausdorff distance too); ``results`` (the folder that `test` writes to). And every setting without its
        underscore: ``num_epochs=20``.

    Raises
    ------
    ConfigError
        For an option or a loss that is not there, or has a value that is not allowed.

    Examples
    --------
    ``SegmentationTrainer(model=Unet(), train=train, valid=valid, test=test, window=256, num_epochs=20).train()``
    """

    OPTIONS: ClassVar[dict[str, Allowed]] = {
        **ReadyMadeTrainer.OPTIONS,
        "ignore_index": whole(-(2**31), optional=True, example=255),
        "window": several("pixels", 1, 256, alone=True),
        "overlap": part_of_one("the window"),
        "flips": flag(),
        "hausdorff": flag(),
    }

    _ignore_index: int | None = None
    _window: int | Sequence[int] | None = None
    _overlap: float = 0.25
    _flips: bool = False
    _hausdorff: bool = False

    def __init__(self, config: Any = None, **parts: Any) -> None:
        if parts.get("ignore_index") is None and "ignore_index" not in Config(config):
            parts["ignore_index"] = told(parts, "ignore_index", int)
        super().__init__(config, **parts)
        if self._strategy == "fsdp" and self._window is not None:
            raise ConfigError(
                f"{type(self).__name__}: window={self._window!r} and strategy='fsdp': images have different numbers of "
                "windows, and a model in shards needs all processes for each. Leave one of the two out."
            )

    def build_criterion(self) -> Any:
        """Return the loss, or a dict of losses."""
        given = self._parts["loss"]
        if given is None:
            given = "dice_ce" if self.task == "multiclass" else "dice_bce"
        self.check_loss(given)
        if isinstance(given, Mapping):
            return {name: self._loss_of(part) for name, part in given.items()}
        return self._loss_of(given)

    def _loss_of(self, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if given not in LOSSES:
            there = ", ".join(sorted(LOSSES))
            raise ConfigError(f"{type(self).__name__}: loss={given!r}.{closest(given, LOSSES)} There are: {there}.")
        takes = inspect.signature(LOSSES[given]).parameters
        options = {"class_weights": self._class_weights, "ignore_index": self._ignore_index}
        options["smoothing"] = self._smoothing or None
        chosen = {name: value for name, value in options.items() if value is not None}
        for name in chosen:
            if name not in takes:
                raise ConfigError(f"{type(self).__name__}: the loss {given!r} has no {name}. Leave {name} out.")
        return LOSSES[given](**({"mode": self.task} if "mode" in takes else {}), **chosen)

    def build_callbacks(self) -> list[Any]:
        """Return Dice and IoU, the confusion matrix of several classes, and what writes the masks of a test."""
        options: dict[str, Any] = {"loaders": ("valid", "test"), "ignore_index": self._ignore_index}
        options["prediction"] = None if self.task == "multiclass" else above_zero
        found: list[Any] = [Dice(**options), IoU(**options)]
        if self.task == "multiclass":
            found.append(ConfusionMatrix(class_names=self.class_names, **options))
        if self._hausdorff:
            found.append(HausdorffDistance(**options))
        return [*found, SaveMasks(self.class_names, self.task, self._ignore_index, self._hausdorff, self._results)]

    def output_spec(self) -> dict[str, Any]:
        """Return that outputs are masks, and which."""
        return {"output": "masks", "classes": self.class_names or None, "task": self.task}

    def best_by(self) -> str | None:
        """Return ``"dice"`` where it is measured."""
        return "dice" if measured(self.callbacks, Dice, "valid") else None

    def make_loader(self, data: Any, name: str) -> Any:
        """Return a loader for a data set; that of the test has ids, by which files are named.

        A `test_step` of the user's gets the batches as the data set gives them; files are numbered then.
        """
        own = type(self)
        takes = own.test_step is not ReadyMadeTrainer.test_step or own.take_batch is not ReadyMadeTrainer.take_batch
        if name == "test" and not takes and isinstance(data, torch.utils.data.Dataset) and hasattr(data, "__len__"):
            data = Named(data)
        return super().make_loader(data, name)

    def loader_batch_size(self, name: str) -> int:
        """Return the batch size; by windows each process gets one image, for images may have different sizes."""
        return self._batch_size if name == "train" or self._window is None else distributed.world_size()

    def forward(self) -> Any:
        """Return the model's outputs; in evaluation and test by windows and flips, where these are asked for."""
        if self._window is None and not self._flips or any(m.training for m in components.modules_of(self)):
            return super().forward()
        return self.predict_whole(self.inputs)

    def predict_whole(self, images: Tensor) -> Tensor:
        """Return the logits of whole images, N x C x height x width, by windows and flips where these are asked for."""
        model: Any = self.model
        if self._flips:
            model = partial(_flipped, model)
        if self._window is None:
            return model(images)
        return sliding_window(model, images, self._window, overlap=self._overlap, batch_size=self._batch_size)

    def compute_loss(self) -> Any:
        """Return the loss; of several outputs the weighted mean of their losses. ``self.outputs`` is the first one."""
        if self.criterion is None or self.targets is None:
            missing = "criterion" if self.criterion is None else "targets"
            raise HookError(
                f"{type(self).__name__}.compute_loss: self.{missing} is None. In a build_model of your own, write "
                "self.criterion = self.build_criterion(); a batch has images and masks."
            )
        found = self.forward()
        outputs = list(found) if isinstance(found, (list, tuple)) else [found]
        self.outputs = outputs[0]
        self.check_outputs()
        weights = [0.5**number for number in range(len(outputs))]
        losses_of = [self.loss_of(output) for output in outputs]
        return sum(w * one for w, one in zip(weights, losses_of, strict=True)) / sum(weights)

    def loss_of(self, outputs: Tensor) -> Any:
        """Return the loss of one output."""
        if not isinstance(self.criterion, dict):
            return self.criterion(outputs, self.targets)
        parts = {name: part(outputs, self.targets) for name, part in self.criterion.items()}
        if outputs is self.outputs:
            self.batch_metrics.update({f"loss_{name}": value for name, value in parts.items()})
        return components.combine(parts, self._loss_weights)

    def check_outputs(self) -> None:
        """Raise a HookError for outputs with another number of channels than there are classes."""
        channels = 1 if self.task == "binary" else len(self.class_names)
        shape = tuple(self.outputs.shape)
        if len(shape) < 4 or shape[1] != channels:
            raise HookError(
                f"{type(self).__name__}: the model gives outputs of the shape {shape}; expected N x {channels} x "
                f"height x width, for {self.task}. Build the model with num_classes={channels}, or give classes=."
            )

    def predict_images(
        self, paths_or_folder: Any, folder: str | Path | None = None, transform: Any = None
    ) -> list[Path]:
        """Write masks and overlays of files of images, and return the paths of the masks.

        Parameters
        ----------
        paths_or_folder : path, or sequence of paths
            Files of images, or a folder of them.
        folder : path, optional
            Default: ``predictions`` in the run folder.
        transform : callable, optional
            Gets an image, float32 of channels x height x width; what the data set did beside cutting and turning.
            Without it, the image gets as many channels as those of an `ImageMaskFolder` have.

        Raises
        ------
        DataError
            For a file that cannot be read; it names the file.
        """
        if folder is None and self.run_dir is None:
            raise ConfigError('predict_images() has no run folder to write to; write folder="predictions".')
        target = Path(folder) if folder is not None else self.run_dir / "predictions"  # type: ignore[operator]
        written: list[Path] = []
        for id, path in paths_of(paths_or_folder).items():
            image = self.read(path, transform)
            (logits,) = self.predict([image[None]])
            if logits.shape[1] != (1 if self.task == "binary" else len(self.class_names)):
                raise DataError(
                    f"{path}: the model gives {logits.shape[1]} channels for {len(self.class_names)} classes."
                )
            mask = logits.argmax(1)[0] if self.task == "multiclass" else (logits[0] > 0).long()
            mask = (mask[0] if self.task == "binary" else mask).cpu()
            written += write_mask(mask, target / "masks" / safe_path(id), self.task, self.class_names)
            write_overlay(image, mask, None, target / "overlays" / safe_path(id))
        return written


def _flipped(model: Any, images: Tensor) -> Any:
    return flips(model, images, axes=tuple(range(2 - images.ndim, 0)))
