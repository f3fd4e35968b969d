"""`ConvnetTrainer`: the life of a run, in the order in which it happens.

Read it from top to bottom: settings, building, training, evaluation, test, the single batch, the native
methods, and last what the base does around the hooks. A hook's default body does nothing that a run needs,
so an override never has to call ``super()``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import checkpoint, components, compute, data, distributed, plots, summary
from .callbacks import dispatch
from .checkpoint import sharded
from .checks import hooks
from .checks import loss as loss_checks
from .checks import run as run_checks
from .checks import settings as setting_checks
from .config.config import Config
from .config.settings import SETTINGS, Settings
from .data import output_spec, worker_processes
from .distributed import ddp
from .distributed import loaders as rank_loaders
from .errors import ConfigError, DataError, HookError
from .loggers import run as loggers
from .loop import batch as loop_batch
from .loop import evaluation, loader_pass
from .loop.properties import Lent, Read, ReadEpoch, ReadLoggers, ReadStep
from .optim import steps as optim_steps
from .resume import data as resume_data
from .resume import saving
from .state import rank_requests, run_state, signals
from .training import drawing, epochs, monitor, testing
from .training import run as run_ends
from .training import stages as stage_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_ATTRIBUTES = (
    *("train_loader", "valid_loader", "test_loader", "train_epoch_iter", "valid_epoch_iter", "test_loop_iter"),
    *("model", "criterion", "optimizer", "scheduler", "metrics", "device", "outputs", "loss", "run_dir"),
    "input_spec",
)


class ConvnetTrainer(Settings):
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
    loggers : Loggers
        Gives images, figures, texts and numbers to the loggers of the run: ``self.loggers.images("inputs", x)``.
    exception : BaseException or None
        What ends the run, for ``on_exception`` and ``on_train_end``.
    run_dir : pathlib.Path or None
        The folder of this run.
    input_spec : dict or None
        How a picture becomes an input, and what the outputs mean: ``{"mode": "L", "size": [8, 8]}``, by the names of
        `InputSpec` and `OutputSpec`. The run folder holds it; `prepare_input` goes by it.

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

    # What a run fills in; the settings are those of `Settings`.
    train_loader: Any
    valid_loader: Any
    test_loader: Any
    train_epoch_iter: Any
    valid_epoch_iter: Any
    test_loop_iter: Any
    model: Any
    criterion: Any
    optimizer: Any
    scheduler: Any
    callbacks: Any
    metrics: Any
    device: Any
    batch: Any = Lent("batch")
    inputs: Any = Lent("inputs")
    targets: Any = Lent("targets")
    epoch: Any = ReadEpoch("epoch")
    step: Any = ReadStep("step")
    loader_name: Any = Read("loader")
    stage: Any = Read("stage")
    loggers: Any = ReadLoggers("recording")
    exception: Any = Read("exception")
    outputs: Any
    loss: Any
    batch_metrics: dict[str, Any]
    loader_metrics: dict[str, Any]
    epoch_metrics: dict[str, dict[str, Any]]
    history: list[dict[str, Any]]
    run_dir: Path | None
    input_spec: Any

    def __init__(self, config: Any = None) -> None:
        hooks.check_signatures(self)
        self._run_state = run_state.RunState(**vars(self).pop("_from_launch", {}))
        self.config = Config(config)
        ConvnetTrainer.default_attr(self)
        if not hooks.is_default(self, "default_attr"):
            self.default_attr()
        self.init_attr()
        self._run_state.launched.settle(self)
        setting_checks.check_settings(self)
        self._run_state.console.verbose = self._verbose
        hooks.warn_misspelt_settings(self, SETTINGS)
        devices = compute.device_list(self._data_parallel)
        asked = distributed.own_device(devices[0] if devices else self.device or self._device)
        self.device = compute.resolve_device(asked)
        distributed.start(self.device, self._dist_timeout)
        compute.seed_everything(self._seed)
        self.get_trainloader()
        self.get_testloader()
        rank_loaders.shard_loaders(self)
        resume_data.note_loaders(self)
        self._run_state.launched.before_build(self)
        if self._data_parallel:
            self.build_parallel_model()
        else:
            self.build_model()
        self._run_state.launched.after_build(self)
        run_checks.check_model(self)
        compute.prepare_modules(self)
        ddp.replicate(self)
        optim_steps.bind(self)
        own = vars(self)
        self._run_state.given = {name: own[name] for name in loop_batch.BATCH_PARTS if own.get(name) is not None}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hooks.warn_misspelt_hooks(cls)

    # ---------------------------------------------------------------- settings

    def default_attr(self) -> None:
        """Give every setting its default, before any code of a subclass runs."""
        state = self._run_state
        fresh = {
            "batch_metrics": {},
            "loader_metrics": {},
            "epoch_metrics": {},
            "callbacks": [],
            "history": state.history,
        }
        for name, value in {**SETTINGS, **dict.fromkeys(_ATTRIBUTES), **fresh}.items():
            given = getattr(type(self), name, value)
            # What a subclass set before or as a class attribute stays; a property of its own is its own.
            if name not in vars(self) and not isinstance(given, property):
                setattr(self, name, given)

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
        """Set what concerns devices and speed: ``_device``, ``_precision``, ``_compile``. Called by `init_attr`."""

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
        if not components.modules_of(self):
            raise HookError(
                f"{type(self).__name__} does not override build_model. Write def build_model(self): "
                "self.model = MyNetwork(), and set self.criterion and self.optimizer there too."
            )

    def build_parallel_model(self) -> None:
        """Build the model for several GPUs: by default `build_model`, every module in ``torch.nn.DataParallel``.

        Called by the constructor in place of `build_model` when ``_data_parallel`` is set.
        """
        self.build_model()
        run_checks.check_model(self)
        devices = compute.device_list(self._data_parallel)
        if isinstance(self.model, Mapping):
            self.model = {
                name: compute.data_parallel(module, devices, self.device) for name, module in self.model.items()
            }
        elif self.model is not None:
            self.model = compute.data_parallel(self.model, devices, self.device)
        if self.device.type != "cuda":
            self._run_state.console.once(f"_data_parallel is set, but there is no GPU: running on {self.device}.")

    # ---------------------------------------------------------------- training

    def train(self, resume: bool | str | Path = False, other_data: bool = False) -> list[dict[str, Any]]:
        """Train from ``_start_epoch`` to ``_num_epochs``.

        Called again, it goes on counting: after `stop_train` with the epochs that are left, else with as many
        again. Ctrl-C and SIGTERM end it after the running step, which is saved; SIGUSR1 saves and goes on.

        Parameters
        ----------
        resume : bool or path
            True goes on with the newest run of this class that did not finish; where there is none, a new one
            starts. A path, of a checkpoint or of a run's folder, goes on with that. The run continues after the
            last step that was saved, with the weights, random numbers and metrics of a run that never stopped.
        other_data : bool
            Go on although a loader has other samples than when the checkpoint was written. Without it a split by
            indices gets its indices back, and any other difference is a DataError.

        Returns
        -------
        list of dict
            The history, one dict per epoch.

        Raises
        ------
        HookError, ConfigError, DataError
            Before the first step, for what can be known then. What a hook raises comes out unchanged.
        FileNotFoundError, CheckpointError
            If there is nothing to resume at the path, or nothing intact.
        """
        run_checks.check_built(self)
        with signals.handled(self._run_state.requests), worker_processes.workers_watched():
            run_ends.open_run(self, resume, other_data)
            try:
                loggers.start(self)
                self.on_train_start()
                dispatch.fire(self, "on_train_start")
                self.start_logger()
                loggers.start(self)  # those that the hook named
                for _ in stage_runs.stage_by_stage(self):
                    self.train_loop()
            except BaseException as error:
                with worker_processes.deaf_to_workers():
                    run_ends.end_run(self, error)
                raise
            run_ends.end_run(self)
        return self._run_state.history

    def on_train_start(self) -> None:
        """Called once by `train`, before anything else."""

    def start_logger(self) -> None:
        """Start loggers of your own, or set ``_loggers``. Called once by `train`, after `on_train_start`.

        Those that are in ``_loggers`` before have been started before `on_train_start`.
        """

    def on_stage_start(self) -> None:
        """Called before each stage of a run with ``_stages``: change losses, optimizers, loaders, freeze parts here."""

    def train_loop(self) -> None:
        """Run `train_epoch` for every epoch, until the last one or `stop_train`."""
        state = self._run_state
        if run_state.first_epoch(self) > run_state.last_epoch(self):
            return  # what ends the run finds the last epoch that was done
        self._epoch = run_state.first_epoch(self)
        while self._epoch <= run_state.last_epoch(self) and not (state.requests.ends_run):
            self.train_epoch()
            epochs.finish_epoch(self)
            if self._epoch >= run_state.last_epoch(self) or state.requests.ends_run:
                break
            self._epoch += 1

    def on_stage_end(self) -> None:
        """Called after each stage of a run with ``_stages``."""

    def train_epoch(self) -> None:
        """Run one epoch: every train batch, then the evaluation when it is due."""
        epochs.start_epoch(self)
        for module in components.modules_of(self):
            module.train()
        self.train_epoch_iter = loader_pass.prepare_items(self, "train", self.train_loader, self.train_epoch_iter)
        self.on_train_epoch_start()
        dispatch.fire(self, "on_train_epoch_start")
        for item in loader_pass.follow(self, "train", self.train_epoch_iter):
            self.train_batch(item)
        if epochs.training_ends(self):  # a resumed epoch may have come to its evaluation before
            self.on_train_epoch_end()
            dispatch.fire(self, "on_train_epoch_end")
        rank_requests.agree(self)
        epochs.begin_evaluation(self)
        if monitor.evaluation_is_due(self):
            with evaluation.of_epoch(self):
                self.evaluate_epoch()
        epochs.add_to_history(self)
        self.on_epoch_end()
        dispatch.fire(self, "on_epoch_end")
        epochs.finish_epoch(self)

    def on_train_epoch_start(self) -> None:
        """Called before the batches of an epoch; ``self.train_epoch_iter`` may be set or wrapped here.

        The modules are in train mode already: freeze batch norm layers here, for example.
        """

    def train_batch(self, item: Any) -> None:
        """Run the three hooks of one training batch, unless one before the last has set ``_next_loop``."""
        state = self._run_state
        listeners = state.listeners
        self.on_start_training_batch(item)
        if "on_start_training_batch" in listeners:
            dispatch.fire(self, "on_start_training_batch")
        if self._next_loop:
            loader_pass.skip_batch(self)
            return
        if state.ranks is not None:
            state.ranks.agreement.training = True
        self.training_step()
        if self._next_loop:
            loader_pass.skip_batch(self)
            return
        state.progress.trained_step = state.progress.step
        self.on_end_training_batch()
        if "on_end_training_batch" in listeners:
            dispatch.fire(self, "on_end_training_batch")

    def on_start_training_batch(self, item: Any) -> None:
        """Take the batch: set ``self.batch``, ``self.inputs``, ``self.targets``. Called first for every batch.

        Set ``self._next_loop = True`` to skip it.

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
        """Called last for every training batch, except skipped ones."""

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
        with evaluation.measuring(self, "valid"):
            self.valid_epoch_iter = loader_pass.prepare_items(self, "valid", self.valid_loader, self.valid_epoch_iter)
            self.on_evaluate_epoch_start()
            dispatch.fire(self, "on_evaluate_epoch_start")
            for item in loader_pass.follow(self, "valid", self.valid_epoch_iter):
                self.on_evaluate_batch_start(item)
                dispatch.fire(self, "on_evaluate_batch_start")
                if self._next_loop:
                    loader_pass.skip_batch(self)
                    continue
                self.evaluate_batch(item)
                if self._next_loop:
                    loader_pass.skip_batch(self)
                    continue
                self.on_evaluate_batch_end()
                dispatch.fire(self, "on_evaluate_batch_end")
            self.on_evaluate_epoch_end()
            dispatch.fire(self, "on_evaluate_epoch_end")
            metrics = self.epoch_metrics.get("valid", {})
        epochs.note_evaluation(self, metrics)
        return metrics

    def on_evaluate_epoch_start(self) -> None:
        """Called before the valid batches; ``self.valid_epoch_iter`` may be set or wrapped here."""

    def on_evaluate_batch_start(self, item: Any) -> None:
        """Take the batch, as `on_start_training_batch` does. Set ``self._next_loop = True`` to skip it."""
        self.take_batch(item)

    def evaluate_batch(self, item: Any) -> None:
        """Evaluate one batch: by default `compute_loss`."""
        with self.autocast():
            self.loss = self.compute_loss()
        loss_checks.check_loss(self)

    def on_evaluate_batch_end(self) -> None:
        """Called after every valid batch, except skipped ones."""

    def on_evaluate_epoch_end(self) -> None:
        """Called after the last valid batch; ``self.epoch_metrics["valid"]`` is there."""

    def evaluate_loader(self, loader: Any) -> dict[str, Any]:
        """Evaluate on any loader by `evaluate_epoch`, and leave the trainer as it was, random numbers included.

        Parameters
        ----------
        loader : iterable of batches

        Returns
        -------
        dict
            The metrics.
        """
        return evaluation.evaluate_loader(self, loader)

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
        run_checks.check_built(self)
        state = self._run_state
        testing.open_test(self)
        with loggers.during_test(self):
            inside = evaluation.is_inside(self)
            outer, state.running = state.running, "test"
            exit_asked, state.requests.exit_asked = state.requests.exit_asked, False
            try:
                if self._data_parallel:
                    self.load_parallel_model()
                else:
                    self.load_model()
                with (
                    signals.handled(state.requests),
                    compute.determinism(self._deterministic),
                    evaluation.measuring(self, "test", inside),
                ):
                    self.test_loop_iter = loader_pass.prepare_items(self, "test", self.test_loader, self.test_loop_iter)
                    self.on_test_start()
                    dispatch.fire(self, "on_test_start")
                    self.test_loop()
                    self.on_test_end()
                    dispatch.fire(self, "on_test_end")
                    rank_requests.agree(self)
            finally:
                state.running, state.requests.exit_asked = outer, exit_asked and outer is not None
            return testing.close_test(self)

    def on_test_start(self) -> None:
        """Called before the test batches; ``self.test_loop_iter`` may be set or wrapped here."""

    def test_loop(self) -> None:
        """Run the three hooks of every test batch."""
        for item in loader_pass.follow(self, "test", self.test_loop_iter):
            self.on_start_test_batch()
            dispatch.fire(self, "on_start_test_batch")
            if self._next_loop:
                loader_pass.skip_batch(self)
                continue
            self.test_step(item)
            if self._next_loop:
                loader_pass.skip_batch(self)
                continue
            self.on_end_test_batch()
            dispatch.fire(self, "on_end_test_batch")

    def on_start_test_batch(self) -> None:
        """Called before every `test_step`. Set ``self._next_loop = True`` to skip the batch."""

    def test_step(self, item: Any) -> None:
        """Test one batch: by default take it and `compute_loss`."""
        self.take_batch(item)
        with self.autocast():
            self.loss = self.compute_loss()
        loss_checks.check_loss(self)

    def on_end_test_batch(self) -> None:
        """Called after every `test_step`, except skipped ones."""

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
        for module in components.modules_of(self):
            if not module.training:
                module.train()
        with loop_batch.single_batch(self, batch), optim_steps.of_single_batch(self):
            self.on_start_training_batch((0, batch))
            if not self._next_loop:
                self.training_step()
            self._run_state.trained, self._run_state.loaded = True, None
            return loop_batch.step_result(self)

    def val_step(self, batch: Any) -> dict[str, Any]:
        """Evaluate one batch, outside any loop: `train_step`'s result, without gradients and weights' update."""
        with (
            evaluation.averaged_weights(self),
            evaluation.metric_objects_kept(self),
            evaluation.evaluation(self),
            loop_batch.single_batch(self, batch),
        ):
            self.on_evaluate_batch_start((0, batch))
            if not self._next_loop:
                self.evaluate_batch((0, batch))
            return loop_batch.step_result(self)

    def predict(self, batches: Any) -> Iterator[Any]:
        """Yield the prediction for every batch, in eval mode and without gradients, by the averages of an `EMA`.

        Parameters
        ----------
        batches : loader or batch
            A tensor, a mapping, or a list or tuple that starts with a tensor is one batch; any other
            iterable is a loader of batches. Targets in a batch are not used.

        Yields
        ------
        Tensor or whatever `prediction_transform` returns

        Raises
        ------
        DataError
            For None, a loader that was not set.
        """
        if batches is None:
            raise DataError("predict got None; expected a batch or a loader. Is self.test_loader set?")
        for batch in (
            [batches]
            if data.is_batch(batches)
            else data.read_batches(loader_pass.apart(self, rank_loaders.unsharded(batches)))
        ):
            with (
                evaluation.averaged_weights(self),
                evaluation.evaluation(self),
                loop_batch.single_batch(self, batch),
                self.autocast(),
            ):
                self.take_batch((0, batch))
                prediction = self.prediction_transform(self.forward())
            yield prediction

    def prediction_transform(self, outputs: Any) -> Any:
        """Turn the model's outputs into predictions, by a sigmoid say. The default returns them as they are."""
        return outputs

    def prepare_input(self, image: Any) -> Tensor:
        """Turn a picture into an input, by ``self.input_spec``; override it for a way of your own.

        Called for pictures by ``farabio-like predict``, by a service and by a queue.

        Parameters
        ----------
        image : PIL.Image.Image
            Turned as its camera says. The default body takes a path, the bytes of a file and an array too.

        Returns
        -------
        Tensor
            One input, without a batch: channels x height x width.

        Raises
        ------
        ConfigError
            Where no ``input_spec`` says how a picture becomes an input.
        """
        return output_spec.Description.of(self.input_spec).prepare(image, type(self).__name__)

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
            self._run_state.lent = loop_batch.BATCH_PARTS
            return
        loop_batch.return_batch(self)
        found = {"batch": batch, **data.inputs_and_targets(batch)}
        self.__dict__.update(found)
        self._run_state.lent = tuple(found)

    def to_device(self, batch: Any) -> Any:
        """Return the batch with its tensors on ``self.device``; containers keep their types."""
        device = self.device
        if self._channels_last:
            return data.move(batch, device, torch.channels_last)
        for part in batch if type(batch) in (list, tuple) else (batch,):
            if not isinstance(part, Tensor) or part.device != device:
                return data.move(batch, device)
        return batch

    def batch_size_of(self, batch: Any) -> int:
        """Return the number of samples in a batch, by which means, accumulation and processes weigh it.

        It is the first dimension of its tensors, or the length of lists of samples. Where these do not agree, it is
        what the loader has put into the batch; where that is not known, a guess, of which a warning tells.
        """
        counter = self._run_state.counter
        return data.batch_size(batch) if counter is None else counter.count(batch)

    def forward(self) -> Any:
        """Return the model's outputs for ``self.inputs``; override it where several models follow each other.

        Called by `compute_loss` and `predict`.
        """
        model = self.model
        if isinstance(model, nn.Module):
            return model(self.inputs)
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
        outputs = self.outputs = self.forward()
        criterion, targets = self.criterion, self.targets
        if targets is None or criterion is None:
            missing = "self.targets is None" if criterion is not None else "self.criterion is None"
            raise HookError(
                f"{type(self).__name__}.compute_loss: {missing}. Override compute_loss to return a loss without it."
            )
        state = self._run_state
        if criterion is not state.criterion:
            state.criterion, state.compares_elements = criterion, loss_checks.compares_elements(criterion)
        if state.compares_elements and getattr(outputs, "shape", None) != getattr(targets, "shape", None):
            loss_checks.check_shapes(self)
        if isinstance(criterion, dict):
            losses = {name: part(outputs, targets) for name, part in criterion.items()}
            self.batch_metrics.update({f"loss_{name}": loss for name, loss in losses.items()})
            return components.combine(losses, self._loss_weights)
        return criterion(outputs, targets)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which losses are computed, by ``_precision``; override it for one of your own."""
        steps = self._run_state.stepping
        return _NO_CONTEXT if steps is None else steps.autocast(self)

    def optimizer_zero_grad(self) -> None:
        """Clear the gradients of every optimizer, where a window of accumulated batches begins.

        Within `only`, it clears those of the chosen optimizers.
        """
        steps = self._run_state.stepping
        if steps is not None:
            steps.zero_grad(self)
            return
        optimizer = self.optimizer
        if isinstance(optimizer, dict):
            for part in optimizer.values():
                part.zero_grad()
        elif optimizer is not None:
            optimizer.zero_grad()

    def loss_backward(self) -> None:
        """Backpropagate ``self.loss``, weighted and scaled as accumulation and fp16 need it.

        Raises
        ------
        HookError
            If it is no scalar tensor with a gradient.
        """
        steps = self._run_state.stepping
        try:
            (self.loss if steps is None else steps.weighed(self, self.loss)).backward()
        except (RuntimeError, AttributeError) as error:
            problem = loss_checks.loss_problem(self)
            if problem is None:
                raise
            raise HookError(problem) from error
        if steps is not None:
            steps.backpropagated(self)

    def clip_gradients(self, norm: float | None = None, value: float | None = None) -> Any:
        """Clip the gradients of each optimizer, between `loss_backward` and `optimizer_step` of a step of your own.

        With fp16 they are unscaled before, and where batches are accumulated they are the mean of the window: what is
        clipped is what the step is made with. In a batch that does not fill its window nothing is done yet. Within
        `only`, it concerns the chosen optimizers. The base clips by itself where ``_clip_norm`` or ``_clip_value`` is
        set.

        Parameters
        ----------
        norm : float, optional
            The largest norm of an optimizer's gradients.
        value : float, optional
            The largest absolute value of an element, in place of `norm`. Without both, it is what ``_clip_norm`` or
            ``_clip_value`` says.

        Returns
        -------
        Tensor, None, or dict of Tensor
            The norm before; None in a batch that does not fill its window. For a dict of optimizers a dict of those
            that are stepped in this batch.

        Raises
        ------
        ConfigError
            For neither or both of the arguments, or a number that is not above 0.
        """
        return optim_steps.clip(self, norm, value)

    def optimizer_step(self) -> None:
        """Step every optimizer whose window of accumulated batches is full, with its gradients clipped.

        Within `only`, it steps the chosen optimizers. A scheduler that moves per step follows its optimizer. With
        fp16, an overflow leaves out the step.
        """
        steps = self._run_state.stepping
        if steps is not None:
            steps.step(self)
            return
        optimizer = self.optimizer
        if isinstance(optimizer, dict):
            for part in optimizer.values():
                part.step()
        elif optimizer is not None:
            optimizer.step()
        else:
            raise HookError(loss_checks.no_optimizer(self))
        if self.scheduler is not None and self._scheduler_step == "step":
            for scheduler in components.each(self.scheduler):
                scheduler.step()

    def only(self, *names: str) -> contextlib.AbstractContextManager[None]:
        """Train the parameters of these optimizers alone, for the steps of a GAN: the others get no gradients.

        Inside, `optimizer_zero_grad` and `optimizer_step` concern these optimizers only.

        Parameters
        ----------
        *names : str
            Keys of ``self.optimizer``.

        Examples
        --------
        ``with self.only("discriminator"): self.discriminator_loss().backward()``
        """
        return optim_steps.only(self, names)

    def get_lr(self) -> Any:
        """Return the learning rate: a float, a list for several parameter groups, a dict for several optimizers."""
        return components.learning_rates(self.optimizer)

    def set_lr(self, lr: Any) -> None:
        """Set the learning rate, in the form that `get_lr` returns; one number sets every group.

        Raises
        ------
        ConfigError
            If there is another number of groups, or no such optimizer, or for what is no number from 0 on.
        """
        components.set_learning_rates(self.optimizer, lr)

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
        run = self._run_state.folder
        if path is None and run is None:
            raise ConfigError("save_model() has no run folder to write to; give a path: save_model('model.pth').")
        target = Path(path) if path is not None else run.weights  # type: ignore[union-attr]
        self._run_state.saved = self._run_state.saved or (run is not None and target == run.weights)
        checkpoint.save(sharded.whole_state(evaluation.weights_to_save(self)), target)
        return target

    def save_checkpoint(self, path: str | Path) -> Path:
        """Save everything that the next step depends on; `train` goes on from it by ``resume=path``.

        Asked for within a training batch, or in `on_train_epoch_end`, it is done when the hooks and callbacks are. A
        file of an evaluation, or of `on_epoch_end`, holds what there was when the evaluation began, with the weights
        of the training, whatever hooks have put into the model since: a run that goes on begins it anew.

        Returns
        -------
        Path
        """
        saving.save_checkpoint(self, Path(path).absolute())  # it may be done when a hook has changed the folder
        return Path(path)

    def load_model(self, path: str | Path | None = None) -> None:
        """Load weights, whatever wrapper saved them and whatever wraps the model now.

        Parameters
        ----------
        path : path, optional
            Without it: the best weights of this run; where this process has trained or loaded some on purpose,
            those in memory; ``_model_path``; the newest run of this class. Else the weights stay as they are.
            Called by `test` within an epoch of `train`: those in memory, with which the training goes on.

        Raises
        ------
        FileNotFoundError
            Listing the files that are there.
        CheckpointError
            If the file is damaged or of another architecture; the model is unchanged.
        """
        testing.load_weights(self, path)

    def save_parallel_model(self, path: str | Path | None = None) -> Path:
        """Save the weights of a data-parallel model: the same file as `save_model` writes."""
        return self.save_model(path)

    def load_parallel_model(self) -> None:
        """Load the weights of a data-parallel model: any file that `load_model` reads."""
        self.load_model()

    def summary(self, depth: int = 3) -> summary.Summary:
        """Return the layers with output shapes, parameters and memory; ``print(trainer.summary())`` is a table.

        Parameters
        ----------
        depth : int
            How deep to go into modules within modules.

        Returns
        -------
        farabio_like.summary.Summary
        """
        return summary.summarize(self, depth)

    def plot_history(self) -> Figure:
        """Return the curves of the history, train and valid together, as a ``matplotlib.figure.Figure``.

        A notebook shows it; ``trainer.plot_history().savefig("curves.png")`` writes it.
        """
        return plots.curves(self._run_state.history, drawing.best_place(self))

    def stop_train(self) -> None:
        """End training cleanly, after the hooks of the current batch; the epoch is still evaluated."""
        self._run_state.requests.stop = True

    def stop_loader(self) -> None:
        """Read no further batch of the current loader; the run goes on."""
        self._run_state.requests.stop_loader = True

    def exit_trainer(self) -> None:
        """End training like `stop_train`, and skip what is left of the epoch's evaluation."""
        self._run_state.requests.exit_asked = True


hooks.note_base(ConvnetTrainer)
_NO_CONTEXT = contextlib.nullcontext()
