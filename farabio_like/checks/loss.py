"""What is wrong with a loss, and what to say to a trainer without an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import components, data
from ..duck_typing import attribute, is_a
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
        kind = type(loss).__name__
        # Types and shapes of several, not what is in them.
        several = isinstance(loss, (list, tuple, Mapping))
        found = f"a {kind}, {data.shapes_of(loss)}" if several else f"{loss!r}, a {kind}"
        found = found if loss is not None else "None"
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


# Criteria that compare outputs and targets element by element, and spread the smaller of the two in silence.
_MODULES = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss),
    *(nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.MultiLabelSoftMarginLoss),
)
_FORWARDS = {module.forward for module in _MODULES}
_FUNCTIONS = {
    *(functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss, functional.kl_div),
    *(functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits, functional.poisson_nll_loss),
    *(functional.soft_margin_loss, functional.hinge_embedding_loss, functional.multilabel_soft_margin_loss),
}


def compares_elements(criterion: Any) -> bool:
    """Return whether a criterion, or one of a dict of them, is torch's own and needs equal shapes.

    A class that has a ``forward`` of its own, and a function of the user's, know what they do.
    """
    return any(_compares_elements(part) for part in components.each(criterion))


def _compares_elements(criterion: Any) -> bool:
    while is_a(criterion, functools.partial):
        criterion = criterion.func
    if is_a(criterion, nn.Module):
        inside = components.unwrap(criterion)
        return attribute(type(inside), "forward") in _FORWARDS and not inside._forward_pre_hooks
    return is_a(criterion, Hashable) and criterion in _FUNCTIONS  # type: ignore[arg-type]


def check_shapes(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for outputs and targets that a criterion would compare each with several of the other."""
    outputs, targets = trainer.outputs, trainer.targets
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return
    try:
        spread = torch.broadcast_shapes(outputs.shape, targets.shape)
    except RuntimeError:  # torch will say it
        return
    several = spread.numel()
    if several == outputs.numel() == targets.numel():  # (4, 1) and (1, 4, 1): each with its own
        return
    name = next(
        type(part).__name__ if isinstance(part, nn.Module) else getattr(part, "__name__", "it")
        for part in components.each(trainer.criterion)
        if _compares_elements(part)
    )
    fitted = "view_as" if outputs.numel() == targets.numel() else "expand_as"
    if fitted == "view_as" or outputs.numel() == several:
        line = f"self.targets = self.targets.{fitted}(self.outputs)"
    else:
        line = f"self.outputs = self.outputs.{fitted}(self.targets)"
    raise HookError(
        f"{owner(trainer)}.compute_loss: self.outputs have the shape {tuple(outputs.shape)} and self.targets "
        f"{tuple(targets.shape)}; {name} would spread them to {tuple(spread)}. If that is meant, or only the form "
        f"differs, override compute_loss and write {line} before the criterion."
    )


def check_loss(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for a loss of an evaluation that is no single number."""
    loss = trainer.loss
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        problem = loss_problem(trainer, graph=False)
        if problem is not None:
            raise HookError(problem)
