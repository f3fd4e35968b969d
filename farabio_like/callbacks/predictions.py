"""Files of the predictions for a loader."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import checkpoint, data, distributed
from ..errors import ConfigError
from .base import LOADER_OF, Callback
from .transform import check_loaders

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class SavePredictions(Callback):
    """Write the predictions and targets of a loader into a file, at its end.

    The file ``<loader>.pt`` holds ``{"loader", "epoch", "predictions", "targets"}``, readable by
    ``torch.load(weights_only=True)``: ``prediction_transform(outputs)`` and the targets of all samples in the
    order of the loader, on the CPU. Tensors of the batches are joined along the first dimension, in dicts and
    lists too; those of different shapes stay a list of one entry per batch. A later epoch replaces the file,
    which is complete whenever it is there. What `evaluate_loader` reads is no loader of the run, and goes into no
    file. Of several processes the first one writes what all of them have predicted, in the same order; each one's
    part of a batch then counts as a batch.

    Parameters
    ----------
    loaders : tuple of str
        ``"valid"``, ``"test"`` or both. While the train loader is read the weights change from batch to batch.
    path : path, optional
        The folder; default: ``predictions`` in the run folder.

    Raises
    ------
    ConfigError
        For another loader; where there is neither a run folder nor a path, before the first batch.

    Examples
    --------
    >>> SavePredictions(loaders=("valid", "test")).loaders
    ('valid', 'test')
    """

    def __init__(self, loaders: Iterable[str] = ("test",), path: str | Path | None = None) -> None:
        self.loaders = check_loaders("SavePredictions", loaders, ("test", "valid"))
        self.path = None if path is None else Path(path).absolute()  # a hook may change the working folder
        self._kept: list[tuple[int, Any, Any]] = []  # number of the batch, predictions, targets

    def listens_to(self, event: str) -> bool:
        """Leave out the events of other loaders."""
        return LOADER_OF.get(event) in (None, *self.loaders)

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Check that there is a place for the file."""
        if "valid" in self.loaders:
            self._folder(trainer)

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Begin with none."""
        if not trainer._run_state.of_other_loader:
            self._kept = []

    def on_evaluate_batch_end(self, trainer: ConvnetTrainer) -> None:
        """Keep the batch's."""
        if not trainer._run_state.of_other_loader:
            self._keep(trainer)

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Write the file."""
        if not trainer._run_state.of_other_loader:
            self._write(trainer, "valid")

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Begin with none."""
        self._kept = []
        self._folder(trainer)

    def on_end_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Keep the batch's."""
        self._keep(trainer)

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Write the file."""
        self._write(trainer, "test")

    def close(self) -> None:
        """Let go of what an error has left."""
        self._kept = []

    def _folder(self, trainer: ConvnetTrainer) -> Path:
        if self.path is not None:
            return self.path
        if trainer.run_dir is None:
            raise ConfigError(
                "SavePredictions has no run folder to write to: nothing was trained, or _logdir is None; write "
                f"SavePredictions({self.loaders!r}, path='predictions')."
            )
        return trainer.run_dir / "predictions"

    def _keep(self, trainer: ConvnetTrainer) -> None:
        run = trainer._run_state
        if run.skip and run.ranks is not None:  # a stand-in for a batch of another rank
            return
        outputs = trainer.outputs.detach() if isinstance(trainer.outputs, Tensor) else trainer.outputs
        kept = trainer.prediction_transform(outputs), trainer.targets
        if trainer.device.type == "cpu":
            predictions, targets = copy.deepcopy(kept)  # a loader may fill the same buffer again
        else:
            predictions, targets = data.move(kept, torch.device("cpu"))  # does not wait for the device
        item = trainer._run_state.item
        numbered = type(item) is tuple and len(item) == 2 and type(item[0]) is int
        self._kept.append((item[0] if numbered and distributed.several() else len(self._kept), predictions, targets))

    def _write(self, trainer: ConvnetTrainer, loader: str) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        of_ranks = distributed.gather_on_main(self._kept)
        # Ranks have consecutive parts of a batch, or whole batches in turn: by number, then by rank, both are in order.
        kept = sorted((batch for batches in of_ranks for batch in batches), key=itemgetter(0))
        state = {
            "loader": loader,
            "epoch": trainer.epoch,
            "predictions": _join([predictions for _, predictions, _ in kept]),
            "targets": _join([targets for _, _, targets in kept]),
        }
        checkpoint.save(state, self._folder(trainer) / f"{loader}.pt")
        self._kept = []


def _join(batches: list[Any]) -> Any:
    """Join what the batches hold, along the first dimension."""
    if not batches:
        return []
    first = batches[0]
    if all(isinstance(batch, Tensor) and batch.ndim for batch in batches):
        if len({(batch.shape[1:], batch.dtype) for batch in batches}) == 1:
            return torch.cat(batches)
    elif all(isinstance(batch, Mapping) and set(batch) == set(first) for batch in batches):
        return {key: _join([batch[key] for batch in batches]) for key in first}
    elif isinstance(first, (list, tuple)) and all(
        isinstance(batch, (list, tuple)) and len(batch) == len(first) for batch in batches
    ):
        return [_join(list(parts)) for parts in zip(*batches, strict=True)]
    return batches
