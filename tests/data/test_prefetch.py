"""Prefetching: nothing on a CPU; on a GPU the same batches, one ahead."""

import dataclasses
from collections import namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.data import prefetch

from ..trainers import INPUTS, TARGETS, Tiny

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_on_a_cpu_the_items_stay_what_they_are():
    items = object()
    assert prefetch.prefetched(items, torch.device("cpu"), None) is items


def test_tensors_of_any_batch():
    Pair = namedtuple("Pair", "a b")

    @dataclasses.dataclass
    class Sample:
        image: torch.Tensor
        name: str

    a, b, c, d = torch.zeros(4, 1)
    batch = (0, {"pair": Pair(a, "text"), "list": [b, None, 3]}, Sample(c, "name"), d)
    assert [tensor.data_ptr() for tensor in prefetch.tensors_in(batch)] == [t.data_ptr() for t in (a, b, c, d)]


class Streams:
    """Stands for the streams of a GPU on a machine without one: notes what is done, in order."""

    def __init__(self, monkeypatch):
        self.done = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.no_grad())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        monkeypatch.setattr(prefetch, "pin_memory", lambda item: self.done.append(f"copy {item[0]}") or item)

    def record_event(self):
        return "event"

    def wait_event(self, event):
        assert event == "event"


def test_the_copy_of_the_next_batch_begins_first(monkeypatch):
    streams = Streams(monkeypatch)
    batches = [(index, torch.full((2,), float(index))) for index in range(3)]
    for index, batch in prefetch._one_ahead(batches, torch.device("cpu"), None):
        streams.done.append(f"train {index}")
        assert batch[0] == index
    assert streams.done == ["copy 0", "copy 1", "train 0", "copy 2", "train 1", "train 2"]


def test_an_error_of_the_loader_comes_after_the_batches_before_it(monkeypatch):
    streams = Streams(monkeypatch)

    def failing():
        yield 0, torch.zeros(2)
        yield 1, torch.zeros(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        for index, _ in prefetch._one_ahead(failing(), torch.device("cpu"), None):
            streams.done.append(f"train {index}")
    assert streams.done == ["copy 0", "copy 1", "train 0", "train 1"]


@cuda
@pytest.mark.parametrize("pinned", [False, True])
def test_same_weights_on_a_gpu(pinned):
    class OnGPU(Tiny):
        def get_trainloader(self):
            self._device = self.device = torch.device("cuda", 0)
            data = TensorDataset(INPUTS, TARGETS)
            self.train_loader = self.valid_loader = DataLoader(data, batch_size=4, pin_memory=pinned)

    plain, ahead = OnGPU(), OnGPU({"_prefetch": True})
    plain.train()
    ahead.train()
    assert torch.equal(plain.model.weight, ahead.model.weight)


@cuda
@pytest.mark.parametrize("settings", [{}, {"_precision": "bf16", "_accumulation_steps": 3, "_clip_norm": 1.0}], ids=str)
def test_no_step_waits_for_the_gpu(settings):
    class OnGPU(Tiny):
        def get_trainloader(self):
            super().get_trainloader()
            self.device = torch.device("cuda", 0)

        def train_batch(self, item):
            if self.step > 1:
                torch.cuda.set_sync_debug_mode("error")
            try:
                super().train_batch(item)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    OnGPU({"_prefetch": True, **settings}).train()
