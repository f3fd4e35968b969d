"""`ReadyMadeTrainer`: parts as arguments, options of the configuration, loaders of data sets.

What is learnt, measured and written is in the trainers that are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torch.utils.data import default_collate as torch_collate

from .. import components
from ..callbacks.metric import MetricCallback
from ..checkpoint import plain
from ..config.allowed import Allowed, anything, path, positive, whole
from ..config.config import Config, to_dict
from ..config.settings import DEFINITIONS
from ..data.image_files import read_image, with_channels
from ..data.output_spec import OutputSpec
from ..data.paired_folders import image_paths
from ..errors import ConfigError, DataError, HookError, closest
from ..trainer import ConvnetTrainer
from .preparation import known_input

# Settings that are no choice of a run.
_NO_OPTIONS = ("epoch", "next_loop", "mode", "backbone")
# Options that no attribute holds under their name with an underscore.
_WITHOUT_ATTRIBUTE = ("classes", "mode", "loss", "input_spec")
MODES = ("binary", "multiclass", "multilabel")


def part_of_one(of: str) -> Allowed:
    """Return what allows numbers from 0 to below 1."""

    def holds(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1

    return Allowed(f"a part of {of}, 0 to below 1", holds, 0.25)


def several(of: str, least: int, example: Any, alone: bool = False) -> Allowed:
    """Return what allows a list or tuple of whole numbers, and with `alone` one number."""

    def is_one(value: Any) -> bool:
        return type(value) is int and value >= least

    def holds(value: Any) -> bool:
        listed = isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_one, value))
        return listed or (alone and is_one(value))

    return Allowed(f"{'a whole number or several' if alone else 'whole numbers'} of {of}", holds, example)


class ReadyMadeTrainer(ConvnetTrainer):
    """Base of the ready-made trainers: a subclass gives criterion, metrics and the name of what is monitored.

    Every hook is the user's: what is given here is used by the default bodies of `get_trainloader`, `get_testloader`
    and `build_model`, and an override takes their place. The metrics, which no hook has to add, come from
    `build_callbacks`.

    Parameters
    ----------
    config : None, dict, argparse.Namespace, dataclass, or any object with attributes, optional
        As for `ConvnetTrainer`. Options may stand in it too, under their names.
    model : module, or callable that returns one, optional
        A function makes it after the seed is set.
    train, valid, test : Dataset, DataLoader or iterable of batches, optional
        Of a data set a loader is made.
    classes : int or sequence of str, optional
        Number or names of the classes.
    mode : {"binary", "multiclass", "multilabel"}, optional
        Default: binary for one class, multiclass for more.
    loss : str, callable or dict of them, optional
    optimizer : callable, optional
        Takes the parameters, returns the optimizer; default: AdamW with `lr`.
    scheduler : callable, optional
        Takes the optimizer, returns the scheduler.
    callbacks : sequence of Callback
        Beside those of `build_callbacks`, of which one of the same class is left out.
    input_spec : dict, optional
        How a picture becomes an input, see `InputSpec`; default: as the data sets do it, where that is known.
    **options
        ``lr``, ``batch_size``, ``num_workers``, ``class_weights``, ``smoothing`` and those of the trainer; and every
        setting without its underscore: ``num_epochs=20``.

    Raises
    ------
    ConfigError
        For an option that is not there, or has a value that is not allowed.
    """

    OPTIONS: ClassVar[dict[str, Allowed]] = {
        "lr": positive(example=1e-3),
        "batch_size": whole(1, example=8),
        "num_workers": whole(0, example=2),
        "class_weights": anything(),
        "smoothing": part_of_one("the target"),
        "results": path("for the run folder"),
        "classes": anything(),
        "mode": anything(),
        "loss": anything(),
    }

    #: Whether `model`, `optimizer` and `scheduler` may be dicts.
    SEVERAL_NETWORKS: ClassVar[bool] = False

    _seed = 0
    _lr: float = 1e-3
    _batch_size: int = 8
    _num_workers: int = 0
    _class_weights: Any = None
    _smoothing: float = 0.0
    _results: Any = None

    class_names: list[str]
    task: str
    image_channels: int | None

    def __init__(
        self,
        config: Any = None,
        *,
        model: nn.Module | Callable[[], nn.Module] | None = None,
        train: Any = None,
        valid: Any = None,
        test: Any = None,
        classes: int | Sequence[str] | None = None,
        mode: str | None = None,
        loss: Any = None,
        optimizer: Callable[..., Any] | None = None,
        scheduler: Callable[..., Any] | None = None,
        callbacks: Sequence[Any] = (),
        input_spec: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        _check_parts(type(self), model=model, optimizer=optimizer, scheduler=scheduler)
        options.update(classes=classes, mode=mode, loss=loss, input_spec=input_spec)
        given = self._take_options(Config(config), options)
        if given.get("input_spec") is not None:
            self.input_spec = given["input_spec"]
        self._parts = {"model": model, "train": train, "valid": valid, "test": test, "loss": given["loss"]}
        self._parts.update(optimizer=optimizer, scheduler=scheduler)
        self.class_names, self.task = _classes(type(self).__name__, *self.classes_of(given["classes"]), given["mode"])
        self.image_channels = told(self._parts, "channels", int)
        super().__init__(config)
        for name, value in given.items():  # so that they are written down with the run
            if value is not None and name not in self.config and plain.is_plain(value):
                self.config[name] = value
        own = [*components.each(self.callbacks, list, tuple), *components.each(callbacks, list, tuple)]
        kinds = {type(callback) for callback in own}
        self.callbacks = [*(each for each in self.build_callbacks() if type(each) not in kinds), *own]
        if self._monitor is None and self.valid_loader is not None:
            self._monitor = self.best_by()
        self.input_spec = self._described(self.input_spec)
        self._parts = {}  # the trainer holds what it uses of them, and nothing twice

    def _take_options(self, config: Config, options: dict[str, Any]) -> dict[str, Any]:
        """Set the options as attributes, before any hook runs, and return all that were given."""
        name_of_class = type(self).__name__
        settings = {name[1:]: value.allowed for name, value in DEFINITIONS.items() if name[1:] not in _NO_OPTIONS}
        known = {**settings, **self.OPTIONS, "input_spec": anything()}
        for name, value in options.items():
            if name not in known and (value is not None or name not in _WITHOUT_ATTRIBUTE):
                raise ConfigError(f"{name_of_class} got {name}=, which is no option.{closest(name, known)}")
        given = {**{name: config[name] for name in known if name in config}}
        given.update({name: value for name, value in options.items() if value is not None or name not in given})
        for name, value in given.items():
            problem = None if value is None else known[name].problem(name, value)
            if problem is not None:
                raise ConfigError(f"{name_of_class}: {problem}")
            unset = value is None and name in self.OPTIONS
            if name not in _WITHOUT_ATTRIBUTE and not unset:
                setattr(self, f"_{name}", value)
        return given

    def classes_of(self, classes: int | Sequence[str] | None) -> tuple[list[str], bool]:
        """Return the names of the classes, and whether they are known: given, or told by a data set.

        Called by the constructor.
        """
        classes = told(self._parts, "classes", (list, tuple, int)) if classes is None else classes
        if classes is None:
            return [], False
        if isinstance(classes, int) and not isinstance(classes, bool) and classes > 0:
            return [str(number) for number in range(classes)], True
        if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes):
            return list(classes), True
        raise ConfigError(
            f"{type(self).__name__}(classes={classes!r}): expected a number, or a list of names. Write "
            "classes=['background', 'cell']."
        )

    # ---------------------------------------------------------------- hooks

    def get_trainloader(self) -> None:
        """Make the loaders of `train` and `valid`."""
        self.train_loader = self.make_loader(self._parts["train"], "train")
        self.valid_loader = self.make_loader(self._parts["valid"], "valid")

    def get_testloader(self) -> None:
        """Make the loader of `test`."""
        self.test_loader = self.make_loader(self._parts["test"], "test")

    def build_model(self) -> None:
        """Take the model, and make criterion, optimizer and scheduler by the methods below."""
        model = self._parts["model"]
        if model is None:
            raise HookError(
                f"{type(self).__name__} has no model. Write {type(self).__name__}(model=MyNetwork(), ...), or override "
                "build_model."
            )
        self.model = model if isinstance(model, nn.Module) else model()
        self.criterion = self.build_criterion()
        self.optimizer = self.build_optimizer()
        self.scheduler = self.build_scheduler()

    # ---------------------------------------------------------------- parts

    def build_criterion(self) -> Any:
        """Return the criterion. An override of `build_model` may call it."""
        raise NotImplementedError

    def build_optimizer(self) -> Any:
        """Return the optimizer of ``self.model``. An override of `build_model` may call it."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        make = self._parts["optimizer"]
        if make is None:
            return torch.optim.AdamW(parameters, lr=self._lr)
        self.check_not_ignored(("lr",), "optimizer", f"{_EXAMPLES['optimizer']}, and no lr")
        return make(parameters)

    def build_scheduler(self) -> Any:
        """Return the scheduler of ``self.optimizer``, or None. An override of `build_model` may call it."""
        make = self._parts["scheduler"]
        return None if make is None else make(self.optimizer)

    def check_loss(self, given: Any) -> None:
        """Raise a ConfigError for a loss that is none, and for options that it does not see."""
        parts = components.each(given)
        for part in parts:
            if isinstance(part, type) or not (callable(part) or isinstance(part, str)):
                found = f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"
                raise ConfigError(
                    f"{type(self).__name__}: loss= is {found}; expected a function of outputs and targets. Write "
                    f"loss={part.__name__ if isinstance(part, type) else 'torch.nn.CrossEntropyLoss'}()."
                )
        if parts and not any(isinstance(part, str) for part in parts):
            self.check_not_ignored(("class_weights", "smoothing"), "loss", "them into the loss itself")

    def check_not_ignored(self, names: Sequence[str], part: str, instead: str) -> None:
        """Raise a ConfigError for options that a part of the user's own does not see."""
        values = {name: vars(self).get(f"_{name}") for name in names}
        given = [n for n, v in values.items() if v is not None and not (isinstance(v, (int, float)) and v == 0)]
        if given:
            raise ConfigError(
                f"{type(self).__name__}: {' and '.join(given)} would be ignored, as {part}= is a part of your own. "
                f"Write {instead}."
            )

    def build_callbacks(self) -> list[Any]:
        """Return the metrics and what writes pictures and tables; called once, after the model is built."""
        raise NotImplementedError

    def best_by(self) -> str | None:
        """Return the name of the metric that decides which epoch is best, where `_monitor` is not set."""
        raise NotImplementedError

    def output_spec(self) -> dict[str, Any]:
        """Return what the outputs mean, with the names of `OutputSpec`; called once, after the model is built."""
        return {"output": "arrays"}

    def _described(self, given: Any) -> Any:
        """Return the ``input_spec`` with what the trainer knows of it; what the user says counts."""
        given = to_dict(given) if isinstance(given, Config) else given
        if given is not None and not isinstance(given, Mapping):
            return given  # what is wrong with it is said before the run
        given = dict(given or {})
        about_outputs = {field.name for field in fields(OutputSpec)}
        if not set(given) - about_outputs:
            loaders = (self.test_loader, self.valid_loader, self.train_loader)
            given.update(known_input((self._parts["test"], self._parts["valid"], *loaders)))
        return {**self.output_spec(), **given}

    def make_loader(self, data: Any, name: str) -> Any:
        """Return a loader for a data set; a loader is returned as it is. Called by the loader hooks."""
        if isinstance(data, (str, bytes)) or hasattr(data, "__fspath__"):
            raise DataError(
                f"{type(self).__name__}({name}={str(data)!r}) is a path; expected a data set or a loader. Write "
                f"{name}=ImageMaskFolder('images', 'masks'), or {name}=torchvision.datasets.ImageFolder(path, ...)."
            )
        if not isinstance(data, Dataset):
            return data
        size = self.loader_batch_size(name)
        iterable = isinstance(data, IterableDataset)
        shuffled = name == "train" and not iterable
        samples = len(data) if shuffled else 0  # type: ignore[arg-type]
        return DataLoader(
            data,
            batch_size=size,
            shuffle=shuffled,
            num_workers=self._num_workers,
            drop_last=samples > size and samples % size == 1,  # batch norm has no statistics of one sample
            pin_memory=self.device.type == "cuda",
            collate_fn=collate,
        )

    def read(self, path: Path, transform: Callable[..., Any] | None) -> torch.Tensor:
        """Return the image of a file for `predict_images`, with the channels of the data set where it tells them."""
        image = read_image(path)
        if transform is not None:
            return transform(image)
        return image if self.image_channels is None else with_channels(image, self.image_channels, path)

    def loader_batch_size(self, name: str) -> int:
        """Return the batch size of a loader that `make_loader` makes, of all ranks together."""
        return self._batch_size


