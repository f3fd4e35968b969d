"""When the weights move, and by which gradients: accumulation windows, clipping, the scalers of fp16.

Only a trainer that sets one of these has a `Stepping`; any other steps its optimizers directly.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .. import components, data
from ..checks import loss as loss_checks
from ..checks import settings as setting_checks
from ..distributed import ddp
from ..duck_typing import attribute
from ..errors import ConfigError, HookError, NonFiniteError

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The scale begins at 65536 and is halved by every overflow: after so many in a row no scale can help.
MOST_OVERFLOWS = 40


class Plan(NamedTuple):
    """The settings that a step depends on."""

    precision: str = "fp32"
    steps: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    skip: bool = False  # steps with gradients that are not finite


@dataclass(slots=True)
class Window:
    """What one optimizer has gathered since its last step."""

    batches: int = 0
    samples: int = 0
    scaler: str | None = None  # whose scale its gradients carry


class Stepping:
    """The training step of a trainer that accumulates, clips or computes in another precision.

    A loss counts as often as its batch has samples, in units of the window's first batch: so nothing is
    multiplied where all batches are equal. When a window closes, the sums are divided by its samples.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.only: tuple[str, ...] | None = None  # names of the optimizers that `only` has chosen
        self.windows: dict[str, Window] = {}
        self.unit = 1  # samples that weigh 1
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        self.tried: set[str] = set()  # scalers that were stepped with, and not updated since
        self.left: int | None = None  # batches of the pass, with the one under way
        self.made = False  # an optimizer has moved in the batch under way
        self.overflows = 0  # in a row

    # ---------------------------------------------------------------- what the native methods do

    def autocast(self, trainer: ConvnetTrainer) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the precision."""
        dtype = DTYPES.get(self.plan.precision)
        return contextlib.nullcontext() if dtype is None else torch.autocast(trainer.device.type, dtype)

    def zero_grad(self, trainer: ConvnetTrainer) -> None:
        """Clear the gradients where a window begins."""
        for name, optimizer in self._chosen(trainer):
            if name not in self.windows or not self.windows[name].batches:
                self.windows.pop(name, None)
                optimizer.zero_grad()
        self._update_scalers()

    def weighed(self, trainer: ConvnetTrainer, loss: Any) -> Any:
        """Return what to backpropagate for `loss`; anything but a tensor is returned as it is."""
        if not isinstance(loss, Tensor):
            return loss
        samples = self._samples(trainer)
        ranks = trainer._run_state.ranks
        if ranks is not None and self.plan.steps > 1:
            loss = loss * ranks.share_of_step  # of all ranks' samples, those of this one
        if samples != self.unit:
            loss = loss * (samples / self.unit)
        return self._scaler(trainer).scale(loss) if self.plan.precision == "fp16" else loss

    def step(self, trainer: ConvnetTrainer) -> None:
        """Count the batch; step the optimizers whose windows are full, and their schedulers."""
        if trainer.optimizer is None:
            raise HookError(loss_checks.no_optimizer(trainer))
        samples = self._samples(trainer)
        full = []
        for name, _ in self._chosen(trainer):
            window = self.windows.setdefault(name, Window())
            window.batches += 1
            window.samples += samples
            if window.batches >= self.plan.steps or self.left == 1:
                full.append(name)
        moved = self._close(trainer, full)
        self.made = self.made or moved
        trainer._run_state.moved = self.made

    # ---------------------------------------------------------------- around the batches

    def begin_pass(self, trainer: ConvnetTrainer, left: int | None) -> None:
        """Know how many batches come, where that is known: the last one closes the windows."""
        self.left = None if left is None else left + 1
        trainer._run_state.moved_after_pass = False

    def next_batch(self, trainer: ConvnetTrainer) -> None:
        """Begin a batch: until `step` says otherwise, a subclass moves the weights by itself."""
        state = trainer._run_state
        if self.left is not None:
            self.left -= 1
        state.batches_without_step += not state.moved
        state.moved, self.made = True, False
        if state.ranks is not None:
            counts = [window.batches for window in self.windows.values()] or [0]
            closes = max(counts) + 1 >= self.plan.steps or self.left == 1
            ddp.average_next(trainer, closes, weigh=self.plan.steps == 1)

    def end_pass(self, trainer: ConvnetTrainer) -> None:
        """Close the windows that are open after the last batch: it was not known to be the last."""
        state = trainer._run_state
        waiting = [name for name, window in self.windows.items() if window.batches]
        if waiting and state.ranks is not None:
            every = optimizers_of(trainer)
            ddp.sum_gradients([p for name in waiting for p in components.parameters_of(every[name])])
        if self._close(trainer, waiting):
            state.moved_after_pass = not state.moved
            state.moved = True

    # ---------------------------------------------------------------- inside

    def _chosen(self, trainer: ConvnetTrainer) -> list[tuple[str, Any]]:
        every = optimizers_of(trainer)
        return [(name, every[name]) for name in every if self.only is None or name in self.only]

    def _samples(self, trainer: ConvnetTrainer) -> int:
        """Return the samples of the batch under way, which begin a unit where no window is open."""
        samples = 1
        if self.plan.steps > 1:
            state = trainer._run_state
            # As the loop counts them: a subclass may keep a `batch` of its own.
            batch = vars(trainer)["batch"] if "batch" in state.lent else data.batch_of(state.item)
            # The windows of several ranks count what all of them have.
            samples = trainer.batch_size_of(batch) if state.ranks is None else state.ranks.samples
        if not any(window.batches for window in self.windows.values()):
            self.unit = samples or 1
        return samples

    def _scaler(self, trainer: ConvnetTrainer) -> torch.amp.GradScaler:
        """Return the scaler for a loss, and note it for the optimizers that the loss may reach."""
        names = [name for name, _ in self._chosen(trainer)]
        windows = [self.windows.setdefault(name, Window()) for name in names]
        carried = sorted({window.scaler for window in windows if window.scaler is not None})
        if len(carried) > 1:
            raise HookError(
                f"loss_backward() reaches the optimizers {names}, whose gradients carry different scales of fp16 "
                f"({carried}). Write with self.only('{names[0]}'): ... around every loss_backward(), or around none."
            )
        lead = carried[0] if carried else names[0] if names else ""
        for window in windows:
            window.scaler = lead
        return self._scaler_called(lead, trainer.device)

    def _scaler_called(self, name: str, device: torch.device) -> torch.amp.GradScaler:
        if name not in self.scalers:
            self.scalers[name] = torch.amp.GradScaler(device.type)
        return self.scalers[name]

    def _close(self, trainer: ConvnetTrainer, names: list[str]) -> bool:
        """Step these optimizers with what their windows hold; return whether one has moved."""
        every = optimizers_of(trainer)
        moved = []
        for name in names:
            window = self.windows.pop(name)
            if name in every and self._step_one(trainer, every[name], window):
                moved.append(every[name])
        self._update_scalers()
        if moved and trainer.scheduler is not None and trainer._scheduler_step == "step":
            for scheduler in components.each(trainer.scheduler):
                owner = attribute(scheduler, "optimizer")
                # One that is not known to belong to another optimizer moves with any.
                if not any(owner is part for part in every.values()) or any(owner is part for part in moved):
                    scheduler.step()
        return bool(moved)

    def _step_one(self, trainer: ConvnetTrainer, optimizer: Any, window: Window) -> bool:
        """Average, unscale and clip the gradients and step; return False for an overflow."""
        parameters: list[Any] = components.parameters_of(optimizer)
        parameters = [p for p in parameters if p.grad is not None]
        scaler = self.scalers[window.scaler] if window.scaler is not None and parameters else None
        if scaler is not None:
            scaler.unscale_(optimizer)
        if window.samples != self.unit and parameters:
            torch._foreach_div_([p.grad for p in parameters], window.samples / self.unit)
        if self.plan.skip and parameters and not self._finite(trainer, parameters):
            return False
        if self.plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.plan.clip_norm)
        elif self.plan.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.plan.clip_value)
        if scaler is None:
            optimizer.step()
            return True
        self.tried.add(window.scaler or "")
        if _scaled_step(scaler, optimizer):
            self.overflows = 0
            return True
        self._overflow(trainer)
        return False

    def _finite(self, trainer: ConvnetTrainer, parameters: list[Any]) -> bool:
        """Return whether the gradients are finite; read back once per step, as only ``"skip"`` asks for it."""
        norms = torch._foreach_norm([p.grad for p in parameters])
        if bool(torch.stack([norm.isfinite() for norm in norms]).all()):
            return True
        state = trainer._run_state
        state.skipped += 1
        state.skip = True  # its loss is in no mean
        return False

    def _update_scalers(self) -> None:
        """Let the scales follow, those that no waiting gradient carries."""
        for name in list(self.tried):
            if not any(window.scaler == name for window in self.windows.values()):
                self.scalers[name].update()
                self.tried.remove(name)

    def _overflow(self, trainer: ConvnetTrainer) -> None:
        """Note a step that was left out; a loss that has overflown too is in no mean."""
        state = trainer._run_state
        self.overflows += 1
        loss = trainer.loss
        # Read back: fp16 has just read whether there was an overflow, and overflows are rare.
        if state.loader == "train" and isinstance(loss, Tensor) and not loss.detach().isfinite().all():
            state.skip = True
        if self.overflows == MOST_OVERFLOWS:
            message = (
                f"{type(trainer).__name__}: the gradients of {MOST_OVERFLOWS} steps in a row were not finite in fp16 "
                f"(up to step {state.progress.step}), and none of them moved the weights. Lower the learning rate, "
                "check the inputs for NaN, or write self._precision = 'bf16'."
            )
            if trainer._on_nonfinite == "raise":
                raise NonFiniteError(message)
            warnings.warn(message, stacklevel=2)


def _scaled_step(scaler: torch.amp.GradScaler, optimizer: Any) -> bool:
    """Step by a scaler; return whether the optimizer has moved."""
    moved = False

    def note(stepped: Any, *_: Any) -> None:
        nonlocal moved
        # A fused optimizer is always called, and looks by itself whether there was an overflow.
        found = getattr(stepped, "found_inf", None)
        moved = found is None or not found.item()

    handle = optimizer.register_step_post_hook(note)
    try:
        scaler.step(optimizer)
    finally:
        handle.remove()
    return moved


def optimizers_of(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the optimizers by name; one alone has the empty name."""
    optimizer = trainer.optimizer
    if isinstance(optimizer, Mapping):
        return {str(name): part for name, part in optimizer.items()}
    return {} if optimizer is None else {"": optimizer}


