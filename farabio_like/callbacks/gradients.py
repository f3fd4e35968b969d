"""The size of the gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import components
from ..components import dtensor
from ..errors import ConfigError
from .base import Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class GradientNorm(Callback):
    """Records the norm of all gradients after each step, averaged over the epoch, as ``grad_norm``.

    The gradients are those that the step leaves behind: clipped ones where it clips, and of the whole window
    where it accumulates. A step of your own that
    clears them at its end leaves nothing to measure. Nothing is read back from the device before the
    loader's end.

    Parameters
    ----------
    norm_type : float
        2 for the Euclidean norm, ``float("inf")`` for the largest element.
    per_module : bool
        Also ``grad_norm_<name>`` for every direct part of the model that has parameters.

    Raises
    ------
    ConfigError
        For a norm that is not allowed.

    Examples
    --------
    ``self.callbacks = [GradientNorm()]``, then ``history[-1]["train"]["grad_norm"]``.
    """

    order = CallbackOrder.Metric

    def __init__(self, norm_type: float = 2.0, per_module: bool = False) -> None:
        if not isinstance(norm_type, (int, float)) or isinstance(norm_type, bool) or not norm_type > 0:
            raise ConfigError(f"GradientNorm(norm_type) is {norm_type!r}; expected a number greater than 0.")
        self.norm_type = float(norm_type)
        self.per_module = per_module
        self.groups: dict[str, list[nn.Parameter]] = {}
        self.found = False

    def announces(self) -> dict[str, bool | None] | None:
        """Return the names of the norms."""
        return {"grad_norm": None, **({"grad_norm_*": None} if self.per_module else {})}

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """List the parameters."""
        model = components.model_of(trainer)
        modules = components.each(model)
        self.groups = {"grad_norm": [p for module in modules for p in module.parameters()]}
        if self.per_module:
            named = model.items() if isinstance(model, dict) else components.unwrap(model).named_children()
            self.groups.update({f"grad_norm_{name}": list(module.parameters()) for name, module in named})
        self.found = False

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Measure the gradients that the step has left, if there was one."""
        if not trainer._run_state.moved:
            return
        for name, parameters in self.groups.items():
            gradients = [_dense(p.grad) for p in parameters if p.grad is not None]
            if gradients:
                norm = torch.nn.utils.get_total_norm(gradients, self.norm_type)
                trainer.batch_metrics[name] = dtensor.whole(norm)
                self.found = True

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Say so once when there was nothing to measure."""
        if not self.found:
            trainer._run_state.console.once(
                "no grad_norm: training_step leaves no gradients. Clear them at its start, not at its end."
            )

    def close(self) -> None:
        """Let go of the parameters."""
        self.groups = {}


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
