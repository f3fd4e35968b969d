"""A batch that is left out leaves nothing in the buffers, and no file holds buffers that have become infinite."""

import math

import pytest
import torch
from torch import nn

from farabio_like import NonFiniteError
from farabio_like.optim.buffers import all_finite

from ..trainers import INPUTS, TARGETS, Tiny

BATCHES = 6


class Normed(Tiny):
    """A batch norm layer, and six batches, of which `bad` has a NaN among its inputs."""

    bad = 3

    def define_misc_attr(self):
        super().define_misc_attr()
        self._on_nonfinite, self._num_epochs = "skip", 1

    def get_trainloader(self):
        self.train_loader = [(INPUTS + i / 7, TARGETS - i / 5) for i in range(BATCHES)]
        self.valid_loader = [(INPUTS, TARGETS)]

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)

    def on_start_training_batch(self, item):
        self.take_batch(item)
        if self.step == self.bad:
            self.spoil()

    def spoil(self):
        self.inputs = self.inputs.clone()
        self.inputs[0, 0] = float("nan")


class Infinite(Normed):
    """Its loss is infinite, and its inputs are not."""

    def spoil(self):
        self.targets = self.targets * float("inf")


def by_hand(bad=3, model=None, factor=1.0):
    """Return the model of a loop that leaves the bad batch out."""
    trainer = Normed()
    model = trainer.model if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for number, (x, y) in enumerate(trainer.train_loader, 1):
        if number != bad:
            optimizer.zero_grad()
            (nn.functional.mse_loss(model(x), y) * factor).backward()
            optimizer.step()
    return model


def assert_same(model, expected, **tolerance):
    for (name, one), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


@pytest.mark.parametrize("kind", [Normed, Infinite])
@pytest.mark.parametrize(
    "settings", [{}, {"_data_parallel": True}, {"_clip_norm": 100.0}, {"_prefetch": True}], ids=str
)
def test_the_batch_has_never_been(kind, settings):
    trainer = kind({"_logdir": "runs", **settings})
    history = trainer.train()
    module = trainer.model.module if "_data_parallel" in settings else trainer.model
    assert_same(module, by_hand())
    assert math.isfinite(history[0]["valid"]["loss"])
    for name in ("last", "best"):
        saved = torch.load(trainer.run_dir / f"checkpoints/{name}.ckpt", weights_only=True)["model"]
        assert all(value.float().isfinite().all() for value in saved.values())


def test_a_value_that_clipping_would_hide():
    assert_same(_trained(Infinite, {"_clip_value": 100.0}).model, by_hand())

    class Own(Infinite):
        def training_step(self):
            self.optimizer_zero_grad()
            self.loss = self.compute_loss()
            self.loss_backward()
            self.clip_gradients(value=100.0)
            self.optimizer_step()

    assert_same(_trained(Own).model, by_hand())


def _trained(kind, settings=None):
    trainer = kind(settings or {})
    trainer.train()
    return trainer


