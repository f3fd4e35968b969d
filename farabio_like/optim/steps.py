"""When the weights move, and by which gradients: accumulation windows, clipping, the scalers of fp16.

Only a trainer that sets one of these has a `Stepping`; any other steps its optimizers directly.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .. import components, data
from ..checks import hooks
from ..checks import loss as loss_checks
from ..checks import settings as setting_checks
from ..checks.arguments import positive
from ..components import dtensor
from ..distributed import ddp
from ..duck_typing import attribute
from ..errors import ConfigError, HookError, NonFiniteError
from .buffers import Buffers
from .watch import Watch

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The scale begins at 65536 and is halved by every overflow: after so many in a row no scale can help.
MOST_OVERFLOWS = 40


class Limit(NamedTuple):
    """How large gradients may be."""

    norm: float | None = None
    value: float | None = None

    def clip(self, parameters: list[Any]) -> Tensor:
        """Clip the gradients of one optimizer's parameters; return their norm before."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.norm is not None:
            return dtensor.whole(torch.nn.utils.clip_grad_norm_(parameters, self.norm))
        norm = dtensor.whole(torch.nn.utils.get_total_norm(gradients))
        if self.value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.value)
        return norm


class Plan(NamedTuple):
    """The settings that a step depends on."""

    precision: str = "fp32"
    steps: int = 1
    limit: Limit = Limit()
    skip: bool = False  # steps with gradients that are not finite


