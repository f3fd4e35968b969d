"""Averages of the weights over a run: exponential over steps, equal over epochs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import components, data, loop
from ..errors import CheckpointError, ConfigError
from ..rng import preserved_rng
from .base import Callback, CallbackOrder
from .freezing import named_parameters

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class _Average(Callback):
    """An average of the floating point parameters, kept beside the model on the same device."""

    order = CallbackOrder.Internal

    def __init__(self) -> None:
        self._averages: dict[str, Tensor] = {}  # by plain name; empty before the first update
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []  # averages and weights of one device and dtype
        self._mark: list[tuple[int, int]] = []  # identity and version of the weights that the average belongs to

    def model_state(self, trainer: ConvnetTrainer) -> dict[str, Any]:
        """Return the averaged model as a plain ``state_dict`` (a dict of them for several models).

        Parameters are the averages, buffers the model's own. Empty before the first update.
        """
        if not self._averages:
            return {}
        self._bind(trainer)
        average_of = {id(w): a for averages, weights in self._groups for a, w in zip(averages, weights, strict=True)}
        model = components.model_of(trainer)
        if isinstance(model, Mapping):
            return {str(name): _averaged(module, average_of) for name, module in model.items()}
        return _averaged(model, average_of)

    def load_model_state(self, trainer: ConvnetTrainer, state: Mapping[str, Any]) -> None:
        """Take back what `model_state` gave, after the model has its own weights again.

        Raises
        ------
        CheckpointError
            For the state of another model.
        """
        self._forget()
        if not state:
            return
        model = components.model_of(trainer)
        flat = dict(state)
        if isinstance(model, Mapping):
            flat = {f"{name}.{key}": value for name, part in state.items() for key, value in part.items()}
        for name, weight in _averageable(trainer).items():
            average = flat.get(name)
            if not isinstance(average, Tensor) or average.shape != weight.shape:
                got = tuple(average.shape) if isinstance(average, Tensor) else "nothing"
                raise CheckpointError(
                    f"the averages of {type(self).__name__} do not fit the model: for {name} they hold {got}, "
                    f"the model has {tuple(weight.shape)}."
                )
            self._averages[name] = average.detach().to(weight.device, weight.dtype, copy=True)
        self._bind(trainer)
        self._sign(trainer)

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Begin a new average where the weights are not those that the old one belongs to."""
        if not self._belongs_to(trainer):
            self._forget()

    def _forget(self) -> None:
        self._averages, self._groups, self._mark = {}, [], []

    def _bind(self, trainer: ConvnetTrainer) -> None:
        """Pair averages and weights; a weight that has no average yet begins one."""
        weights = _averageable(trainer)
        kept = self._averages
        self._averages = {}
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for name, weight in weights.items():
            average = kept.get(name)
            if average is None or (average.shape, average.dtype, average.device) != (
                weight.shape,
                weight.dtype,
                weight.device,
            ):
                average = weight.detach().clone()
            self._averages[name] = average
            averages, partners = groups.setdefault((weight.device, weight.dtype), ([], []))
            averages.append(average)
            partners.append(weight)
        self._groups = list(groups.values())

    def _move(self, share: float) -> None:
        """Move every average by `share` of its way to the weight: one multi-tensor call per device and dtype."""
        with torch.no_grad():
            for averages, weights in self._groups:
                torch._foreach_lerp_(averages, weights, share)

    def _sign(self, trainer: ConvnetTrainer) -> None:
        self._mark = [(id(weight), weight._version) for weight in _averageable(trainer).values()]

    def _belongs_to(self, trainer: ConvnetTrainer) -> bool:
        """Whether nobody has loaded or trained other weights since the average was last updated."""
        return self._mark == [(id(weight), weight._version) for weight in _averageable(trainer).values()]


def _averageable(trainer: ConvnetTrainer) -> dict[str, nn.Parameter]:
    """Return the floating point parameters by name, shared ones once."""
    found, seen = {}, set()
    for name, parameter in named_parameters(components.model_of(trainer)):
        if id(parameter) not in seen and (parameter.is_floating_point() or parameter.is_complex()):
            found[name] = parameter
            seen.add(id(parameter))
    return found


def _averaged(module: nn.Module, average_of: dict[int, Tensor]) -> dict[str, Any]:
    state = module.state_dict(keep_vars=True)
    plain = {components.plain_key(module, key): average_of.get(id(value), value) for key, value in state.items()}
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in plain.items()}