@pytest.mark.parametrize("bad", [2, 3, 6])
def test_a_window_that_is_left_out(bad):
    trainer = Normed({"_accumulation_steps": 3})
    trainer.bad = bad
    trainer.train()
    assert math.isfinite(trainer.history[0]["train"]["loss"])
    good = [number for number in range(1, 7) if (number - 1) // 3 != (bad - 1) // 3]
    # The bad batch is not in the statistics, nor that in which the step is left out.
    assert trainer.model[0].num_batches_tracked == (4 if bad == 2 else 5)
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    expected, total = Normed().model, 0
    for number in range(1, 7):
        if number in good:
            x, y = trainer.train_loader[number - 1]
            total = total + nn.functional.mse_loss(
                expected[1](nn.functional.batch_norm(x, None, None, training=True)), y
            )
    (total / 3).backward()
    torch.optim.SGD(expected[1].parameters(), lr=0.05).step()
    torch.testing.assert_close(trainer.model[1].weight, expected[1].weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [Normed, Infinite])
def test_in_fp16(kind):
    class Small(kind):
        def compute_loss(self):
            return super().compute_loss() / 100  # so that nothing else overflows

    trainer = _trained(Small, {"_precision": "fp16"})
    assert_same(trainer.model, by_hand(factor=0.01), rtol=0.05, atol=0.01)
    assert trainer.model[0].num_batches_tracked == 5
    assert trainer._run_state.stepping.scalers[""].get_scale() == 2.0**15  # it follows, as without "skip"


def test_what_comes_after_the_step_leaves_nothing_either():
    class Again(Normed):
        def on_end_training_batch(self):
            with torch.no_grad():
                self.model(self.inputs)  # in train mode

    trainer = _trained(Again)
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert trainer.model[0].num_batches_tracked == 10


class Average(nn.Module):
    """Buffers that are made anew by every pass, and one that grows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            self.seen = torch.cat([self.seen, x.detach()[:1, 0]])
        return x - self.mean


def test_buffers_that_are_made_anew():
    class Own(Normed):
        def build_model(self):
            super().build_model()
            self.model[0] = Average()

    torch.manual_seed(0)
    assert_same(_trained(Own).model, by_hand(model=nn.Sequential(Average(), *list(Normed().model)[1:])))


def test_the_buffers_of_a_criterion():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, outputs, targets):
            loss = ((outputs - targets) ** 2).mean()
            self.scale.lerp_(loss.detach(), 0.1)
            return loss / self.scale

    class Own(Infinite):
        def build_model(self):
            super().build_model()
            self.criterion = Scaled()

    assert _trained(Own).criterion.scale.isfinite()


def test_one_of_two_optimizers():
    class Two(Normed):
        def build_model(self):
            torch.manual_seed(0)
            self.model = {name: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)) for name in ("a", "b")}
            self.optimizer = {name: torch.optim.SGD(m.parameters(), lr=0.05) for name, m in self.model.items()}

        def training_step(self):
            for name in ("a", "b"):
                with self.only(name):
                    self.optimizer_zero_grad()
                    self.loss = nn.functional.mse_loss(self.model[name](self.inputs), self.targets)
                    self.loss_backward()
                    self.optimizer_step()

        def evaluate_batch(self, item):
            self.loss = nn.functional.mse_loss(self.model["a"](self.inputs), self.targets)

    trainer = _trained(Two)
    for model in trainer.model.values():
        assert all(value.isfinite().all() for value in model.state_dict().values())
        assert model[0].num_batches_tracked == 5


def test_a_single_batch():
    trainer = Normed()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step((INPUTS * float("nan"), TARGETS))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    trainer.bad = None
    trainer.train()
    assert_same(trainer.model, by_hand(bad=None))
    assert trainer.history[0]["train"] == _trained(type("Clean", (Normed,), {"bad": None})).history[0]["train"]


# ---------------------------------------------------------------- what files hold


class Masked(Normed):
    """The loss does not see what is in the statistics."""

    def define_misc_attr(self):
        super().define_misc_attr()
        self._on_nonfinite, self._num_epochs, self._logdir = self.config.get("mode", "raise"), 3, "runs"
        self._save_epoch, self._async_checkpoint = 1, self.config.get("behind", False)
        self.bad = 8

    def compute_loss(self):
        if self.model.training:
            self.model[0](self.inputs)
        return ((self.model[1].weight - 1) ** 2).mean()


@pytest.mark.parametrize("behind", [False, True])
def test_statistics_that_have_become_nan_are_an_error_and_in_no_file(behind):
    trainer = Masked({"behind": behind})
    with pytest.raises(NonFiniteError, match=r"2 buffers are not finite in epoch [23], the first is 0.running"):
        trainer.train()
    for path in (trainer.run_dir / "checkpoints").glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["epoch"] == 1 and all(value.isfinite().all() for value in saved["model"].values())
    assert len(list((trainer.run_dir / "checkpoints").glob("*.ckpt"))) == 2
    assert not (trainer.run_dir / "model.pth").exists()


def test_and_a_warning_where_that_is_asked_for():
    trainer = Masked({"mode": "warn"})
    with pytest.warns(UserWarning, match="2 buffers are not finite in epoch 2, the first is 0.running"):
        trainer.train()
    assert torch.load(trainer.run_dir / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


def test_a_run_without_a_folder_says_it_too():
    class Bare(Masked):
        def define_misc_attr(self):
            super().define_misc_attr()
            self._logdir = None

    with pytest.raises(NonFiniteError, match="0.running"):
        Bare().train()


class Attention(nn.Module):
    """Masks that mean their infinity: one from the beginning, one made when it is needed, and an observer's range."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        self.register_buffer("least", torch.tensor(float("inf")))

    def forward(self, x):
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.full((3, 3), float("-inf")).tril(-1))
        weights = (torch.zeros(3, 3) + self.mask).softmax(1) + (torch.zeros(3, 3) + self.late).softmax(1)
        return x @ weights


@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_masks_are_infinite_on_purpose(mode):
    class Own(Normed):
        def define_misc_attr(self):
            super().define_misc_attr()
            self._on_nonfinite, self._logdir, self._num_epochs, self.bad = mode, "runs", 3, None

        def build_model(self):
            super().build_model()
            self.model = nn.Sequential(Attention(), nn.Linear(3, 1))
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)

    trainer = _trained(Own)
    assert len(trainer.history) == 3 and trainer._run_state.skipped == 0
    saved = torch.load(trainer.run_dir / "checkpoints/last.ckpt", weights_only=True)["model"]
    assert saved["0.mask"].isinf().any() and saved["0.late"].isinf().any()


def test_a_norm_that_overflows_is_no_infinity():
    assert all_finite([torch.full((4,), 3e38), torch.ones(2, dtype=torch.long)])
    assert not all_finite([torch.ones(3), torch.tensor([1.0, float("nan")])])
    assert all_finite([])
