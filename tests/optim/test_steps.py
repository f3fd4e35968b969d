"""Accumulation, clipping and precision give the steps that one would write by hand, and read nothing back."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, CheckpointError, ConfigError, HookError, NonFiniteError, Stage
from farabio_like.callbacks import EMA, GradientNorm
from farabio_like.optim import state as step_state

from ..trainers import Tiny

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(22, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(22, 2, generator=GENERATOR, dtype=torch.float64)


class Endless:
    """Batches without a length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def cut(*sizes):
    return list(zip(X[: sum(sizes)].split(sizes), Y[: sum(sizes)].split(sizes), strict=True))


class Double(Tiny):
    """In double precision, on batches of the sizes that the configuration gives."""

    def define_misc_attr(self):
        self.sizes, self.length, self.adam = (4, 4, 4, 4, 4, 2), True, False
        super().define_misc_attr()
        self._has_eval = False

    def get_trainloader(self):
        batches = cut(*self.sizes)
        self.train_loader = batches if self.length else Endless(batches)

    def build_model(self):
        self.model, self.criterion = network(), nn.MSELoss()
        make = torch.optim.Adam if self.adam else torch.optim.SGD
        self.optimizer = make(self.model.parameters(), lr=0.1, **({} if self.adam else {"momentum": 0.9}))
        self._scheduler_step = "step"
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)


def windows(sizes, steps):
    """Return the batches that `steps` accumulated ones stand for."""
    joined = [sum(sizes[start : start + steps]) for start in range(0, len(sizes), steps)]
    return cut(*joined)


def by_hand(batches, epochs=2, adam=False, clip=None):
    model = network()
    make = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = make(model.parameters(), lr=0.1, **({} if adam else {"momentum": 0.9}))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            if clip is not None:
                clip(model.parameters())
            optimizer.step()
            scheduler.step()
    return model


def same(one, other, **tolerance):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    tolerance = tolerance or {"rtol": 1e-11, "atol": 1e-12}
    for first, second in pairs:
        torch.testing.assert_close(first, second, **tolerance)