_EXAMPLES = {
    "model": "model=lambda: MyNetwork()",
    "optimizer": "optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)",
    "scheduler": "scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)",
}


def _check_parts(owner: type[ReadyMadeTrainer], **parts: Any) -> None:
    """Raise for a part that is no function, as an optimizer that is made already."""
    for name, part in parts.items():
        several = owner.SEVERAL_NETWORKS and isinstance(part, Mapping)
        if part is not None and not all(map(callable, part.values() if several else (part,))):
            raise ConfigError(
                f"{owner.__name__}({name}=...) is a {type(part).__name__}; expected a function that makes one. Write "
                f"{_EXAMPLES[name]}."
            )


def told(parts: Mapping[str, Any], name: str, kinds: type | tuple[type, ...]) -> Any:
    """Return what the data sets of a trainer tell under a name, None where none does."""
    for part in ("train", "valid", "test"):
        data = parts.get(part)
        while isinstance(data, (DataLoader, Subset)):
            data = data.dataset
        found = getattr(data, name, None) if isinstance(data, Dataset) else None
        if isinstance(found, kinds) and not isinstance(found, bool):
            return list(map(str, found)) if isinstance(found, (list, tuple)) else found
    return None


def collate(samples: list[Any]) -> Any:
    """Return a batch of samples, as torch does; of images of different sizes, say so."""
    try:
        return torch_collate(samples)
    except RuntimeError as error:
        shapes = sorted({str(tuple(part.shape)) for part in _images(samples)})
        if len(shapes) < 2:
            raise
        raise DataError(
            f"images of different sizes in one batch: {', '.join(shapes)}. For training, write patch=256 in the data "
            "set; for evaluation and test, write window=256 in the trainer, or batch_size=1."
        ) from error


