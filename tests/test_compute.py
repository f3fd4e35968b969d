"""The device, DataParallel, compiling, memory formats, determinism and seeds."""

import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConfigError, compute

from .trainers import INPUTS, TARGETS, Tiny

IMAGES = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(10) % 3


class Images(Tiny):
    """A small convolutional network."""

    def get_trainloader(self):
        self.train_loader = self.valid_loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4)

    def get_testloader(self):
        self.test_loader = self.train_loader

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


def same(one, other, **tolerance):
    assert list(one) == list(other)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], **tolerance)


# ---------------------------------------------------------------- compiling


@pytest.fixture
def compiler():
    """Forget what was compiled: the compiler counts what one process compiles anew."""
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("arguments", [{"backend": "eager"}, {"backend": "eager", "dynamic": True}], ids=str)
def test_compiling_keeps_keys_and_numbers(arguments, compiler):
    plain, compiled = Images(), Images({"_compile": arguments, "_logdir": "runs"})
    plain.train()
    compiled.train()
    assert type(compiled.model) is nn.Sequential and compiled.model._compiled_call_impl is not None
    same(plain.model.state_dict(), compiled.model.state_dict())
    kept = torch.load(compiled.run_dir / "model.pth", weights_only=True)
    assert list(kept) == list(plain.model.state_dict())
    compiled.test()
    plain.load_model(compiled.run_dir / "model.pth")


def test_every_model_of_a_dict_is_compiled(compiler):
    class Two(Tiny):
        def build_model(self):
            self.model = {"a": nn.Linear(3, 2), "b": nn.Linear(2, 1)}

        def forward(self):
            return self.model["b"](self.model["a"](self.inputs))

    trainer = Two({"_compile": {"backend": "eager"}})
    assert all(module._compiled_call_impl is not None for module in trainer.model.values())
    assert next(trainer.predict(INPUTS)).shape == (10, 1)