def weights(module):
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("sizes", [(4, 4, 4, 4, 4, 2), (1, 5, 2, 7, 3), (6, 6)], ids=str)
@pytest.mark.parametrize("steps", [2, 3, 4, 10])
def test_accumulated_batches_equal_one_big_batch(steps, sizes, length, adam):
    trainer = Double({"_accumulation_steps": steps, "sizes": sizes, "length": length, "adam": adam})
    trainer.train()
    same(trainer.model, by_hand(windows(sizes, steps), adam=adam))
    assert trainer.scheduler.last_epoch == 2 * -(-len(sizes) // steps)
    assert trainer.step == 2 * len(sizes)


@pytest.mark.parametrize("stop", ["stop_train", "stop_loader", "exit_trainer"])
def test_a_pass_that_is_left_early_closes_its_window(stop):
    class Stopping(Double):
        def on_end_training_batch(self):
            if self.step == 4:
                getattr(self, stop)()

    trainer = Stopping({"_accumulation_steps": 3, "_num_epochs": 1})
    trainer.train()
    same(trainer.model, by_hand([*cut(12), (X[12:16], Y[12:16])], epochs=1))


def test_the_loss_is_recorded_as_without_accumulation():
    first, second = Double({"_num_epochs": 1}), Double({"_num_epochs": 1, "_accumulation_steps": 6})
    second.train()
    model = network()
    expected = nn.functional.mse_loss(model(X), Y).item()
    assert second.history[0]["train"]["loss"] == pytest.approx(expected, rel=1e-12)
    assert first.train()[0]["train"]["loss"] != pytest.approx(expected, rel=1e-6)


def test_windows_of_single_batches():
    trainer = Double({"_accumulation_steps": 2})
    before = weights(trainer.model)
    batches = cut(3, 5)
    trainer.train_step(batches[0])
    assert torch.equal(weights(trainer.model), before)
    trainer.train_step(batches[1])
    same(trainer.model, by_hand(cut(8), epochs=1))


def test_a_run_that_failed_leaves_no_open_window():
    class Failing(Double):
        fail = True

        def on_end_training_batch(self):
            if self.fail and self.step == 2:
                raise ZeroDivisionError

    trainer = Failing({"_accumulation_steps": 3})
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    trainer.fail = False
    trainer.train()
    same(trainer.model, by_hand(windows(trainer.sizes, 3)))


def test_settings_of_a_stage():
    trainer = Double({"_stages": [Stage("plain", 1), Stage("wide", 1, accumulation_steps=6, clip_norm=1e9)]})
    trainer.train()
    expected = by_hand([*cut(*trainer.sizes), (X, Y)], epochs=1)
    same(trainer.model, expected)
    assert trainer._run_state.stepping is not None and trainer._accumulation_steps == 1


def test_a_setting_that_a_hook_changes_holds_from_the_next_pass_on():
    class Growing(Double):
        def on_train_epoch_start(self):
            self._accumulation_steps = 6 if self.epoch == 2 else 1

    trainer = Growing()
    trainer.train()
    same(trainer.model, by_hand([*cut(*trainer.sizes), (X, Y)], epochs=1))


def test_own_number_of_samples():
    class Weighted(Double):
        def batch_size_of(self, batch):
            return 1

    trainer = Weighted({"_accumulation_steps": 2, "sizes": (2, 6), "_num_epochs": 1})
    before = network()
    trainer.train()
    (nn.functional.mse_loss(before(X[:2]), Y[:2]) / 2 + nn.functional.mse_loss(before(X[2:8]), Y[2:8]) / 2).backward()
    torch.optim.SGD(before.parameters(), lr=0.1).step()
    same(trainer.model, before)


# ---------------------------------------------------------------- several optimizers


class Adversaries(Double):
    """A GAN: the generator's loss passes through the discriminator, each has its own step."""

    def build_model(self):
        torch.manual_seed(0)
        self.model = {"d": nn.Linear(3, 1).double(), "g": nn.Linear(3, 3).double()}
        self.optimizer = {n: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for n, m in self.model.items()}
        self._scheduler_step = "step"
        self.scheduler = {n: torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for n, o in self.optimizer.items()}

    def loss_of(self, name, x):
        fake = self.model["g"](x)
        score = self.model["d"](fake).sigmoid()
        if name == "d":
            return (score**2).mean() + ((1 - self.model["d"](x).sigmoid()) ** 2).mean()
        return ((1 - score) ** 2).mean() + (fake - x).square().mean()


class Joint(Adversaries):
    """Both losses, then one step of both."""

    def training_step(self):
        self.optimizer_zero_grad()
        for name in ("d", "g"):
            with self.only(name):
                self.loss = self.loss_of(name, self.inputs)
                self.loss_backward()
        self.optimizer_step()


class Alternating(Adversaries):
    """A step of the one, then a step of the other."""

    def training_step(self):
        for name in ("d", "g"):
            with self.only(name):
                self.optimizer_zero_grad()
                with self.autocast():
                    self.loss = self.loss_of(name, self.inputs)
                self.loss_backward()
                self.optimizer_step()


def adversaries_by_hand(batches, alternating, epochs=2, clip=lambda parameters: None):
    trainer = Adversaries()
    model, optimizer, scheduler = trainer.model, trainer.optimizer, trainer.scheduler
    for _ in range(epochs):
        for x, _ in batches:
            gradients = {}
            for name in ("d", "g"):
                parameters = list(model[name].parameters())
                gradients[name] = torch.autograd.grad(trainer.loss_of(name, x), parameters)
                if alternating:
                    apply(parameters, gradients[name], optimizer[name], clip)
            for name in () if alternating else ("d", "g"):
                apply(list(model[name].parameters()), gradients[name], optimizer[name], clip)
            for name in ("d", "g"):
                scheduler[name].step()
    return model


def apply(parameters, gradients, optimizer, clip):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    clip(parameters)
    optimizer.step()


@pytest.mark.parametrize("clip", [None, 0.05])
def test_both_of_a_gan_accumulate_and_clip(clip):
    trainer = Joint({"_accumulation_steps": 4, "_clip_norm": clip})
    trainer.train()
    clips = (lambda p: None) if clip is None else (lambda p: nn.utils.clip_grad_norm_(p, clip))
    expected = adversaries_by_hand(windows(trainer.sizes, 4), False, clip=clips)
    for name, module in expected.items():
        same(trainer.model[name], module)
        assert trainer.scheduler[name].last_epoch == 4


def test_steps_in_turn_concern_one_optimizer_each():
    trainer = Alternating()
    trainer.train()
    expected = adversaries_by_hand(cut(*trainer.sizes), True)
    for name, module in expected.items():
        same(trainer.model[name], module)
        assert trainer.scheduler[name].last_epoch == 12
    assert trainer._run_state.stepping is None


def test_windows_of_steps_in_turn_are_counted_apart():
    class Rarely(Alternating):
        def training_step(self):
            self.made = getattr(self, "made", {"d": 0, "g": 0})
            for name in ("d", "g") if self.step % 2 else ("d",):
                before = weights(self.model[name])
                with self.only(name):
                    self.optimizer_zero_grad()
                    self.loss = self.loss_of(name, self.inputs)
                    self.loss_backward()
                    self.optimizer_step()
                self.made[name] += not torch.equal(before, weights(self.model[name]))

    trainer = Rarely({"_accumulation_steps": 2, "sizes": (2,) * 8, "_num_epochs": 1})
    trainer.train()
    assert trainer.made == {"d": 4, "g": 2}


# ---------------------------------------------------------------- clipping


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    ("setting", "function"),
    [("_clip_norm", nn.utils.clip_grad_norm_), ("_clip_value", nn.utils.clip_grad_value_)],
)
def test_clipping(setting, function, steps):
    trainer = Double({setting: 0.01, "_accumulation_steps": steps})
    trainer.train()
    same(trainer.model, by_hand(windows(trainer.sizes, steps), clip=lambda parameters: function(parameters, 0.01)))


