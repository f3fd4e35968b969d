"""`Watch`: what a training step of the subclass's own ignores of the settings, seen by what it does."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import hooks

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer
    from .steps import Plan


class Watch:
    """Watches the native methods that the batches of a pass call, until there is something to say.

    Parameters
    ----------
    trainer : ConvnetTrainer
    plan : Plan
    probe : Tensor
        A weight whose version tells whether the step has moved the weights.
    """

    def __init__(self, trainer: ConvnetTrainer, plan: Plan, probe: Tensor) -> None:
        self.cast = False
        self._plan, self._probe, self._version = plan, probe, probe._version
        self._weighs = self._steps = False
        self._kept: list[tuple[Any, Tensor, int]] = []  # gradients that wait for further batches
        self._problems: list[str] = []

    def begin_batch(self) -> None:
        """Know nothing of the batch under way."""
        self.cast = self._weighs = self._steps = False
        self._version = self._probe._version

    def weighs(self, gathering: list[Any]) -> None:
        """``loss_backward`` is called, and adds to these parameters' gradients."""
        self._weighs = True
        self._look(gathering, "clears or changes the gradients that earlier batches have left")
        self._kept = []

    def gathered(self, gathering: list[Any]) -> None:
        """Their gradients wait for further batches."""
        self._kept = [(p, p.grad, p.grad._version) for p in gathering if p.grad is not None]

    def steps(self, gathering: list[Any]) -> None:
        """``optimizer_step`` is called."""
        self._steps = True
        self._look(gathering, "changes gradients before all of a window's batches are in them")

    def _look(self, gathering: list[Any], problem: str) -> None:
        waiting = {id(parameter) for parameter in gathering}
        kept = [entry for entry in self._kept if id(entry[0]) in waiting]
        if any(parameter.grad is not gradient or gradient._version != then for parameter, gradient, then in kept):
            self._problems.append(
                f"{problem}, so self._accumulation_steps = {self._plan.steps} sums something else. Write "
                "self.optimizer_zero_grad() to clear them and self.clip_gradients(1.0) to clip them, which know the "
                "window"
            )

    def end_batch(self, trainer: ConvnetTrainer) -> bool:
        """Warn of what the batch has ignored; return whether there was something."""
        plan, problems = self._plan, self._problems
        scaled = plan.precision == "fp16"
        if self._steps and not self._weighs and (scaled or plan.steps > 1):
            ignored = ["that fp16 scales the loss"] if scaled else []
            ignored += ["that accumulated batches weigh by their samples"] if plan.steps > 1 else []
            problems.append(f"ignores {' and '.join(ignored)}. Write self.loss_backward() in place of loss.backward()")
        if not self._steps and self._probe._version != self._version and (ignored := self._of_the_step(plan)):
            problems.append(
                f"moves the weights without self.optimizer_step(), so {', '.join(ignored)} "
                f"{'are' if len(ignored) > 1 else 'is'} ignored. Write self.optimizer_step() in place of "
                "self.optimizer.step()"
            )
        moved = self._steps or self._probe._version != self._version
        if moved and plan.precision != "fp32" and not self.cast and not self._is_cast(trainer):
            problems.append(
                f"computes its losses outside of self.autocast(), so self._precision = {plan.precision!r} is ignored. "
                "Write with self.autocast(): self.loss = self.compute_loss()"
            )
        if problems:
            text = "; it ".join(dict.fromkeys(problems))
            warnings.warn(f"{hooks.owner(trainer)}: the training step {text}.", stacklevel=4)
        return bool(problems)

    def _of_the_step(self, plan: Plan) -> list[str]:
        norm, value = plan.limit
        found = [f"self._clip_norm = {norm}"] if norm is not None else []
        found += [f"self._clip_value = {value}"] if value is not None else []
        found += [f"self._accumulation_steps = {plan.steps}"] if plan.steps > 1 else []
        found += ["the overflows of self._precision = 'fp16'"] if plan.precision == "fp16" else []
        return found + (["self._on_nonfinite = 'skip'"] if plan.skip else [])

    def _is_cast(self, trainer: ConvnetTrainer) -> bool:
        """Return whether the subclass casts in another way."""
        if not hooks.is_default(trainer, "autocast"):
            return True
        outputs = trainer.outputs
        return isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