COMPILE = """
import torch
from tests.trainers import Tiny

plain, compiled = Tiny(), Tiny({"_compile": True})
plain.train()
compiled.train()
torch.testing.assert_close(plain.model.state_dict(), compiled.model.state_dict(), rtol=1e-5, atol=1e-6)
print(list(compiled.model.state_dict()), torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiling_with_the_default_backend(python, tmp_path):
    assert python(COMPILE, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache")) == "['weight', 'bias'] True\n"


# ---------------------------------------------------------------- channels_last


def test_model_and_images_are_in_channels_last():
    seen = []

    class Watching(Images):
        def forward(self):
            seen.append(self.inputs.is_contiguous(memory_format=torch.channels_last))
            return super().forward()

    plain, trainer = Images(), Watching({"_channels_last": True})
    plain.train()
    trainer.train()
    assert seen and all(seen)
    assert trainer.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    same(plain.model.state_dict(), trainer.model.state_dict(), rtol=1e-4, atol=1e-5)
    batch = trainer.to_device({"image": IMAGES, "label": LABELS, "more": (IMAGES, "name")})
    assert batch["image"].stride() == batch["more"][0].stride() == IMAGES.to(memory_format=torch.channels_last).stride()
    assert batch["label"].equal(LABELS) and batch["more"][1] == "name"


# ---------------------------------------------------------------- determinism and seeds


def test_determinism_lasts_as_long_as_the_run():
    seen = []

    class Watching(Tiny):
        def compute_loss(self):
            seen.append(
                (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, self.loader_name)
            )
            return super().compute_loss()

    trainer = Watching({"_deterministic": True, "_num_epochs": 1})
    assert not torch.are_deterministic_algorithms_enabled()
    trainer.train()
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    trainer.test()
    assert set(seen) == {(True, True, name) for name in ("train", "valid", "test")}
    assert not torch.are_deterministic_algorithms_enabled()


def test_determinism_ends_with_a_run_that_fails():
    class Failing(Tiny):
        def training_step(self):
            assert torch.are_deterministic_algorithms_enabled()
            raise ZeroDivisionError

    trainer = Failing({"_deterministic": True})
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert not torch.are_deterministic_algorithms_enabled()


def test_operation_without_a_deterministic_algorithm_is_an_error():
    class Nondeterministic(Tiny):
        def compute_loss(self):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
            return super().compute_loss()

    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        Nondeterministic({"_deterministic": True}).train()
    Nondeterministic().train()


def test_the_seed_is_set_before_the_loaders():
    class Drawing(Tiny):
        def get_trainloader(self):
            super().get_trainloader()
            self.drawn = random.random(), np.random.rand(), torch.rand(2).tolist()

        def build_model(self):
            self.model = nn.Linear(3, 1)

    first, second, other = Drawing({"_seed": 7}), Drawing({"_seed": np.int64(7)}), Drawing({"_seed": 8})
    assert first.drawn == second.drawn != other.drawn
    assert torch.equal(first.model.weight, second.model.weight)
    assert not torch.equal(first.model.weight, other.model.weight)


def test_without_a_seed_nothing_is_seeded():
    before = torch.get_rng_state(), random.getstate()

    class Empty(Tiny):
        def build_model(self):
            self.model = nn.Identity()

    Empty()
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


# ---------------------------------------------------------------- DataParallel


class Chunks(nn.DataParallel):
    """Splits a batch as DataParallel does for its devices, on the CPU."""

    def forward(self, inputs):
        return torch.cat([self.module(part) for part in inputs.chunk(self.parts)])


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_loss_of_batches_that_split_unevenly(parts, monkeypatch):
    def wrap(module, devices, device):
        wrapped = Chunks(module)
        wrapped.parts = parts
        return wrapped

    monkeypatch.setattr(compute, "data_parallel", wrap)
    single, parallel = Images(), Images({"_data_parallel": True})
    for trainer in (single, parallel):
        trainer.train()
    assert isinstance(parallel.model, Chunks)
    # 10 samples in batches of 4, 4 and 2: parts of 2 and 2, of 2, 1 and 1, ...
    same(single.model.state_dict(), parallel.model.module.state_dict(), rtol=1e-5, atol=1e-6)
    for one, other in zip(single.history, parallel.history, strict=True):
        assert one["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-5)
        assert one["valid"]["loss"] == pytest.approx(other["valid"]["loss"], rel=1e-5)
    assert single.test()["loss"] == pytest.approx(parallel.test()["loss"], rel=1e-5)


@pytest.mark.parametrize("saved", [None, True])
@pytest.mark.parametrize("loaded", [None, True])
def test_weights_pass_between_one_device_and_several(saved, loaded, tmp_path):
    source, target = Tiny({"_data_parallel": saved}), Tiny({"_data_parallel": loaded})
    source.train()
    path = source.save_parallel_model(tmp_path / "w.pth") if saved else source.save_model(tmp_path / "w.pth")
    assert list(torch.load(path, weights_only=True)) == ["weight", "bias"]
    target.load_model(path)
    x = torch.ones(2, 3)
    assert torch.equal(source.model(x), target.model(x))
    assert target.test()["loss"] == pytest.approx(nn.functional.mse_loss(source.model(INPUTS), TARGETS).item())


@pytest.mark.parametrize("devices", [[0], [1, 0], (0, 2)])
def test_list_of_visible_devices(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert compute.device_list(devices) == list(devices)


@pytest.mark.parametrize("devices", [[], (), [3], [-1], [0, 0], ["cuda:0"], [0.0], "0,1", 2], ids=str)
def test_wrong_list_of_devices(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match="_data_parallel"):
        Tiny({"_data_parallel": devices})


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"_compile": "max-autotune"}, ["_compile is 'max-autotune'", "'mode'"]),
        ({"_compile": None}, ["_compile is None"]),
        ({"_compile": True, "_data_parallel": True}, ["_compile and _data_parallel are both set"]),
        ({"_channels_last": 1}, ["_channels_last is 1", "True or False"]),
        ({"_prefetch": 2}, ["_prefetch is 2", "True or False"]),
        ({"_deterministic": "warn"}, ["_deterministic is 'warn'"]),
        ({"_seed": -1}, ["_seed is -1", "Write self._seed = 0"]),
        ({"_seed": 1.5}, ["_seed is 1.5"]),
        ({"_seed": 2**32}, ["_seed is 4294967296"]),
    ],
    ids=str,
)
def test_bad_settings(settings, expected):
    with pytest.raises(ConfigError) as caught:
        Tiny(settings)
    assert all(part in str(caught.value) for part in ["Tiny: ", *expected])
