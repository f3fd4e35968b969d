"""How many samples a batch has: as its loader knows it, else by what the parts of the batch agree on.

How batches are read and which loader they come from is in `loaders` and `resumable`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import BatchSampler, DataLoader, default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from ..duck_typing import attribute, is_a, own_attributes

MOST_FIELDS = 64  # attributes of an object that is taken for a batch; a module of Python has more
DEEPEST = 6  # containers within containers that are looked into
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


# ---------------------------------------------------------------- a batch alone


def batch_size(batch: Any) -> int:
    """Return the number of samples of a batch, as far as the batch alone tells it; 1 where it tells nothing.

    It is what all parts agree on: the first dimension of a tensor or an array; of a list or tuple of samples, its
    length.
    """
    found = readings(batch)
    return found[0] if found else 1 if found is None else _guess(batch)


def readings(batch: Any) -> list[int] | None:
    """Return the numbers of samples that all parts of a batch allow, the most plausible one first.

    Returns
    -------
    list of int or None
        Empty where the parts contradict each other, None where there is nothing to count.
    """
    if type(batch) in (list, tuple):
        return _of_sequence(batch, 0, outermost=True)
    return _of_part(batch, 0)


def _of_part(part: Any, depth: int) -> list[int] | None:
    kind = type(part)
    if issubclass(kind, Tensor):
        return [part.size(0)] if part.is_nested or part.dim() else None
    if issubclass(kind, PackedSequence):
        return [int(part.batch_sizes[0])]
    if issubclass(kind, _PLAIN) or depth > DEEPEST:
        return None
    if issubclass(kind, (list, tuple)) and not hasattr(kind, "_fields"):
        return _of_sequence(part, depth)
    shape = attribute(part, "shape")
    if isinstance(shape, tuple):
        return [int(shape[0])] if shape else None
    stated = _stated(part)
    if stated is not None:
        return [stated]
    inside = _fields(part)
    return _common(inside, depth) if inside is not None else None


def _stated(part: Any) -> int | None:
    """Return the number of samples that an object says it has, as batches of graphs and of ``tensordict`` do."""
    for name in ("num_graphs", "batch_size"):
        number = None if is_a(part, dict) else attribute(part, name)
        number = number[0] if isinstance(number, tuple) and number else number
        if type(number) is int:
            return number
    return None


def _fields(part: Any) -> list[Any] | None:
    """Return the parts of what has names for them, None for anything else."""
    if is_a(part, Mapping):
        return list(part.values())
    if is_a(part, tuple):  # with names
        return list(part)
    if dataclasses.is_dataclass(type(part)):
        return [attribute(part, field.name) for field in dataclasses.fields(part)]
    own = own_attributes(part)
    return list(own.values()) if own and len(own) <= MOST_FIELDS else None


def _common(parts: Iterable[Any], depth: int) -> list[int] | None:
    """Return the readings that are those of every part. Lists of names count only where there is nothing else."""
    strong: list[list[int]] = []
    weak: list[list[int]] = []
    for part in parts:
        found = _of_part(part, depth + 1)
        if found is not None:
            (weak if _is_plain_list(part) else strong).append(found)
    every = strong or weak
    return [n for n in dict.fromkeys(every[0]) if all(n in other for other in every)] if every else None


def _of_sequence(parts: Any, depth: int, outermost: bool = False) -> list[int] | None:
    """Return the readings of a list or tuple: of one part each for inputs and targets, or of one for each sample."""
    if not len(parts):
        return None if outermost else [0]
    if _is_plain_list(parts):
        return [len(parts)] if not outermost or is_a(parts[0], (str, bytes)) else None
    together = _common(parts, depth)
    if together is None:
        return [len(parts)] if not outermost or _alike(parts) else None
    if not outermost:
        each = [len(parts)] if _alike(parts) or not together else []
        return [*each, *together]
    tensors = all(is_a(part, Tensor) for part in parts)
    if tensors:  # a pair of inputs and targets, mostly
        shapes = {part.shape for part in parts}
        ragged = len(parts) > 2 and len(shapes) > 1 and _alike(parts) and parts[0].dim() > (2 if together else 1)
        return [*together, len(parts)] if ragged else together
    samples = [len(parts)] if _alike(parts) else []
    mixed = not all(type(part) in (list, tuple) and _alike(part) for part in parts)
    return [*samples, *together] if mixed else [*together, *samples]


def _is_plain_list(part: Any) -> bool:
    return type(part) in (list, tuple) and all(type(one) in _PLAIN for one in part)


def _alike(parts: Any) -> bool:
    first = _kind_of(parts[0])
    return all(_kind_of(part) == first for part in parts)


def _kind_of(part: Any, depth: int = 0) -> Any:
    if is_a(part, Tensor):
        return Tensor, part.dim()
    if is_a(part, Mapping):
        return type(part), tuple(sorted(map(str, part)))
    if type(part) in (list, tuple) and depth < DEEPEST:
        return type(part), tuple(_kind_of(one, depth + 1) for one in part)
    return type(part)


def _guess(batch: Any) -> int:
    """Return a number of samples for parts that do not agree: a dimension that all have, else the most frequent."""
    shapes = [tuple(tensor.shape) for tensor in _tensors(batch, 0) if tensor.dim()]
    shared = set.intersection(*(set(shape[:2]) for shape in shapes)) if shapes else set()
    if len(shared) == 1:
        return shared.pop()
    return Counter(shape[0] for shape in shapes).most_common(1)[0][0] if shapes else 1


def _tensors(part: Any, depth: int) -> Iterator[Tensor]:
    if is_a(part, Tensor):
        yield part
    elif not is_a(part, _PLAIN) and depth <= DEEPEST:
        inside = part if type(part) in (list, tuple) else _fields(part)
        for one in inside or ():
            yield from _tensors(one, depth + 1)


def _is_second_dimension(batch: Any, samples: int) -> bool:
    """Return whether every tensor has its samples in the second dimension, as recurrent networks take them."""
    shapes = [tensor.shape for tensor in _tensors(batch, 0) if tensor.dim()]
    return any(len(shape) > 1 for shape in shapes) and all(
        (shape[1] if len(shape) > 1 else shape[0]) == samples for shape in shapes
    )


def _first_dimension(batch: Any) -> int:
    """Return the number of samples of what ``default_collate`` has made, where any tensor tells it."""
    first = next((tensor for tensor in _tensors(batch, 0) if tensor.dim()), None)
    if first is not None:
        return first.size(0)
    while is_a(batch, Mapping) and batch:
        batch = next(iter(batch.values()))
    if is_a(batch, (list, tuple)) and batch and is_a(batch[0], (list, tuple)):
        batch = batch[0]
    return len(batch) if is_a(batch, (list, tuple)) and batch and is_a(batch[0], (str, bytes)) else 1


# ---------------------------------------------------------------- a batch of a loader


class Counted:
    """A batch on its way from a collate function, with the number of samples that the function was given."""

    __slots__ = ("asked", "batch", "samples")

    def __init__(self, batch: Any, samples: int | None, asked: bool | None = None) -> None:
        self.batch, self.samples, self.asked = batch, samples, asked

    def pin_memory(self) -> Counted:
        """Return the same in pinned memory."""
        return Counted(pin_memory(self.batch), self.samples, self.asked)


class SampleCounter:
    """Counts the samples of the batches of one pass.

    Parameters
    ----------
    loader : iterable of batches, optional
        The one that is read.
    counts : dict, optional
        Fills with the numbers of samples that the loader has put into its batches, by the batch's index.
    item : callable
        Returns the item under way.
    tell : callable
        Gets a batch and what was assumed, where that is a guess.
    """

    def __init__(
        self,
        loader: Any,
        counts: dict[int, int] | None,
        item: Callable[[], Any],
        tell: Callable[[Any, int], None],
    ) -> None:
        self.loader, self.item, self.tell = loader, item, tell
        self.counts = {} if counts is None else counts
        plain = isinstance(loader, DataLoader) and loader.batch_sampler is not None
        self.stacked = counts is not None and plain and loader.collate_fn is default_collate
        self.usual = not plain or self.stacked

    @property
    def of(self) -> Callable[[Any], int]:
        """What returns the number of samples of a batch: in one call, for what is no user's collate function's."""
        return self.of_a_pair if self.usual else self.count

    def of_a_pair(self, batch: Any) -> int:
        """Count a batch, which is a pair of tensors mostly."""
        if type(batch) in (list, tuple) and len(batch) == 2:
            first, second = batch
            if type(first) is Tensor and type(second) is Tensor:
                shape, other = first.shape, second.shape
                if shape and other and shape[0] == other[0]:
                    return shape[0]
        return self.count(batch)

    def count(self, batch: Any) -> int:
        """Count a batch of any form."""
        if self.stacked:
            return _first_dimension(batch)
        found, known = readings(batch), self._known()
        if known is not None:
            listed = type(batch) in (list, tuple) and len(batch) == known and _alike(batch)
            if not found or known in found or listed:
                return known
            if (known > 1 or attribute(self.loader, "batch_size") != 1) and _is_second_dimension(batch, known):
                return known
            # The collate function has left out samples, or made several of one.
            if len(found) > 1 or (found[0] > known and found[0] % known):
                self.tell(batch, found[0])
            return found[0]
        if found is None and _is_plain(batch):
            return 1
        expected = self._expected()
        if found and expected in found:
            return expected
        samples = found[0] if found else _guess(batch)
        if found is None or len(found) != 1:
            self.tell(batch, samples)
        return samples

    def _known(self) -> int | None:
        """Return how many samples the loader has put into the batch under way, None where it cannot tell."""
        item = self.item()
        return self.counts.get(item[0]) if type(item) is tuple and len(item) == 2 and type(item[0]) is int else None

    def _expected(self) -> int | None:
        """Return how many samples the loader should have put into the batch under way, if that is one of its own."""
        item, sampler = self.item(), attribute(self.loader, "batch_sampler")
        if type(sampler) is not BatchSampler or type(item) is not tuple or not item or type(item[0]) is not int:
            return attribute(self.loader, "batch_size")
        try:
            return min(sampler.batch_size, len(sampler.sampler) - item[0] * sampler.batch_size)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):  # without a length
            return sampler.batch_size


def _is_plain(batch: Any) -> bool:
    if type(batch) in (list, tuple):
        return all(_is_plain(part) for part in batch)
    return is_a(batch, (Tensor, *_PLAIN))


class CountingCollate:
    """The collate function of a loader, which returns a `Counted`; an object, for it may be sent to other processes.

    Parameters
    ----------
    collate : callable
        The loader's own.
    of_samples : bool
        Whether it is given lists of samples, not batches.
    """

    def __init__(self, collate: Callable[[Any], Any], of_samples: bool) -> None:
        self.collate, self.of_samples = collate, of_samples

    def __call__(self, samples: Any) -> Counted:
        """Return the batch of these samples, or of this one item."""
        number = len(samples) if self.of_samples else None
        return Counted(self.collate(samples), number, _workers_number_was_read())


# ---------------------------------------------------------------- workers that divide a stream


def _workers_number_was_read() -> bool | None:
    """Return whether anything in this worker has asked for its number; None outside of a worker that is watched."""
    info: Any = torch.utils.data.get_worker_info()
    return bool({"id", "num_workers"} & info.read) if type(info) is _WatchedInfo else None


class WatchedStart:
    """The ``worker_init_fn`` that notes what is read of ``get_worker_info()``, and calls the loader's own."""

    def __init__(self, start: Callable[[int], Any] | None) -> None:
        self.start = start

    def __call__(self, number: int) -> None:
        """Begin the worker of this number."""
        worker = torch.utils.data._utils.worker
        worker._worker_info = _WatchedInfo(worker._worker_info)  # type: ignore[assignment]
        if self.start is not None:
            self.start(number)


class _WatchedInfo:
    """Hands on what is asked of a worker's information, and notes its names."""

    def __init__(self, info: Any) -> None:
        self.info, self.read = info, set[str]()

    def __getattr__(self, name: str) -> Any:
        if name in ("info", "read"):  # while it is copied
            raise AttributeError(name)
        self.read.add(name)
        return getattr(self.info, name)
