"""What the base does around the hooks while a loader is read: follow its items, fold metrics, lend the batch.

These are functions of a trainer, not methods, so that no name of a subclass can meet theirs.
"""

from __future__ import annotations

import contextlib
import copy
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import (
    checks,
    components,
    data,
    meeting,
    nonfinite,
    prefetch,
    reduction,
    replicas,
    resume,
    saving,
    sharding,
    signals,
    whereabouts,
)
from . import stepping as steps
from .callbacks import base as events
from .checkpoint import Writer
from .data import NOTHING
from .errors import HookError, MissingPartError
from .loggers.console import Bar, Console, Heartbeat
from .metrics import FOLD_EVERY, Mean, MetricObjects, RunningMeans, plain_metrics
from .pictures import Painter
from .rng import preserved_rng

if TYPE_CHECKING:
    from .loggers.run import Recording
    from .positions import Start
    from .replicas import Ranks
    from .rundir import RunDir
    from .stages import Stage
    from .stepping import Stepping
    from .trainer import ConvnetTrainer


_BATCH_ENDS = {"train": "on_end_training_batch", "valid": "on_evaluate_batch_end", "test": "on_end_test_batch"}
_STEPS = {
    "train": ("train_batch", "training_step"),
    "valid": ("evaluate_epoch", "evaluate_batch"),
    "test": ("test_loop", "test_step"),
}
NO_VALID_LOADER = "no evaluation: there is no valid loader (set self.valid_loader)"
BATCH_PARTS = ("batch", "inputs", "targets")
BATCH_ATTRIBUTES = ("loss", "outputs", "batch_metrics", *BATCH_PARTS)


@dataclass(slots=True)
class RunState:
    """What the base remembers of a run, in one attribute of the trainer."""

    console: Console = field(default_factory=Console)
    pictures: Painter = field(default_factory=Painter)
    run: RunDir | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    running: str | None = None  # "train" or "test" while that method runs
    exception: BaseException | None = None
    listeners: dict[str, list[Any]] = field(default_factory=dict)  # event: methods of callbacks
    recording: Recording | None = None  # the loggers
    given: dict[str, Any] = field(default_factory=dict)  # BATCH_PARTS that the constructor's hooks set: a size, say
    networks: set[str] = field(default_factory=set)  # attributes that hold the networks of a trainer without a model

    # The loop: what is being read, and what was asked of it.
    loader: str | None = None
    item: Any = NOTHING
    lent: tuple[str, ...] = ()  # which of BATCH_PARTS the base set for this item
    skip: bool = False  # the item under way does not count
    initial_loss: Any = None  # self.loss before the hook that starts a pass
    stop: bool = False
    leave: bool = False
    stop_loader: bool = False
    further: bool = False  # evaluate_loader() reads one that is not the run's own

    # Counting.
    step: int = 0
    trained_step: int = 0  # the last one whose training_step() has returned
    done: int | None = None  # the last finished epoch
    stage: Stage | None = None
    stage_end: int | None = None
    before_stage: dict[str, Any] = field(default_factory=dict)  # settings that the stage changed
    epoch_started: float = 0.0
    scheduler_marks: list[int] = field(default_factory=list)  # positions of the schedulers when the epoch began
    left_early: bool = False  # this epoch's evaluation was
    # The steps of the optimizers; None where every batch is one plain step.
    stepping: Stepping | None = None
    moved: bool = True  # the batch under way has moved the weights
    gathering: bool = False  # a step of the subclass's own has not moved them: its gradients may wait for a later one
    missed: int = 0  # batches before it that have not
    skipped: int = 0  # steps of this epoch left out because something was not finite
    weights_version: int | None = None  # when the first epoch began
    late: bool = False  # the weights were moved once more after the pass's last batch
    determinism: tuple[Any, ...] | None = None  # what the run has set aside for `_deterministic`
    best: tuple[str, str, float, int] | None = None  # part, metric, value, epoch

    ranks: Ranks | None = None  # where there are several: how much this one's gradients weigh
    # Where the epoch is, for a checkpoint of it.
    phase: str | None = None  # "train" or "evaluate" in an epoch
    batches: int = 0  # trained in this epoch
    epoch_step: int = 0  # steps before it
    epoch_rng: dict[str, Any] = field(default_factory=dict)
    evaluation_rng: dict[str, Any] = field(default_factory=dict)
    # States of the callbacks and attributes when it began, in a run that has a folder.
    evaluation_records: tuple[list[list[Any]], dict[str, Any]] | None = None
    means: RunningMeans | None = None
    objects: MetricObjects | None = None
    attributes_before: dict[str, Any] = field(default_factory=dict)  # of a subclass, before the first step
    modules_before: dict[str, Any] = field(default_factory=dict)  # contents of its modules
    objects_before: dict[str, Any] = field(default_factory=dict)  # digests of its records and containers
    marks_before: dict[str, Any] = field(default_factory=dict)  # of all of its objects
    left_out: set[str] = field(default_factory=set)  # of them, said to be in no checkpoint

    # Saving and going on.
    signals: list[str] = field(default_factory=list)  # that have come at any moment; see signals.take
    asked: list[str] = field(default_factory=list)  # of them, and "save", to be seen to after the step
    notes_signals: int | None = None  # the id of this object; a copy's signals are not noted
    saves: list[Path] = field(default_factory=list)  # files asked for within a batch
    next_save: float = math.inf  # the step after which a save is due
    next_save_time: float = math.inf
    saved_step: int = 0  # what the newest checkpoint holds
    writer: Writer = field(default_factory=Writer)
    resumed: dict[str, Any] | None = None  # what was read from a checkpoint, until all of it is restored
    start: Start | None = None

    # Weights.
    saved: bool = False  # save_model() wrote model.pth in this run
    trained: bool = False  # this process changed the weights
    loaded: str | None = None  # weights that the user loaded on purpose, after the last training
    weights: str = ""  # what load_model() did, for the line that test() prints


