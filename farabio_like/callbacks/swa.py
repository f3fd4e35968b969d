"""`SWA`: the equal average of the weights at the ends of the last epochs."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from .. import components, data
from ..distributed import ddp
from ..distributed import loaders as rank_loaders
from ..errors import ConfigError
from ..loop import batch as loop_batch
from ..rng import preserved_rng
from .averaging import Average
from .base import CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class SWA(Average):
    """Stochastic weight averaging: the equal average of the weights at the ends of the last epochs.

    At the end of the training batches of every epoch from `start_epoch` on, the weights join the average.
    During the run the model keeps its raw weights, and the evaluation, ``predict`` and ``val_step`` see those.
    When the run has ended without an error: the raw state of the model goes to ``raw``, the averages into the
    model, and the statistics of batch norm layers are computed anew in one pass over ``train_loader`` (in train
    mode, without gradients, by ``on_start_training_batch`` and ``compute_loss``). So ``model.pth`` holds the
    averaged model, ``test()`` tests it and ``predict`` uses it; the checkpoints of the epochs hold raw weights. A
    further ``train()`` goes on from the averaged model with an average of its own.

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
        self.sign(trainer)
        if trainer.exception is not None or not self._averages:
            return
        self.raw = copy.deepcopy(components.model_state(components.model_of(trainer)))
        self._bind(trainer)
        self._fill()
        if _batch_norms(trainer):
            _compute_statistics(trainer)
        trainer._run_state.loaded = f"the average of {self._count} epochs"
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, of how many epochs they are, and the learning rate to give back."""
        return {**super().state_dict(), "count": self._count, "lr_before": self._lr_before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, after ``on_train_start``."""
        super().load_state_dict(state)
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
            items: Iterable[Any] = data.Items(trainer.train_loader, "train")
            ranks = trainer._run_state.ranks
            if ranks is not None:  # a forward pass in shards needs all ranks
                trainer._run_state.progress.batches = 0
                items = rank_loaders.items_of_rank(trainer, "train", items)
            for index, batch in items:
                with loop_batch.single_batch(trainer, batch), trainer.autocast():
                    trainer.on_start_training_batch((index, batch))
                    trainer.compute_loss()
        ddp.sync_buffers(trainer)  # each of several ranks has read its part
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum
        trainer._run_state.skip = False
        for part, flag in flags:
            part.training = flag
        vars(trainer).update(held)
