"""The answers of a prediction as files: a table of classes, masks, pictures, arrays; and the inputs that are found.

How an input becomes an answer is in `trained`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import bounds
from ..checkpoint.files import write_bytes, write_text
from ..data import image_files
from ..data.output_spec import OutputSpec
from ..errors import DataError
from ..inference.model import leaves
from ..trainers.masks import as_csv, mask_picture
from .trained import Sample, TrainedModel

ARRAYS = (".npy", ".pt")


@dataclass(frozen=True)
class Source:
    """A file to predict for.

    Attributes
    ----------
    path : pathlib.Path
    place : pathlib.Path
        Where its result goes, below the folder of results, without a suffix: as in the folder that it was found in.
    """

    path: Path
    place: Path

    @property
    def is_array(self) -> bool:
        """Whether it holds an array, not a picture."""
        return self.path.suffix.lower() in ARRAYS


def sources(paths: Sequence[str | Path], ours: Path | None = None) -> list[Source]:
    """Return the files that are named, and those in the folders that are named, in their order.

    Parameters
    ----------
    paths : sequence of path
    ours : Path, optional
        A folder that is passed over: that of the results.

    Raises
    ------
    DataError
        For a folder without one, and two files whose results would have the same name.
    FileNotFoundError
        For a path that is not there.
    """
    found: list[Source] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = [Source(each, each.relative_to(path).with_suffix("")) for each in _files_in(path, ours)]
            if not inside:
                kinds = ", ".join([*image_files.SUFFIXES, ARRAYS[1]])
                raise DataError(f"no file to predict for in {path}: expected {kinds}.")
            found += inside
        elif path.exists():
            found.append(Source(path, Path(path.stem)))
        else:
            raise FileNotFoundError(f"there is no file {path}")
    return _apart(found)


def _files_in(folder: Path, ours: Path | None) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        known = path.suffix.lower() in (*image_files.SUFFIXES, *ARRAYS)
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if known and not hidden and path.is_file() and not (ours is not None and path.is_relative_to(ours)):
            yield path


def _apart(found: list[Source]) -> list[Source]:
    """Return sources of which no two have the same place: those that do keep their suffix, or it is an error."""
    places: dict[Path, list[Source]] = {}
    for source in found:
        places.setdefault(source.place, []).append(source)
    kept = [
        source if len(places[source.place]) == 1 else Source(source.path, source.place.with_name(_whole_name(source)))
        for source in found
    ]
    known: dict[Path, Path] = {}
    for source in kept:
        if known.setdefault(source.place, source.path) is not source.path:
            raise DataError(
                f"{known[source.place]} and {source.path} would have results of the same name. Predict for them in two "
                "calls, each with a folder of its own: -o predictions/a"
            )
    return kept


def _whole_name(source: Source) -> str:
    return f"{source.place.name}-{source.path.suffix.lower().lstrip('.')}"


def read_array(path: Path) -> Any:
    """Return what an NPY or PT file holds; nothing in it is run.

    Raises
    ------
    DataError
        For a file that is damaged, or holds objects.
    """
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        bounds.check_size(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # of a damaged file, whatever its bytes lead to
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{path} cannot be read as an array: {said}") from error


# ---------------------------------------------------------------- predicting and writing


@dataclass
class Predicted:
    """What came of the files that were to be predicted for.

    Attributes
    ----------
    place : pathlib.Path
        The table, or the folder of the files.
    count : int
        Answers that were written.
    problems : list of str
        What was wrong with the files that have none, which were passed over.
    """

    place: Path
    count: int = 0
    problems: list[str] = field(default_factory=list)


def predict_files(
    model: TrainedModel,
    files: Sequence[Source],
    out: str | Path,
    batch_size: int = 1,
    advance: Callable[[], Any] | None = None,
) -> Predicted:
    """Write the answers of a model for files: a table of classes, else a file for each input, in the folders as found.

    A file that is broken is passed over. Every file that is written is whole, or not there.

    Parameters
    ----------
    model : TrainedModel
    files : sequence of Source
        See `sources`.
    out : path
        A folder; of classes it may be the name of the table, which ends with ``.csv``.
    batch_size : int
        Inputs per call of the model. With 1 an answer does not depend, in its last bits, on what is predicted with it.
    advance : callable, optional
        Called after each file.

    Raises
    ------
    ConfigError
        For pictures where nothing says how they become inputs.
    """
    if any(not source.is_array for source in files):
        model.check_pictures()
    results = Results(model.description.output, Path(out).expanduser())
    results.folder.mkdir(parents=True, exist_ok=True)
    found = Predicted(results.folder)
    waiting: list[tuple[Source, int | None, Sample]] = []

    def flush() -> None:
        for source, number, answer in _answers(model, waiting, found.problems):
            results.add(source, number, answer)
            found.count += 1
        waiting.clear()

    for source in files:
        try:
            waiting += _samples(model, source)
        except (DataError, OSError) as error:
            found.problems.append(_said(source, error))
        while len(waiting) >= batch_size:
            rest = waiting[batch_size:]
            del waiting[batch_size:]
            flush()
            waiting.extend(rest)
        if advance is not None:
            advance()
    if waiting:
        flush()
    found.place = results.close()
    return found


def _samples(model: TrainedModel, source: Source) -> list[tuple[Source, int | None, Sample]]:
    if not source.is_array:
        return [(source, None, model.prepare(source.path))]
    samples = model.samples(read_array(source.path), str(source.path))
    return [(source, number if len(samples) > 1 else None, sample) for number, sample in enumerate(samples)]


def _answers(
    model: TrainedModel, waiting: Sequence[tuple[Source, int | None, Sample]], problems: list[str]
) -> list[tuple[Source, int | None, Any]]:
    """Return the answers for inputs; where the batch fails, those of each that does not."""
    try:
        answers = model.predict([sample for _, _, sample in waiting])
        return [(source, number, answer) for (source, number, _), answer in zip(waiting, answers, strict=True)]
    except DataError as error:
        if len(waiting) == 1:
            problems.append(_said(waiting[0][0], error))
            return []
        return [answer for each in waiting for answer in _answers(model, [each], problems)]


def _said(source: Source, error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said if str(source.path) in said else f"{source.path}: {said}"


class Results:
    """Writes answers: a table of classes, or a file for each input.

    Parameters
    ----------
    output : OutputSpec
    out : Path
        A folder; of classes it may be the name of the table, which ends with ``.csv``.
    """

    def __init__(self, output: OutputSpec, out: Path) -> None:
        self.output = output
        is_table = output.output == "classes" and out.suffix.lower() == ".csv"
        self.folder = out.parent if is_table else out
        self.table = out if is_table else out / "predictions.csv"
        self._rows: list[list[str]] = []
        self._header = ["file", "predicted"]

    def add(self, source: Source, number: int | None, answer: Any) -> None:
        """Write the answer for an input.

        Parameters
        ----------
        source : Source
        number : int or None
            Which input of the file, where it has several.
        answer : dict, array or structure of arrays
            What `OutputSpec.answer` returned.
        """
        if self.output.output == "classes":
            self._add_row(source, number, answer)
            return
        place = self.folder / source.place
        path = place if number is None else place.with_name(f"{place.name}-{number:05d}")
        if self.output.output == "masks" and self.output.task == "multilabel":
            names = self.output.names(len(answer))
            answer = dict(zip(names, answer, strict=True))
        for where, part in leaves(answer).items():
            name = "_".join(each.strip("'\"") for each in where.strip("[]").split("]["))
            self._write(np.asarray(part), path.with_name(f"{path.name}-{_in_file_name(name)}") if name else path)

    def _add_row(self, source: Source, number: int | None, answer: dict[str, Any]) -> None:
        probabilities = answer["probabilities"]
        self._header = ["file", "predicted", *probabilities]
        name = str(source.path) if number is None else f"{source.path}[{number}]"
        said = answer["class"] if "class" in answer else ";".join(answer["classes"])
        self._rows.append([name, said, *(str(np.float32(value)) for value in probabilities.values())])

    def _write(self, array: Any, path: Path) -> None:
        """Write an array, as a PNG where it is a mask or a picture, else as NPY."""
        picture = self._picture(array)
        buffer = io.BytesIO()
        if picture is None:
            np.save(buffer, array)
        else:
            picture.save(buffer, format="PNG")
        target = path.with_name(f"{path.name}{'.npy' if picture is None else '.png'}")
        write_bytes(target, buffer.getvalue())

    def _picture(self, array: Any) -> Any:
        if self.output.output == "images":
            return image_picture(array)
        if self.output.output == "masks" and array.ndim == 2:
            task = "binary" if self.output.task != "multiclass" else "multiclass"
            return mask_picture(array.astype(np.uint8 if array.max(initial=0) < 256 else np.uint16), task)
        return None

    def close(self) -> Path:
        """Write the table, if there is one, and return it; else return the folder."""
        if self.output.output != "classes":
            return self.folder
        write_text(self.table, as_csv([self._header, *self._rows]))
        return self.table


def image_picture(array: Any) -> Any:
    """Return the image of Pillow for numbers from 0 to 1, channels x height x width; None for other shapes."""
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        return None
    pixels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return image_files.pillow().fromarray(pixels)


def _in_file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "output"