# ---------------------------------------------------------------- precision


class Single(Double):
    """In single precision."""

    def build_model(self):
        super().build_model()
        self.model.float()
        self.train_loader = [(x.float(), y.float()) for x, y in self.train_loader]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_every_loss_is_computed_in_the_precision(precision, dtype):
    seen = []

    class Watching(Tiny):
        def forward(self):
            outputs = super().forward()
            seen.append((outputs.dtype, torch.is_grad_enabled()))
            return outputs

    trainer = Watching({"_precision": precision, "_num_epochs": 1})
    trainer.train()
    trainer.test()
    trainer.val_step(next(iter(trainer.test_loader)))
    next(trainer.predict(torch.ones(2, 3)))
    assert seen == [(dtype, True)] * 3 + [(dtype, False)] * 8
    assert trainer.model.weight.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("steps", [1, 3])
def test_low_precision_comes_near_to_single(precision, steps):
    trainer = Single({"_precision": precision, "_accumulation_steps": steps})
    trainer.train()
    same(trainer.model, by_hand(windows(trainer.sizes, steps)).float(), rtol=0.05, atol=0.02)


class Overflowing(Single):
    """Its loss overflows in some steps."""

    bad = (2, 5)
    factor = 1e6

    def compute_loss(self):
        loss = super().compute_loss()
        # The gradient of the outputs, in fp16, overflows; the loss itself does not.
        return loss * self.factor if self.step in self.bad else loss


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_moves_nothing_and_is_no_error(fused):
    moves = []

    class Watched(Overflowing):
        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, fused=fused)
            self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

        def training_step(self):
            before, position = weights(self.model), self.scheduler.last_epoch
            super().training_step()
            moves.append((not torch.equal(before, weights(self.model)), self.scheduler.last_epoch - position))
            assert self._run_state.moved == moves[-1][0]

    trainer = Watched({"_precision": "fp16", "_num_epochs": 1})
    trainer.train()
    assert moves == [(step not in Watched.bad, int(step not in Watched.bad)) for step in range(1, 7)]
    assert trainer.step - trainer._run_state.batches_without_step == 4
    assert trainer._run_state.stepping.scalers[""].get_scale() == 2.0**14
    assert torch.isfinite(torch.tensor(trainer.history[0]["train"]["loss"]))


