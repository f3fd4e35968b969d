"""Ours with ten callbacks that listen to epochs only."""

from __future__ import annotations

from collections.abc import Callable

from farabio_like import Callback

from . import ours
from .jobs import Job


class Idle(Callback):
    def on_epoch_end(self, trainer):
        pass


def prepare(job: Job) -> Callable[[], object]:
    train = ours.prepare(job)
    train.__self__.callbacks = [Idle() for _ in range(10)]
    return train
