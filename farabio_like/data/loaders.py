"""Reading batches from a loader: lazy pairs, lengths, and whole batches by index where that is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from ..duck_typing import attribute, has_methods
from ..errors import DataError
from . import order, resumable
from .counting import Counted
from .streams import SharedStream

GATHERED_BYTES = 1 << 17  # of several small batches that are fetched together


class Sentinel(Enum):
    """Stands for no item; an Enum stays itself when it is copied, or sent to another process."""

    NOTHING = "nothing"


NOTHING = Sentinel.NOTHING


class Items:
    """Lazy ``(index, batch)`` pairs over a loader.

    Nothing is drawn and no worker is started before it is iterated; it has a length where the loader has one.

    Parameters
    ----------
    loader : iterable of batches
    name : str
        ``"train"``, ``"valid"`` or ``"test"``, for messages.
    seed : tuple, optional
        Of the pass, see `order.prepared`; None leaves the samples' random numbers to chance.

    Attributes
    ----------
    counts : dict
        How many samples the loader has put into the batches that were read, by their index, where it tells.
    """

    def __init__(self, loader: Iterable[Any], name: str, seed: tuple[Any, ...] | None = None) -> None:
        self.loader = loader
        self.name = name
        self.seed = seed
        self.counts: dict[int, int] = {}
        self.start: resumable.ResumePoint | None = None  # where a resumed pass goes on

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        start = self.start.passed if self.start is not None else 0
        if length_of(self.loader) and (type(self.loader) in (list, tuple) or fetcher(self.loader) is not None):
            return enumerate(self._batches(), start)  # nothing to watch over: these cannot end early
        return self._checked(start)

    def _batches(self) -> Iterator[Any]:
        loader, start = self.loader, self.start
        if start is not None:
            start.taken = True
        return read(loader, self.seed, start)

    def _checked(self, index: int) -> Iterator[tuple[int, Any]]:
        loader = self.loader
        start = index
        iterator = self._batches()
        streams = SharedStream(loader, self.name)
        while True:
            try:
                batch = next(iterator)
            except StopIteration as end:
                expected = promised_length(loader)
                if expected is not None and index < expected and not _ended_by_sampler(loader, end):
                    raise DataError(
                        f"the {self.name} loader ended after {index} of {expected} batches: its dataset raised "
                        "StopIteration (or IndexError) for a sample that its length promises. See the error above."
                    ) from end
                if index == start == 0:
                    raise DataError(
                        f"the {self.name} loader gave no batch. {describe_loader(loader)} A generator can be read "
                        "only once: give a DataLoader, a list, or an object whose __iter__ starts anew."
                    ) from None
                return
            if type(batch) is Counted:
                if batch.asked is not None:
                    streams.look(index, batch)
                if batch.samples is not None:
                    self.counts[index] = batch.samples
                batch = batch.batch
            yield index, batch
            index += 1


def length_of(loader: Any) -> int | None:
    """Return the number of batches, None where the loader does not know it."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def promised_length(loader: Any) -> int | None:
    """Return the number of batches of a loader whose length cannot be an estimate, else None."""
    if isinstance(loader, DataLoader):
        return None if isinstance(loader.dataset, IterableDataset) else length_of(loader)
    # Without __iter__ Python walks by __getitem__ and takes any IndexError for the end.
    return None if hasattr(type(loader), "__iter__") else length_of(loader)


def _ended_by_sampler(loader: Any, end: StopIteration) -> bool:
    """Return whether a DataLoader ended because its sampler did, which may give fewer indices than its length."""
    raised = end.__traceback__
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    module = raised.tb_frame.f_globals.get("__name__") if raised is not None else None
    return isinstance(loader, DataLoader) and module in (__name__, DataLoader.__module__)


def describe_loader(loader: Any) -> str:
    """Return what a message should say of a loader: its type, dataset length, batch size, drop_last."""
    if not isinstance(loader, DataLoader):
        return f"It is a {type(loader).__name__}."
    samples = length_of(loader.dataset)
    return (
        f"It is a {type(loader).__name__} over {'?' if samples is None else samples} samples with "
        f"batch_size={loader.batch_size} and drop_last={loader.drop_last}."
    )