def test_a_loss_that_overflows_is_in_no_mean():
    class Infinite(Overflowing):
        factor = float("inf")

    trainer = Infinite({"_precision": "fp16", "_num_epochs": 1})
    assert trainer.train()[0]["train"]["loss"] < 10


def test_only_the_optimizer_with_the_overflow_stands_still():
    class Half(Alternating):
        def build_model(self):
            super().build_model()
            for module in self.model.values():
                module.float()
            self.train_loader = [(x.float(), y.float()) for x, y in self.train_loader]

        def loss_of(self, name, x):
            fake = self.model["g"](x).float()
            score = self.model["d"](fake).float()
            if name == "g":
                return (fake - x).square().mean() / 100  # so that nothing else overflows
            return score.square().mean() * (float("inf") if self.step == 2 else 0.01)

        def training_step(self):
            before = {name: weights(module) for name, module in self.model.items()}
            super().training_step()
            still = [name for name, module in self.model.items() if torch.equal(before[name], weights(module))]
            assert still == (["d"] if self.step == 2 else [])

    trainer = Half({"_precision": "fp16", "_num_epochs": 1})
    trainer.train()
    scales = {name: scaler.get_scale() for name, scaler in trainer._run_state.stepping.scalers.items()}
    assert scales == {"d": 2.0**15, "g": 2.0**16}
    assert trainer._run_state.batches_without_step == 0
    assert {name: s.last_epoch for name, s in trainer.scheduler.items()} == {"d": 5, "g": 6}


def test_one_loss_for_two_optimizers_has_one_scale():
    class Together(Single):
        def build_model(self):
            super().build_model()
            parts = {"first": self.model[0], "last": self.model[2]}
            self.optimizer = {name: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for name, m in parts.items()}
            self.scheduler = {
                name: torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for name, o in self.optimizer.items()
            }

    trainer = Together({"_precision": "fp16", "_accumulation_steps": 3})
    trainer.train()
    same(trainer.model, by_hand(windows(trainer.sizes, 3)).float(), rtol=0.05, atol=0.02)
    assert list(trainer._run_state.stepping.scalers) == ["first"]


def test_gradients_of_two_scales_do_not_mix():
    class Mixed(Alternating):
        def training_step(self):
            self.optimizer_zero_grad()
            for names in (["d"], ["g"], ["d", "g"]):
                with self.only(*names):
                    self.loss = self.loss_of("d" if names != ["g"] else "g", self.inputs)
                    self.loss_backward()

    with pytest.raises(HookError, match=r"reaches the optimizers \['d', 'g'\].* Write with self.only\('d'\)"):
        Mixed({"_precision": "fp16"}).train()


def test_overflows_without_an_end_are_an_error():
    class Always(Overflowing):
        bad = range(1000)
        factor = float("nan")

    trainer = Always({"_precision": "fp16", "_num_epochs": 10})
    with pytest.raises(NonFiniteError, match="gradients of 40 steps in a row.*_precision = 'bf16'"):
        trainer.train()
    with pytest.warns(UserWarning, match="gradients of 40 steps in a row"):
        Always({"_precision": "fp16", "_num_epochs": 10, "_on_nonfinite": "warn"}).train()


# ---------------------------------------------------------------- callbacks


@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
def test_the_moving_average_follows_steps_and_not_batches(length):
    class Averaging(Double):
        def on_train_start(self):
            self.expected, self.seen = weights(self.model), weights(self.model)
            self.started = False

    class Follow(Callback):
        order = 10  # after EMA

        def on_end_training_batch(self, trainer):
            now = weights(trainer.model)
            if not torch.equal(now, trainer.seen):
                trainer.expected = trainer.expected.lerp(now, 0.1) if trainer.started else now
                trainer.started, trainer.seen = True, now

        on_train_epoch_end = on_end_training_batch

    trainer = Averaging({"_accumulation_steps": 4, "length": length})
    ema = EMA(decay=0.9)
    trainer.callbacks = [ema, Follow()]
    trainer.train()
    averaged = torch.cat([value.flatten() for value in ema.model_state(trainer).values()])
    torch.testing.assert_close(averaged, trainer.expected, rtol=1e-12, atol=1e-12)