class EMA(_Average):
    """Exponential moving average of the weights, evaluated and tested in their place.

    After every training batch ``average = decay * average + (1 - decay) * weights``, on the device, in the
    parameters' own precision; the first update copies the weights. Buffers are not averaged: a batch norm
    layer's statistics are a moving average already, so the averaged model uses the model's own. This is what
    ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn(decay)`` computes.

    From ``on_evaluate_epoch_start`` (``on_test_start``) to the end of that loader the model holds the
    averages, so metrics, the best epoch and early stopping go by them, and a ``save_model()`` inside an
    evaluation hook saves them. Outside it holds the raw weights, which training goes on from; ``predict`` and
    ``val_step`` use those. Checkpoints hold the averages beside the raw weights. A test after other weights
    were loaded, without averages of their own, tests those weights.

    Parameters
    ----------
    decay : float
        From 0 to below 1, per update.
    warmup_steps : int
        In so many steps at the beginning of the run nothing is averaged, and the raw weights are evaluated.
        A step is one of the optimizers: accumulated batches and overflows of fp16 are none.
    every : int
        Update after every so many steps.

    Raises
    ------
    ConfigError
        For a number that is not allowed.

    Examples
    --------
    >>> EMA(decay=0.99, warmup_steps=100).decay
    0.99
    """

    def __init__(self, decay: float = 0.999, warmup_steps: int = 0, every: int = 1) -> None:
        super().__init__()
        if not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise ConfigError(f"EMA(decay={decay!r}): expected a number from 0 to below 1, EMA(decay=0.999) say.")
        if type(warmup_steps) is not int or warmup_steps < 0:
            raise ConfigError(f"EMA(warmup_steps={warmup_steps!r}): expected a number of steps, 0 or more.")
        if type(every) is not int or every < 1:
            raise ConfigError(f"EMA(every={every!r}): expected a number of steps, 1 or more.")
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.every = every
        self._share = 1 - decay
        self._training = False
        self._inside = False  # the model holds the averages, and `_averages` the weights

    def model_state(self, trainer: ConvnetTrainer) -> dict[str, Any]:
        """Return the averaged model as a plain ``state_dict`` (a dict of them for several models).

        Parameters are the averages, buffers the model's own. Empty before the first update.
        """
        if self._inside:
            return components.model_state(components.model_of(trainer))
        return super().model_state(trainer)

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Begin a new average where the weights are not those that the old one belongs to."""
        self._leave(trainer)
        super().on_train_start(trainer)
        self._training = True

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Find the weights again: a hook may have replaced a part of the model."""
        self._leave(trainer)
        if self._averages:
            self._bind(trainer)

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Update the average, if the batch has moved the weights."""
        state = trainer._run_state
        if state.moved:
            self._update(trainer, state.step - state.missed)

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Update the average, if the weights have moved once more after the last batch."""
        state = trainer._run_state
        if state.late:
            self._update(trainer, state.step - state.missed)

    def _update(self, trainer: ConvnetTrainer, step: int) -> None:
        if step <= self.warmup_steps or step % self.every:
            return
        if self._inside:  # a hook has caught the error of an evaluation
            self._leave(trainer)
        if not self._groups:
            begins = not self._averages
            self._bind(trainer)
            if begins:
                return
        self._move(self._share)

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Put the averages into the model."""
        if self._averages and not self._inside and (self._training or self._belongs_to(trainer)):
            self._bind(trainer)
            self._exchange()
            self._inside = True
            self._sign(trainer)

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back."""
        self._leave(trainer)

    def on_exception(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back."""
        self._leave(trainer)

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Let go of the weights, keep the average."""
        self._leave(trainer)
        self._training, self._groups = False, []
        self._sign(trainer)

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Put the averages into the model."""
        self.on_evaluate_epoch_start(trainer)

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back."""
        self._leave(trainer)

    def _forget(self) -> None:
        super()._forget()
        self._inside = False

    def _leave(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back, unless others were loaded since a test or an evaluation has failed."""
        if not self._inside:
            return
        if not self._training and not self._belongs_to(trainer):
            self._forget()
            return
        self._exchange()
        self._inside = False
        if not self._training:
            self._groups = []
            self._sign(trainer)

    def _exchange(self) -> None:
        """Exchange the contents of averages and weights: every tensor stays where it is in memory."""
        with torch.no_grad():
            for averages, weights in self._groups:
                held = [weight.clone() for weight in weights]
                torch._foreach_copy_(weights, averages)
                torch._foreach_copy_(averages, held)


class SWA(_Average):
    """Stochastic weight averaging: the equal average of the weights at the ends of the last epochs.

    At the end of the training batches of every epoch from `start_epoch` on, the weights join the average.
    During the run the model keeps its raw weights, and the evaluation sees those. When the run has ended
    without an error: the raw state of the model goes to ``raw``, the averages into the model, and the
    statistics of batch norm layers are computed anew in one pass over ``train_loader`` (in train mode,
    without gradients, by ``on_start_training_batch`` and ``compute_loss``). So ``model.pth`` holds the averaged
    model, and ``test()`` tests it; the checkpoints of the epochs hold raw weights. A further ``train()`` goes
    on from the averaged model with an average of its own.

    P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018,
    https://arxiv.org/abs/1803.05407.

    Parameters
    ----------
    start_epoch : int
        The first epoch whose weights join.
    lr : float, optional
        The learning rate from `start_epoch` on, in all groups, set at the start of each epoch; given back at
        the end of the run. None: whatever the optimizer has.

    Attributes
    ----------
    raw : dict or None
        Plain state of the model before the averages came in; ``components.load_model_state`` puts it back.

    Raises
    ------
    ConfigError
        For a number that is not allowed; when the run starts: for a `start_epoch` after its last epoch, with
        ``_load_best`` (which would put other weights into the model), with a scheduler per step beside `lr`,
        and for batch norm layers without a ``train_loader``.

    Examples
    --------
    >>> SWA(start_epoch=8, lr=0.01).start_epoch
    8
    """

    order = CallbackOrder.Optimizer  # at the end after EMA, which gives the raw weights back

    def __init__(self, start_epoch: int, lr: float | None = None) -> None:
        super().__init__()
        if type(start_epoch) is not int or start_epoch < 1:
            raise ConfigError(f"SWA(start_epoch={start_epoch!r}): expected the number of an epoch, 1 or more.")
        if lr is not None and (not isinstance(lr, (int, float)) or not lr > 0):
            raise ConfigError(f"SWA({start_epoch}, lr={lr!r}): expected a learning rate above 0, or None.")
        self.start_epoch = start_epoch
        self.lr = lr
        self.raw: dict[str, Any] | None = None
        self._count = 0
        self._lr_before: Any = None

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Check that the run can do it."""
        super().on_train_start(trainer)
        self.raw = None
        if not self._averages:
            self._count = 0
        if self.start_epoch > trainer._num_epochs:
            raise ConfigError(
                f"SWA(start_epoch={self.start_epoch}) averages nothing: the last epoch is {trainer._num_epochs}."
            )
        if trainer._load_best:
            raise ConfigError("SWA and _load_best both decide which weights the run ends with; leave one of them out.")
        if self.lr is not None and trainer.scheduler is not None and trainer._scheduler_step == "step":
            raise ConfigError(f"SWA(lr={self.lr}) and a scheduler per step both set the rate; write SWA(lr=None).")
        if _batch_norms(trainer) and trainer.train_loader is None:
            raise ConfigError("SWA needs self.train_loader to compute the statistics of the batch norm layers.")

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Set the learning rate."""
        if self.lr is not None and trainer.epoch >= self.start_epoch:
            if self._lr_before is None:
                self._lr_before = trainer.get_lr()
            trainer.set_lr(self.lr)

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Add the weights to the average."""
        if trainer.epoch < self.start_epoch:
            return
        if not self._averages:
            self._count = 0
        self._bind(trainer)
        self._count += 1
        self._move(1 / self._count)
        self._groups = []

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Put the averages into the model, unless the run ends by an error."""
        if self._lr_before is not None:
            trainer.set_lr(self._lr_before)
            self._lr_before = None
        self._sign(trainer)
        if trainer.exception is not None or not self._averages:
            return
        self.raw = copy.deepcopy(components.model_state(components.model_of(trainer)))
        self._bind(trainer)
        with torch.no_grad():
            for averages, weights in self._groups:
                torch._foreach_copy_(weights, averages)
        if _batch_norms(trainer):
            _compute_statistics(trainer)
        trainer._run_state.loaded = f"the average of {self._count} epochs"
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return how many epochs are in the average, and the learning rate to give back."""
        return {"count": self._count, "lr_before": self._lr_before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._count, self._lr_before = state["count"], state["lr_before"]


def _batch_norms(trainer: ConvnetTrainer) -> list[_BatchNorm]:
    parts = [part for module in components.modules_of(trainer) for part in module.modules()]
    return [part for part in parts if isinstance(part, _BatchNorm) and part.track_running_stats]


def _compute_statistics(trainer: ConvnetTrainer) -> None:
    """Compute the statistics of batch norm layers as plain means over one pass of the train loader."""
    flags = [(part, part.training) for module in components.modules_of(trainer) for part in module.modules()]
    layers = [(layer, layer.momentum) for layer in _batch_norms(trainer)]
    held = {name: getattr(trainer, name) for name in ("loss", "outputs", "batch_metrics")}
    try:
        for module in components.modules_of(trainer):
            module.train()
        for layer, _ in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative mean
        with torch.no_grad(), preserved_rng(trainer.train_loader):
            for index, batch in data.Items(trainer.train_loader, "train"):
                with loop.single_batch(trainer, batch), trainer.autocast():
                    trainer.on_start_training_batch((index, batch))
                    trainer.compute_loss()
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum
        for part, flag in flags:
            part.training = flag
        vars(trainer).update(held)
