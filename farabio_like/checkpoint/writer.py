"""Checkpoints written in the background, from copies of the tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Writer:
    """Writes checkpoints, on request in a thread of its own: one at a time, from copies of the tensors.

    An error of the thread is raised by the next `write` or `finish`.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copies = Copies()

    def __deepcopy__(self, memo: dict[int, Any]) -> Writer:
        return Writer()

    def write(self, job: Callable[[Any], None], value: Any, background: bool) -> None:
        """Do a job with a value, or in the background with a copy of it, after the one under way."""
        self.finish()
        if not background:
            job(value)
            return
        copied = self._copies.take(value)
        self._thread = threading.Thread(target=self._run, args=(job, copied), name="farabio_like checkpoint")
        self._thread.start()

    def _run(self, job: Callable[[Any], None], value: Any) -> None:
        try:
            job(value)
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait for the job under way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the job under way, and let go of the copies."""
        try:
            self.finish()
        finally:
            self._copies.forget()


_Key = tuple[torch.dtype, torch.Size, tuple[int, ...]]


class Copies:
    """Copies tensors to the CPU, into the memory of the last copies.

    Memory that is new costs as much again as copying into it: the system hands it out page by page, at the first write.
    """

    def __init__(self) -> None:
        self._held: dict[_Key, list[Tensor]] = {}

    def take(self, value: Any) -> Any:
        """Return tensors and plain data as they are now; the copies of the last call are written over."""
        taken: dict[Any, Tensor] = {}
        copied = self._copy(value, taken)
        self._held = {}
        for copy in taken.values():
            self._held.setdefault(_key(copy), []).append(copy)
        return copied

    def forget(self) -> None:
        """Let go of the memory."""
        self._held = {}

    def _copy(self, value: Any, taken: dict[Any, Tensor]) -> Any:
        if isinstance(value, Tensor):
            tensor = value.detach()
            if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:  # no plain memory
                return tensor.to("cpu", copy=True)
            same = (tensor.data_ptr(), tensor.device, *_key(tensor))  # a shared tensor is copied once
            if same not in taken:
                held = self._held.get(_key(tensor))
                taken[same] = held.pop().copy_(tensor) if held else tensor.to("cpu", copy=True)
            return taken[same]
        if isinstance(value, Mapping):
            return {name: self._copy(part, taken) for name, part in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copy(part, taken) for part in value)
        return value


def _key(tensor: Tensor) -> _Key:
    return tensor.dtype, tensor.shape, tensor.stride()


def snapshot(value: Any) -> Any:
    """Return tensors and plain data as they are now: tensors are copied to the CPU, shared ones once."""
    return Copies().take(value)
