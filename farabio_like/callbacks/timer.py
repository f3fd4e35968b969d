"""Where the time of an epoch goes: waiting for batches, or computing with them."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from .base import Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Timer(Callback):
    """Measures the time per training batch, in seconds: for its data, for its step, and for both.

    Means over the epoch, in the metrics of the train loader:

    - ``time_data``: from the end of one batch to the begin of the next step: reading the loader, moving the
      batch to the device, adding up metrics. The first one includes the start of the loader's workers.
    - ``time_model``: the step, with what follows it in ``on_end_training_batch``.
    - ``time_batch``: their sum.

    After a resume in the middle of an epoch they are those of the rest of it.

    All are the host's time. A GPU works on by itself, and its time shows where the host waits for it: in
    ``time_model`` only when the step reads something back, else later. ``time_batch`` is right in the mean.

    Examples
    --------
    ``self.callbacks = [Timer()]``, then ``history[-1]["train"]["time_data"]``.
    """

    order = CallbackOrder.Other  # a batch is ready when every other callback is done with it

    def __init__(self) -> None:
        self._begin()

    def announces(self) -> dict[str, bool | None] | None:
        """Return the names of the times."""
        return dict.fromkeys(("time_data", "time_model", "time_batch"), False)

    def _begin(self) -> None:
        self.data = self.model = 0.0
        self.batches = 0
        self.mark = perf_counter()

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Start the clock."""
        self._begin()

    def on_start_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Count what passed as time for data."""
        now = perf_counter()
        self.data += now - self.mark
        self.mark = now

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Count what passed as time for the step."""
        now = perf_counter()
        self.model += now - self.mark
        self.mark = now
        self.batches += 1

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Put the means into the metrics."""
        if self.batches:
            trainer.loader_metrics.update(
                time_data=self.data / self.batches,
                time_model=self.model / self.batches,
                time_batch=(self.data + self.model) / self.batches,
            )
