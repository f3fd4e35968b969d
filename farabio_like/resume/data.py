"""The samples of the loaders in a checkpoint: the split of a run that goes on is that of the run that was stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

from ..data import identity
from ..duck_typing import attribute
from ..errors import DataError

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


NAMES = ("train", "valid", "test")
MOST_INDICES = 5_000_000  # of all loaders together, that a checkpoint holds
# Samplers that need nothing but the length of the data set, or the indices themselves.
_PLAIN = (SequentialSampler, RandomSampler, SubsetRandomSampler)


def note_loaders(trainer: ConvnetTrainer) -> None:
    """Note which loaders the constructor has made: those that a hook sets later are not there when a run goes on."""
    trainer._run_state.built_loaders = {name: id(getattr(trainer, f"{name}_loader")) for name in NAMES}


def capture(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return for each loader that the constructor has made which samples it has."""
    state, found, room = trainer._run_state, {}, MOST_INDICES
    for name in NAMES:
        loader = getattr(trainer, f"{name}_loader")
        if loader is None or id(loader) != state.built_loaders.get(name) or id(loader) in state.undivided:
            continue
        known = state.fingerprints.get(name)
        if known is None:  # once: a data set may be large
            indices = {where: _packed(part.indices) for where, part in identity.choices(loader).items()}
            size = sum(part.numel() for part in indices.values())
            room -= size
            base = _base(loader)
            known = {
                "print": identity.fingerprint(loader),
                "indices": indices if room >= 0 else {},
                "base": identity.fingerprint_of(base, identity.of_dataset(base)) if indices else None,
            }
            state.fingerprints[name] = known
        if known["print"] is not None:
            found[name] = known
    return found


def take_back(trainer: ConvnetTrainer, saved: dict[str, Any], file: str, other_data: bool) -> None:
    """Compare the loaders with those of a checkpoint; give a split by indices its indices back.

    Parameters
    ----------
    trainer : ConvnetTrainer
    saved : dict
        What `capture` returned; nothing for files of older versions.
    file : str
        Where it was read, for messages.
    other_data : bool
        Go on with other samples: take nothing back, and say what differs.

    Raises
    ------
    DataError
        For a loader with other samples.
    """
    now = capture(trainer)
    state = trainer._run_state
    both = [name for name in NAMES if name in saved and name in now]
    differ = {name for name in both if not _same(saved[name], now[name])}
    # The order of the indices too: the samples of an epoch that are left depend on it.
    moved = {name for name in both if saved[name]["print"]["order"] != now[name]["print"]["order"]}
    restored = {name for name in moved if not other_data and _restorable(trainer, name, saved[name], now[name])}
    if differ - restored and not other_data:
        name = sorted(differ - restored)[0]
        raise DataError(
            f"self.{name}_loader has other samples than when {file} was written: "
            f"{_difference(saved[name], now[name])}. By a split that is drawn anew the run would train on what it is "
            "tested by: draw it with a fixed seed (self._seed, or a generator of its own). Where the data were changed "
            "on purpose, write train(resume=..., other_data=True)."
        )
    for name in sorted(restored):
        for where, part in identity.choices(getattr(trainer, f"{name}_loader")).items():
            part.indices = _like(part.indices, saved[name]["indices"][where])
        state.fingerprints.pop(name, None)
    if restored:
        listed = ", ".join(f"self.{name}_loader" for name in NAMES if name in restored)
        state.console.line(
            f"  {listed}: the split was drawn anew, and gets the indices back that it had in the checkpoint (set "
            "self._seed to draw the same; train(resume=..., other_data=True) goes on with other samples)"
        )
    for name in NAMES:
        if name in differ and other_data:
            state.console.line(f"  self.{name}_loader has other samples: {_difference(saved[name], now[name])}")


def _same(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether two loaders have the same samples, as far as they can be told."""
    a, b = then["print"], now["print"]
    if a["length"] != b["length"] or set(then["indices"]) != set(now["indices"]):
        return False
    if then["base"] is not None and now["base"] is not None and not _same_print(then["base"], now["base"]):
        return False
    return _same_print(a, b)


def _same_print(a: dict[str, Any], b: dict[str, Any]) -> bool:
    key = "samples" if a["samples"] is not None and b["samples"] is not None else "order"
    return a["length"] == b["length"] and (a[key] is None or b[key] is None or a[key] == b[key])


def _restorable(trainer: ConvnetTrainer, name: str, then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the indices of a split are all that differs, and nothing else depends on them."""
    if not then["indices"] or set(then["indices"]) != set(now["indices"]):
        return False
    if then["base"] is None or now["base"] is None or not _same_print(then["base"], now["base"]):
        return False
    length = now["base"]["length"] or 0
    if any(part.numel() and not 0 <= int(part.min()) <= int(part.max()) < length for part in then["indices"].values()):
        return False  # of a damaged file, or a stranger's
    batches = attribute(getattr(trainer, f"{name}_loader"), "batch_sampler")
    batches = attribute(batches, "whole", batches)
    return type(batches) is BatchSampler and type(batches.sampler) in _PLAIN


def _difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    before, after = then["print"]["length"], now["print"]["length"]
    return f"it had {before}, and has {after}" if before != after else f"{after} as before, but not the same ones"


def _base(loader: Any) -> Any:
    """Return what the innermost ``Subset`` of a loader, or its sampler, chooses from."""
    subsets = [part for where, part in identity.choices(loader).items() if where != "sampler"]
    return subsets[-1].dataset if subsets else attribute(loader, "dataset")


def _packed(indices: Any) -> torch.Tensor:
    numbers = np.fromiter((int(i) for i in indices), np.int64, len(indices))
    small = not len(numbers) or (numbers.min() >= -(2**31) and numbers.max() < 2**31)
    return torch.from_numpy(numbers.astype(np.int32) if small else numbers)


def _like(indices: Any, saved: torch.Tensor) -> Any:
    """Return indices from a checkpoint in the form that a data set has them."""
    if isinstance(indices, torch.Tensor):
        return saved.to(indices.dtype)
    if isinstance(indices, np.ndarray):
        return saved.numpy().astype(indices.dtype)
    return saved.tolist()


# ---------------------------------------------------------------- how far an epoch has come


def samples_done(trainer: ConvnetTrainer) -> dict[str, int | None]:
    """Return how many samples of the epoch under way were trained, and in batches of which size; None if unknown."""
    size, progress = _batch_size(trainer), trainer._run_state.progress
    if size is None:
        return {"samples": None, "batch_size": None}
    here = progress.batches - progress.batches_before
    samples = (progress.samples_before // size + here) * size if here else progress.samples_before
    return {"samples": samples, "batch_size": size}


def samples_to_pass_over(trainer: ConvnetTrainer, position: dict[str, Any]) -> int | None:
    """Return the samples that were trained before in an epoch that goes on, where batches have another size now."""
    size, then, samples = _batch_size(trainer), position.get("batch_size"), position.get("samples")
    progress = trainer._run_state.progress
    if size is None or then is None or samples is None:
        return None
    progress.batches_before, progress.samples_before = position["batches"], samples
    return samples if then != size or samples != position["batches"] * size else None


def _batch_size(trainer: ConvnetTrainer) -> int | None:
    batches = attribute(trainer.train_loader, "batch_sampler")
    batches = attribute(batches, "whole", batches)
    return int(batches.batch_size) if type(batches) is BatchSampler else None
