"""Loaders that their owner has divided among the ranks: seen by their parts, or by what the ranks read.

What is done with those that are not is in `loaders`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from .. import data
from ..data import identity
from ..data.streams import digest
from ..duck_typing import attribute, has_methods, is_a, own_attributes
from ..errors import DataError
from ..rng import get_state, preserved_rng, set_state
from . import process_group

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


CHUNK = 512  # batches whose indices rank 0 tells the others at once
DEEPEST = 6  # samplers within samplers
# How samplers and data sets call the number of their process and of all, after those of torch, timm, detectron2,
# accelerate, datasets and NVIDIA's.
_RANK = frozenset(("rank", "_rank", "rank_id", "process_index", "shard_id", "shard_index", "index_of_shard"))
_RANKS = frozenset(
    ("num_replicas", "_num_replicas", "world_size", "_world_size", "num_processes", "num_ranks", "num_shards", "shards")
)
# Samplers that read no rank, and that give every rank the same where the random numbers are the same.
_UNDIVIDED = (SequentialSampler, RandomSampler, WeightedRandomSampler)


def is_wanted(trainer: ConvnetTrainer, name: str) -> bool:
    """Return whether ``_shard_loaders`` lets a loader be divided."""
    asked = trainer._shard_loaders
    return bool(asked.get(name, True) if isinstance(asked, Mapping) else asked)


def dividers(loader: Any) -> list[Any]:
    """Return the samplers and data sets in a loader that divide it among the ranks by themselves.

    Those are a ``DistributedSampler``, a pipe with a ``sharding_filter``, which torch divides, and what has the number
    of this process and of all in two attributes.
    """
    return [part for part in _parts(loader, set(), 0) if _divides(part)]


def _parts(part: Any, seen: set[int], depth: int) -> Iterator[Any]:
    """Yield the samplers and data sets that a loader is made of."""
    if id(part) in seen or depth > DEEPEST:
        return
    seen.add(id(part))
    if not isinstance(part, DataLoader):
        yield part
    for name, inside in (own_attributes(part) or {}).items():
        if is_a(inside, (Sampler, Dataset)) or "sampler" in name or name in ("dataset", "_distributed", "loader"):
            yield from _parts(inside, seen, depth + 1)


def _divides(part: Any) -> bool:
    if is_a(part, DistributedSampler):
        return bool(part.num_replicas > 1)
    if is_a(part, IterableDataset) and has_methods(part, "apply_sharding"):
        return True
    own = own_attributes(part) or {}
    here, everywhere = process_group.rank(), process_group.world_size()
    return any(type(own.get(name)) is int and own[name] == here for name in _RANK) and any(
        type(own.get(name)) is int and own[name] == everywhere for name in _RANKS
    )


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the parts that divide a loader which epoch begins, by which they shuffle."""
    for part in dividers(loader):
        if has_methods(part, "set_epoch"):
            part.set_epoch(epoch)


# ---------------------------------------------------------------- by what the ranks read


class FirstLook:
    """What a rank's sampler gives, and whether the ranks' samplers give parts of a whole.

    Called by all ranks when they begin to read a loader for the first time.

    Parameters
    ----------
    whole : iterable of lists of indices

    Attributes
    ----------
    divided : bool
    indices : iterator
        This rank's own, from the first on.
    """

    def __init__(self, whole: Any) -> None:
        # Every rank draws with the random numbers of the first one: what differs then differs by the rank.
        state = process_group.from_main(lambda: get_state(whole, devices=False))
        iterator: Iterator[Any] = iter(())
        drawn: list[list[Any]] | None = None
        error: Exception | None = None
        try:
            if process_group.is_main():
                iterator = iter(whole)
                drawn = [list(batch) for batch in islice(iterator, CHUNK)]
            else:
                with preserved_rng(whole, devices=False):
                    set_state(state, whole)
                    iterator = iter(whole)
                    drawn = [list(batch) for batch in islice(iterator, CHUNK)]
        except Exception as raised:
            error = raised
        every = process_group.gather_objects([[str(i) for batch in drawn for i in batch]] if drawn is not None else [])
        if process_group.is_main() and error is not None:
            raise error
        self.divided = _are_parts([set(indices) for found in every for indices in found])
        self.indices = chain(drawn or (), iterator)


