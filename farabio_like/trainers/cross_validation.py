"""`cross_validate`: a run for each fold, means and deviations, and the folds' networks as one.

Which samples are in which fold is in `folds`.
"""

from __future__ import annotations

import copy
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from .. import compare, distributed
from ..checkpoint.files import write_text
from ..checkpoint.plain import finite, is_plain
from ..config.config import to_dict
from ..config.secrets import Secrets
from ..data.image_masks import ImageMaskFolder
from ..errors import ConfigError, DataError
from ..rundir import layout
from ..rundir.index import checkpoints
from .folds import labels_of, split
from .masks import as_csv

PLAN, TABLE, REPORT, CURVES = "folds.json", "folds.csv", "report.html", "curves.png"

# What may be another when a validation goes on: it changes no number of a fold.
_FREE = (
    *("device", "num_workers", "prefetch", "verbose", "use_tqdm", "results", "loggers", "log_interval"),
    *("save_epoch", "save_steps", "save_minutes", "unsaved_seconds", "async_checkpoint", "dist_timeout"),
)


class Ensemble(nn.Module):
    """The mean of what several networks give: logits, mostly.

    Parameters
    ----------
    models : sequence of module
        Each gives a tensor of the same shape.

    Examples
    --------
    ``sliding_window(result.ensemble(), image, window=256, reduce="argmax")``
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean of the networks' outputs."""
        outputs = [model(inputs) for model in self.models]
        return torch.stack(outputs).mean(0)


@dataclass
class CrossValidation:
    """What `cross_validate` returns.

    Attributes
    ----------
    folds : list of dict
        Of each fold the metrics of its best epoch, those of its test under ``test_<name>``.
    mean, deviation : dict
        Over the folds; the deviation is that of a sample (its divisor is the number of folds less one). A fold without
        a value, of a class that it has not, is left out.
    runs : list of pathlib.Path
        The run folders.
    weights : list of pathlib.Path
        The best weights of each fold.
    folder : pathlib.Path
        With the table, the curves and the report of all.
    """

    folds: list[dict[str, float]]
    mean: dict[str, float]
    deviation: dict[str, float]
    runs: list[Path]
    weights: list[Path]
    folder: Path
    _build: Callable[[], Any] = field(repr=False)

    def ensemble(self) -> Ensemble:
        """Return the networks of all folds with their best weights as one, in eval mode."""
        models = []
        for path in self.weights:
            trainer = self._build()
            trainer.load_model(path)
            models.append(trainer.model)
        return Ensemble(models).eval()

    def __str__(self) -> str:
        lines = [f"{name}  {self.mean[name]:.4f} ± {self.deviation[name]:.4f}" for name in self.mean]
        return "\n".join(lines)


