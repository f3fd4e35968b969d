"""What a GAN's run has beside its steps: averaged generators, pictures of every epoch, a word when one side has won."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import distributed
from ..callbacks.base import Callback
from ..callbacks.ema import EMA
from ..checkpoint import files, plain
from ..duck_typing import attribute
from ..errors import MissingPartError
from ..loggers.images import grid, png
from ..loop.batch import single_batch
from ..loop.evaluation import averaged_weights, evaluation
from ..rng import preserved_rng
from .gan_sides import can_generate, networks

if TYPE_CHECKING:
    from .gan import GanTrainer

FOLDER = "samples"  # of a run
WON = 0.01  # a mean loss over an epoch so near to the least there is


class GeneratorEMA(EMA):
    """The moving average of the generators, which files of weights hold in place of the weights of training.

    It moves once for every batch in which the generators have moved.

    Parameters
    ----------
    decay : float
        From 0 to below 1.
    models : sequence of str
        Keys of the generators in ``self.model``.
    """

    def __init__(self, decay: float, models: Sequence[str]) -> None:
        super().__init__(decay, models=models)
        self._versions = 0

    def on_start_training_batch(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Know the weights before the batch."""
        self._versions = _versions(trainer)

    def on_end_training_batch(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Update the average, if the batch has moved the generators."""
        if _versions(trainer) != self._versions:
            self._versions = _versions(trainer)
            self._update(trainer)

    def on_train_epoch_end(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Update the average, if the generators have moved once more after the last batch."""
        if trainer._run_state.moved_after_pass and _versions(trainer) != self._versions:
            self._update(trainer)

    def weights_to_save(self, trainer: GanTrainer) -> dict[int, Tensor]:
        """Return the averages by the identities of their parameters, where they are of these weights."""
        if not self._averages or not (self._training or self.belongs(trainer)):
            return {}
        return {id(weight): self._averages[name] for name, weight in self._averageable(trainer).items()}


def _versions(trainer: GanTrainer) -> int:
    """Return a number that changes when a generator's weights are written to."""
    return sum(p._version for network in networks(trainer, judges=False) for p in network.parameters())


class SampleImages(Callback):
    """Writes a grid of generated images at the end of every epoch, into ``samples`` of the run folder and the loggers.

    They are made of the same noise and the same inputs in every epoch, those of the first training batch, in eval mode
    and by the averages of an `EMA`. Drawing them leaves no trace in the run's random numbers.

    Parameters
    ----------
    number : int
        Of images, as far as a batch has as many; 0 for none.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._batch: Any = None
        self._span: tuple[float, float] = (0.0, 1.0)

    def listens_to(self, event: str) -> bool:
        """Cost nothing where no image is asked for."""
        return self.number > 0

    def on_start_training_batch(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Keep the first batch."""
        if self._batch is None:
            self._batch = _first(trainer.batch, self.number)
            with contextlib.suppress(MissingPartError):  # the images have a name of their own
                real = trainer.real_images()
                if isinstance(real, Tensor) and real.is_floating_point() and real.numel():
                    self._span = _span(*(number.item() for number in real.aminmax()))

    def on_epoch_end(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Generate and write them."""
        if self._batch is None or (trainer.run_dir is None and trainer._loggers is None):
            return
        if not can_generate(trainer):
            trainer._run_state.console.once("no pictures of samples: override generate(self) for them")
            return
        with (
            preserved_rng(),
            averaged_weights(trainer),
            evaluation(trainer),
            single_batch(trainer, self._batch),
            trainer.autocast(),
        ):
            torch.manual_seed(0)
            trainer.take_batch((0, self._batch))
            images = trainer.generate()
        if not isinstance(images, Tensor) or images.ndim != 4:
            trainer._run_state.console.once("no pictures of samples: what the generator makes are no images")
            return
        low, high = self._span
        images = (images.float().cpu() - low) / (high - low)
        images = images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
        if trainer.run_dir is not None and distributed.is_main():
            picture = png(grid(images))
            path = trainer.run_dir / FOLDER / f"epoch-{trainer.epoch:04}.png"
            files.write_durably(path, lambda file: file.write(picture))  # type: ignore[arg-type,return-value]
        trainer.loggers.images(FOLDER, images.clamp(0, 1))

    def state_dict(self) -> dict[str, Any]:
        """Return the batch, so that a run that goes on draws the same images."""
        return {"batch": self._batch, "span": list(self._span)} if _storable(self._batch) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._batch = state.get("batch")
        low, high = state.get("span", self._span)
        self._span = low, high


def _first(batch: Any, number: int) -> Any:
    """Return the first samples of a batch."""
    if isinstance(batch, Tensor):
        return batch[:number].detach().clone() if batch.ndim else batch
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(_first(part, number) for part in batch)
    if isinstance(batch, Mapping):
        return {key: _first(part, number) for key, part in batch.items()}
    return batch


def _storable(batch: Any) -> bool:
    """Return whether a checkpoint can hold a batch: tensors and plain data."""
    if type(batch) in (list, tuple):
        return all(map(_storable, batch))
    return all(map(_storable, batch.values())) if type(batch) is dict else type(batch) in (Tensor, *plain.PLAIN)


def _span(low: float, high: float) -> tuple[float, float]:
    """Return which numbers are black and white in images that have these extremes."""
    if 0 <= low and high <= 1:
        return 0.0, 1.0
    return (-1.0, 1.0) if -1 <= low and high <= 1 else (low, max(high, low + 1e-12))


class Balance(Callback):
    """Warns, once in a run, when one side has won: its loss was as small as can be over a whole epoch."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def on_train_start(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Begin with nothing told."""
        self._told = set()

    def on_train_epoch_end(self, trainer: GanTrainer) -> None:  # type: ignore[override]
        """Look at the losses of the epoch."""
        metrics = trainer.epoch_metrics.get("train", {})
        least = attribute(trainer.criterion, "least")
        if isinstance(least, float) and "loss_d" in metrics:
            loss = metrics["loss_d"] - metrics.get("penalty", 0.0)
            if loss - least < WON:
                self._tell(
                    trainer,
                    "discriminator",
                    f"its loss was {loss:.3g} over epoch {trainer.epoch}, and the generator learns little from it. "
                    "Lower its learning rate, or write self._smoothing = 0.1, self._image_noise = 0.1 or "
                    "self._gradient_penalty = 'r1'.",
                )
        if attribute(trainer.criterion, "kind") in ("standard", "least_squares", "relativistic"):
            loss = metrics.get("loss_g", 1.0)
            if loss < WON:
                self._tell(
                    trainer,
                    "generator",
                    f"its loss was {loss:.3g} over epoch {trainer.epoch}, so the discriminator takes everything for "
                    "real. Raise the discriminator's learning rate, or write self._d_steps = 2.",
                )

    def _tell(self, trainer: GanTrainer, side: str, text: str) -> None:
        if side not in self._told and distributed.is_main():
            self._told.add(side)
            warnings.warn(f"{type(trainer).__name__}: the {side} has won: {text}", stacklevel=6)