def bind(trainer: ConvnetTrainer) -> Stepping | None:
    """Make ``state.stepping`` what the settings say, None for plain steps; called at the start of every pass."""
    state = trainer._run_state
    plan = Plan(
        trainer._precision,
        trainer._accumulation_steps,
        trainer._clip_norm,
        trainer._clip_value,
        trainer._on_nonfinite == "skip",
    )
    now = state.stepping
    if now is not None and now.plan != plan:
        setting_checks.check_settings(trainer)  # a hook may have changed them
        now.plan = plan
    elif now is None and plan != Plan():
        now = Stepping(plan)
    # Within `only`, a plain step is a Stepping too.
    if now is not None and plan == Plan() and now.only is None:
        now = None
        state.moved = True
    state.stepping = now
    return now


def forget(trainer: ConvnetTrainer) -> None:
    """Drop what a run that was broken off has gathered: the next one begins its windows anew. Scales stay."""
    stepping = trainer._run_state.stepping
    if stepping is not None:
        stepping.windows, stepping.tried = {}, set()
        stepping.scalers = fresh(stepping, trainer.device).scalers


def fresh(stepping: Stepping, device: torch.device) -> Stepping:
    """Return another one with the same settings and scales, and no window open."""
    other = Stepping(stepping.plan)
    other.only = stepping.only
    for name, scaler in stepping.scalers.items():
        # A new object: the old one may be amid a step.
        other.scalers[name] = torch.amp.GradScaler(device.type)
        other.scalers[name].load_state_dict(scaler.state_dict())
    return other


@contextlib.contextmanager
def only(trainer: ConvnetTrainer, names: tuple[str, ...]) -> Iterator[None]:
    """Do what `ConvnetTrainer.only` says."""
    every = trainer.optimizer
    unknown = [name for name in names if not isinstance(every, dict) or name not in every]
    if unknown:
        there = list(every) if isinstance(every, dict) else "no dict"
        raise ConfigError(f"only{names}: there is no optimizer {unknown[0]!r}; self.optimizer is {there}.")
    kept = {id(p) for name in names for p in components.parameters_of(every[name])}
    parameters = [p for optimizer in every.values() for p in components.parameters_of(optimizer)]
    others = [p for p in parameters if id(p) not in kept and p.requires_grad]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        with _restricted(trainer, names):
            yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _restricted(trainer: ConvnetTrainer, names: tuple[str, ...]) -> Iterator[None]:
    """Let the native methods zero and step only the optimizers of these names."""
    state = trainer._run_state
    outer = state.stepping
    inner = state.stepping = outer if outer is not None else Stepping(Plan())
    before, inner.only = inner.only, tuple(map(str, names))
    try:
        yield
    finally:
        inner.only = before
        state.stepping = outer