def cross_validate(
    trainer_class: Callable[..., Any],
    folds: int = 5,
    *,
    train: Any,
    valid: Any = None,
    groups: Sequence[Any] | None = None,
    labels: Sequence[Any] | None = None,
    seed: int = 0,
    folder: str | Path = "cross_validation",
    config: Any = None,
    **arguments: Any,
) -> CrossValidation:
    """Train once for each fold, on all samples but its own, and evaluate on those.

    Called again after it was killed, it goes on: folds that are done are read, and the one that was being trained goes
    on where it stopped. With more epochs, each fold goes on for those. What is plain data in `config` and `arguments`
    has to be the same then; functions and models cannot be compared.

    Parameters
    ----------
    trainer_class : class
        A ready-made trainer or a subclass; any that takes ``config`` and, by name, ``train``, ``valid`` and ``logdir``.
    folds : int
        At least 2.
    train : Dataset
        All samples, as they are trained. Of an `ImageMaskFolder` the images are shared out, not the patches.
    valid : Dataset, optional
        The same samples as they are evaluated: without augmentation. Default: `train`; of an `ImageMaskFolder` whole
        images without `transform`.
    groups : sequence, optional
        For each sample (or image) what it belongs to: a patient. A group is in one fold only.
    labels : sequence, optional
        For each sample its class: each fold gets the same share of every class. Default: the ``targets`` of the data
        set, or the second tensor of a ``TensorDataset``, where these are class numbers.
    seed : int
        The same seed and data, the same folds.
    folder : path
        Each fold's run is in ``fold-1``, ``fold-2``, ... of it; beside them ``folds.csv`` (a row for each fold, then
        mean and deviation), ``curves.png`` and ``report.html``.
    config : optional
        Given to every trainer.
    **arguments
        Given to every trainer: ``model``, ``classes``, ``num_epochs``, ... With ``test`` each fold is tested too. The
        model should be a function that makes one; a module is copied for each fold.

    Returns
    -------
    CrossValidation

    Raises
    ------
    ConfigError
        For arguments that are not allowed, and if the folder holds the folds of other data, another seed or settings.
    DataError
        If there are fewer samples, or groups, than folds; and for labels or groups of another length.
    """
    if type(folds) is not int or folds < 2:
        raise ConfigError(f"cross_validate(folds={folds!r}): expected a whole number, 2 or more.")
    if "logdir" in arguments:
        raise ConfigError(f"cross_validate(logdir={arguments['logdir']!r}): the runs of all folds lie in folder=.")
    valid = _evaluated(train) if valid is None else valid
    samples = _samples(train)
    if _samples(valid) != samples:
        raise DataError(f"train has {samples} samples and valid {_samples(valid)}; expected the same ones.")
    labels = labels_of(train) if labels is None else labels
    parts = split(samples, folds, labels, groups, seed)
    home = Path(folder).absolute()

    def build(number: int | None) -> Any:
        """Return the trainer of a fold, or one without data and folder, which is there for its model."""
        data: dict[str, Any] = {"train": train, "logdir": None, "verbose": False}
        if number is not None:
            others = sorted(index for part in parts[:number] + parts[number + 1 :] for index in part)
            data = {"train": _part(train, others), "valid": _part(valid, parts[number])}
            data["logdir"] = str(home / f"fold-{number + 1}")
        own = {name: part for name, part in arguments.items() if number is not None or name != "test"}
        if isinstance(own.get("model"), nn.Module):
            own["model"] = copy.deepcopy(own["model"])
        return trainer_class(config, **{**own, **data})

    results: list[dict[str, float]] = []
    runs: list[Path] = []
    for number in range(folds):
        trainer = build(number)
        if number == 0:
            plan = {"seed": seed, "samples": samples, "folds": parts, "ids": getattr(train, "ids", None)}
            _check_plan(home, {**plan, "settings": _settings(config, arguments)})
        trainer._run_state.console.line(f"fold {number + 1} of {folds}")
        trainer.train(resume=distributed.from_main(partial(_newest_run, trainer)))
        found = _best_of(trainer)
        if trainer.test_loader is not None:
            tested = trainer.test()
            found.update({f"test_{name}": value for name, value in tested.items() if _is_number(value)})
        results.append(found)
        runs.append(trainer.run_dir)
    mean, deviation = _summary(results)
    result = CrossValidation(results, mean, deviation, runs, [_weights(run) for run in runs], home, lambda: build(None))
    if distributed.is_main():
        _write_report(result)
    return result


def _samples(data: Any) -> int:
    if isinstance(data, ImageMaskFolder):
        return len(data.ids)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise DataError(f"cross_validate got a {type(data).__name__}; expected a data set with a length and samples.")
    return len(data)


def _evaluated(data: Any) -> Any:
    return data.changed(patch=None, transform=None) if isinstance(data, ImageMaskFolder) else data


def _part(data: Any, indices: list[int]) -> Any:
    if isinstance(data, ImageMaskFolder):
        return data.changed(ids=[data.ids[index] for index in indices])
    return Subset(data, indices)