def test_the_moving_average_counts_its_warmup_in_steps():
    trainer = Double({"_accumulation_steps": 3, "_num_epochs": 1})
    ema = EMA(decay=0.9, warmup_steps=1)
    trainer.callbacks = [ema]
    trainer.train()
    averaged = torch.cat([value.flatten() for value in ema.model_state(trainer).values()])
    assert torch.equal(averaged, weights(trainer.model))  # begun by the second and last step


def test_a_trainer_that_steps_by_itself_still_moves_the_average():
    class Own(Double):
        def training_step(self):
            self.optimizer.zero_grad()
            self.loss = self.compute_loss()
            self.loss.backward()
            self.optimizer.step()

    trainer = Own({"_accumulation_steps": 3, "_num_epochs": 1})
    trainer.callbacks = [EMA(decay=0.5)]
    trainer.train()
    assert trainer._run_state.batches_without_step == 0


def test_the_gradient_norm_is_that_of_whole_windows():
    trainer = Double({"_accumulation_steps": 6, "_num_epochs": 1})
    trainer.callbacks = [GradientNorm()]
    model = network()
    nn.functional.mse_loss(model(X), Y).backward()
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
    assert trainer.train()[0]["train"]["grad_norm"] == pytest.approx(expected, rel=1e-10)


# ---------------------------------------------------------------- state


class Left(Single):
    """Trains on what is left of its epoch after `done` batches."""

    done = 0

    def on_train_epoch_start(self):
        self.train_epoch_iter = self.train_loader[self.done :]

    def on_end_training_batch(self):
        if self.step == self.stop_at:
            self.kept = {
                "model": {name: value.clone() for name, value in self.model.state_dict().items()},
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "stepping": step_state.state_dict(self),
            }
            torch.save(self.kept, "state.pt")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stop_at", range(1, 7))
def test_resuming_in_a_window_is_exact(stop_at, precision):
    settings = {"_accumulation_steps": 4, "_precision": precision, "_num_epochs": 1, "sizes": (4, 3, 5, 4, 4, 2)}
    whole = Left({**settings, "stop_at": stop_at})
    whole.train()
    resumed = Left({**settings, "stop_at": 0})
    found = torch.load("state.pt", weights_only=True)
    resumed.model.load_state_dict(found["model"])
    resumed.optimizer.load_state_dict(found["optimizer"])
    resumed.scheduler.load_state_dict(found["scheduler"])
    step_state.load_state_dict(resumed, found["stepping"])
    resumed.done = stop_at
    if stop_at < 6:
        resumed.train()
    assert torch.equal(weights(whole.model), weights(resumed.model))
    assert resumed.get_lr() == whole.get_lr()
    one, other = (step_state.state_dict(trainer) for trainer in (whole, resumed))
    assert one["scalers"] == other["scalers"] and one["missed"] == other["missed"]
    assert one["windows"] == other["windows"] == {}


def test_state_of_plain_steps_is_empty():
    assert step_state.state_dict(Double()) == {"missed": 0, "moved": True}


def test_a_window_that_does_not_fit_is_an_error():
    trainer = Double({"_accumulation_steps": 2})
    trainer.train_step(cut(4)[0])
    state = step_state.state_dict(trainer)
    state["windows"][""]["gradients"][0] = torch.zeros(7)
    other = Double({"_accumulation_steps": 2})
    with pytest.raises(CheckpointError, match=r"amid 1 accumulated batches, and gradient 0 of optimizer ''"):
        step_state.load_state_dict(other, state)
    assert all(p.grad is None for p in other.model.parameters())


# ---------------------------------------------------------------- nothing is read back


