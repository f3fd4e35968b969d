"""One pass over a loader: its items between two of which the metrics are folded.

These are functions of a trainer, not methods, so that no name of a subclass can meet theirs.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from .. import components, data
from ..callbacks import dispatch
from ..checks import hooks
from ..checks.trained import check_parameters
from ..data import prefetch
from ..data.loaders import NOTHING
from ..distributed import ddp, division
from ..distributed import loaders as rank_loaders
from ..errors import HookError
from ..loggers.console import Bar, Heartbeat
from ..metrics import across_ranks
from ..metrics.loss import LossTracker
from ..metrics.objects import MetricObjects
from ..metrics.running import RunningMeans
from ..metrics.values import plain_metrics
from ..optim import nonfinite
from ..optim import steps as optim_steps
from ..resume import saving
from ..state import rank_requests, signals
from ..state.run_state import NO_VALID_LOADER
from .batch import forget_parts, return_batch

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


_BATCH_ENDS = {"train": "on_end_training_batch", "valid": "on_evaluate_batch_end", "test": "on_end_test_batch"}
_STEPS = {
    "train": ("train_batch", "training_step"),
    "valid": ("evaluate_epoch", "evaluate_batch"),
    "test": ("test_loop", "test_step"),
}


def prepare_items(trainer: ConvnetTrainer, name: str, loader: Any, items: Any) -> Any:
    """Return the items of a loader for the hook that starts a pass, which may replace or wrap them."""
    state = trainer._run_state
    if state.running is None:  # evaluate_epoch() called by itself
        state.requests.stop = state.requests.exit_asked = False
        state.listeners = dispatch.listeners(trainer.callbacks)
        state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    state.initial_loss = vars(trainer).get("loss")
    if name != "train":
        # What a subclass's own hook took from the last training batch must not be read for this one.
        forget_parts(trainer)
    if state.ranks is not None:
        loader = rank_loaders.loader_of_pass(trainer, name, loader)
    loader = state.to_read = apart(trainer, loader)
    seed = None if trainer._seed is None else (trainer._seed, name, trainer._epoch)
    items = items if loader is None else data.Items(loader, name, seed)
    state.counter = _counter(trainer, name, loader, items)
    if name == "train":
        state.resumption.enter_epoch(trainer, items)
    return items


def _counter(trainer: ConvnetTrainer, name: str, loader: Any, items: Any) -> data.SampleCounter:
    """Return what counts the samples of a pass's batches; where that is a guess, it warns once in a trainer's life."""
    state = trainer._run_state

    def tell(batch: Any, samples: int) -> None:
        if not state.size_guessed:
            state.size_guessed = True
            warnings.warn(
                f"{type(trainer).__name__}: it is not sure how many samples a batch of the {name} loader has, which is "
                f"{data.shapes_of(batch)}; {samples} is assumed, by which means, accumulated gradients and the shares "
                "of several processes are weighted. Write def batch_size_of(self, batch): return ...",
                stacklevel=2,
            )

    return data.SampleCounter(loader, items.counts if loader is not None else None, lambda: state.item, tell)


def apart(trainer: ConvnetTrainer, loader: Any) -> Any:
    """Return a loader to read within a pass over the same one: workers that stay would begin that pass anew."""
    under_way = any(loader is reader for reader in trainer._run_state.readers)
    if under_way and isinstance(loader, DataLoader) and loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None
    return loader


def follow(trainer: ConvnetTrainer, name: str, items: Iterable[Any] | None) -> Iterator[Any]:
    """Return the items of one pass over a loader; between two of them, the metrics of the first are folded."""
    state = trainer._run_state
    if items is None:
        if name == "valid" and state.running is not None:
            state.console.once(NO_VALID_LOADER)
            return iter(())
        where = "get_testloader" if name == "test" else "get_trainloader"
        raise HookError(f"{type(trainer).__name__} has no {name} loader. Set self.{name}_loader in {where}(self).")
    if name != "train":
        return _evaluation(trainer, name, items)
    if state.resumption.trained_already(trainer):
        state.schedules.add_new(trainer)
        return iter(())
    return _training(trainer, items)


def skip_batch(trainer: ConvnetTrainer) -> None:
    """Skip the batch under way, for which a hook has set ``_next_loop``: nothing of it counts."""
    state = trainer._run_state
    trainer._next_loop, state.skip = False, True
    if state.loader != "train" or state.item is NOTHING:
        return
    if state.stepping is None:
        state.batches_without_step += 1
    else:
        state.moved = False  # it is one without a step
    if state.ranks is not None:
        state.ranks.agreement.skip()


def _training(trainer: ConvnetTrainer, items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a training pass."""
    ddp.replicate(trainer)
    state, own, one = trainer._run_state, vars(trainer), LoaderPass(trainer, "train", items)
    progress, requests, ranks = state.progress, state.requests, state.ranks
    stepping, probe, bar, heartbeat = one.stepping, one.probe, one.bar, one.heartbeat
    takes, measured, only_loss, count, fold = one.takes, one.measured, one.only_loss, one.losses.count, one.fold
    done, look, saves_within = 0, 1, (trainer._save_steps or trainer._save_minutes) is not None
    try:
        items = one.items()
        # stop_train() in on_train_epoch_start asks for no batch at all; so does a file that was saved after one.
        for item in () if requests.ends_run else items:
            state.item = item
            if not takes and state.lent:
                return_batch(trainer)
            if trainer.batch_metrics:
                trainer.batch_metrics = {}
            if measured:
                trainer.outputs = None
            progress.step += 1
            if probe is not None:
                one.version = probe._version
            if stepping is not None:
                stepping.next_batch(trainer)
            yield item
            if stepping is not None:
                stepping.end_batch(trainer)
            batch = own["batch"] if takes or "batch" in state.lent else data.batch_of(item)
            if trainer._next_loop:  # by its last hook, or by a loop of the subclass's own
                skip_batch(trainer)
            if only_loss and not trainer.batch_metrics and not state.skip:
                count(own.get("loss"), batch)  # what `fold` comes to here
            else:
                fold(batch)
            if bar is not None:
                bar.tick()
            progress.batches += 1
            if ranks is not None:
                rank_requests.after_step(trainer)
            elif requests.signals:
                signals.collect(requests)
            if requests.asked or (saves_within and progress.step >= state.next_save):
                state.gathering = one.waits()
                saving.after_step(trainer)
            if heartbeat is not None:
                done += 1
                if done == look:
                    look = heartbeat.look(done)
            if requests.stop_loader or requests.exit_asked or requests.stop:
                break
    except (GeneratorExit, Exception) as error:
        one.break_off() if isinstance(error, GeneratorExit) else one.fail()
        raise
    finally:
        one.close()
    if stepping is not None:
        stepping.end_pass(trainer)
    if ranks is not None:
        ddp.check_weights(trainer)
    one.publish()