def fetcher(loader: Any) -> Callable[..., Iterator[Any]] | None:
    """Return a function that iterates over the batches of `loader` faster, None where that is not exact.

    It exists for a plain ``DataLoader`` without workers and with default collation over a ``TensorDataset``
    (or a ``Subset`` of one, as ``random_split`` makes it), where a batch is the tensors at the batch's indices,
    and over a dataset with ``__getitems__``. Order, contents, types and the use of random numbers are those of
    the ``DataLoader``. The function takes a `resumable.ResumePoint` where the first batches are to be passed over.
    """
    if (
        type(loader) is not DataLoader
        or loader.num_workers
        or loader.batch_sampler is None
        or loader.collate_fn is not default_collate
        or (loader.pin_memory and torch.accelerator.is_available())
        # Somebody replaced the class's own iteration (a profiler, a tracer): leave it to them.
        or "__iter__" in vars(loader)
    ):
        return None
    dataset = loader.dataset
    found = tensors_of(dataset)
    if found is None and (isinstance(dataset, IterableDataset) or not has_methods(dataset, "__getitems__")):
        return None

    def whole_batches(start: resumable.ResumePoint | None = None) -> Iterator[Any]:
        # Every DataLoader iterator draws its base seed first, whether there are workers or not.
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        if found is None:
            for chosen in resumable.after(start, loader.batch_sampler or ()):
                yield default_collate(dataset.__getitems__(chosen))  # type: ignore[attr-defined]
            return
        rows = _Rows(*found)
        for chosen in resumable.after(start, _index_batches(loader)):
            yield rows.span(chosen) if type(chosen) is _Span else rows.at(chosen)

    return whole_batches


def tensors_of(dataset: Any) -> tuple[tuple[Tensor, ...], Tensor | None] | None:
    """Return the tensors of a dataset and the indices of its subset, None where it is another kind."""
    subset = None
    while type(dataset) is Subset:
        try:
            indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        except (TypeError, ValueError, RuntimeError):
            return None
        subset = indices if subset is None else indices[subset]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or (subset is not None and (subset.dim() != 1 or (subset < 0).any())):
        return None
    simple = all(
        type(t) is Tensor and t.layout == torch.strided and t.device.type == "cpu" and not t.requires_grad
        for t in dataset.tensors
    )
    return (dataset.tensors, subset) if simple and dataset.tensors else None


class _Span(NamedTuple):
    """A batch of consecutive rows, or of consecutive places in an order that was drawn beforehand."""

    order: Tensor | None
    start: int
    stop: int
    end: int  # so far, whole batches of this size follow in any case

    def rest(self, passed: int) -> Tensor:
        """Return the rows without so many of the first."""
        places = torch.arange(self.start + passed, self.stop)
        return places if self.order is None else self.order[places]