class ReadBacks(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")
        return function(*args, **(kwargs or {}))


MODES = {
    "default": {},
    "bf16": {"_precision": "bf16"},
    "accumulation": {"_accumulation_steps": 3},
    "norm": {"_clip_norm": 0.1},
    "value": {"_clip_value": 0.1},
    "channels_last": {"_channels_last": True},
    "prefetch": {"_prefetch": True},
    "all": {"_precision": "bf16", "_accumulation_steps": 2, "_clip_norm": 1.0, "_channels_last": True},
    "fp16": {"_precision": "fp16"},
    "fp16 accumulated": {"_precision": "fp16", "_accumulation_steps": 3},
}


@pytest.mark.parametrize("mode", MODES)
def test_no_step_reads_back(mode):
    counts = []

    class Counting(Single):
        def compute_loss(self):
            return super().compute_loss() / 100  # so that nothing overflows

        def train_batch(self, item):
            with ReadBacks() as found:
                super().train_batch(item)
            counts.append(found.count)

    Counting({**MODES[mode], "sizes": (2,) * 9, "_num_epochs": 1}).train()
    # With fp16 torch's scaler asks, before each step of an optimizer, whether there was an overflow.
    steps = {"fp16": [1] * 9, "fp16 accumulated": [0, 0, 1] * 3}
    assert counts == steps.get(mode, [0] * 9)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"_precision": "half"}, ["_precision is 'half'", "('fp32', 'bf16', 'fp16')"]),
        ({"_accumulation_steps": 0}, ["_accumulation_steps is 0", "1 or more"]),
        ({"_accumulation_steps": 2.0}, ["_accumulation_steps is 2.0"]),
        ({"_accumulation_steps": True}, ["_accumulation_steps is True"]),
        ({"_clip_norm": 0}, ["_clip_norm is 0", "above 0"]),
        ({"_clip_norm": "1"}, ["_clip_norm is '1'"]),
        ({"_clip_value": float("nan")}, ["_clip_value is nan"]),
        ({"_clip_norm": 1.0, "_clip_value": 2.0}, ["_clip_norm is 1.0", "_clip_value is 2.0", "Leave the other"]),
    ],
    ids=str,
)
def test_bad_settings(settings, expected):
    with pytest.raises(ConfigError) as caught:
        Tiny(settings)
    assert all(part in str(caught.value) for part in ["Tiny: ", *expected])


def test_loader_of_tensors_accumulates():
    class Loaded(Double):
        def get_trainloader(self):
            self.train_loader = DataLoader(TensorDataset(X, Y), batch_size=5)

    trainer = Loaded({"_accumulation_steps": 2})
    trainer.train()
    same(trainer.model, by_hand(windows((5, 5, 5, 5, 2), 2)))


class Poisoned(Tiny):
    """Its fourth batch has a NaN."""

    bad = 4

    def on_start_training_batch(self, item):
        self.take_batch(item)
        if self.step == self.bad:
            self.inputs = self.inputs * float("nan")


def test_a_step_that_is_not_finite_is_left_out(capsys):
    clean = Tiny({"_num_epochs": 1})
    clean.train()
    trainer = Poisoned({"_on_nonfinite": "skip", "_verbose": True})
    trainer.train()
    assert "1 steps with a loss or gradients that were not finite moved no weights" in capsys.readouterr().out
    assert all(math.isfinite(entry["train"]["loss"]) for entry in trainer.history)
    assert trainer.model.weight.isfinite().all()
    assert clean.history[0]["train"] == trainer.history[0]["train"]


def test_a_loss_that_is_not_finite_is_found_at_its_step():
    class Long(Poisoned):
        bad = 200

        def get_trainloader(self):
            self.train_loader = [(torch.ones(2, 3), torch.ones(2, 1))] * 1000
            self.valid_loader = None

    trainer = Long({"_num_epochs": 1, "_has_eval": False})
    with pytest.raises(NonFiniteError, match="in epoch 1, at step 200, is nan, with lr 0.1; 2 of 2 parameters"):
        trainer.train()
    assert trainer.step < 400