def fire(trainer: ConvnetTrainer, event: str) -> None:
    """Call the callbacks that listen to an event."""
    for listener in trainer._run_state.listeners.get(event, ()):
        listener(trainer)


def prepare(trainer: ConvnetTrainer, name: str, loader: Any, items: Any) -> Any:
    """Return the items of a loader for the hook that starts a pass, which may replace or wrap them."""
    state = trainer._run_state
    if state.running is None:  # evaluate_epoch() called by itself
        state.stop = state.leave = False
        state.listeners = events.listeners(trainer.callbacks)
        state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    state.initial_loss = vars(trainer).get("loss")
    if name != "train":
        # What a subclass's own hook took from the last training batch must not be read for this one.
        _forget_parts(trainer)
    if state.ranks is not None:
        loader = sharding.prepared(trainer, name, loader)
    seed = None if trainer._seed is None else (trainer._seed, name, trainer._epoch)
    items = items if loader is None else data.Items(loader, name, seed)
    if name == "train":
        resume.enter_epoch(trainer, items)
    return items


def follow(trainer: ConvnetTrainer, name: str, items: Iterable[Any] | None) -> Iterator[Any]:
    """Yield the items of one pass over a loader; between two of them, fold the metrics of the first."""
    state, own = trainer._run_state, vars(trainer)
    if items is None:
        if name == "valid" and state.running is not None:
            state.console.once(NO_VALID_LOADER)
            return
        where = "get_testloader" if name == "test" else "get_trainloader"
        raise HookError(f"{type(trainer).__name__} has no {name} loader. Set self.{name}_loader in {where}(self).")
    training = name == "train"
    if training:
        if resume.trained_already(trainer):
            return
        replicas.replicate(trainer)
    means = RunningMeans()
    size_of = data.batch_size if checks.is_default(trainer, "batch_size_of") else trainer.batch_size_of
    losses = LossWatch(means["loss"], size_of, own.get("loss"), running=own.get("loss") is not state.initial_loss)
    # The default steps set a new loss for every batch; of another one, each batch has to be looked at.
    take_loss = losses.count if checks.is_default(trainer, *_STEPS[name]) else losses.take
    if training and trainer._on_nonfinite == "raise":
        means["loss"].watch = partial(nonfinite.check_losses, trainer)
    # A pass inside another one's batch must not reset the metric objects that the outer one fills.
    nested = state.item is not NOTHING
    objects = MetricObjects(copy.deepcopy(trainer.metrics) if nested else trainer.metrics, trainer.device)
    # Where something measures outputs, a step that sets none must not be measured by those of the last one.
    has_objects = bool(objects.metrics)
    measured = has_objects or _BATCH_ENDS.get(name) in state.listeners
    # Where the default hook takes every batch, nothing of the last one can be left over.
    takes = training and checks.is_default(trainer, "train_batch", "on_start_training_batch", "take_batch")
    bar, heartbeat = _progress(trainer, name, items)
    done, look = 0, 1
    broken = False  # a batch was, before it counted
    # Whose version tells, after an error, whether a step of the subclass's own has moved the weights.
    probe, version = None, 0
    schedules = trainer.scheduler is not None and trainer._scheduler_step == "step"  # after the optimizer has moved
    if training and (schedules or not checks.is_default(trainer, "training_step", "optimizer_step")):
        parameters = (p for module in components.modules_of(trainer) for p in module.parameters())
        probe = next((p for p in parameters if p.requires_grad), None)
    stepping = steps.bind(trainer)
    if not training:
        stepping = None
    elif stepping is not None:
        left = data.length_of(items)
        stepping.begin_pass(trainer, None if left is None else left - (state.start.batches if state.start else 0))
    saves_within = trainer._save_steps is not None or trainer._save_minutes is not None
    outer, state.loader, state.initial_loss = state.loader, name, None
    asked, state.stop_loader = state.stop_loader, False  # of the pass around this one
    if training:
        state.means, state.objects = means, objects
        if state.resumed is not None:
            items = resume.go_on(trainer, items)
            losses.pass_over(own.get("loss"))
    items = prefetch.ahead(trainer, items)
    try:
        # stop_train() in on_train_epoch_start asks for no batch at all.
        ranks = state.ranks
        if ranks is not None:
            items = sharding.ranked(trainer, name, items)
            if training:
                ranks.meetings.begin()
        for item in () if state.leave or (training and state.stop) else items:
            state.item = item
            if not takes and state.lent:
                return_batch(trainer)
            if trainer.batch_metrics:
                trainer.batch_metrics = {}
            if measured:
                trainer.outputs = None
            if training:
                state.step += 1
                if probe is not None:
                    version = probe._version
                if stepping is not None:
                    stepping.next_batch(trainer)
            yield item
            batch = own["batch"] if takes or "batch" in state.lent else data.batch_of(item)
            values = trainer.batch_metrics
            if state.skip:
                state.skip = False
                losses.pass_over(own.get("loss"))
            else:
                if values and "loss" in values:
                    losses.pass_over(own.get("loss"))
                else:
                    take_loss(own.get("loss"), batch)
                if values:
                    means.update(values, size_of(batch))
                if has_objects and trainer.outputs is not None:
                    objects.update(trainer.outputs, trainer.targets)
            if bar is not None:
                bar.tick()
            if training:
                state.batches += 1
                if ranks is not None:
                    meeting.meet(trainer)
                elif state.signals:
                    signals.take(state)
                if state.asked or (saves_within and state.step >= state.next_save):
                    state.gathering = probe is not None and probe._version == version
                    saving.after_step(trainer)
            elif ranks is None and not nested and (state.signals or state.asked):  # ranks obey at the epoch's end
                signals.take(state)
                signals.obey(state)
            if heartbeat is not None:
                done += 1
                if done == look:
                    look = heartbeat.look(done)
            elif not training:
                done += 1
            if state.stop_loader or state.leave or (training and state.stop):
                state.left_early = state.leave and not training
                break
    except GeneratorExit:  # a hook of the batch raised
        if training and (state.trained_step == state.step or (probe is not None and probe._version != version)):
            # The weights have moved: a run that goes on from here must not train this batch again.
            with contextlib.suppress(Exception):  # the hook's own error is the one to show
                values, batch = trainer.batch_metrics, own["batch"] if "batch" in state.lent else data.batch_of(item)
                if not (values and "loss" in values):
                    take_loss(own.get("loss"), batch)
                if values:
                    means.update(values, size_of(batch))
                if has_objects and trainer.outputs is not None:
                    objects.update(trainer.outputs, trainer.targets)
            state.batches += 1
        else:
            broken = True
        raise
    finally:
        if training:
            # A batch that was broken off may have added to the gradients, and is trained again.
            state.gathering = not broken and probe is not None and probe._version == version
        if ranks is not None and training:
            ranks.meetings.end()
            meeting.release(trainer)
        state.item = NOTHING
        state.loader, state.stop_loader = outer, asked
        if bar is not None:
            bar.close()
    if stepping is not None:
        stepping.end_pass(trainer)
    if training and ranks is not None:
        replicas.check_weights(trainer)
    computed = means.compute()
    means["loss"].watch = None  # it holds the trainer
    for metric in objects.metrics.keys() & computed.keys() - {"loss"}:
        state.console.once(f"{metric} is what self.metrics[{metric!r}] computes, not the mean of batch_metrics")
    if ranks is None:
        trainer.loader_metrics = plain_metrics({**computed, **objects.compute()})
    else:
        trainer.loader_metrics = reduction.of_all_ranks(means, objects)
    trainer.epoch_metrics[name] = trainer.loader_metrics


