"""Losses and weights that are NaN or infinite: found without a read-back per step, never saved."""

from __future__ import annotations

import cmath
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from .. import components, distributed
from ..components import dtensor, inventory
from ..distributed import fsdp
from ..errors import NonFiniteError

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def bad_weights(trainer: ConvnetTrainer) -> list[str]:
    """Return the names of the `weights` that are not finite; of those in shards this rank sees its own."""
    return _bad({name: dtensor.local(tensor) for name, tensor in weights(trainer).items()})


def weights(trainer: ConvnetTrainer) -> dict[str, Tensor]:
    """Return what is to be finite in a file: the parameters that are trained, and the buffers that were so before.

    A mask of an attention is infinite from the beginning, and means it: see `note_buffers`.
    """
    found: dict[str, Tensor] = dict(components.named_parameters(trainer))
    finite = trainer._run_state.finite_buffers
    return found | {name: buffer for name, buffer in _named_buffers(trainer) if finite.get(name, False)}


def note_buffers(trainer: ConvnetTrainer) -> None:
    """Note of the buffers that are met for the first time whether they are finite, before they are written to."""
    finite = trainer._run_state.finite_buffers
    new = {name: buffer for name, buffer in _named_buffers(trainer) if name not in finite}
    if new:
        bad = set(_bad(new))
        finite.update({name: name not in bad for name in new})


def _named_buffers(trainer: ConvnetTrainer) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that a file holds, of the models by the names that their parameters have."""
    held = inventory.take(trainer)
    model = components.model_of(trainer, held)
    parts = {str(key): part for key, part in model.items()} if isinstance(model, Mapping) else {"": model}
    known = {id(part) for part in parts.values()}
    parts |= {part.dotted: part.value for part in inventory.once(held.modules) if id(part.value) not in known}
    for name, module in parts.items():
        if not isinstance(module, nn.Module):
            continue
        for place, layer in module.named_modules():
            for key, buffer in layer._buffers.items():
                if buffer is None or key in layer._non_persistent_buffers_set or components.is_lazy(buffer):
                    continue
                if buffer.is_floating_point() and not buffer.is_sparse:
                    yield ".".join(filter(None, (name, place, key))), buffer


def _bad(tensors: Mapping[str, Tensor]) -> list[str]:
    # A sum is many times cheaper than isfinite(), and finite only if all is. It may overflow where all is finite.
    sums = {name: tensor.detach().sum().item() for name, tensor in tensors.items()}
    return [n for n, t in tensors.items() if not cmath.isfinite(sums[n]) and not t.detach().isfinite().all()]


def weights_are_finite(trainer: ConvnetTrainer, copies: Mapping[str, Tensor] | None = None) -> bool:
    """Return whether all `weights` are; the last good files stay where one is not.

    Where the weights are in shards, all ranks have to call it.

    Parameters
    ----------
    trainer : ConvnetTrainer
    copies : dict, optional
        Copies of them to look at.

    Raises
    ------
    NonFiniteError
        Unless ``_on_nonfinite`` is ``"warn"``.
    """
    bad = _bad(copies) if copies is not None else bad_weights(trainer)
    if fsdp.are_in(trainer):
        bad = list(dict.fromkeys(name for found in distributed.gather_objects(bad) for name in found))
    if bad:
        named = {name for name, _ in components.named_parameters(trainer)}
        kinds = sorted({"parameters" if name in named else "buffers" for name in bad}, reverse=True)
        found = f"{len(bad)} {' and '.join(kinds)} are not finite"
        _report(trainer, f"{found} in epoch {trainer._epoch}, the first is {bad[0]}")
    return not bad


def check_loss(trainer: ConvnetTrainer) -> None:
    """Report a mean training loss that is NaN or infinite.

    Raises
    ------
    NonFiniteError
        Unless ``_on_nonfinite`` is ``"warn"``.
    """
    state = trainer._run_state
    loss = trainer.epoch_metrics.get("train", {}).get("loss", 0.0)
    if loss - loss != 0:
        _report_loss(trainer, loss, f"of epoch {trainer._epoch} (up to step {state.progress.step})")
    if state.skipped:
        state.console.line(f"{state.skipped} steps with a loss or gradients that were not finite moved no weights")
        state.skipped = 0


def check_losses(trainer: ConvnetTrainer, losses: Tensor, total: Tensor, before: int) -> None:
    """Report the first loss that is not finite among some that are folded, where looking costs nothing: on the CPU.

    Elsewhere `check_loss` finds it at the end of the epoch: until then nothing is read back.

    Parameters
    ----------
    trainer : ConvnetTrainer
    losses : Tensor
        One per step.
    total : Tensor
        Their weighted sum, finite only if all of them are.
    before : int
        How many were folded before in this epoch.

    Raises
    ------
    NonFiniteError
    """
    if total.device.type == "cpu" and not math.isfinite(total.numpy()):
        values = losses.detach().double().flatten().numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            step = trainer._run_state.progress.epoch_step + before + int(bad[0]) + 1
            _report_loss(trainer, float(values[bad[0]]), f"in epoch {trainer._epoch}, at step {step},")


def _report_loss(trainer: ConvnetTrainer, loss: float, where: str) -> None:
    named = dict(components.named_parameters(trainer))
    bad = _bad({name: dtensor.local(parameter) for name, parameter in named.items()})
    first = f", the first is {bad[0]}" if bad else ""
    _report(
        trainer,
        f"the training loss {where} is {loss}, with lr "
        f"{components.learning_rates(trainer.optimizer)}; {len(bad)} of {len(named)} parameters are not finite"
        f"{first}",
    )


def _report(trainer: ConvnetTrainer, problem: str) -> None:
    message = (
        f"{type(trainer).__name__}: {problem}. Lower the learning rate, clip the gradients, check the inputs for NaN, "
        "or set self._on_nonfinite = 'skip' to leave such steps out. Nothing of this epoch is saved."
    )
    if trainer._on_nonfinite == "raise":
        raise NonFiniteError(message)
    warnings.warn(message, stacklevel=6)
