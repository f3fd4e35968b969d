"""Batches: reading them from a loader, moving them to a device, finding inputs, targets and their number.

Whole batches are fetched by index where that gives exactly what the ``DataLoader`` would give (see `fetcher`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
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

from . import positions
from .errors import DataError


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
        Of the pass, see `positions.seeded`; None leaves the samples' random numbers to chance.
    """

    def __init__(self, loader: Iterable[Any], name: str, seed: tuple[Any, ...] | None = None) -> None:
        self.loader = loader
        self.name = name
        self.seed = seed
        self.start: positions.Start | None = None  # where a resumed pass goes on

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        start = self.start.batches if self.start is not None else 0
        if length_of(self.loader) and (type(self.loader) in (list, tuple) or fetcher(self.loader) is not None):
            return enumerate(self._batches(), start)  # nothing to watch over: these cannot end early
        return self._checked(start)

    def _batches(self) -> Iterator[Any]:
        loader, start = self.loader, self.start
        if self.seed is not None and tensors_of(getattr(loader, "dataset", None)) is None:  # tensors draw nothing
            loader = positions.seeded(loader, self.seed)
        if start is None:
            return batches(loader)
        start.taken = True
        fetch = fetcher(loader)
        return positions.rest(loader, start) if fetch is None else fetch(start)

    def _checked(self, index: int) -> Iterator[tuple[int, Any]]:
        loader = self.loader
        start = index
        iterator = self._batches()
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
    the ``DataLoader``. The function takes a `positions.Start` where the first batches are to be passed over.
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
    if found is None and (isinstance(dataset, IterableDataset) or not callable(getattr(dataset, "__getitems__", 0))):
        return None

    def whole_batches(start: positions.Start | None = None) -> Iterator[Any]:
        # Every DataLoader iterator draws its base seed first, whether there are workers or not.
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        if found is None:
            for chosen in positions.after(start, loader.batch_sampler or ()):
                yield default_collate(dataset.__getitems__(chosen))  # type: ignore[attr-defined]
            return
        tensors, subset = found
        for chosen in positions.after(start, _index_batches(loader)):
            if isinstance(chosen, slice) and subset is None:
                yield [tensor[chosen].clone(memory_format=torch.contiguous_format) for tensor in tensors]
            else:
                indices: Any = subset[chosen] if subset is not None else chosen
                yield [tensor.index_select(0, indices) for tensor in tensors]

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


def _index_batches(loader: DataLoader[Any]) -> Iterator[Tensor | slice]:
    """Yield the indices of each batch in the loader's order, drawing what its samplers would draw."""
    batch_sampler: Any = loader.batch_sampler
    sampler = getattr(batch_sampler, "sampler", None)
    plain = type(batch_sampler) is BatchSampler
    if plain and type(sampler) is SequentialSampler and len(sampler) <= len(loader.dataset):  # type: ignore[arg-type]
        total, size = len(sampler), batch_sampler.batch_size
        stop = total - total % size if batch_sampler.drop_last else total
        for start in range(0, stop, size):
            yield slice(start, min(start + size, total))
    elif plain and type(sampler) is RandomSampler and _is_permutation(sampler):
        generator = sampler.generator
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        total, size = len(sampler), batch_sampler.batch_size
        parts = torch.randperm(total, generator=generator).split(size)
        yield from parts[: total // size]
        # RandomSampler draws once more where it ends, which a generator of the user's remembers.
        torch.randperm(total, generator=generator)
        if total % size and not batch_sampler.drop_last:
            yield parts[-1]
    else:
        total = len(loader.dataset)  # type: ignore[arg-type]
        for indices in batch_sampler:
            chosen = torch.as_tensor(indices, dtype=torch.int64)
            yield torch.where(chosen < 0, chosen + total, chosen)  # a sampler may count from the end


def _is_permutation(sampler: RandomSampler) -> bool:
    return not sampler.replacement and sampler.num_samples == len(sampler.data_source) > 0  # type: ignore[arg-type]


def move(batch: Any, device: torch.device, memory_format: torch.memory_format | None = None) -> Any:
    """Return `batch` with every tensor on `device`.

    Tuples, named tuples, lists, mappings and dataclasses keep their types; an object with a ``to`` method
    is asked to move itself; anything else is passed on unchanged. Copies to a GPU do not block. Tensors with four
    dimensions get the memory format, if one is given.
    """
    if isinstance(batch, Tensor):
        if memory_format is not None and batch.dim() == 4:
            return batch.to(device, non_blocking=True, memory_format=memory_format)
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    kind = type(batch)
    if kind is list or kind is tuple:
        parts = [
            p if type(p) is Tensor and p.device == device and memory_format is None else move(p, device, memory_format)
            for p in batch
        ]
        return parts if kind is list else tuple(parts)
    if batch is None or kind in (str, bytes, int, float, bool):
        return batch
    if isinstance(batch, PackedSequence):
        return batch.to(device)  # type: ignore[arg-type]
    if isinstance(batch, tuple):
        parts = [move(part, device, memory_format) for part in batch]
        return kind(*parts) if hasattr(batch, "_fields") else kind(parts)
    moved: Any
    if isinstance(batch, list):
        moved = copy.copy(batch)
        moved[:] = [move(part, device, memory_format) for part in batch]
        return moved
    if isinstance(batch, dict):
        moved = copy.copy(batch)
        for key, part in batch.items():
            moved[key] = move(part, device, memory_format)
        return moved
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        moved = copy.copy(batch)
        for field in dataclasses.fields(batch):
            # Not setattr: the class may be frozen.
            object.__setattr__(moved, field.name, move(getattr(batch, field.name), device, memory_format))
        return moved
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: move(part, device, memory_format) for key, part in batch.items()}
    return batch


