"""A learning rate to start with, found by a short training with a growing one."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import components, distributed, plots
from ..checks.arguments import positive, whole_number
from ..data import length_of
from ..distributed import loaders as rank_loaders
from ..errors import ConfigError, DataError, HookError
from ..loop import batch as loop_batch
from ..loop import loader_pass
from ..optim import steps as optim_steps
from ..state.rollback import without_trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..trainer import ConvnetTrainer


@dataclasses.dataclass
class LRFinderResult:
    """What `find_lr` found.

    Attributes
    ----------
    lrs, losses : list of float
        One per step that was made, the last one perhaps of a loss that diverges.
    smoothed : list of float
        Their average over the steps before and after, which does not lag behind as a running one would. Losses
        above those of the first tenth count as these, so that what diverges does not hide what fell before.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def suggestion(self) -> float | None:
        """The rate where the smoothed loss falls fastest over the rate's logarithm, None if it never falls.

        The first tenth of the steps is left out: there the average is of few.
        """
        first = len(self.smoothed) // 10
        if len(self.smoothed) - first < 2:
            return None
        slopes = np.gradient(self.smoothed)[first:]
        steepest = int(np.argmin(slopes))
        return self.lrs[first + steepest] if slopes[steepest] < 0 else None

    def figure(self) -> Figure:
        """Draw the losses over the rates, with the suggestion.

        Returns
        -------
        matplotlib.figure.Figure
        """
        figure = plots.new_figure(6.4, 3.6)
        panel = figure.subplots()
        panel.plot(self.lrs, self.losses, color="0.75", linewidth=1, label="loss")
        panel.plot(self.lrs, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            panel.axvline(self.suggestion, color="crimson", linestyle="--", label=f"suggestion {self.suggestion:.2e}")
        if self.smoothed:
            # The last losses may be any number of times as large as those that fell.
            low, high = min(self.smoothed + self.losses), max(self.smoothed)
            room = 0.1 * ((high - low) or 1.0)
            panel.set_ylim(low - room, high + 2 * room)
        panel.set_xscale("log")
        panel.set_xlabel("learning rate")
        panel.set_ylabel("loss")
        panel.grid(alpha=0.3)
        panel.legend()
        return figure


def find_lr(
    trainer: ConvnetTrainer,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 100,
    smoothing: float = 0.05,
    diverge: float = 5.0,
) -> LRFinderResult:
    """Train some steps with a rate that grows exponentially, and leave the trainer as it was.

    The learning rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks"
    (https://arxiv.org/abs/1506.01186). The steps are the trainer's own, on its train loader, which is read again
    when it is short; all parameter groups get the same rate; callbacks are not called. Afterwards weights,
    optimizers, schedulers, flags, random numbers, counters and the trainer's attributes are what they were, so
    that a training gives the same as without. Only what hooks change elsewhere stays changed.

    Parameters
    ----------
    trainer : ConvnetTrainer
    min_lr, max_lr : float
        The first rate and the last one.
    num_steps : int
    smoothing : float
        A step k away weighs ``(1 - smoothing) ** k`` in an average; 1 does not smooth.
    diverge : float
        Stop when the running average is so many times its lowest value, after a tenth of the steps.

    Returns
    -------
    LRFinderResult

    Raises
    ------
    ConfigError
        For an argument that is not allowed, or a trainer without an optimizer.
    DataError
        For a train loader that can be read only once.

    Examples
    --------
    ``trainer.set_lr(find_lr(trainer).suggestion)``
    """
    rates = _rates(min_lr, max_lr, num_steps)
    if positive("find_lr(diverge)", diverge) <= 1:
        raise ConfigError(f"find_lr(diverge) is {diverge!r}; expected more than 1.")
    if positive("find_lr(smoothing)", smoothing) > 1:
        raise ConfigError(f"find_lr(smoothing) is {smoothing!r}; expected 1 or less.")
    _check_trainer(trainer)
    losses = _losses(trainer, rates, smoothing, diverge)
    start = float(np.mean(losses[: num_steps // 10 + 1])) if losses else 0.0
    return LRFinderResult(rates[: len(losses)], losses, _smooth(np.minimum(losses, start), smoothing))


def _rates(min_lr: float, max_lr: float, num_steps: int) -> list[float]:
    """Return the rates to try."""
    positive("find_lr(min_lr)", min_lr)
    if positive("find_lr(max_lr)", max_lr) <= min_lr:
        raise ConfigError(f"find_lr(max_lr) is {max_lr!r}; expected more than min_lr, {min_lr!r}.")
    return np.geomspace(min_lr, max_lr, whole_number("find_lr(num_steps)", num_steps, least=3)).tolist()


def _check_trainer(trainer: ConvnetTrainer) -> None:
    """Raise an error for a trainer that has nothing to move its weights by, or whose data would be used up."""
    if trainer.optimizer is None:
        raise ConfigError(f"find_lr: {type(trainer).__name__} has no optimizer. Set self.optimizer in build_model.")
    if isinstance(trainer.train_loader, Iterator):
        kind = type(trainer.train_loader).__name__
        raise DataError(f"find_lr: the train loader is a {kind}, which can be read only once; give a DataLoader.")


def _losses(trainer: ConvnetTrainer, rates: list[float], smoothing: float, diverge: float) -> list[float]:
    """Return the loss of a step at each rate, until it diverges; the trainer is as before."""
    losses: list[float] = []
    average, limit = 0.0, math.inf
    counter = trainer._run_state.counter
    # In a hook of an evaluation there would be no gradients.
    with torch.enable_grad(), without_trace(trainer), contextlib.closing(_items(trainer)) as items:
        trainer._run_state.resumption.end()  # a run that goes on reads its loader from the beginning here, too
        trainer._run_state.stepping = None  # windows and scales of its own
        for step, (rate, item) in enumerate(zip(rates, items, strict=False), 1):
            trainer.set_lr(rate)
            loss = _loss_of_step(trainer, item)
            if not math.isfinite(loss):
                break
            losses.append(loss)
            average += smoothing * (loss - average)
            running = average / (1 - (1 - smoothing) ** step)  # of the first few, not of zeros
            if running > limit:
                break
            if step > len(rates) // 10:  # before, it follows single batches
                limit = min(limit, running + (diverge - 1) * abs(running))  # for a loss below 0 too
    trainer._run_state.counter = counter
    return losses


def _smooth(losses: np.ndarray, smoothing: float) -> list[float]:
    """Return weighted means over all steps, a step k away weighing (1 - smoothing) ** k."""
    steps = np.arange(len(losses))
    weights = (1 - smoothing) ** np.abs(steps[:, None] - steps)
    return (weights @ losses / weights.sum(1)).tolist()


def _items(trainer: ConvnetTrainer) -> Generator[Any, None, None]:
    """Yield the items of the train loader, as `train_epoch` gets them, again and again."""
    while True:
        for module in components.modules_of(trainer):
            module.train()
        trainer.train_epoch_iter = loader_pass.prepare_items(
            trainer, "train", trainer.train_loader, trainer.train_epoch_iter
        )
        trainer.on_train_epoch_start()
        if trainer.train_epoch_iter is None:
            raise HookError(f"find_lr: {type(trainer).__name__} has no train loader. Set self.train_loader.")
        items, item = trainer.train_epoch_iter, None
        stepping = optim_steps.bind(trainer)
        if stepping is not None:
            stepping.begin_pass(trainer, length_of(items))
        if trainer._run_state.ranks is not None:
            trainer._run_state.progress.batches = 0  # none of this pass has been trained before
            items = rank_loaders.items_of_rank(trainer, "train", items)
        for item in items:
            yield item
        if item is None:
            raise DataError("find_lr: the train loader gave no batch.")


def _loss_of_step(trainer: ConvnetTrainer, item: Any) -> float:
    loop_batch.return_batch(trainer)
    trainer._run_state.item = item
    trainer.batch_metrics = {}
    stepping = trainer._run_state.stepping
    if stepping is not None:
        stepping.next_batch(trainer)
    trainer.train_batch(item)
    trainer._run_state.skip = False
    loss = trainer.loss
    if not isinstance(loss, (Tensor, int, float)):
        raise HookError(f"find_lr: training_step left self.loss a {type(loss).__name__}; set self.loss = the loss.")
    value, ranks = float(loss.detach() if isinstance(loss, Tensor) else loss), trainer._run_state.ranks
    if ranks is None:
        return value
    # The loss of all samples: by their own, ranks would stop after different steps, and find different rates.
    share = ranks.share_of_step
    return distributed.reduce_sums([value * share if share else 0.0])[0]