@dataclass(slots=True)
class Window:
    """What one optimizer has gathered since its last step."""

    batches: int = 0
    samples: int = 0
    scaler: str | None = None  # whose scale its gradients carry
    ready: bool = False  # they are unscaled and averaged, though the step is still to come
    divided: float = 1.0  # by what they were divided for it
    limit: Limit | None = None  # that the step of the subclass's own has asked for
    clipped: bool = False  # and has got
    finite: bool = True  # what was found before they were clipped


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
        self.further = 0  # steps of the same optimizers that follow in the batch under way
        self.made = False  # an optimizer has moved in the batch under way
        self.overflows = 0  # in a row
        self.samples = 1  # of the batch under way
        self.buffers: Buffers | None = None  # of a pass, where steps may be left out
        self.watch: Watch | None = None  # a step of the subclass's own
        self.own = False  # the training step is the subclass's own: it may read the gradients before they are stepped

    # ---------------------------------------------------------------- what the native methods do

    def autocast(self, trainer: ConvnetTrainer) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the precision."""
        dtype = DTYPES.get(self.plan.precision)
        if self.watch is not None:
            self.watch.cast = True
        return contextlib.nullcontext() if dtype is None else torch.autocast(trainer.device.type, dtype)

    def zero_grad(self, trainer: ConvnetTrainer) -> None:
        """Clear the gradients where a window begins."""
        for name, optimizer in self._chosen(trainer):
            window = self.windows.get(name)
            if window is None or not window.batches:
                if window is not None and window.ready:
                    self._forget_unscaled(optimizer, window)  # of a batch that was not stepped
                self.windows.pop(name, None)
                optimizer.zero_grad()
        self._update_scalers()

    def weighed(self, trainer: ConvnetTrainer, loss: Any) -> Any:
        """Return what to backpropagate for `loss`; anything but a tensor is returned as it is."""
        if not isinstance(loss, Tensor):
            return loss
        samples = self.samples = self._samples(trainer)
        for name, optimizer in self._chosen(trainer):
            self._gather_on(optimizer, self.windows.get(name))
        if self.watch is not None:
            self.watch.weighs(self._gathering(trainer))
        ranks = trainer._run_state.ranks
        if ranks is not None and self.plan.steps > 1:
            loss = loss * ranks.share_of_step  # of all ranks' samples, those of this one
        if samples != self.unit:
            loss = loss * (samples / self.unit)
        return self._scaler(trainer).scale(loss) if self.plan.precision == "fp16" else loss

    def backpropagated(self, trainer: ConvnetTrainer) -> None:
        """Make gradients ready that the next step is made with: what a step of the subclass's own reads is true."""
        if self.own:
            for name, optimizer in self._chosen(trainer):
                window = self.windows.setdefault(name, Window())
                if self._fills(window):
                    self._make_ready(optimizer, window, window.samples + self.samples)
        if self.watch is not None:
            self.watch.gathered(self._gathering(trainer))

    def clip(self, trainer: ConvnetTrainer, limit: Limit) -> dict[str, Tensor]:
        """Clip the gradients of every window that the batch fills; return their norms before, by optimizer."""
        norms = {}
        for name, optimizer in self._chosen(trainer):
            window = self.windows.setdefault(name, Window())
            window.limit = limit  # for one that the end of the pass closes
            if self._fills(window):
                self._make_ready(optimizer, window, window.samples + self._samples(trainer))
                if self.plan.skip and window.scaler is None:
                    window.finite = self._finite(_with_gradients(optimizer))
                norms[name] = limit.clip(_with_gradients(optimizer))
                window.clipped = True
        return norms

    def step(self, trainer: ConvnetTrainer) -> None:
        """Count the batch; step the optimizers whose windows are full, and their schedulers."""
        if trainer.optimizer is None:
            raise HookError(loss_checks.no_optimizer(trainer))
        samples = self._samples(trainer)
        if self.watch is not None:
            self.watch.steps(self._gathering(trainer))
        full = []
        for name, _ in self._chosen(trainer):
            window = self.windows.setdefault(name, Window())
            window.batches += 1
            window.samples += samples
            if window.batches >= self.plan.steps or self._is_last():
                full.append(name)
        moved = self._close(trainer, full)
        self.made = self.made or moved
        trainer._run_state.moved = self.made

    def gather_on(self, trainer: ConvnetTrainer) -> None:
        """Make gradients that are ready, and wait for a step nevertheless, what a window holds: so they are stored."""
        for name, optimizer in optimizers_of(trainer).items():
            self._gather_on(optimizer, self.windows.get(name))

    # ---------------------------------------------------------------- around the batches

    def begin_pass(self, trainer: ConvnetTrainer, left: int | None, probe: Tensor | None = None) -> None:
        """Know how many batches come, where that is known: the last one closes the windows.

        Parameters
        ----------
        trainer : ConvnetTrainer
        left : int or None
        probe : Tensor, optional
            A weight whose version tells whether a step of the subclass's own has moved the weights.
        """
        state = trainer._run_state
        self.left = None if left is None else left + 1
        state.moved_after_pass = False
        self.buffers = Buffers(trainer) if self.plan.skip else None
        self.watch = Watch(trainer, self.plan, probe) if self.own and probe is not None else None

    def next_batch(self, trainer: ConvnetTrainer) -> None:
        """Begin a batch: until `step` says otherwise, a subclass moves the weights by itself."""
        state = trainer._run_state
        if self.left is not None:
            self.left -= 1
        self.further = 0
        state.batches_without_step += not state.moved
        state.moved, self.made = True, False
        if state.ranks is not None:
            counts = [window.batches for window in self.windows.values()] or [0]
            closes = max(counts) + 1 >= self.plan.steps or self.left == 1
            ddp.average_next(trainer, closes, weigh=self.plan.steps == 1)
        if self.buffers is not None:
            self.buffers.keep()
        if self.watch is not None:
            self.watch.begin_batch()

    def begin_step(self, trainer: ConvnetTrainer) -> None:
        """Begin a step of the chosen optimizers: the ranks add up their gradients where it fills the windows."""
        closes = all(self._fills(self.windows.get(name, Window())) for name, _ in self._chosen(trainer))
        ddp.average_next(trainer, closes, weigh=False)

    def end_batch(self, trainer: ConvnetTrainer) -> None:
        """End a batch, before anything of it is counted or saved: give back what it has spoilt, say what it ignores."""
        if self.buffers is not None and not self.buffers.are_finite():
            self.buffers.give_back()
        loss = trainer.loss
        if self.plan.skip and self.plan.steps > 1 and isinstance(loss, Tensor) and not loss.detach().isfinite().all():
            trainer._run_state.skip = True  # its window is left out, when that is full
        if self.watch is not None and self.watch.end_batch(trainer):
            self.watch = None  # said once

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

    def _fills(self, window: Window) -> bool:
        """Return whether the batch under way is the last one of a window."""
        return window.batches + 1 >= self.plan.steps or self._is_last()

    def _is_last(self) -> bool:
        """Return whether no step of the same optimizers follows in this pass."""
        return self.left == 1 and not self.further

    def _gathering(self, trainer: ConvnetTrainer) -> list[Any]:
        """Return the parameters whose gradients go on to the next batch."""
        found = []
        for name, optimizer in self._chosen(trainer) if self.plan.steps > 1 else ():
            window = self.windows.get(name)
            if window is not None and not window.ready and not self._fills(window):
                found += components.parameters_of(optimizer)
        return found

    def _make_ready(self, optimizer: Any, window: Window, samples: int) -> None:
        """Unscale and average the gradients of a window, once."""
        parameters = _with_gradients(optimizer)
        if window.ready or not parameters:
            return
        if window.scaler is not None:
            self.scalers[window.scaler].unscale_(optimizer)
        if samples != self.unit:
            window.divided = samples / self.unit
            torch._foreach_div_([p.grad for p in parameters], window.divided)
        window.ready = True

    def _gather_on(self, optimizer: Any, window: Window | None) -> None:
        """Let more be added to gradients that are ready: a second loss, or that of a batch after one without a step."""
        if window is None or not window.ready:
            return
        gradients = [p.grad for p in _with_gradients(optimizer)]
        if gradients and window.divided != 1:
            torch._foreach_mul_(gradients, window.divided)
        if window.scaler is not None:
            if gradients:
                torch._foreach_copy_(gradients, list(self.scalers[window.scaler].scale(gradients)))
            self._forget_unscaled(optimizer, window)
        window.ready, window.divided, window.clipped = False, 1.0, False

    def _forget_unscaled(self, optimizer: Any, window: Window) -> None:
        """Let a scaler unscale the gradients of an optimizer once more before the next step."""
        if window.scaler is not None:
            # The scaler has no public way: update() would count a step.
            self.scalers[window.scaler]._per_optimizer_states.pop(id(optimizer), None)

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
        """Average, unscale and clip the gradients and step; return False for a step that is left out."""
        self._make_ready(optimizer, window, window.samples)
        parameters = _with_gradients(optimizer)
        scaler = self.scalers[window.scaler] if window.scaler is not None and parameters else None
        if self.plan.skip and scaler is None and parameters and not (window.finite and self._finite(parameters)):
            state = trainer._run_state
            state.skipped += 1
            state.skip = True  # its loss is in no mean
            self._spoilt()
            return False
        asked, of_settings = window.limit, self.plan.limit
        if asked is not None and not window.clipped:
            asked.clip(parameters)
        if of_settings != Limit() and asked != of_settings:
            of_settings.clip(parameters)
        if scaler is None:
            optimizer.step()
            return True
        self.tried.add(window.scaler or "")
        if _scaled_step(scaler, optimizer):
            self.overflows = 0
            return True
        self._overflow(trainer)
        self._spoilt()
        return False

    def _spoilt(self) -> None:
        """Give back the buffers that the batch under way has written to, where steps may be left out."""
        if self.buffers is not None:
            self.buffers.give_back()

    def _finite(self, parameters: list[Any]) -> bool:
        """Return whether the gradients are finite; read back once per step, as only ``"skip"`` asks for it."""
        norms = torch._foreach_norm([p.grad for p in parameters])
        return bool(torch.stack([norm.isfinite() for norm in norms]).all())

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