class _Rows:
    """Fetches the samples of batches from tensors; several small batches that follow each other by one gather.

    What is fetched ahead is fetched anew where a tensor was written to meanwhile; where NumPy has its memory too, which
    tells nothing of what it writes, nothing is fetched ahead. (What is written through ``tensor.data`` between two
    batches is seen some batches later.) Batches of one gather lie in one
    memory, but each has a version counter of its own: writing to one is not seen by autograd as writing to another.

    Parameters
    ----------
    tensors : tuple of Tensor
    subset : Tensor or None
        The rows that there are; None for all.
    """

    def __init__(self, tensors: tuple[Tensor, ...], subset: Tensor | None) -> None:
        self.tensors, self.subset = tensors, subset
        # Tensors of inference mode do not tell whether they were written to.
        row = 0 if any(t.is_inference() for t in tensors) else sum(t.nbytes // max(1, len(t)) for t in tensors)
        self.most = GATHERED_BYTES // row if row else 0  # rows that are fetched together
        self.waiting: list[Any] = []  # batches, the next one last
        self.versions: list[int] = []

    def at(self, indices: Tensor | slice) -> list[Tensor]:
        """Return the samples at some places."""
        chosen: Any = self.subset[indices] if self.subset is not None else indices
        return [tensor.index_select(0, chosen) for tensor in self.tensors]

    def span(self, span: _Span) -> list[Tensor]:
        """Return the samples of a span; they are asked for one after the other."""
        size = span.stop - span.start
        batches = min(self.most // size, (span.end - span.start) // size)
        if not all(tensor.untyped_storage().resizable() for tensor in self.tensors):  # the memory is shared
            batches, self.waiting = 1, []
        if batches < 2 and not self.waiting:
            return self._gathered(span.order, span.start, span.stop)
        versions = [tensor._version for tensor in self.tensors]
        if not self.waiting or versions != self.versions:
            self.versions = versions
            found = self._gathered(span.order, span.start, span.start + max(1, batches) * size)
            self.waiting = list(zip(*(part.unsafe_split(size) for part in found), strict=True))[::-1]
        return list(self.waiting.pop())

    def _gathered(self, order: Tensor | None, start: int, stop: int) -> list[Tensor]:
        if order is not None or self.subset is not None:
            return self.at(slice(start, stop) if order is None else order[start:stop])
        return [tensor[start:stop].clone(memory_format=torch.contiguous_format) for tensor in self.tensors]


def _index_batches(loader: DataLoader[Any]) -> Iterator[Tensor | _Span]:
    """Yield the indices of each batch in the loader's order, drawing what its samplers would draw."""
    batch_sampler: Any = loader.batch_sampler
    sampler = attribute(batch_sampler, "sampler")
    plain = type(batch_sampler) is BatchSampler
    if plain and type(sampler) is SequentialSampler and len(sampler) <= len(loader.dataset):  # type: ignore[arg-type]
        total, size = len(sampler), batch_sampler.batch_size
        whole = total - total % size
        for start in range(0, whole if batch_sampler.drop_last else total, size):
            yield _Span(None, start, min(start + size, total), whole)
    elif plain and type(sampler) is RandomSampler and _is_permutation(sampler):
        generator = sampler.generator
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        total, size = len(sampler), batch_sampler.batch_size
        order, whole = torch.randperm(total, generator=generator), total - total % size
        for start in range(0, whole, size):
            yield _Span(order, start, start + size, whole)
        # RandomSampler draws once more where it ends, which a generator of the user's remembers.
        torch.randperm(total, generator=generator)
        if total % size and not batch_sampler.drop_last:
            yield _Span(order, whole, total, total)
    else:
        total = len(loader.dataset)  # type: ignore[arg-type]
        for indices in batch_sampler:
            chosen = torch.as_tensor(indices, dtype=torch.int64)
            yield torch.where(chosen < 0, chosen + total, chosen)  # a sampler may count from the end


def _is_permutation(sampler: RandomSampler) -> bool:
    return not sampler.replacement and sampler.num_samples == len(sampler.data_source) > 0  # type: ignore[arg-type]


def read_batches(loader: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over the batches of a loader, by whole batches where that is exact."""
    fetch = fetcher(loader)
    return iter(loader) if fetch is None else fetch()


def read(loader: Any, seed: tuple[Any, ...] | None = None, start: resumable.ResumePoint | None = None) -> Iterator[Any]:
    """Return an iterator over the batches of a loader, each with its number of samples where the loader tells it.

    Parameters
    ----------
    loader : iterable of batches
    seed : tuple or None
        See `order.prepared`.
    start : resumable.ResumePoint or None
        Where a resumed pass goes on.

    Returns
    -------
    iterator of batches and of `counting.Counted`
    """
    fetch = fetcher(loader)
    if fetch is not None and (seed is None or tensors_of(loader.dataset) is not None):  # tensors draw nothing
        return fetch(start)
    if has_methods(loader, "read_counted"):  # shared by several ranks
        return loader.read_counted() if start is None else resumable.read_again(loader.read_counted(), start)
    changed = order.prepared(loader, seed, start)
    if changed is None:
        return iter(loader) if start is None else resumable.rest(loader, start)
    passed = start is None or start.samples is not None or order.passes_over(loader, seeds=seed is not None)
    iterator = _read_copy(changed)
    return iterator if passed or start is None else resumable.read_again(iterator, start)


def _read_copy(loader: DataLoader[Any]) -> Iterator[Any]:
    with order.reading(loader):
        yield from read_batches(loader)