def _images(samples: list[Any]) -> list[torch.Tensor]:
    found = []
    for sample in samples:
        first = sample.get("inputs") if isinstance(sample, Mapping) else sample
        first = first[0] if isinstance(first, (list, tuple)) and first else first
        if isinstance(first, torch.Tensor):
            found.append(first)
    return found


def _classes(owner: str, names: list[str], known: bool, mode: str | None) -> tuple[list[str], str]:
    """Return the names of the classes and what kind of task it is."""
    if mode is not None and mode not in MODES:
        raise ConfigError(f"{owner}(mode={mode!r}): expected one of {MODES}.{closest(str(mode), MODES)}")
    if mode is None:
        mode = "binary" if len(names) < 2 else "multiclass"
    if mode == "binary" and len(names) > 2:
        raise ConfigError(f"{owner}(mode='binary') has {len(names)} classes. Write mode='multiclass' or 'multilabel'.")
    if mode != "binary" and len(names) < 2:
        raise ConfigError(f"{owner}(mode={mode!r}) has {len(names) or 'no'} classes. Write classes=['a', 'b'].")
    return names, mode


def measured(callbacks: Any, kind: type[MetricCallback], loader: str) -> bool:
    """Return whether one of the callbacks is of a kind and measures a loader, under its usual name."""
    found = components.each(callbacks, list, tuple)
    return any(isinstance(c, kind) and loader in c.loaders and not c.prefix for c in found)


def above_zero(trainer: ConvnetTrainer) -> Any:
    """Return which logits say yes, as metrics take it."""
    return trainer.outputs > 0


def paths_of(paths_or_folder: Any) -> dict[str, Path]:
    """Return files of images by their ids: those in a folder, or those that are named.

    Raises
    ------
    DataError
        If there is none, or one has the id of another.
    """
    if isinstance(paths_or_folder, (str, Path)):
        path = Path(paths_or_folder)
        return image_paths(path) if not path.is_file() else {path.stem: path}
    paths = [Path(path) for path in paths_or_folder]
    if not paths:
        raise DataError("there is no path of an image.")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [path.with_suffix("").as_posix().lstrip("/") for path in paths]
    return dict(zip(names, paths, strict=True))
