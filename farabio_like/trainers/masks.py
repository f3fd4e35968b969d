"""What a test of a segmentation leaves: a mask and an overlay of every image, and a table with a row for each."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from .. import distributed
from ..callbacks.base import Callback
from ..callbacks.labels import LabelMetric, Labels, class_sums, confusion
from ..callbacks.overlap import Dice, IoU
from ..checkpoint.files import write_text
from ..data.image_masks import ImageMaskFolder
from .hausdorff import HausdorffDistance

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

# Colours that people with any colour vision can tell apart (Okabe and Ito, "Color universal design", 2008).
COLOURS = ((0, 158, 115), (230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
OPACITY = 0.45
LARGEST, SMALLEST = 1024, 256  # pixels of the longer side of a panel
GAP, STRIP = 6, 16  # pixels between the panels, and above them for their names


class Named(Dataset[Any]):
    """A data set whose samples, pairs or mappings, are mappings with an ``id``: that of the data set, else a number.

    Other samples, of three parts say, stay what they are: only a hook of the user's knows what they mean.

    Parameters
    ----------
    dataset : Dataset
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        name = id_of(self.dataset, index)
        if isinstance(sample, Mapping):
            return {**sample, "id": sample.get("id", name)}
        if isinstance(sample, (tuple, list)) and len(sample) == 2:
            return {"inputs": sample[0], "targets": sample[1], "id": name}
        return sample

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def id_of(dataset: Any, index: int) -> str:
    """Return the name of a sample: that of its file where it is known, else its number."""
    if isinstance(dataset, Subset):
        return id_of(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ImageMaskFolder):
        name = dataset.ids[index // dataset.patches]
        return name if dataset.patches == 1 else f"{name}-{index % dataset.patches}"
    return f"{index:0{len(str(max(len(dataset) - 1, 0)))}d}"


class SaveMasks(Callback):
    """Writes what a test predicts: ``masks``, ``overlays`` and ``images.csv`` in ``test`` of the run folder.

    A mask is a PNG: of one class 0 and 255, of several the number of the class, in colours; of several that overlap a
    file for each. An overlay has the image, the truth and the prediction side by side, with the outline of the truth.
    Of a volume the mask is an NPY file, and the overlay shows its middle slice. The table has the Dice coefficient and
    the IoU of every image and class, ``absent`` where the image has none of it and none was predicted. A class that a
    whole loader has not is named on the terminal.

    Of several processes each writes the masks of its images, and the first one the table.

    Parameters
    ----------
    class_names : sequence of str
    task : {"binary", "multiclass", "multilabel"}
    ignore_index : int, optional
    hausdorff : bool
        Also the 95 % Hausdorff distance, in pixels.
    folder : path, optional
        Default: ``test`` in the run folder; without one nothing is written.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        task: str,
        ignore_index: int | None = None,
        hausdorff: bool = False,
        folder: str | Path | None = None,
    ) -> None:
        self.class_names = list(class_names)
        self.task = task
        self.metric = LabelMetric(ignore_index=ignore_index)
        self.hausdorff = HausdorffDistance(ignore_index=ignore_index) if hausdorff else None
        self.folder = folder
        self._rows: list[list[str]] = []

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Say which classes are not in the data that were evaluated."""
        if trainer.history and trainer.exception is None:
            self._say_absent(trainer, "valid", trainer.history[-1]["valid"])

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Begin with an empty table."""
        self._rows = []
        if self._folder(trainer) is None:
            trainer._run_state.console.once(
                "no masks are written: there is no run folder, as nothing was trained or _logdir is None; "
                'write results="folder"'
            )

    def on_end_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Write the masks and overlays of the batch, and keep its rows of the table."""
        folder, run = self._folder(trainer), trainer._run_state
        if folder is None or (run.skip and run.ranks is not None):
            return
        names = self._names(trainer)
        with torch.no_grad():
            outputs = trainer.outputs if self.task == "multiclass" else trainer.outputs > 0  # labels: they are logits
            labels = self.metric.labels({}, outputs, trainer.targets)
            self._rows += self._rows_of(names, labels)
        predicted, true, counts = (part.cpu() for part in (labels.predicted, labels.true, labels.counts))
        true = true.masked_fill(~counts, 0)
        images = trainer.inputs.detach().float().cpu()
        for number, name in enumerate(names):
            path = safe_path(name)
            write_mask(predicted[number], folder / "masks" / path, self.task, self.class_names)
            write_overlay(images[number], predicted[number], true[number], folder / "overlays" / path)

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Write the table."""
        folder = self._folder(trainer)
        self._say_absent(trainer, "test", trainer.epoch_metrics.get("test", {}))
        of_ranks = distributed.gather_on_main(self._rows)
        self._rows = []
        if folder is None or not distributed.is_main():
            return
        rows = sorted((row for rows in of_ranks for row in rows), key=lambda row: row[0])
        write_text(folder / "images.csv", as_csv([self._header(), *rows]))
        trainer._run_state.console.line(f"masks, overlays and images.csv in {folder}")

    def close(self) -> None:
        """Let go of what an error has left."""
        self._rows = []

    def _say_absent(self, trainer: ConvnetTrainer, loader: str, metrics: Mapping[str, Any]) -> None:
        values = metrics.get("dice_per_class", ())
        absent = [name for name, value in zip(self.class_names, values, strict=False) if math.isnan(value)]
        if absent:
            names = ", ".join(absent)
            trainer._run_state.console.line(f"absent from {loader}, neither true nor predicted: {names}")

    def _folder(self, trainer: ConvnetTrainer) -> Path | None:
        if self.folder is not None:
            return Path(self.folder)
        return None if trainer.run_dir is None else trainer.run_dir / "test"

    def _names(self, trainer: ConvnetTrainer) -> list[str]:
        """Return the ids of the batch's images: those in the batch, else running numbers."""
        batch, count = trainer.batch, len(trainer.inputs)
        if isinstance(batch, Mapping) and isinstance(batch.get("id"), (list, tuple)) and len(batch["id"]) == count:
            return [str(name) for name in batch["id"]]
        start = len(self._rows)
        rank = f"rank{distributed.rank()}-" if distributed.several() else ""
        return [f"{rank}{start + number:05d}" for number in range(count)]

    def _measured(self) -> list[str]:
        """Return the names of the classes that the table has columns for."""
        if self.task == "binary":
            return [""]
        return [f"_{name}" for name in self.class_names]

    def _header(self) -> list[str]:
        columns = [f"{metric}{name}" for metric in ("dice", "iou") for name in self._measured()]
        if self.hausdorff is not None:
            names = self._measured()[1:] if self.task == "multiclass" else self._measured()
            columns += [f"{self.hausdorff.name}{name}" for name in names]
        return ["id", *columns]

    def _rows_of(self, names: list[str], labels: Labels) -> list[list[str]]:
        sums = class_sums(confusion(labels, per_image=True), labels.multilabel)
        scores = [metric.score(*sums).cpu() for metric in (Dice, IoU)]
        if self.task == "binary":
            scores = [score[:, -1:] for score in scores]
        if self.hausdorff is not None:
            scores.append(self.hausdorff.distances(labels))
        rows = torch.cat(scores, 1).tolist()
        return [
            [name, *("absent" if math.isnan(value) else f"{value:.6g}" for value in row)]
            for name, row in zip(names, rows, strict=True)
        ]


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def safe_path(name: str) -> PurePosixPath:
    """Return an id as a path that stays in its folder."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("..", "/", ".")]
    return PurePosixPath(*(parts or ["image"]))


def write_mask(predicted: Tensor, path: Path, task: str, class_names: Sequence[str]) -> list[Path]:
    """Write the mask of an image, without its suffix in `path`: PNG, of a volume NPY. Return the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = predicted.numpy().astype(np.uint8 if predicted.max() < 256 else np.uint16)
    if task == "multilabel":
        singles = [path.with_name(f"{path.name}-{safe_path(name.replace('/', '_'))}") for name in class_names]
        parts = zip(predicted, singles, strict=True)
        return [file for part, single in parts for file in write_mask(part, single, "binary", class_names)]
    if array.ndim == 3:
        file = path.with_name(f"{path.name}.npy")
        np.save(file, array)
        return [file]
    file = path.with_name(f"{path.name}.png")
    mask_picture(array, task).save(file)
    return [file]


def mask_picture(array: Any, task: str) -> Any:
    """Return the image of Pillow for a mask of one class, 0 and 255, or of several, their numbers in colours.

    Parameters
    ----------
    array : array
        uint8 or uint16, height x width.
    task : {"binary", "multiclass"}
    """
    from PIL import Image

    picture = Image.fromarray(array * 255 if task == "binary" else array)
    if task != "binary" and array.dtype == np.uint8:
        colours = [(0, 0, 0), *(COLOURS[number % len(COLOURS)] for number in range(255))]
        picture.putpalette([part for colour in colours for part in colour])
    return picture


def write_overlay(image: Tensor, predicted: Tensor, true: Tensor | None, path: Path) -> None:
    """Write image, truth and prediction side by side as a PNG, without its suffix in `path`."""
    from PIL import Image, ImageDraw

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = _as_colours(_slice(image, 3))
    factor = _factor(max(picture.shape[:2]))
    size = tuple(max(1, round(side * factor)) for side in picture.shape[1::-1])
    resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    picture = np.asarray(Image.fromarray(picture).resize(size, resampling))
    masks = {"truth": true, "prediction": predicted} if true is not None else {"prediction": predicted}
    # Enlarged before they are outlined, so that an outline hides little of what is small.
    regions = {
        name: [
            np.asarray(Image.fromarray(region).resize(size, Image.Resampling.NEAREST))
            for region in _regions(mask, image.ndim)
        ]
        for name, mask in masks.items()
    }
    panels = {"image": picture}
    for name, found in regions.items():
        outlined = name == "prediction" and true is not None
        title = f"{name}, outlined: truth" if outlined else name
        panels[title] = _laid_over(picture, found, regions["truth"] if outlined else [])
    sheet = Image.new("RGB", (len(panels) * (size[0] + GAP) - GAP, size[1] + STRIP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, panel) in enumerate(panels.items()):
        left = number * (size[0] + GAP)
        sheet.paste(Image.fromarray(panel), (left, STRIP))
        draw.text((left + 2, 2), title, fill="black")
    sheet.save(path.with_name(f"{path.name}.png"))


def _factor(longer: int) -> float:
    """Return how much a panel is enlarged: small ones by whole numbers, so that pixels stay what they are."""
    return LARGEST / longer if longer > LARGEST else max(1, SMALLEST // longer)


def _slice(values: Tensor, dimensions: int) -> Tensor:
    """Return the middle slice of a volume; an image is returned as it is."""
    return values if values.ndim == dimensions else values[..., values.shape[-3] // 2, :, :]


def _as_colours(image: Tensor) -> Any:
    """Return an image as uint8, height x width x 3, stretched to its own extremes."""
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    low, high = image.amin(), image.amax()
    scaled = (image - low) / (high - low).clamp_min(1e-12)
    return (scaled.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _regions(mask: Tensor, dimensions_of_image: int) -> Any:
    """Return the middle slice of a mask as regions: bool, classes x height x width; class 0 of several has none."""
    if mask.ndim == dimensions_of_image:  # a mask for each class
        return (_slice(mask, 3) == 1).numpy()
    mask = _slice(mask, 2)
    return torch.stack([mask == number for number in range(1, max(2, int(mask.max()) + 1))]).numpy()


def _laid_over(picture: Any, regions: Sequence[Any], outlined: Sequence[Any]) -> Any:
    """Return a picture with regions in colours, and outlines of others: of several in colours, of one in white."""
    laid = picture.astype(np.float32)
    for region, colour in zip(regions, itertools.cycle(COLOURS)):  # noqa: B905  (there are more regions, or fewer)
        laid[region] = (1 - OPACITY) * laid[region] + OPACITY * np.array(colour, np.float32)
    for region, colour in zip(outlined, itertools.cycle(COLOURS)):  # noqa: B905
        laid[_outline(region)] = colour if len(outlined) > 1 else 255
    return laid.round().astype(np.uint8)


def _outline(region: Any) -> Any:
    """Return the pixels of a region beside those outside of it."""
    padded = np.pad(region, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inside
