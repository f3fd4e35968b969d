"""`ConvnetTrainer`: the life of a run, in the order in which it happens.

Read it from top to bottom: settings, building, training, evaluation, test, the single batch, the native
methods, and last what the base does around the hooks. A hook's default body does nothing that a run needs,
so an override never has to call ``super()``.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import traceback
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint, checks, components, compute, data, rundir
from .callbacks import base as events
from .config import Config
from .errors import CheckpointError, ConfigError, DataError, HookError, NonFiniteError, closest
from .loggers.console import Console, number, seconds
from .metrics import FOLD_EVERY, MetricObjects, RunningMeans, improves
from .settings import SETTINGS
from .stages import Stage

_BATCH_ATTRIBUTES = ("loss", "outputs", "batch_metrics", "batch", "inputs", "targets")
_READABLE = {"epoch": "", "step": "step", "loader_name": "loader", "stage": "stage", "exception": "exception"}
_LENT = ("batch", "inputs", "targets")
_NOTHING = object()


def _dead() -> None:
    """Stand for a weak reference to nothing."""


@dataclass(slots=True)
class _RunState:
    """What the base itself remembers; apart from the trainer's attributes, so that no subclass's name meets it."""

    console: Console = field(default_factory=Console)
    run: rundir.RunDir | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    item: Any = _NOTHING  # the item under way in a loop
    lent: tuple[str, ...] = ()  # which of batch, inputs, targets the base set for it
    stop: bool = False
    leave: bool = False
    stop_loader: bool = False
    partial: bool = False  # this epoch's evaluation was left early
    done: int | None = None  # the last finished epoch
    stage: Stage | None = None
    stage_end: int | None = None  # the last epoch of the stage
    loader: str | None = None  # which loader is read: "train", "valid", "test"
    listeners: dict[str, list[Any]] = field(default_factory=dict)  # event: methods of callbacks
    exception: BaseException | None = None
    number: float | None = None  # the last loss that was a number
    own_loss: bool = False  # self.loss is a running value of the subclass
    scheduler_marks: list[int] = field(default_factory=list)  # positions of the schedulers when the epoch began
    epoch_started: float = 0.0
    best: tuple[str, str, float, int] | None = None  # part, metric, value, epoch
    saved: bool = False  # save_model was called in this run
    touched: bool = False  # the weights in memory were trained in this process
    chosen: str | None = None  # weights that the user loaded on purpose, after the last training
    weights: str = ""  # what load_model did, for the line that test() prints


class ConvnetTrainer:
    """Base of every trainer: subclass it, override hooks, call `train` and `test`.

    Parameters
    ----------
    config : None, dict, argparse.Namespace, dataclass, or any object with attributes
        Becomes ``self.config``, read as ``self.config.lr`` or ``self.config["lr"]``.

    Attributes
    ----------
    model, criterion, optimizer, scheduler : one object, or a dict of them
    callbacks : list of Callback
    train_loader, valid_loader, test_loader : iterable of batches
    metrics : None, a torchmetrics object, or a dict of them
        Updated with ``outputs`` and ``targets`` of every batch, computed per loader.
    device : torch.device
    inputs, targets, batch : the batch under way, on the device
    outputs, loss : what `compute_loss` made of it
    batch_metrics : dict
        Put a number or a one-element tensor here in a step; it is averaged over the loader, weighted by samples.
    loader_metrics : dict
        The means of the last loader.
    epoch_metrics : dict
        ``{"train": {...}, "valid": {...}}`` of the current epoch.
    history : list of dict
        One per epoch: ``epoch``, ``train``, ``valid``, ``lr``, ``seconds``.
    epoch, step : int
        Number of the current epoch, and of the current training batch since the first; from 1.
    loader_name : str or None
        Which loader is being read: ``"train"``, ``"valid"``, ``"test"``.
    stage : Stage or None
        The current stage, in a run that has stages.
    exception : BaseException or None
        What ended the last run.
    run_dir : pathlib.Path or None
        The folder of this run.

    Examples
    --------
    >>> class Line(ConvnetTrainer):
    ...     def define_train_attr(self):
    ...         self._num_epochs = 2
    ...     def define_log_attr(self):
    ...         self._logdir, self._verbose = None, False
    ...     def get_trainloader(self):
    ...         x = torch.linspace(0, 1, 64).unsqueeze(1)
    ...         self.train_loader = self.valid_loader = [(x, 2 * x)]
    ...     def build_model(self):
    ...         self.model = torch.nn.Linear(1, 1)
    ...         self.criterion = torch.nn.MSELoss()
    ...         self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
    >>> [entry["epoch"] for entry in Line().train()]
    [1, 2]
    """

    # Settings, as `SETTINGS` gives them, and what a run fills in.
    _num_epochs: int
    _start_epoch: int
    _epoch: int
    _has_eval: bool
    _eval_interval: int
    _save_epoch: int
    _data_parallel: Any
    _device: Any
    _next_loop: bool
    _model_path: Any
    _use_tqdm: bool | None
    _verbose: bool
    _logdir: Any
    _monitor: str | None
    _monitor_mode: str | None
    _stages: Any
    _scheduler_step: str
    _loss_weights: Any
    _evaluate_first: bool
    _load_best: bool
    _on_nonfinite: str
    device: Any

    def __init__(self, config: Any = None) -> None:
        checks.check_signatures(self)
        self._run_state = _RunState()
        ConvnetTrainer.default_attr(self)
        if not checks.is_default(self, "default_attr"):
            self.default_attr()
        self.config = Config(config)
        self.init_attr()
        checks.check_settings(self)
        self._run_state.console.verbose = self._verbose
        checks.warn_misspelt_settings(self, SETTINGS)
        devices = compute.device_list(self._data_parallel)
        self.device = compute.resolve_device(devices[0] if devices else self.device or self._device)
        self.get_trainloader()
        self.get_testloader()
        if self._data_parallel:
            self.build_parallel_model()
        else:
            self.build_model()
        checks.check_model(self)
        for module in (*self._modules(), *components.each(self.criterion)):
            if isinstance(module, nn.Module):
                module.to(self.device)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        checks.warn_misspelt_hooks(cls, ConvnetTrainer)

    # ---------------------------------------------------------------- settings

    def default_attr(self) -> None:
        """Give every setting its default, before any code of a subclass runs."""
        for name, value in SETTINGS.items():
            setattr(self, name, getattr(type(self), name, value))
        self.train_loader: Any = None
        self.valid_loader: Any = None
        self.test_loader: Any = None
        self.train_epoch_iter: Any = None
        self.valid_epoch_iter: Any = None
        self.test_loop_iter: Any = None
        self.model: Any = None
        self.criterion: Any = None
        self.optimizer: Any = None
        self.scheduler: Any = None
        self.callbacks: Any = []
        self.metrics: Any = None
        self.device = None
        self.outputs: Any = None
        self.loss: Any = None
        self.batch_metrics: dict[str, Any] = {}
        self.loader_metrics: dict[str, Any] = {}
        self.epoch_metrics: dict[str, dict[str, Any]] = {}
        self.history = self._run_state.history
        self.run_dir: Path | None = None

    def init_attr(self) -> None:
        """Call the seven ``define_*_attr`` methods. Called once, by the constructor."""
        self.define_data_attr()
        self.define_model_attr()
        self.define_train_attr()
        self.define_test_attr()
        self.define_log_attr()
        self.define_compute_attr()
        self.define_misc_attr()

    def define_data_attr(self, *args: Any) -> None:
        """Set what concerns the data: folders, sizes, batch size. Called by `init_attr`."""

    def define_model_attr(self, *args: Any) -> None:
        """Set what concerns the model: widths, ``_backbone``, ``_model_path``. Called by `init_attr`."""

    def define_train_attr(self, *args: Any) -> None:
        """Set what concerns training: ``_num_epochs``, ``_has_eval``, ``_eval_interval``. Called by `init_attr`."""

    def define_test_attr(self, *args: Any) -> None:
        """Set what concerns the test. Called by `init_attr`."""

    def define_log_attr(self, *args: Any) -> None:
        """Set what concerns output: ``_logdir``, ``_use_tqdm``, ``_verbose``, ``_monitor``. Called by `init_attr`."""

    def define_compute_attr(self, *args: Any) -> None:
        """Set what concerns devices: ``_device``, ``_data_parallel``. Called by `init_attr`."""

    def define_misc_attr(self, *args: Any) -> None:
        """Set anything else. Called by `init_attr`."""

    # ---------------------------------------------------------------- building

    def get_trainloader(self) -> None:
        """Set ``self.train_loader`` and, for evaluation, ``self.valid_loader``: any iterables of batches.

        Called once by the constructor, after the settings. A trainer that only tests may leave it out.
        """

    def get_testloader(self) -> None:
        """Set ``self.test_loader``. Called once by the constructor, after `get_trainloader`."""

    def build_model(self) -> None:
        """Set ``self.model``, ``self.criterion`` and ``self.optimizer``; each may be a dict of several.

        Called once by the constructor, after the loaders. The modules are moved to ``self.device`` afterwards.

        Raises
        ------
        HookError
            If a subclass neither overrides it nor set a model before.
        """
        if not self._modules():
            raise HookError(
                f"{type(self).__name__} does not override build_model. Write def build_model(self): "
                "self.model = MyNetwork(), and set self.criterion and self.optimizer there too."
            )

    def build_parallel_model(self) -> None:
        """Build the model for several GPUs: by default `build_model`, every module in ``torch.nn.DataParallel``.

        Called by the constructor in place of `build_model` when ``_data_parallel`` is set.
        """
        self.build_model()
        checks.check_model(self)
        devices = compute.device_list(self._data_parallel)
        if isinstance(self.model, Mapping):
            self.model = {name: compute.data_parallel(module, devices) for name, module in self.model.items()}
        elif self.model is not None:
            self.model = compute.data_parallel(self.model, devices)
        if self.device.type != "cuda":
            self._run_state.console.once(f"_data_parallel is set, but there is no GPU: running on {self.device}.")

    # ---------------------------------------------------------------- training

    def train(self) -> list[dict[str, Any]]:
        """Train from ``_start_epoch`` to ``_num_epochs``.

        Called again, it goes on counting: after `stop_train` with the epochs that are left, else with as many
        again.

        Returns
        -------
        list of dict
            The history, one dict per epoch.

        Raises
        ------
        HookError, ConfigError, DataError
            Before the first step, for what can be known then. What a hook raises comes out unchanged.
        """
        self._open_run()
        try:
            self.on_train_start()
            self._fire("on_train_start")
            self.start_logger()
            for _ in self._stage_by_stage():
                self.train_loop()
        except BaseException as error:
            self._end_run(error)
            raise
        self._end_run()
        return self._run_state.history

    def on_train_start(self) -> None:
        """Called once by `train`, before anything else."""

    def start_logger(self) -> None:
        """Start loggers of your own. Called once by `train`, after `on_train_start`."""

    def on_stage_start(self) -> None:
        """Called before each stage of a run with ``_stages``: change losses, optimizers, loaders, freeze parts here."""

    def train_loop(self) -> None:
        """Run `train_epoch` for every epoch, until the last one or `stop_train`."""
        state = self._run_state
        self._epoch = self._first_epoch()
        while self._epoch <= self._last_epoch() and not (state.stop or state.leave):
            self.train_epoch()
            self._finish_epoch()
            if self._epoch >= self._last_epoch():
                break
            self._epoch += 1

    def on_stage_end(self) -> None:
        """Called after each stage of a run with ``_stages``."""

    def train_epoch(self) -> None:
        """Run one epoch: every train batch, then the evaluation when it is due."""
        self._start_epoch_clock()
        for module in self._modules():
            module.train()
        if self.train_loader is not None:
            self.train_epoch_iter = data.Items(self.train_loader, "train")
        self.on_train_epoch_start()
        self._fire("on_train_epoch_start")
        for item in self._follow("train", self.train_epoch_iter):
            self.train_batch(item)
        self.on_train_epoch_end()
        self._fire("on_train_epoch_end")
        if self._evaluation_is_due():
            self.evaluate_epoch()
        self._record_epoch()
        self.on_epoch_end()
        self._fire("on_epoch_end")

    def on_train_epoch_start(self) -> None:
        """Called before the batches of an epoch; ``self.train_epoch_iter`` may be set or wrapped here.

        The modules are in train mode already: freeze batch norm layers here, for example.
        """

    def train_batch(self, item: Any) -> None:
        """Run the three hooks of one training batch."""
        listeners = self._run_state.listeners
        self.on_start_training_batch(item)
        if "on_start_training_batch" in listeners:
            self._fire("on_start_training_batch")
        self.training_step()
        self.on_end_training_batch()
        if "on_end_training_batch" in listeners:
            self._fire("on_end_training_batch")

    def on_start_training_batch(self, item: Any) -> None:
        """Take the batch: set ``self.batch``, ``self.inputs``, ``self.targets``. Called first for every batch.

        Parameters
        ----------
        item : tuple
            ``(index, batch)``, or whatever an own ``train_epoch_iter`` yields.
        """
        self.take_batch(item)

    def training_step(self) -> None:
        """Learn from one batch. Copy and change it for a step of your own."""
        self.optimizer_zero_grad()
        with self.autocast():
            self.loss = self.compute_loss()
        self.loss_backward()
        self.optimizer_step()

    def on_end_training_batch(self) -> None:
        """Called last for every training batch."""

    def on_train_epoch_end(self) -> None:
        """Called after the last batch of an epoch; ``self.epoch_metrics["train"]`` is there."""

    def on_epoch_end(self) -> None:
        """Called at the end of every epoch, evaluated or not; ``self.history[-1]`` is this epoch's."""

    def on_train_end(self) -> None:
        """Called once at the end of `train`: also with zero epochs, after `stop_train`, and after an exception."""

    # ---------------------------------------------------------------- evaluation

    def evaluate_epoch(self) -> dict[str, Any]:
        """Evaluate on ``valid_loader``, in eval mode and without gradients; may be called at any time.

        Returns
        -------
        dict
            The metrics, also in ``self.epoch_metrics["valid"]``.
        """
        with self._evaluation():
            if self.valid_loader is not None:
                self.valid_epoch_iter = data.Items(self.valid_loader, "valid")
            self.on_evaluate_epoch_start()
            self._fire("on_evaluate_epoch_start")
            for item in self._follow("valid", self.valid_epoch_iter):
                self.on_evaluate_batch_start(item)
                self._fire("on_evaluate_batch_start")
                if self._next_loop:
                    self._next_loop = False
                    self.batch_metrics = {}
                    continue
                self.evaluate_batch(item)
                self.on_evaluate_batch_end()
                self._fire("on_evaluate_batch_end")
            self.on_evaluate_epoch_end()
            self._fire("on_evaluate_epoch_end")
        return self.epoch_metrics.get("valid", {})

    def on_evaluate_epoch_start(self) -> None:
        """Called before the valid batches; ``self.valid_epoch_iter`` may be set or wrapped here."""

    def on_evaluate_batch_start(self, item: Any) -> None:
        """Take the batch, as `on_start_training_batch` does. Set ``self._next_loop = True`` to skip it."""
        self.take_batch(item)

    def evaluate_batch(self, item: Any) -> None:
        """Evaluate one batch: by default `compute_loss`."""
        with self.autocast():
            self.loss = self.compute_loss()

    def on_evaluate_batch_end(self) -> None:
        """Called after every valid batch, except skipped ones."""

    def on_evaluate_epoch_end(self) -> None:
        """Called after the last valid batch; ``self.epoch_metrics["valid"]`` is there."""

    # ---------------------------------------------------------------- test

    def test(self) -> dict[str, Any]:
        """Test on ``test_loader`` with the best weights of this run (see `load_model` for which exactly).

        Returns
        -------
        dict
            The metrics.

        Raises
        ------
        HookError
            If there is no test loader.
        """
        self._open_test()
        if self._data_parallel:
            self.load_parallel_model()
        else:
            self.load_model()
        with self._evaluation():
            if self.test_loader is not None:
                self.test_loop_iter = data.Items(self.test_loader, "test")
            self.on_test_start()
            self._fire("on_test_start")
            self.test_loop()
            self.on_test_end()
            self._fire("on_test_end")
        return self._close_test()

    def on_test_start(self) -> None:
        """Called before the test batches; ``self.test_loop_iter`` may be set or wrapped here."""

    def test_loop(self) -> None:
        """Run the three hooks of every test batch."""
        for item in self._follow("test", self.test_loop_iter):
            self.on_start_test_batch()
            self._fire("on_start_test_batch")
            self.test_step(item)
            self.on_end_test_batch()
            self._fire("on_end_test_batch")

    def on_start_test_batch(self) -> None:
        """Called before every `test_step`."""

    def test_step(self, item: Any) -> None:
        """Test one batch: by default take it and `compute_loss`."""
        self.take_batch(item)
        with self.autocast():
            self.loss = self.compute_loss()

    def on_end_test_batch(self) -> None:
        """Called after every `test_step`."""

    def on_test_end(self) -> None:
        """Called after the last test batch; ``self.loader_metrics`` holds the result."""

    # ---------------------------------------------------------------- one batch, for scripts and notebooks

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Learn from one batch, outside any loop.

        Returns
        -------
        dict
            ``"prediction"`` (after `prediction_transform`), ``"target"``, ``"loss"`` (a float).
        """
        for module in self._modules():
            if not module.training:
                module.train()
        with self._single_batch(batch):
            self.on_start_training_batch((0, batch))
            self.training_step()
            self._run_state.touched = True
            return self._step_result()

    def val_step(self, batch: Any) -> dict[str, Any]:
        """Evaluate one batch, outside any loop: `train_step`'s result, without gradients and weights' update."""
        with self._evaluation(), self._single_batch(batch):
            self.on_evaluate_batch_start((0, batch))
            self.evaluate_batch((0, batch))
            return self._step_result()

    def predict(self, batches: Any) -> Iterator[Any]:
        """Yield the prediction for every batch, in eval mode and without gradients.

        Parameters
        ----------
        batches : loader or batch
            A tensor, a mapping, or a list or tuple that starts with a tensor is one batch; any other
            iterable is a loader of batches. Targets in a batch are not used.

        Yields
        ------
        Tensor or whatever `prediction_transform` returns
        """
        for batch in [batches] if data.is_batch(batches) else data.batches(batches):
            with self._evaluation(), self._single_batch(batch), self.autocast():
                self.take_batch((0, batch))
                prediction = self.prediction_transform(self.forward())
            yield prediction

    def prediction_transform(self, outputs: Any) -> Any:
        """Turn the model's outputs into predictions, by a sigmoid say. The default returns them as they are."""
        return outputs

    # ---------------------------------------------------------------- native methods

    def take_batch(self, item: Any) -> None:
        """Set ``self.batch``, ``self.inputs`` and ``self.targets`` from an item of a loop, on the device.

        A pair is inputs and targets; a mapping or dataclass gives those of its keys with these names; a tensor
        alone is inputs, and the targets are None.
        """
        batch = item[1] if type(item) is tuple and len(item) == 2 and type(item[0]) is int else item
        batch = self.batch = self.to_device(batch)
        if type(batch) in (list, tuple) and len(batch) == 2:
            self.inputs, self.targets = batch
            self._run_state.lent = _LENT
            return
        self._return_batch()
        found = {"batch": batch, **data.inputs_and_targets(batch)}
        self.__dict__.update(found)
        self._run_state.lent = tuple(found)

    def to_device(self, batch: Any) -> Any:
        """Return the batch with its tensors on ``self.device``; containers keep their types."""
        device = self.device
        for part in batch if type(batch) in (list, tuple) else (batch,):
            if not isinstance(part, Tensor) or part.device != device:
                return data.move(batch, device)
        return batch

    def batch_size_of(self, batch: Any) -> int:
        """Return the number of samples in a batch: the first dimension of its first tensor."""
        return data.batch_size(batch)

    def forward(self) -> Any:
        """Return the model's outputs for ``self.inputs``; override it where several models follow each other.

        Called by `compute_loss` and `predict`.
        """
        if isinstance(self.model, nn.Module):
            return self.model(self.inputs)
        raise HookError(
            f"{type(self).__name__}.forward cannot know how to use self.model, a {type(self.model).__name__}. "
            "Write def forward(self): return self.model['head'](self.model['encoder'](self.inputs))."
        )

    def compute_loss(self) -> Any:
        """Set ``self.outputs``, may fill ``self.batch_metrics``, and return the loss: the method to override.

        Called by `training_step`, `evaluate_batch` and `test_step`. A dict of criteria is combined by
        ``_loss_weights``, each one also in ``batch_metrics`` as ``loss_<name>``.

        Returns
        -------
        Tensor
            One element; the mean over the samples of the batch.
        """
        self.outputs = self.forward()
        criterion = self.criterion
        if self.targets is None or criterion is None:
            missing = "self.targets is None" if criterion is not None else "self.criterion is None"
            raise HookError(
                f"{type(self).__name__}.compute_loss: {missing}. Override compute_loss to return a loss without it."
            )
        if isinstance(criterion, dict):
            losses = {name: part(self.outputs, self.targets) for name, part in criterion.items()}
            self.batch_metrics.update({f"loss_{name}": loss for name, loss in losses.items()})
            return self._combine(losses)
        return criterion(self.outputs, self.targets)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which losses are computed; override it for mixed precision of your own."""
        return _NO_CONTEXT

    def optimizer_zero_grad(self) -> None:
        """Clear the gradients of every optimizer."""
        if isinstance(self.optimizer, dict):
            for optimizer in self.optimizer.values():
                optimizer.zero_grad()
        elif self.optimizer is not None:
            self.optimizer.zero_grad()

    def loss_backward(self) -> None:
        """Backpropagate ``self.loss``.

        Raises
        ------
        HookError
            If it is no scalar tensor with a gradient.
        """
        try:
            self.loss.backward()
        except (RuntimeError, AttributeError) as error:
            problem = self._loss_problem()
            if problem is None:
                raise
            raise HookError(problem) from error

    def optimizer_step(self) -> None:
        """Step every optimizer."""
        if isinstance(self.optimizer, dict):
            for optimizer in self.optimizer.values():
                optimizer.step()
        elif self.optimizer is not None:
            self.optimizer.step()
        else:
            raise HookError(checks.no_optimizer(self))
        if self.scheduler is not None and self._scheduler_step == "step":
            for scheduler in components.each(self.scheduler):
                scheduler.step()

    @contextlib.contextmanager
    def only(self, *names: str) -> Iterator[None]:
        """Train the parameters of these optimizers alone, for the steps of a GAN: the others get no gradients.

        Parameters
        ----------
        *names : str
            Keys of ``self.optimizer``.

        Examples
        --------
        ``with self.only("discriminator"): self.discriminator_loss().backward()``
        """
        unknown = [name for name in names if name not in (self.optimizer if isinstance(self.optimizer, dict) else ())]
        if unknown:
            there = list(self.optimizer) if isinstance(self.optimizer, dict) else "no dict"
            raise ConfigError(f"only{names}: there is no optimizer {unknown[0]!r}; self.optimizer is {there}.")
        kept = {id(p) for name in names for group in self.optimizer[name].param_groups for p in group["params"]}
        others = [
            parameter
            for optimizer in self.optimizer.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) not in kept and parameter.requires_grad
        ]
        try:
            for parameter in others:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def get_lr(self) -> Any:
        """Return the learning rate: a float, a list for several parameter groups, a dict for several optimizers."""
        rates = {}
        for name, optimizer in components.named(self.optimizer, ""):
            groups = [float(group["lr"]) for group in getattr(optimizer, "param_groups", ()) if "lr" in group]
            rates[name] = groups[0] if len(set(groups)) == 1 else groups or None
        if isinstance(self.optimizer, dict):
            return dict(zip(self.optimizer, rates.values(), strict=True))
        return next(iter(rates.values()), None)

    def set_lr(self, lr: Any) -> None:
        """Set the learning rate, in the form that `get_lr` returns; one number sets every group.

        Raises
        ------
        ConfigError
            If there is another number of groups, or no such optimizer.
        """
        if isinstance(lr, Mapping):
            if not isinstance(self.optimizer, dict) or not set(lr) <= set(self.optimizer):
                raise ConfigError(f"set_lr({dict(lr)}): self.optimizer has no such keys; get_lr() is {self.get_lr()}.")
            pairs = [(self.optimizer[name], value) for name, value in lr.items()]
        else:
            pairs = [(optimizer, lr) for optimizer in components.each(self.optimizer)]
        for optimizer, value in pairs:
            groups = optimizer.param_groups
            values = list(value) if isinstance(value, (list, tuple)) else [value] * len(groups)
            if len(values) != len(groups):
                raise ConfigError(f"set_lr got {len(values)} learning rates for {len(groups)} parameter groups.")
            for group, new in zip(groups, values, strict=True):
                if isinstance(group["lr"], Tensor):  # as a compiled or capturable optimizer keeps it
                    group["lr"].fill_(new)
                else:
                    group["lr"] = new

    def save_model(self, path: str | Path | None = None) -> Path:
        """Save the weights alone, with plain keys, durably. The base never calls it.

        Parameters
        ----------
        path : path, optional
            Default: ``model.pth`` in the run folder.

        Returns
        -------
        Path
        """
        run = self._run_state.run
        if path is None and run is None:
            raise ConfigError("save_model() has no run folder to write to; give a path: save_model('model.pth').")
        target = Path(path) if path is not None else run.weights  # type: ignore[union-attr]
        self._run_state.saved = True
        checkpoint.save(components.model_state(self._model()), target)
        return target

    def save_checkpoint(self, path: str | Path) -> Path:
        """Save the weights with what they belong to: class, epoch, step, metrics, averages of callbacks.

        Returns
        -------
        Path
        """
        entry = self._run_state.history[-1] if self._run_state.history else {}
        averages = {
            type(callback).__name__: callback.model_state(self)
            for callback in self.callbacks
            if hasattr(callback, "model_state")
        }
        checkpoint.save(
            {
                "format": checkpoint.FORMAT,
                "class": type(self).__qualname__,
                "epoch": self._epoch,
                "step": self._run_state.step,
                "metrics": {part: dict(entry.get(part, {})) for part in ("train", "valid")},
                "model": components.model_state(self._model()),
                "averages": {name: state for name, state in averages.items() if state},
            },
            Path(path),
        )
        return Path(path)

    def load_model(self, path: str | Path | None = None) -> None:
        """Load weights, whatever wrapper saved them and whatever wraps the model now.

        Parameters
        ----------
        path : path, optional
            Without it: the best weights of this run; where this process has trained or loaded some on purpose,
            those in memory; ``_model_path``; the newest run of this class. Else the weights stay as they are.

        Raises
        ------
        FileNotFoundError
            Listing the files that are there.
        CheckpointError
            If the file is damaged or of another architecture; the model is unchanged.
        """
        state = self._run_state
        chosen_by_user = path is not None
        path = Path(path) if path is not None else self._weights_to_test()
        if path is None:
            state.weights = state.chosen or "those in memory" + (
                "" if state.touched else ", as built: no run was found"
            )
            return
        if path.is_dir():
            path = path / "model.pth"
        found = checkpoint.read(path)
        try:
            components.load_model_state(self._model(), checkpoint.weights_of(found), str(path))
        except CheckpointError as error:
            then = found.get("class") if "format" in found else None
            written = f"\nWritten by {then}, read by {type(self).__name__}." if then else ""
            raise CheckpointError(f"{error}{written}") from None
        for callback in self.callbacks:
            average = found.get("averages", {}).get(type(callback).__name__) if "format" in found else None
            if average is not None and hasattr(callback, "load_model_state"):
                callback.load_model_state(self, average)
        epoch = f", epoch {found['epoch']}" if "format" in found else ""
        state.weights = f"{path}{epoch}"
        if chosen_by_user:
            state.chosen = state.weights

    def save_parallel_model(self, path: str | Path | None = None) -> Path:
        """Save the weights of a data-parallel model: the same file as `save_model` writes."""
        return self.save_model(path)

    def load_parallel_model(self) -> None:
        """Load the weights of a data-parallel model: any file that `load_model` reads."""
        self.load_model()

    def stop_train(self) -> None:
        """End training cleanly, after the hooks of the current batch; the epoch is still evaluated."""
        self._run_state.stop = True

    def stop_loader(self) -> None:
        """Read no further batch of the current loader; the run goes on."""
        self._run_state.stop_loader = True

    def exit_trainer(self) -> None:
        """End training like `stop_train`, and skip what is left of the epoch's evaluation."""
        self._run_state.leave = True

    # ---------------------------------------------------------------- what the base does around the hooks

    def __getattr__(self, name: str) -> Any:
        """Make ``batch``, ``inputs`` and ``targets`` from the item under way when no hook has set them.

        So a subclass may override the hook that takes the batch and still find them.
        """
        state = self.__dict__.get("_run_state")
        if state is not None and name in _READABLE:
            return self._epoch if name == "epoch" else getattr(state, _READABLE[name])
        if state is None or name not in _LENT or state.item is _NOTHING:
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'.{closest(name, vars(self))}")
        batch = self.batch if "batch" in state.lent else self.to_device(data.batch_of(state.item))
        found = {"batch": batch, **data.inputs_and_targets(batch)}
        if name not in found:
            raise DataError(
                f"{type(self).__name__}: self.{name} cannot be taken from the batch, {data.describe_batch(batch)}; "
                "expected a pair, or the keys 'inputs' and 'targets'. Set it in on_start_training_batch(self, item) "
                "(on_evaluate_batch_start, test_step), or override compute_loss to use self.batch."
            )
        missing = {key: value for key, value in found.items() if key not in self.__dict__}
        self.__dict__.update(missing)
        state.lent += tuple(missing)
        return missing[name]

    def _fire(self, event: str) -> None:
        """Call the callbacks that listen to an event."""
        for listener in self._run_state.listeners.get(event, ()):
            listener(self)

    def _combine(self, losses: dict[str, Any]) -> Any:
        """Return one loss of several, as ``_loss_weights`` says."""
        weights = self._loss_weights
        if isinstance(weights, Mapping):
            if set(weights) != set(losses):
                raise ConfigError(f"_loss_weights has the keys {list(weights)}, self.criterion has {list(losses)}.")
            return sum(weights[name] * loss for name, loss in losses.items())
        total = sum(losses.values())
        return total / len(losses) if weights == "mean" else total

    def _return_batch(self) -> None:
        """Forget what the base set for the last item, so that nothing stale is read."""
        for name in self._run_state.lent:
            self.__dict__.pop(name, None)
        self._run_state.lent = ()

    def _model(self) -> Any:
        """Return ``self.model``, or the networks that a trainer keeps under names of its own."""
        return self.model if self.model is not None else components.module_attributes(self)

    def _modules(self) -> tuple[Any, ...]:
        return components.each(self._model())

    def _follow(self, name: str, items: Iterable[Any] | None) -> Iterator[Any]:
        """Yield the items of one pass over a loader; between two of them, fold the metrics of the first."""
        if items is None:
            raise HookError(
                f"{type(self).__name__} has no {name} loader. Set self.{name}_loader in "
                f"{'get_testloader' if name == 'test' else 'get_trainloader'}(self)."
            )
        state = self._run_state
        training = name == "train"
        means = RunningMeans()
        # A pass inside another one's batch must not reset the metric objects that the outer one fills.
        nested = state.item is not _NOTHING
        objects = MetricObjects(copy.deepcopy(self.metrics) if nested else self.metrics, self.device)
        measured = bool(objects.metrics)
        losses = means["loss"]
        size_of = data.batch_size if checks.is_default(self, "batch_size_of") else self.batch_size_of
        # Where the default hook takes every batch, nothing of the last one can be left over.
        takes = training and checks.is_default(self, "train_batch", "on_start_training_batch")
        bar = self._bar(name, items)
        # Weakly: a strong reference would keep the last step's graph through the next step.
        seen, version = (
            (weakref.ref(self.loss), _version(self.loss)) if isinstance(self.loss, Tensor) else (_dead, None)
        )
        if isinstance(self.loss, (int, float)) and self.loss is not state.number:
            state.own_loss = True  # set before the loop: a running value of the subclass's own
        outer, state.loader, state.stop_loader = state.loader, name, False
        try:
            # stop_train() in on_train_epoch_start asks for no batch at all.
            for item in () if state.leave or (training and state.stop) else items:
                state.item = item
                if not takes and state.lent:
                    self._return_batch()
                if self.batch_metrics:
                    self.batch_metrics = {}
                if measured:
                    self.outputs = None
                if training:
                    state.step += 1
                yield item
                loss = self.loss
                if isinstance(loss, Tensor):
                    graph = loss.requires_grad
                    if seen() is not loss or (not graph and version != _version(loss)):
                        seen, version = weakref.ref(loss), None if graph else _version(loss)
                        if loss.numel() == 1 and "loss" not in self.batch_metrics:
                            samples = size_of(self.batch if "batch" in state.lent else data.batch_of(item))
                            if samples != losses.weight or len(losses.waiting) >= FOLD_EVERY:
                                losses.fold(samples)
                            # Without a graph it may be a buffer that the next batch writes over.
                            losses.waiting.append(loss.detach() if graph else loss.clone())
                elif isinstance(loss, (int, float)) and loss is not state.number and not state.own_loss:
                    state.number = loss
                    self.batch_metrics.setdefault("loss", loss)
                loss = None
                if self.batch_metrics:
                    batch = self.batch if "batch" in state.lent else data.batch_of(item)
                    means.update(self.batch_metrics, size_of(batch))
                if measured and self.outputs is not None:
                    objects.update(self.outputs, self.targets)
                if bar is not None:
                    bar.tick()
                if state.stop_loader or state.leave or (training and state.stop):
                    state.partial = state.leave and not training
                    break
        finally:
            state.item = _NOTHING
            state.loader, state.stop_loader = outer, False
            if bar is not None:
                bar.close()
        self.loader_metrics = {**means.compute(), **objects.compute()}
        self.epoch_metrics[name] = self.loader_metrics
        if training and not math.isfinite(self.loader_metrics.get("loss", 0.0)):
            self._report_nonfinite()

    def _report_nonfinite(self) -> None:
        named = [pair for m in self._modules() if isinstance(m, nn.Module) for pair in m.named_parameters()]
        bad = [name for name, parameter in named if not parameter.detach().isfinite().all()]
        message = (
            f"{type(self).__name__}: the training loss of epoch {self._epoch} (up to step {self.step}) is "
            f"{self.loader_metrics['loss']}, with lr {self.get_lr()}; {len(bad)} of {len(named)} parameters "
            f"are not finite{f', the first is {bad[0]}' if bad else ''}. Lower the learning rate, clip the gradients, "
            "check the inputs for NaN, or set self._on_nonfinite = 'warn' to go on."
        )
        if self._on_nonfinite == "raise":
            raise NonFiniteError(message)
        warnings.warn(message, stacklevel=5)

    def _bar(self, name: str, items: Iterable[Any]) -> Any:
        quiet = type(items).__name__.startswith("tqdm")  # a subclass shows a bar of its own
        epoch = f"epoch {self._epoch}/{self._num_epochs}" if name != "test" else ""
        return self._run_state.console.bar(name, data.length_of(items), epoch, quiet)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Eval mode without gradients; afterwards every sub-module has the flag that it had.

        Inside a training batch, the batch under way is given back too.
        """
        state = self._run_state
        modules = self._modules()
        flags = [(part, part.training) for module in modules for part in module.modules()]
        item, lent = state.item, state.lent
        held = _BATCH_ATTRIBUTES if item is not _NOTHING else ()
        under_way = {name: self.__dict__[name] for name in held if name in self.__dict__}
        try:
            for module in modules:
                module.eval()
            with torch.no_grad():
                yield
        finally:
            for part, flag in flags:
                part.training = flag
            if item is not _NOTHING:
                self.__dict__.update(under_way)
                state.item, state.lent = item, lent

    @contextlib.contextmanager
    def _single_batch(self, batch: Any) -> Iterator[None]:
        """Make `batch` the item under way, outside any loop."""
        state = self._run_state
        outer = state.item
        self._return_batch()
        self.batch_metrics = {}
        state.item = (0, batch)
        try:
            yield
        finally:
            state.item = outer

    def _step_result(self) -> dict[str, Any]:
        outputs = self.outputs.detach() if isinstance(self.outputs, Tensor) else self.outputs
        loss = self.loss.item() if isinstance(self.loss, Tensor) else self.loss
        return {"prediction": self.prediction_transform(outputs), "target": self.targets, "loss": loss}

    def _loss_problem(self) -> str | None:
        """Return what is wrong with ``self.loss``, None if nothing is."""
        loss = self.loss
        parameters = [p for module in self._modules() for p in module.parameters()]
        trainable = sum(p.requires_grad for p in parameters)
        if not isinstance(loss, Tensor):
            found = f"{loss!r}, a {type(loss).__name__}" if loss is not None else "None"
        elif loss.numel() != 1:
            found = f"a tensor of shape {tuple(loss.shape)}"
        elif not loss.requires_grad:
            found = f"a tensor without a gradient ({trainable} of {len(parameters)} parameters are trainable)"
        else:
            return None
        return (
            f"{type(self).__name__}.compute_loss returned {found}; expected a tensor with one element that depends on "
            "the model's parameters. Write return self.criterion(self.outputs, self.targets), and .mean() over samples."
        )

    # ---------------------------------------------------------------- the run: folder, records, terminal

    def _open_run(self) -> None:
        """Check all that can be known, make the run folder, print the header."""
        state = self._run_state
        state.stop = state.leave = False
        state.item = _NOTHING
        state.console.verbose, state.console.use_tqdm = self._verbose, self._use_tqdm
        checks.before_training(self)
        state.listeners = events.listeners(self.callbacks)
        state.exception = None
        if self._stages is not None:
            self._num_epochs = self._start_epoch - 1 + sum(stage.num_epochs for stage in self._stages)
        first = self._first_epoch()
        if state.done is not None and first > self._num_epochs and self._stages is None:
            self._num_epochs = state.done + max(0, self._num_epochs - self._start_epoch + 1)
        if self._logdir is not None and state.run is None:
            state.run = rundir.RunDir(self._logdir, type(self))
            self.run_dir = state.run.path
            state.run.describe(self.config.to_dict(), {name: getattr(self, name) for name in SETTINGS})
        state.saved = False
        state.touched, state.chosen = True, None
        parameters = sum(p.numel() for module in self._modules() for p in module.parameters())
        epochs = f"epochs {first} to {self._num_epochs}" if first <= self._num_epochs else "no epoch to train"
        state.console.line(f"{type(self).__name__}: {parameters:,} parameters on {self.device}, {epochs}")
        if self.run_dir is not None:
            state.console.line(f"files in {self.run_dir}")

    def _first_epoch(self) -> int:
        done = self._run_state.done
        return self._start_epoch if done is None else done + 1

    def _last_epoch(self) -> int:
        end = self._run_state.stage_end
        return self._num_epochs if end is None else end

    def _stage_by_stage(self) -> Iterator[None]:
        """Yield once per stage that is left, once in a run without stages."""
        state = self._run_state
        if self._evaluate_first and self._evaluation_is_due(first=True):
            self.evaluate_epoch()
            state.console.metrics("before the first step", self.epoch_metrics.get("valid", {}))
        if self._stages is None:
            yield
            return
        end = self._start_epoch - 1
        for stage in self._stages:
            end += stage.num_epochs
            if state.stop or state.leave or self._first_epoch() > end:
                continue
            state.stage, state.stage_end = stage, end
            before = {f"_{name}": getattr(self, f"_{name}") for name in stage.settings}
            vars(self).update({f"_{name}": value for name, value in stage.settings.items()})
            state.best = None  # another loss, maybe another metric
            state.console.line(f"\nstage {stage.name}: epochs {self._first_epoch()} to {end}")
            try:
                self.on_stage_start()
                self._fire("on_stage_start")
                yield
                self.on_stage_end()
                self._fire("on_stage_end")
            finally:
                vars(self).update(before)
                state.stage = state.stage_end = None

    def _start_epoch_clock(self) -> None:
        self._run_state.epoch_started = perf_counter()
        self._run_state.partial = False
        self._run_state.scheduler_marks = [_position(s) for s in components.each(self.scheduler)]
        self.epoch_metrics = {}

    def _evaluation_is_due(self, first: bool = False) -> bool:
        state = self._run_state
        if not self._has_eval or state.leave or (self._epoch % self._eval_interval and not first):
            return False
        own = not checks.is_default(self, "evaluate_epoch") or not checks.is_default(self, "on_evaluate_epoch_start")
        if self.valid_loader is None and self.valid_epoch_iter is None and not own:
            state.console.once("no evaluation: there is no valid loader (set self.valid_loader)")
            return False
        return True

    def _record_epoch(self) -> None:
        """Add this epoch to the history, before on_epoch_end, which may still add to its dicts."""
        state = self._run_state
        state.history.append(
            {
                "epoch": self._epoch,
                "train": self.epoch_metrics.get("train", {}),
                "valid": self.epoch_metrics.get("valid", {}),
                "lr": self.get_lr(),
                "seconds": perf_counter() - state.epoch_started,
            }
        )

    def _step_schedulers(self, entry: dict[str, Any]) -> None:
        """Step the schedulers that move per epoch, except those that a hook has stepped in this epoch."""
        if self._scheduler_step != "epoch":
            return
        for scheduler, mark in zip(components.each(self.scheduler), self._run_state.scheduler_marks, strict=False):
            if _position(scheduler) != mark:
                continue
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                name, _, value = self._monitored(entry)
                if value is not None:
                    scheduler.step(value)
                elif self._monitor is None and self._eval_interval == 1:
                    raise ConfigError(f"ReduceLROnPlateau needs a metric, and there is no {name!r}; set self._monitor.")
            else:
                scheduler.step()

    def _finish_epoch(self) -> None:
        """After on_epoch_end: find the best epoch, save, print and write the epoch's line."""
        state = self._run_state
        state.done = self._epoch
        if not state.history or state.history[-1]["epoch"] != self._epoch:
            return  # a subclass with a train_epoch of its own
        entry = state.history[-1]
        self._step_schedulers(entry)
        best = not state.partial and self._is_best(entry)
        if state.run is not None:
            last = self._epoch >= self._num_epochs or state.stop or state.leave
            if best or last or self._epoch % self._save_epoch == 0:
                self._save_checkpoint(state.run, best)
            state.run.append({**entry, "best": best})
        state.console.epoch(entry, self._num_epochs, best)

    def _monitored(self, entry: dict[str, Any]) -> tuple[str, str, float | None]:
        """Return name, part and value of the monitored metric in an epoch, None where it was not evaluated."""
        name = self._monitor or "loss"
        part = "valid" if name in entry["valid"] else "train"
        value = entry[part].get(name)
        if isinstance(value, (int, float)):
            return name, part, value
        there = list(dict.fromkeys([*entry["train"], *entry["valid"]]))
        waits = self._has_eval and not entry["valid"] and self._eval_interval > 1
        if self._monitor is not None and not waits:
            raise ConfigError(
                f"_monitor is {name!r}, but no such metric was recorded in epoch {self._epoch}."
                f"{closest(name, there)} There are: {', '.join(there) or 'none'}."
            )
        return name, part, None

    def _is_best(self, entry: dict[str, Any]) -> bool:
        state = self._run_state
        name, part, value = self._monitored(entry)
        if value is None or value != value or (state.best is not None and state.best[0] == "valid" and part == "train"):
            return False
        if state.best is None or state.best[0] != part or improves(name, value, state.best[2], self._monitor_mode):
            state.best = (part, name, value, self._epoch)
            return True
        return False

    def _save_checkpoint(self, run: rundir.RunDir, best: bool) -> None:
        if self._modules():
            self.save_checkpoint(run.last)
            if best:
                checkpoint.link_durably(run.last, run.best)

    def _end_run(self, error: BaseException | None = None) -> None:
        """Run every on_train_end and close, also when one raises; the first error wins."""
        state = self._run_state
        state.exception = error
        steps: list[Any] = [partial(listener, self) for listener in state.listeners.get("on_train_end", ())]
        steps.insert(0, self.on_train_end)
        if error is not None:
            steps[:0] = [partial(listener, self) for listener in state.listeners.get("on_exception", ())]
        else:
            steps.append(self._close_run)
        first = error
        for step in [*steps, *(callback.close for callback in self.callbacks)]:
            try:
                step()
            except Exception as further:
                if first is None:
                    first = further
                else:
                    print("another error, after the one that ends the run:", file=sys.stderr)
                    traceback.print_exception(further)
        state.exception = first
        if error is None and first is not None:
            raise first

    def _close_run(self) -> None:
        """Write the weights and the curves, print where everything is."""
        state = self._run_state
        if self._load_best and state.run is not None and state.run.best.is_file():
            self.load_model(state.run.best)
        if state.run is not None and state.history:
            if not state.saved and self._modules():
                checkpoint.save(components.model_state(self._model()), state.run.weights)
            self._draw_curves(state.run)
        closing = []
        if state.best is not None:
            part, name, value, epoch = state.best
            closing.append(f"best (*) {part} {name} {number(value)} in epoch {epoch}")
        elif self._num_epochs < self._start_epoch:
            closing.append("no epoch was asked for, no step was taken")
        closing.append(seconds(sum(entry["seconds"] for entry in state.history)))
        state.console.line("\n" + ", ".join(closing))
        if self.run_dir is not None:
            state.console.line(f"files in {self.run_dir}")

    def _draw_curves(self, run: rundir.RunDir) -> None:
        from . import plots

        best = self._run_state.best
        try:
            plots.save(
                plots.curves(self._run_state.history, best[3] if best else None), run.path / "plots" / "curves.png"
            )
        except ImportError as error:
            self._run_state.console.once(f"no curves: {error}. Install them: pip install matplotlib")

    def _weights_to_test(self) -> Path | None:
        """Return the file that load_model() loads without a path, None for the weights in memory."""
        state = self._run_state
        if state.chosen is not None:
            return None
        if state.run is not None and state.run.best.is_file():
            return state.run.best
        if state.touched:
            return None
        if self._model_path is not None:
            return Path(self._model_path)
        return rundir.newest_weights(self._logdir, type(self)) if self._logdir is not None else None

    def _open_test(self) -> None:
        state = self._run_state
        state.leave = False
        state.item = _NOTHING
        state.weights = ""
        state.listeners = events.listeners(self.callbacks)
        state.console.verbose, state.console.use_tqdm = self._verbose, self._use_tqdm
        if self.test_loader is None and self.test_loop_iter is None:
            if checks.is_default(self, "on_test_start", "test_loop"):
                raise HookError(
                    f"{type(self).__name__} has no test loader. Write def get_testloader(self): "
                    "self.test_loader = DataLoader(dataset, batch_size=32)."
                )

    def _close_test(self) -> dict[str, Any]:
        state = self._run_state
        metrics = self.epoch_metrics.pop("test", {})
        state.console.line()
        state.console.metrics("test", metrics)
        if state.weights:
            state.console.line(f"weights: {state.weights}")
        if state.run is not None:
            state.run.append({"test": metrics, "weights": state.weights})
        return metrics


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor without a graph was written to, None for one that does not count it."""
    return None if tensor.is_inference() else tensor._version


def _position(scheduler: Any) -> int:
    return getattr(scheduler, "last_epoch", 0)


_NO_CONTEXT = contextlib.nullcontext()
