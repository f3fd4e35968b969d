"""Loaders that are read by several processes: every batch of the user's loader is shared out among the ranks.

``batch_size`` is that of all ranks together. So the number of processes changes neither the order of the samples,
nor the number of steps, nor what a step learns from; a script gives the same result with one process and with many.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from .. import data
from ..data.loaders import NOTHING
from ..duck_typing import attribute, is_a
from . import ddp, division, fsdp, process_group

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class RankBatchSampler:
    """The batch sampler that gives this rank its part of every batch of another one.

    Rank 0 alone draws the order, from its own random numbers, and tells the others: so any sampler will do. A rank
    without a part gets one sample, which `items_of_rank` counts as none: all ranks see the same number of batches.

    Parameters
    ----------
    whole : iterable of lists of indices
    """

    def __init__(self, whole: Any) -> None:
        self.whole = whole
        self.divided: bool | None = None if division.may_divide(whole) else False  # by its owner; None: not yet known
        self.samples_before = 0  # passed over by the next pass
        self.passes_over = False  # the pass under way has
        self.position = 0  # of the first sample of the part drawn last, in the order of all ranks
        self.plan: deque[tuple[int, int]] = deque()  # of each batch drawn: samples here, and on all ranks

    def __getattr__(self, name: str) -> Any:
        if name == "whole":  # while it is copied
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def __iter__(self) -> Iterator[list[Any]]:
        # Of its own for each pass: another one over the same loader may begin within this one.
        plan = self.plan = deque()
        look = division.FirstLook(self.whole) if self.divided is None else None
        if look is not None:
            self.divided = look.divided
        if self.divided:
            yield from self._own(self.whole if look is None else look.indices)
            return
        ranks, rank, first = process_group.world_size(), process_group.rank(), 0
        before, self.samples_before = self.samples_before, 0
        self.passes_over = before > 0
        for batch in _same_on_all_ranks(self.whole if look is None else look.indices):
            if before:
                passed = min(before, len(batch))
                before, first, batch = before - passed, first + passed, batch[passed:]
                if not batch:
                    continue
            start, end = part_of(len(batch), rank, ranks)
            plan.append((end - start, len(batch)))
            self.position = first + start
            first += len(batch)
            yield batch[start:end] or batch[:1]

    def pass_over(self, samples: int) -> None:
        """Begin the next pass after so many samples of all ranks together."""
        self.samples_before = samples

    def _own(self, batches: Iterable[Any]) -> Iterator[list[Any]]:
        """Yield the batches of a sampler that gives each rank its own."""
        first = 0
        for batch in batches:
            self.position = first
            first += len(batch)
            yield list(batch)


def part_of(samples: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return where a rank's part of a batch starts and ends; the first ranks get what is left over."""
    each, more = divmod(samples, ranks)
    start = rank * each + min(rank, more)
    return start, start + each + (rank < more)


def _same_on_all_ranks(whole: Any) -> Iterator[list[Any]]:
    if type(whole) is BatchSampler and type(whole.sampler) is SequentialSampler:
        yield from map(list, whole)
        return
    iterator = iter(whole) if process_group.is_main() else iter(())
    while True:
        chunk = process_group.from_main(lambda: [list(batch) for batch in islice(iterator, division.CHUNK)])
        yield from chunk
        if len(chunk) < division.CHUNK:
            return


