"""Losses and weights that are NaN or infinite: found without a read-back per step, never saved."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from . import components
from .errors import NonFiniteError

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer


def bad_parameters(trainer: ConvnetTrainer) -> list[str]:
    """Return the names of the parameters that are not finite."""
    return [name for name, p in components.named_parameters(trainer) if not p.detach().isfinite().all()]


def weights_are_finite(trainer: ConvnetTrainer) -> bool:
    """Return whether every weight is; the last good files stay where one is not.

    Raises
    ------
    NonFiniteError
        Unless ``_on_nonfinite`` is ``"warn"``.
    """
    bad = bad_parameters(trainer)
    if bad:
        _report(trainer, f"{len(bad)} parameters are not finite in epoch {trainer._epoch}, the first is {bad[0]}")
    return not bad


def check_loss(trainer: ConvnetTrainer) -> None:
    """Report a mean training loss that is NaN or infinite.

    Raises
    ------
    NonFiniteError
        Unless ``_on_nonfinite`` is ``"warn"``.
    """
    loss = trainer.epoch_metrics.get("train", {}).get("loss", 0.0)
    if loss - loss != 0:
        named = list(components.named_parameters(trainer))
        bad = bad_parameters(trainer)
        first = f", the first is {bad[0]}" if bad else ""
        _report(
            trainer,
            f"the training loss of epoch {trainer._epoch} (up to step {trainer._run_state.step}) is {loss}, with lr "
            f"{components.learning_rates(trainer.optimizer)}; {len(bad)} of {len(named)} parameters are not finite"
            f"{first}",
        )


def _report(trainer: ConvnetTrainer, problem: str) -> None:
    message = (
        f"{type(trainer).__name__}: {problem}. Lower the learning rate, clip the gradients, check the inputs for NaN, "
        "or set self._on_nonfinite = 'warn' to go on. Nothing of this epoch is saved."
    )
    if trainer._on_nonfinite == "raise":
        raise NonFiniteError(message)
    warnings.warn(message, stacklevel=6)