def batch_size(batch: Any) -> int:
    """Return the number of samples: the first dimension of the first tensor (or array), 1 without one."""
    if type(batch) in (list, tuple) and batch and type(batch[0]) is Tensor:
        shape = batch[0].shape
        if shape:
            return shape[0]
    found = _first_dimension(batch)
    return 1 if found is None else found


def _first_dimension(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        shape = batch.shape
        return shape[0] if shape else None
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if isinstance(batch, (list, tuple)):
        parts: Iterable[Any] = batch
    elif isinstance(batch, Mapping):
        parts = batch.values()
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    else:
        array_shape = getattr(batch, "shape", None)
        return int(array_shape[0]) if array_shape else None
    for part in parts:
        found = _first_dimension(part)
        if found is not None:
            return found
    return None


def batch_of(item: Any) -> Any:
    """Return the batch of an ``(index, batch)`` pair, and any other item as it is."""
    return item[1] if type(item) is tuple and len(item) == 2 and type(item[0]) is int else item


def inputs_and_targets(batch: Any) -> dict[str, Any]:
    """Return ``inputs`` and ``targets`` of a batch, as far as it has them.

    A pair has both; a mapping or a dataclass has those of its keys with these names; a tensor alone, or a
    list of one, is inputs without targets.
    """
    if isinstance(batch, (list, tuple)) and not isinstance(batch, PackedSequence):
        if len(batch) == 2:
            return {"inputs": batch[0], "targets": batch[1]}
        return {"inputs": batch[0], "targets": None} if len(batch) == 1 else {}
    if isinstance(batch, (Tensor, PackedSequence)):
        return {"inputs": batch, "targets": None}
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in ("inputs", "targets") if name in batch}
    return {name: getattr(batch, name) for name in ("inputs", "targets") if hasattr(batch, name)}


def describe_batch(batch: Any) -> str:
    """Return in a few words what a batch is, with its keys or the types of its parts."""
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {list(batch)}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {len(batch)}: {', '.join(type(part).__name__ for part in batch)}"
    return f"a {type(batch).__name__}"


def is_batch(value: Any) -> bool:
    """Return whether `value` is one batch rather than a loader of batches."""
    if isinstance(value, (Tensor, Mapping, PackedSequence)):
        return True
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], Tensor)
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "__iter__")


def batches(loader: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over the batches of a loader, by whole batches where that is exact."""
    fetch = fetcher(loader)
    return iter(loader) if fetch is None else fetch()