def _settings(config: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the folds are trained with, as far as it is plain data, without secrets."""
    given = {**to_dict(config), **arguments}
    kept = {str(name): part for name, part in given.items() if name not in _FREE and is_plain(part)}
    return Secrets(given).values(kept)


def _check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write down which samples are in which fold, and the settings; raise where others are there."""

    def check() -> str | None:
        path = folder / PLAN
        text = json.dumps(plan, default=repr) + "\n"
        try:
            other = _difference(json.loads(path.read_text(encoding="utf-8")), json.loads(text))
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
            other = None
        except ValueError:
            other = "cannot be read"
        if other is None:
            write_text(path, text)
        return None if other is None else f"{path} {other}"

    other = distributed.from_main(check)
    if other is not None:
        raise ConfigError(f"{other}. Write folder= with another one, or delete it to begin anew.")


def _difference(there: Any, plan: dict[str, Any]) -> str | None:
    """Return in what the folds that are there differ, None where one can go on with them."""
    before = there.get("settings") if isinstance(there, dict) else None
    if not isinstance(before, dict) or any(there.get(name) != plan[name] for name in plan if name != "settings"):
        return "has the folds of other data, or of another seed or number"
    now = plan["settings"]
    # As text: a NaN is not equal to itself.
    others = [name for name in sorted({*before, *now}) if repr(before.get(name)) != repr(now.get(name))]
    epochs = before.get("num_epochs"), now.get("num_epochs")
    if "num_epochs" in others and all(type(number) is int for number in epochs) and epochs[0] < epochs[1]:
        others.remove("num_epochs")
    told = ", ".join(f"{name}={before.get(name)!r}, now {now.get(name)!r}" for name in others)
    return f"has the folds of other settings: {told}" if others else None


def _newest_run(trainer: Any) -> Path | bool:
    """Return the run of a fold that was begun, or has ended; False where there is none to go on with."""
    runs = [run for run in layout.folders_of(trainer._logdir, type(trainer)) if checkpoints(run)]
    return runs[-1] if runs else False


def _best_of(trainer: Any) -> dict[str, float]:
    """Return the numbers of the best epoch, those of the evaluation where there was one."""
    best = trainer._run_state.best
    entry = next((e for e in trainer.history if best is not None and e["epoch"] == best[3]), None)
    if entry is None:
        raise DataError("a fold has no epoch with a finite value of what is monitored; see its run folder.")
    found = {"epoch": entry["epoch"], **(entry["valid"] or entry["train"])}
    for name, values in list(found.items()):
        if isinstance(values, list):  # of the classes
            found.pop(name)
            names = getattr(trainer, "class_names", ())
            names = names if len(names) == len(values) else range(len(values))
            found.update({f"{name.removesuffix('_per_class')}_{k}": v for k, v in zip(names, values, strict=True)})
    return {name: value for name, value in found.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _weights(run: Path) -> Path:
    return run / layout.CHECKPOINTS / layout.BEST


def _summary(results: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and deviation over the folds of every metric."""
    names = [name for name in dict.fromkeys(name for result in results for name in result) if name != "epoch"]
    mean, deviation = {}, {}
    for name in names:
        values = [result[name] for result in results if not math.isnan(result.get(name, math.nan))]
        mean[name] = math.fsum(values) / len(values) if values else math.nan
        squares = math.fsum((value - mean[name]) ** 2 for value in values)
        deviation[name] = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan
    return mean, deviation


def _write_report(result: CrossValidation) -> None:
    """Write the table, the curves of all folds, and a page with both that leads to the report of each fold."""
    names = list(result.mean)
    rows = [[str(k), *(_cell(fold.get(n, math.nan)) for n in names)] for k, fold in enumerate(result.folds, 1)]
    rows += [["mean", *(_cell(result.mean[n]) for n in names)]]
    rows += [["deviation", *(_cell(result.deviation[n]) for n in names)]]
    write_text(result.folder / TABLE, as_csv([["fold", *names], *rows]))
    picture = f'<p><img src="{CURVES}" alt="curves of all folds" style="max-width: 100%"></p>'
    try:
        compare.draw(result.runs, result.folder / CURVES)
    except ImportError:
        picture = ""
    write_text(result.folder / REPORT, _page(result, rows, picture))
    settings = {"mean": result.mean, "deviation": result.deviation, "folds": result.folds}
    write_text(result.folder / "result.json", json.dumps(finite(settings), indent=2) + "\n")


def _page(result: CrossValidation, rows: list[list[str]], picture: str) -> str:
    """Return a page with a row for each metric, and a column for each fold."""
    heads = ["", *(f"fold {row[0]}" for row in rows[:-2]), "mean", "deviation"]
    lines = []
    for column, name in enumerate(result.mean, 1):
        lines.append([name, *(row[column] for row in rows)])
    body = "".join(f"<tr><th>{html.escape(c[0])}</th>{''.join(f'<td>{v}</td>' for v in c[1:])}</tr>" for c in lines)
    links = []
    for number, run in enumerate(result.runs, 1):
        target = (run / layout.REPORT).resolve()
        home = result.folder.resolve()
        inside = target.relative_to(home).as_posix() if target.is_relative_to(home) else target.as_uri()
        links.append(f'<li><a href="{html.escape(inside)}">fold {number}</a></li>')
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>cross-validation</title>'
        "<style>body{font-family:sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}"
        "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ccc}</style>"
        f"<h1>{len(result.runs)} folds</h1><table><tr>{head}</tr>{body}</table>{picture}"
        f"<ul>{''.join(links)}</ul></html>\n"
    )


def _cell(value: float) -> str:
    return "absent" if math.isnan(value) else f"{value:.6g}"