class LossWatch:
    """Folds ``self.loss`` of every batch that gave a new one.

    Parameters
    ----------
    mean : Mean
    size_of : callable
        Returns the number of samples of a batch.
    loss : Any
        What ``self.loss`` is before the first batch.
    running : bool
        The hook that started the pass set it: it is a running value of the subclass, and no mean is made of it.
    """

    __slots__ = ("mean", "number", "running", "seen", "size_of", "version")

    def __init__(self, mean: Mean, size_of: Callable[[Any], int], loss: Any, running: bool) -> None:
        self.mean = mean
        self.size_of = size_of
        self.running = running
        self.seen: Callable[[], Any] = _nothing
        self.version: int | None = None
        self.number: Any = None
        self.pass_over(loss)

    def pass_over(self, loss: Any) -> None:
        """Know `loss` without counting it."""
        if isinstance(loss, Tensor):
            # Weakly: a strong reference would keep the last step's graph through the next step.
            self.seen, self.version = weakref.ref(loss), None if loss.requires_grad else _version(loss)
        else:
            self.number = loss

    def take(self, loss: Any, batch: Any) -> None:
        """Count `loss` for `batch`, if it is new."""
        if isinstance(loss, Tensor):
            known = self.seen() is loss and (loss.requires_grad or self.version == _version(loss))
        else:
            known = loss is self.number and type(loss) is not int
        if not known:
            self.pass_over(loss)
            self.count(loss, batch)

    def count(self, loss: Any, batch: Any) -> None:
        """Count `loss` for `batch`."""
        if self.running:
            return
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                return
            samples, mean = self.size_of(batch), self.mean
            if samples != mean.weight or len(mean.waiting) >= FOLD_EVERY:
                mean.fold(samples)
            # Without a graph it may be a buffer that the next batch writes over.
            mean.waiting.append(loss.detach() if loss.requires_grad else loss.clone())
        elif isinstance(loss, (int, float)):
            self.mean.add_number(loss, self.size_of(batch))


