"""What is wrong with a loss, and what to say to a trainer without an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .. import components
from ..errors import HookError
from .hooks import owner

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def no_optimizer(trainer: ConvnetTrainer) -> str:
    """Return what to say to a trainer without an optimizer."""
    return (
        f"{owner(trainer)}.build_model set no self.optimizer, which the default training_step steps. Write "
        "self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)."
    )


def loss_problem(trainer: ConvnetTrainer, graph: bool = True) -> str | None:
    """Return what is wrong with ``trainer.loss``, None if nothing is.

    Parameters
    ----------
    trainer : ConvnetTrainer
    graph : bool
        Whether it must depend on the parameters.
    """
    loss = trainer.loss
    parameters = [p for module in components.modules_of(trainer) for p in module.parameters()]
    trainable = sum(p.requires_grad for p in parameters)
    if not isinstance(loss, torch.Tensor):
        if isinstance(loss, (int, float)) and not graph:
            return None
        found = f"{loss!r}, a {type(loss).__name__}" if loss is not None else "None"
    elif loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}"
    elif graph and not loss.requires_grad:
        found = f"a tensor without a gradient ({trainable} of {len(parameters)} parameters are trainable)"
    else:
        return None
    return (
        f"{owner(trainer)}.compute_loss returned {found}; expected a tensor with one element that depends on "
        "the model's parameters. Write return self.criterion(self.outputs, self.targets), and .mean() over samples."
    )


def check_loss(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for a loss of an evaluation that is no single number."""
    loss = trainer.loss
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        problem = loss_problem(trainer, graph=False)
        if problem is not None:
            raise HookError(problem)
