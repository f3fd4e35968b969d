"""`EMA`: the exponential moving average of the weights, over steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..components import dtensor
from ..errors import ConfigError
from .averaging import Average

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class EMA(Average):
    """Exponential moving average of the weights, evaluated, tested and predicted with in their place.

    After every training batch ``average = decay * average + (1 - decay) * weights``, on the device; the first
    update copies the weights. The average is in the parameters' own precision, of half-precision ones in float32.
    Buffers are not averaged: a batch norm layer's statistics are a moving average already, so the averaged model
    uses the model's own. This is what ``torch.optim.swa_utils.AveragedModel`` with
    ``get_ema_multi_avg_fn(decay)`` computes.

    From ``on_evaluate_epoch_start`` (``on_test_start``) to the end of that loader the model holds the
    averages, so metrics, the best epoch and early stopping go by them, and a ``save_model()`` inside an
    evaluation hook saves them. ``predict`` and ``val_step`` use them too, unless a batch is under way. Outside of
    these the model holds the raw weights, which training goes on from, and which ``model.pth`` has. Checkpoints
    hold the averages beside the raw weights; for a file of the averages alone save `model_state`. Once other
    weights were loaded, without averages of their own, or trained by ``train_step``, those are used.

    Parameters
    ----------
    decay : float
        From 0 to below 1, per update.
    warmup_steps : int
        In so many steps at the beginning of the run nothing is averaged, and the raw weights are evaluated.
        A step is one of the optimizers: accumulated batches and overflows of fp16 are none.
    every : int
        Update after every so many steps.
    models : sequence of str, optional
        Keys of ``self.model``, where it is a dict: those that are averaged. Default: all.

    Raises
    ------
    ConfigError
        For a number that is not allowed.

    Examples
    --------
    >>> EMA(decay=0.99, warmup_steps=100).decay
    0.99
    """

    def __init__(
        self, decay: float = 0.999, warmup_steps: int = 0, every: int = 1, models: Sequence[str] | None = None
    ) -> None:
        super().__init__(models)
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
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
        self._depth = 0  # evaluations under way when the averages came in
        self._raw: list[list[Tensor]] | None = None  # the weights, by group, while the model holds the averages

    @contextlib.contextmanager
    def applied(self, trainer: ConvnetTrainer) -> Iterator[None]:
        """Let the model hold the averages within a ``with`` block, where it is not the case already.

        Parameters
        ----------
        trainer : ConvnetTrainer

        Examples
        --------
        ``with ema.applied(trainer): torch.onnx.export(trainer.model, images, "averaged.onnx")``
        """
        was_inside = self._raw is not None
        self._enter(trainer)
        try:
            yield
        finally:
            if not was_inside:
                self._leave(trainer)

    def own_weights(self) -> dict[int, Tensor]:
        """Return the weights of training while the model holds the averages, by the ``id`` of their parameter.

        A checkpoint holds these, whenever it is written.
        """
        pairs = [pair for both in zip(self._weights, self._raw or (), strict=False) for pair in zip(*both, strict=True)]
        return {id(parameter): dtensor.with_local(parameter, raw) for parameter, raw in pairs}

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
        if trainer._run_state.moved:
            self._update(trainer)

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Update the average, if the weights have moved once more after the last batch."""
        if trainer._run_state.moved_after_pass:
            self._update(trainer)

    def _update(self, trainer: ConvnetTrainer) -> None:
        step = trainer.step - trainer._run_state.batches_without_step
        if step <= self.warmup_steps or step % self.every:
            return
        if self._raw is not None:  # a hook has caught the error of an evaluation
            self._leave(trainer)
        if not self._groups:
            begins = not self._averages
            self._bind(trainer)
            if begins:
                return
        self._move(self._share)

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Put the averages into the model."""
        self._enter(trainer)

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back, unless an evaluation around this one has the averages."""
        if len(trainer._run_state.evaluating) <= self._depth:
            self._leave(trainer)

    def on_exception(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back."""
        self._leave(trainer)

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Let go of the weights, keep the average."""
        self._leave(trainer)
        self._training, self._groups = False, []
        self.sign(trainer)

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Put the averages into the model."""
        self._enter(trainer)

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back, unless an evaluation around this one has the averages."""
        if len(trainer._run_state.evaluating) <= self._depth:
            self._leave(trainer)

    def _forget(self) -> None:
        super()._forget()
        self._raw = None

    def _enter(self, trainer: ConvnetTrainer) -> None:
        """Put the averages into the model, if there are any and they are of these weights."""
        if self._averages and self._raw is None and (self._training or self.belongs(trainer)):
            self._bind(trainer)
            self._depth = len(trainer._run_state.evaluating)
            self._raw = [[weight.detach().clone() for weight in weights] for _, weights in self._groups]
            with _unnoticed(self._groups):
                self._fill()
            self.sign(trainer)

    def _leave(self, trainer: ConvnetTrainer) -> None:
        """Put the raw weights back, unless others were loaded since a test or an evaluation has failed."""
        if self._raw is None:
            return
        if not self._training and not self.belongs(trainer):
            self._forget()
            return
        with torch.no_grad(), _unnoticed(self._groups):
            for (_, weights), raw in zip(self._groups, self._raw, strict=True):
                torch._foreach_copy_(weights, raw)
        self._raw = None
        if not self._training:
            self._groups = []
            self.sign(trainer)


@contextlib.contextmanager
def _unnoticed(groups: list[tuple[list[Tensor], list[Tensor]]]) -> Iterator[None]:
    """Write to weights as if nobody had: in a training batch, a backward pass may wait for them.

    It finds them as they were, for the averages have left by then.
    """
    with contextlib.ExitStack() as stack:
        for _, weights in groups:
            for weight in weights:
                if not weight.is_inference():
                    stack.enter_context(torch.autograd._unsafe_preserve_version_counter(weight))
        yield