def _nothing() -> None:
    """Stand for a weak reference to nothing."""


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor without a graph was written to, None for one that does not count it."""
    return None if tensor.is_inference() else tensor._version


def _progress(trainer: ConvnetTrainer, name: str, items: Iterable[Any]) -> tuple[Bar | None, Heartbeat | None]:
    state, total = trainer._run_state, data.length_of(items)
    if type(items).__name__.startswith("tqdm"):  # a subclass shows a bar of its own
        return None, None
    epoch = f"epoch {trainer._epoch}/{trainer._num_epochs}" if name != "test" else ""
    timed = state.running == "train"
    return state.console.bar(name, total, epoch, timed=timed), state.console.heartbeat(name, total, epoch, timed)


def _forget_parts(trainer: ConvnetTrainer) -> None:
    """Forget the last batch, also what hooks took of it; a subclass's own values of such names stay."""
    state, own = trainer._run_state, vars(trainer)
    for name in BATCH_PARTS:
        if name not in state.networks and own.get(name, NOTHING) is not state.given.get(name):
            own.pop(name, None)
    state.lent = ()


def return_batch(trainer: ConvnetTrainer) -> None:
    """Forget what the base set for the last item, so that nothing stale is read."""
    state = trainer._run_state
    for name in state.lent:
        vars(trainer).pop(name, None)
    state.lent = ()