def _evaluation(trainer: ConvnetTrainer, name: str, items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a pass over the valid or the test loader."""
    state, own = trainer._run_state, vars(trainer)
    requests = state.requests
    one = LoaderPass(trainer, name, items)
    bar, heartbeat, measured, fold = one.bar, one.heartbeat, one.measured, one.fold
    obeys = state.ranks is None and not one.nested  # several ranks obey at the epoch's end
    look = 1
    try:
        items = one.items()
        state.progress.left_early = state.progress.left_early or requests.exit_asked
        for item in () if requests.exit_asked else items:
            state.item = item
            if state.lent:
                return_batch(trainer)
            if trainer.batch_metrics:
                trainer.batch_metrics = {}
            if measured:
                trainer.outputs = None
            yield item
            if trainer._next_loop:
                skip_batch(trainer)
            fold(own["batch"] if "batch" in state.lent else data.batch_of(item))
            if bar is not None:
                bar.tick()
            if obeys and (requests.signals or requests.asked):
                signals.collect(requests)
                signals.obey(requests)
            one.number += 1
            if heartbeat is not None and one.number == look:
                look = heartbeat.look(look)
            if requests.stop_loader or requests.exit_asked:
                state.progress.left_early = requests.exit_asked
                break
    except (GeneratorExit, Exception) as error:
        one.break_off() if isinstance(error, GeneratorExit) else one.fail()
        raise
    finally:
        one.close()
    one.publish()


class LoaderPass:
    """One pass over a loader: what is measured and shown, and what the passes around it go on with.

    NOTE: of a training batch, first the numbers are folded, then it counts (``progress.batches``), then the ranks
    agree, then what is due is saved. A file that is saved between two of these would hold a batch's weights without
    its numbers, or have a run that goes on train it once more.

    Parameters
    ----------
    trainer : ConvnetTrainer
    name : "train", "valid" or "test"
    items : iterable
        What the hook that starts the pass has left in ``train_epoch_iter``, ``valid_epoch_iter``, ``test_loop_iter``.

    Attributes
    ----------
    number : int
        Items of an evaluation that are done; a training pass has ``progress.batches``.
    nested : bool
        The pass is read within a batch of another one.
    takes : bool
        The default hook takes every batch, so nothing of the last one can be left over.
    measured : bool
        Something measures outputs: a step that sets none must not be measured by those of the last one.
    counts : bool
        The base counts the samples of a batch, no method of the subclass.
    only_loss : bool
        Unless a step puts something into ``batch_metrics``, its new loss is all there is to fold.
    probe, version : Parameter or None, int
        A weight whose version tells, after a batch, whether a step of the subclass's own has moved the weights.
    """

    __slots__ = (
        *("trainer", "name", "given", "number", "nested", "takes", "measured", "only_loss", "probe", "version"),
        *("means", "objects", "losses", "size_of", "counts", "take_loss", "stepping", "bar", "heartbeat", "outer"),
        *("broken", "tally", "reader"),
    )

    def __init__(self, trainer: ConvnetTrainer, name: str, items: Iterable[Any]) -> None:
        state, loss = trainer._run_state, vars(trainer).get("loss")
        training = name == "train"
        self.trainer, self.name, self.given, self.number = trainer, name, items, 0
        self.tally: division.Tally | None = None
        self.nested = state.item is not NOTHING
        self.means = RunningMeans()
        self.counts = hooks.is_default(trainer, "batch_size_of")
        counter = state.counter if state.counter is not None else _counter(trainer, name, None, items)
        self.size_of = counter.of if self.counts else trainer.batch_size_of
        running = loss is not state.initial_loss
        self.losses = LossTracker(self.means["loss"], self.size_of, loss, running)
        # The default steps set a new loss for every batch; of another one, each batch has to be looked at.
        default = hooks.is_default(trainer, *_STEPS[name])
        self.take_loss = self.losses.count if default else self.losses.take
        if training and trainer._on_nonfinite == "raise":
            self.means["loss"].watch = partial(nonfinite.check_losses, trainer)
        self.objects = MetricObjects(trainer.metrics, trainer.device)  # of a pass around it: see `contents_kept`
        self.only_loss = default and not self.objects.metrics
        self.measured = bool(self.objects.metrics) or _BATCH_ENDS[name] in state.listeners
        self.takes = training and hooks.is_default(trainer, "train_batch", "on_start_training_batch", "take_batch")
        self.bar, self.heartbeat = _progress(trainer, name, items)
        self.probe, self.version, self.broken = self._probe() if training else None, 0, False
        self.stepping = optim_steps.bind(trainer) if training else None
        if self.stepping is not None:
            left, start = data.length_of(items), state.resumption.start
            left = left if left is None or start is None else left - start.passed
            self.stepping.begin_pass(trainer, left, self.probe)
        self.outer = state.loader, state.requests.stop_loader, self.nested and trainer._next_loop
        trainer._next_loop = state.skip = False  # no batch of this pass is under way
        state.loader, state.initial_loss, state.requests.stop_loader = name, None, False
        state.broken_batch, state.criterion = "", None
        self.reader = state.to_read
        state.readers.append(self.reader)
        if training:
            state.means, state.metric_objects = self.means, self.objects
            state.schedules.add_new(trainer)
            check_parameters(trainer)

    def _probe(self) -> torch.nn.Parameter | None:
        trainer = self.trainer
        schedules = trainer.scheduler is not None and trainer._scheduler_step == "step"  # after the optimizer has moved
        if not schedules and hooks.is_default(trainer, "training_step", "optimizer_step"):
            return None
        parameters = (p for module in components.modules_of(trainer) for p in module.parameters())
        return next((p for p in parameters if p.requires_grad), None)

    def items(self) -> Iterable[Any]:
        """Return the items that are left to read: resumed, on their way to the device, shared out among the ranks."""
        trainer, items = self.trainer, self.given
        state = trainer._run_state
        if self.name == "train" and not state.resumption.ended:
            items = state.resumption.remaining(trainer, items)
            self.losses.pass_over(vars(trainer).get("loss"))
        if trainer._prefetch:
            items = prefetch.prefetched(items, trainer.device, torch.channels_last if trainer._channels_last else None)
        if state.ranks is not None:
            self.tally = rank_loaders.tally_of_pass(trainer, self.name)
            items = rank_loaders.items_of_rank(trainer, self.name, items, self.counts, self.tally, self.reader)
            if self.name == "train":
                state.ranks.agreement.begin()
        return items

    def fold(self, batch: Any) -> None:
        """Add what the batch under way gave to the means and the metric objects, unless it does not count."""
        trainer = self.trainer
        state, values, loss = trainer._run_state, trainer.batch_metrics, vars(trainer).get("loss")
        if state.skip:
            state.skip = False
            self.losses.pass_over(loss)
            return
        if values and "loss" in values:
            self.losses.pass_over(loss)
        else:
            self.take_loss(loss, batch)
        if values:
            self.means.update(values, self.size_of(batch))
        if self.objects.metrics and trainer.outputs is not None:
            self.objects.update(trainer.outputs, trainer.targets)

    def waits(self) -> bool:
        """Return whether a step of the subclass's own has not moved the weights: its gradients may wait for a later."""
        return self.probe is not None and self.probe._version == self.version

    def break_off(self) -> None:
        """A hook of the batch has raised: count the batch if it has moved the weights, and describe it for the error.

        A run that goes on from there must not train it again.
        """
        trainer = self.trainer
        state = trainer._run_state
        progress = state.progress
        batch = vars(trainer)["batch"] if "batch" in state.lent else data.batch_of(state.item)
        has_moved = self.probe is not None and self.probe._version != self.version
        # Whatever is wrong with the batch: the hook's own error is the one to show.
        with contextlib.suppress(Exception):
            state.broken_batch = state.broken_batch or data.shapes_of(data.batch_of(state.item))
        if self.name == "train" and (progress.trained_step == progress.step or has_moved):
            with contextlib.suppress(Exception):
                if self.stepping is not None:
                    self.stepping.end_batch(trainer)
                self.fold(batch)
            progress.batches += 1
        else:
            self.broken = True

    def fail(self) -> None:
        """The loader has raised: note where, for the note on the error."""
        state = self.trainer._run_state
        number = state.progress.batches if self.name == "train" else self.number
        state.failed_pass = f"at batch {number} of the {self.name} loader"

    def close(self) -> None:
        """Give the state of the run back to the pass around this one, however this one has ended."""
        state = self.trainer._run_state
        if self.name == "train":
            state.counter = None
            # A batch that was broken off may have added to the gradients, and is trained again.
            state.gathering = not self.broken and self.waits()
            if state.ranks is not None:
                state.ranks.agreement.end()
                rank_requests.resume_postponed(self.trainer)
        state.item = NOTHING
        state.loader, state.requests.stop_loader, self.trainer._next_loop = self.outer
        last = max((place for place, reader in enumerate(state.readers) if reader is self.reader), default=None)
        if last is not None:
            del state.readers[last]
        if self.bar is not None:
            self.bar.close()

    def publish(self) -> None:
        """Compute the metrics and put them where hooks read them."""
        trainer, means, objects = self.trainer, self.means, self.objects
        computed = means.compute()
        means["loss"].watch = None  # it holds the trainer
        if self.tally is not None:
            self.tally.check(trainer)
        for metric in objects.metrics.keys() & computed.keys() - {"loss"}:
            trainer._run_state.console.once(
                f"{metric} is what self.metrics[{metric!r}] computes, not the mean of batch_metrics"
            )
        if trainer._run_state.ranks is None:
            trainer.loader_metrics = plain_metrics({**computed, **objects.compute()})
        else:
            trainer.loader_metrics = across_ranks.of_all_ranks(means, objects)
        trainer.epoch_metrics[self.name] = trainer.loader_metrics


def _progress(trainer: ConvnetTrainer, name: str, items: Iterable[Any]) -> tuple[Bar | None, Heartbeat | None]:
    state, total = trainer._run_state, data.length_of(items)
    if type(items).__name__.startswith("tqdm"):  # a subclass shows a bar of its own
        return None, None
    epoch = f"epoch {trainer._epoch}/{trainer._num_epochs}" if name != "test" else ""
    timed = state.running == "train"
    return state.console.bar(name, total, epoch, timed=timed), state.console.heartbeat(name, total, epoch, timed)