def _are_parts(ranks: list[set[str]]) -> bool:
    """Return whether the ranks have read samples of which none has two."""
    read = sum(map(len, ranks))
    return (
        len(ranks) == process_group.world_size()
        and read > 0
        and len(set().union(*ranks)) == read > max(map(len, ranks))
    )


def may_divide(whole: Any) -> bool:
    """Return whether a batch sampler may give the ranks different samples."""
    return not (type(whole) is BatchSampler and type(whole.sampler) in _UNDIVIDED)


def own_data(trainer: ConvnetTrainer, names: Iterable[str]) -> list[Any]:
    """Return the loaders whose data sets are other ones on each rank; all ranks call it.

    Raises
    ------
    DataError
        For data sets that differ and share samples, as of a random split that each rank has drawn for itself.
    """
    loaders = {name: getattr(trainer, f"{name}_loader") for name in names}
    first = process_group.gather_objects({name: identity.first_of(loader) for name, loader in loaders.items()})
    differ = [name for name in loaders if len({of_rank.get(name) for of_rank in first}) > 1]
    for name in differ:
        every = process_group.gather_objects(identity.all_of(loaders[name]))
        read = sum(map(len, every))
        if len(frozenset().union(*every)) + process_group.world_size() < read:  # some are padded to one length
            raise DataError(
                f"self.{name}_loader has other samples on each process, and some on several: a split that each process "
                "has drawn for itself, mostly. Set self._seed, or split with a generator of a fixed seed, "
                "torch.utils.data.random_split(data, lengths, torch.Generator().manual_seed(0)). Where it is meant so, "
                f"write self._shard_loaders = {{{name!r}: False}}."
            )
    return [loaders[name] for name in differ]


def read_different(batch: Any) -> bool:
    """Return whether the ranks have different first batches of a stream that each of them reads by itself."""
    found = batch.batch if type(batch) is data.Counted else batch
    return len(set(process_group.gather_objects(digest(found)))) > 1


# ---------------------------------------------------------------- what was read, in the end


class Tally:
    """Counts the samples that the ranks read in a pass, to compare them with the data set.

    Parameters
    ----------
    trainer : ConvnetTrainer
    name : "train", "valid" or "test"
    """

    def __init__(self, trainer: ConvnetTrainer, name: str) -> None:
        self.loader, self.name = getattr(trainer, f"{name}_loader"), name
        ranks = trainer._run_state.ranks
        assert ranks is not None
        known = data.length_of(attribute(self.loader, "dataset"))
        sampler = attribute(self.loader, "batch_sampler")
        usual = not may_divide(attribute(sampler, "whole", sampler)) and not dividers(self.loader)
        self.known = known
        self.wanted = known is not None and name not in ranks.tallied and not usual
        ranks.tallied.add(name)
        self.samples, self.batch, self.complete = 0, 0, False

    def counted(self, items: Iterable[Any], samples_of: Callable[[Any], int]) -> Iterator[Any]:
        """Yield the items of this rank; count their samples, and note when they have come to their end."""
        for item in items:
            samples = samples_of(item)
            self.samples += samples
            self.batch = max(self.batch, samples)
            yield item
        self.complete = True

    def check(self, trainer: ConvnetTrainer) -> None:
        """Warn where the ranks have read fewer or more samples than there are; all ranks call it."""
        if not self.wanted:
            return
        every = process_group.gather_objects((self.samples, self.batch, self.complete))
        if not all(complete for _, _, complete in every):
            return
        read, largest, known = sum(samples for samples, _, _ in every), sum(batch for _, batch, _ in every), self.known
        assert known is not None
        if abs(read - known) >= max(largest, process_group.world_size()) and process_group.is_main():
            warnings.warn(
                f"{type(trainer).__name__}: {process_group.world_size()} processes have read {read} samples from the "
                f"{self.name} loader, whose data set has {known}. If its sampler or data set divides the samples among "
                f"the processes by itself, write self._shard_loaders = {{{self.name!r}: False}}.",
                stacklevel=2,
            )