def lend(trainer: ConvnetTrainer, name: str) -> Any:
    """Set the parts of the batch that no hook has set for the item under way, and return one of them.

    Raises
    ------
    MissingPartError
        If the batch has no such part.
    """
    state, own = trainer._run_state, vars(trainer)
    batch = own["batch"] if "batch" in state.lent else trainer.to_device(data.batch_of(state.item))
    found = {"batch": batch, **data.inputs_and_targets(batch)}
    if name not in found:
        raise MissingPartError(
            f"{type(trainer).__name__}: self.{name} cannot be taken from the batch, {data.describe_batch(batch)}; "
            "expected a pair, or the keys 'inputs' and 'targets'. Set it in on_start_training_batch(self, item) "
            "(on_evaluate_batch_start, test_step), or override compute_loss to use self.batch."
        )
    missing = {key: value for key, value in found.items() if key not in own}
    own.update(missing)
    state.lent += tuple(missing)
    return own[name]


@contextlib.contextmanager
def evaluation(trainer: ConvnetTrainer) -> Iterator[None]:
    """Eval mode without gradients; afterwards every sub-module has the flag that it had.

    Inside a training batch, the batch under way is given back too.
    """
    state, own = trainer._run_state, vars(trainer)
    modules = components.modules_to_evaluate(trainer)
    flags = [(part, part.training) for module in modules for part in module.modules()]
    item, lent, skip = state.item, state.lent, state.skip
    held = BATCH_ATTRIBUTES if item is not NOTHING else ()
    under_way = {name: own[name] for name in held if name in own}
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    except BaseException as error:
        if state.running != "train":  # there, the end of the run tells the callbacks
            whereabouts.note(trainer, error)
            state.exception = error
            fire(trainer, "on_exception")
            state.exception = None
        raise
    finally:
        for part, flag in flags:
            part.training = flag
        if item is not NOTHING:
            for name in held:
                own.pop(name, None)
            own.update(under_way)
            state.item, state.lent, state.skip = item, lent, skip


def evaluate_loader(trainer: ConvnetTrainer, loader: Any) -> dict[str, Any]:
    """Do what `ConvnetTrainer.evaluate_loader` says."""
    state, own = trainer._run_state, vars(trainer)
    held = (*BATCH_ATTRIBUTES, "loader_metrics", "valid_loader", "valid_epoch_iter", "epoch_metrics")
    kept = {name: own[name] for name in held if name in own}
    under_way = {name: getattr(state, name) for name in ("lent", "skip", "left_early", "stop_loader", "further")}
    state.further = True
    trainer.valid_loader, trainer.epoch_metrics, trainer.batch_metrics = loader, {}, {}
    try:
        with preserved_rng(loader):
            trainer.evaluate_epoch()
        return trainer.epoch_metrics.get("valid", {})
    finally:
        for name in held:
            own.pop(name, None)
        own.update(kept)
        for name, value in under_way.items():
            setattr(state, name, value)


@contextlib.contextmanager
def averages(trainer: ConvnetTrainer) -> Iterator[None]:
    """Let the model hold the averages of a callback, as an evaluation does, unless a batch is under way.

    There the step may have begun with the weights, and its backward pass needs them unchanged.
    """
    with contextlib.ExitStack() as stack:
        if trainer._run_state.item is NOTHING:
            for callback in components.each(trainer.callbacks, list, tuple):
                if hasattr(callback, "applied"):
                    stack.enter_context(callback.applied(trainer))
        yield


@contextlib.contextmanager
def single_batch(trainer: ConvnetTrainer, batch: Any) -> Iterator[None]:
    """Make `batch` the item under way, outside any loop."""
    state = trainer._run_state
    outer = state.item
    _forget_parts(trainer)
    trainer.outputs = trainer.loss = None
    trainer.batch_metrics = {}
    state.item = (0, batch)
    steps.bind(trainer)
    try:
        yield
    finally:
        state.item, trainer._next_loop = outer, False