class RoundRobin:
    """The batches of a loader that cannot be shared by index: the ranks take them in turn.

    Every rank reads all of them, with the same random numbers, and drops those of the others; unless the first ones
    differ, so that each rank has a part of its own already.

    Parameters
    ----------
    loader : iterable of batches
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.divided: bool | None = None  # by its owner; None: not yet known

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # while it is copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return -(-len(self.loader) // (1 if self.divided else process_group.world_size()))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return (batch.batch if type(batch) is data.Counted else batch for batch in self.read_counted())

    def read_counted(self) -> Iterator[Any]:
        """Return an iterator over the same batches, some with their number of samples, see `data.read`."""
        seed = process_group.broadcast_object(int(torch.empty((), dtype=torch.int64).random_()))
        numbers = _RandomNumbers(seed)
        iterator = None
        for index in count():
            with numbers:
                iterator = iter(data.read(self.loader)) if iterator is None else iterator
                batch = next(iterator, NOTHING)
            if self.divided is None:
                self.divided = division.read_different(batch)
            if batch is NOTHING:
                return
            if self.divided or index % process_group.world_size() == process_group.rank():
                yield batch


class _RandomNumbers:
    """Random numbers of their own for what runs inside ``with``: Python's, NumPy's and torch's on the CPU."""

    def __init__(self, seed: int) -> None:
        self.states: Any = (
            random.Random(seed).getstate(),
            np.random.RandomState(seed % 2**32).get_state(),
            torch.Generator().manual_seed(seed).get_state(),
        )
        self.outer: Any = None

    def __enter__(self) -> None:
        self.outer = self._swap(self.states)

    def __exit__(self, *_: Any) -> None:
        self.states = self._swap(self.outer)

    @staticmethod
    def _swap(states: Any) -> Any:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        return before


def shard_loader(loader: Any) -> Any:
    """Return a loader of this rank's part of the batches; one that is sharded already is returned as it is.

    One that is sharded by its owner is returned as it is, where that can be seen, see `division.dividers`.
    """
    if loader is None or not process_group.several() or isinstance(loader, RoundRobin):
        return loader
    if isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, RankBatchSampler):
        return loader
    if division.dividers(loader):
        return loader
    if not isinstance(loader, DataLoader):
        return RoundRobin(loader)
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return RoundRobin(loader)
    shared = copy.copy(loader)
    # A DataLoader forbids to set them: its workers may be running. Those of the copy are not.
    vars(shared).update(batch_sampler=RankBatchSampler(loader.batch_sampler), _iterator=None)
    return shared


def unsharded(loader: Any) -> Any:
    """Return the loader that `shard_loader` was given."""
    if isinstance(loader, RoundRobin):
        return loader.loader
    if isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, RankBatchSampler):
        original = copy.copy(loader)
        vars(original).update(batch_sampler=loader.batch_sampler.whole, _iterator=None)
        return original
    return loader


def shard_loaders(trainer: ConvnetTrainer) -> None:
    """Put sharded loaders in the place of the trainer's own; the same loader under two names stays one."""
    if not process_group.several():
        return
    found: dict[int, Any] = {}
    left = trainer._run_state.undivided
    wanted = [name for name in ("train", "valid", "test") if division.is_wanted(trainer, name)]
    new = [name for name in wanted if not _is_known(getattr(trainer, f"{name}_loader"), left)]
    if new:
        left |= {id(loader): loader for loader in division.own_data(trainer, new)}
    for name in wanted:
        loader = getattr(trainer, f"{name}_loader")
        if loader is not None and id(loader) not in left:
            shared = found.setdefault(id(loader), shard_loader(loader))
            setattr(trainer, f"{name}_loader", shared)
            if shared is loader and not _is_known(loader, left):
                left[id(loader)] = loader


def _is_known(loader: Any, left: dict[int, Any]) -> bool:
    """Return whether a loader has been looked at before: it is none, is shared, or was left to its owner."""
    shared = isinstance(loader, RoundRobin) or is_a(attribute(loader, "batch_sampler"), RankBatchSampler)
    return loader is None or shared or id(loader) in left


def loader_of_pass(trainer: ConvnetTrainer, name: str, loader: Any) -> Any:
    """Return the sharded loader for a pass; hooks may have set another one since the trainer was built."""
    if name != "train":
        ddp.sync_buffers(trainer)
    if trainer._run_state.of_other_loader and name == "valid":  # hooks tell it by ``self.valid_loader is ...``
        return shard_loader(loader)
    shard_loaders(trainer)
    if name == "train":
        division.set_epoch(loader, trainer._epoch)
    return getattr(trainer, f"{name}_loader")