def _with_gradients(optimizer: Any) -> list[Any]:
    return [p for p in components.parameters_of(optimizer) if p.grad is not None]


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
        Limit(trainer._clip_norm, trainer._clip_value),
        trainer._on_nonfinite == "skip",
    )
    now = state.stepping
    if now is not None and now.plan != plan:
        setting_checks.check_settings(trainer)  # a hook may have changed them
        now.plan = plan
    elif now is None and plan != Plan():
        now = Stepping(plan)
    if now is not None:
        now.own = not hooks.is_default(trainer, "training_step", "loss_backward", "optimizer_step")
    # Within `only`, a plain step is a Stepping too.
    if now is not None and plan == Plan() and now.only is None:
        now = None
        state.moved = True
    state.stepping = now
    return now


def clip(trainer: ConvnetTrainer, norm: float | None, value: float | None) -> Any:
    """Do what `ConvnetTrainer.clip_gradients` says."""
    name = f"{type(trainer).__name__}.clip_gradients"
    if trainer.optimizer is None:
        raise HookError(loss_checks.no_optimizer(trainer))
    if norm is None and value is None:
        norm, value = trainer._clip_norm, trainer._clip_value
    if (norm is None) == (value is None):
        raise ConfigError(
            f"{name} got norm={norm!r} and value={value!r}; expected one of them, or self._clip_norm or "
            "self._clip_value to be set. Write self.clip_gradients(1.0)."
        )
    limit = Limit(
        None if norm is None else positive(f"{name}(norm)", norm),
        None if value is None else positive(f"{name}(value)", value),
    )
    stepping = trainer._run_state.stepping
    if stepping is not None:
        norms = stepping.clip(trainer, limit)
    else:
        norms = {key: limit.clip(_with_gradients(part)) for key, part in optimizers_of(trainer).items()}
    return norms if isinstance(trainer.optimizer, Mapping) else norms.get("")


@contextlib.contextmanager
def of_single_batch(trainer: ConvnetTrainer) -> Iterator[None]:
    """Step for a batch outside any loop: leave nothing of it behind where its step is left out."""
    state = trainer._run_state
    stepping, skip = state.stepping, state.skip
    outer = stepping.buffers if stepping is not None else None
    if stepping is not None and stepping.plan.skip:
        stepping.buffers = Buffers(trainer)
        stepping.buffers.keep()
    try:
        yield
    finally:
        state.skip = skip
        if stepping is not None and stepping.buffers is not None and stepping.buffers is not outer:
            if not stepping.buffers.are_finite():
                stepping.buffers.give_back()
            stepping.buffers = outer


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
        with restricted(trainer, names):
            yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def restricted(trainer: ConvnetTrainer, names: tuple[str, ...]) -> Iterator[None]:
    """Let the native methods zero and step only the optimizers of these names."""
    state = trainer._run_state
    outer = state.stepping
    inner = state.stepping = outer if outer is not None else Stepping(Plan())
    before, inner.only = inner.only, tuple(map(str, names))
    if state.ranks is not None and inner.plan.steps > 1:
        inner.begin_step(trainer)
    try:
        yield
    finally:
        inner.only = before
        state.stepping = outer


def repeat(trainer: ConvnetTrainer, step: Callable[[], None], times: int) -> None:
    """Make so many steps of the same optimizers in a batch: in a window of accumulated batches each counts as one."""
    stepping = trainer._run_state.stepping
    for further in reversed(range(times)):
        if stepping is not None:
            stepping.further = further
        step()
    if stepping is not None:
        stepping.further = 0