def tally_of_pass(trainer: ConvnetTrainer, name: str) -> division.Tally | None:
    """Return what counts the samples that the ranks read in a pass, None for a loader that is not the run's own."""
    return None if trainer._run_state.of_other_loader else division.Tally(trainer, name)


def items_of_rank(
    trainer: ConvnetTrainer,
    name: str,
    items: Iterable[Any],
    by_plan: bool = True,
    tally: division.Tally | None = None,
    loader: Any = None,
) -> Iterator[Any]:
    """Yield the items of a pass over this rank's part of a loader, so that all ranks end it together.

    Before each training item the ranks' shares in the step are noted, by which the gradients are weighted. A rank
    that has no samples for a step, while others have, learns from a stand-in of weight zero, which counts nowhere.
    Where the model is in shards an evaluation has stand-ins too, for a forward pass needs all ranks.

    Parameters
    ----------
    trainer : ConvnetTrainer
    name : "train", "valid" or "test"
    items : iterable
    by_plan : bool
        A batch counts as many samples as its loader has put into it; else as many as the trainer's own method says.
    tally : division.Tally, optional
    loader : iterable of batches, optional
        Whose plan says the shares; default: the trainer's own.
    """
    training = name == "train"
    together = training or fsdp.are_in(trainer)
    sampler: Any = attribute(getattr(trainer, f"{name}_loader") if loader is None else loader, "batch_sampler")
    planned = is_a(sampler, RankBatchSampler)
    before = sampler.plan if planned else None
    if tally is not None and tally.wanted:
        items = tally.counted(items, partial(_samples_of, trainer))
    iterator = iter(items)
    item = next(iterator, NOTHING)
    plan: Any = sampler.plan if planned else None
    if training:
        known = plan is not before and plan and not sampler.passes_over
        for _ in range(trainer._run_state.progress.batches if known else 0):
            plan.popleft()  # batches of a resumed pass that were trained before
    if item is not NOTHING and plan is not before and plan:
        yield from _planned(trainer, training, together, by_plan, item, iterator, plan)
    elif together:
        yield from _agreed(trainer, training, item, iterator)
    elif item is not NOTHING:
        yield item
        yield from iterator


def _planned(
    trainer: ConvnetTrainer, training: bool, together: bool, by_plan: bool, item: Any, items: Iterator[Any], plan: Any
) -> Iterator[Any]:
    """Yield items whose shares are known from the sampler, so nothing has to be sent, unless a method counts them."""
    state, ranks = trainer._run_state, trainer._run_state.ranks
    assert ranks is not None
    while item is not NOTHING:
        samples, on_all = plan.popleft() if plan else (1, ranks.count)
        if training and not by_plan:
            own = _samples_of(trainer, item) if samples else 0
            ranks.share(own, int(process_group.reduce_sums([own])[0]))
        elif training:
            ranks.share(samples, on_all)
        if together or samples:
            state.skip = not samples
            yield item
        item = next(items, NOTHING)


def _agreed(trainer: ConvnetTrainer, training: bool, item: Any, items: Iterator[Any]) -> Iterator[Any]:
    """Yield items of which each rank knows its own alone: before each step all tell how many samples they have."""
    state, ranks = trainer._run_state, trainer._run_state.ranks
    assert ranks is not None
    last = NOTHING
    while True:
        samples = _samples_of(trainer, item) if item is not NOTHING else 0
        on_all, there, bare = process_group.reduce_sums([samples, item is not NOTHING, item is last is NOTHING])
        if not there:
            return
        if bare:  # some rank has had no item yet, and takes its stand-in from the first one that has
            last = next(one for one in process_group.gather_objects(item) if one is not NOTHING)
        if training:
            ranks.share(samples, int(on_all))
        state.skip = item is NOTHING
        last = last if item is NOTHING else item
        yield last
        item = next(items, NOTHING)


def _samples_of(trainer: ConvnetTrainer, item: Any) -> int:
    """Return the number of samples of an item that is not yet under way."""
    state = trainer._run_state
    before, state.item = state.item, item
    try:
        return trainer.batch_size_of(data.batch_of(item))
    finally:
        state.item = before
