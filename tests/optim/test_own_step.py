"""A training step of the subclass's own: its gradients are those that it steps with, and what it ignores is said."""

import warnings

import pytest
import torch
from torch import nn

from farabio_like import ConfigError, HookError

from .test_steps import Adversaries, Double, Single, apply, by_hand, cut, same, weights, windows

CLIP = 0.05


class Own(Single):
    """The step of the handbook."""

    def training_step(self):
        self.optimizer_zero_grad()
        with self.autocast():
            self.loss = self.compute_loss()
        self.loss_backward()
        self.clip()
        self.optimizer_step()

    def clip(self):
        self.norms = [*getattr(self, "norms", []), self.clip_gradients(CLIP)]


class ByTorch(Own):
    def clip(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)


class BeforeTheStep(Single):
    def optimizer_step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        super().optimizer_step()


class AfterTheLoss(Single):
    def loss_backward(self):
        super().loss_backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)


def warned(kind, **settings):
    """Train, and return the trainer and what was warned of."""
    trainer = kind({"_num_epochs": 1, **settings})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.train()
    return trainer, [str(warning.message) for warning in told if issubclass(warning.category, UserWarning)]


def silent(kind, **settings):
    trainer, told = warned(kind, **settings)
    assert told == []
    return trainer


@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("steps", [1, 3, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clip_gradients_is_the_setting(precision, steps, length):
    settings = {"_precision": precision, "_accumulation_steps": steps, "length": length, "_num_epochs": 2}
    by_step, by_setting = silent(Own, **settings), silent(Single, **settings, _clip_norm=CLIP)
    assert torch.equal(weights(by_step.model), weights(by_setting.model))
    assert by_step.history[-1]["train"] == by_setting.history[-1]["train"]


def test_clip_gradients_is_what_a_loop_by_hand_does():
    class Exact(Double):
        training_step, clip = Own.training_step, Own.clip

    for steps in (1, 4):
        trainer = silent(Exact, _accumulation_steps=steps, _num_epochs=2)
        clipped = by_hand(windows(trainer.sizes, steps), clip=lambda p: nn.utils.clip_grad_norm_(p, CLIP))
        same(trainer.model, clipped)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_returns_the_norms_of_whole_windows(precision):
    trainer = silent(Own, _accumulation_steps=6, _precision=precision)
    model = by_hand([], epochs=0).float()
    inputs, targets = map(torch.cat, zip(*trainer.train_loader, strict=True))
    nn.functional.mse_loss(model(inputs), targets).backward()
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert trainer.norms[:5] == [None] * 5
    torch.testing.assert_close(trainer.norms[5], expected, rtol=0.02, atol=0)


def test_values_are_clipped_too_and_settings_are_what_it_does_without_arguments():
    class Values(Own):
        def clip(self):
            self.clip_gradients(value=0.01)

    class Bare(Own):
        def clip(self):
            self.clip_gradients()

    for steps in (1, 4):
        settings = {"_accumulation_steps": steps, "_precision": "fp16"}
        expected = weights(silent(Single, **settings, _clip_value=0.01).model)
        assert torch.equal(weights(silent(Values, **settings).model), expected)
        assert torch.equal(weights(silent(Bare, **settings, _clip_value=0.01).model), expected)


def test_what_cannot_be_clipped():
    trainer = Own()
    for arguments in ({}, {"norm": 1.0, "value": 1.0}):
        with pytest.raises(ConfigError, match=r"Own.clip_gradients got norm=.*Write self.clip_gradients\(1.0\)"):
            trainer.clip_gradients(**arguments)
    with pytest.raises(ConfigError, match=r"Own.clip_gradients\(norm\) is 0; expected a number greater than 0"):
        trainer.clip_gradients(0)
    trainer.optimizer = None
    with pytest.raises(HookError, match="set no self.optimizer"):
        trainer.clip_gradients(1.0)


class Alternating(Adversaries):
    norms = ()

    def training_step(self):
        for name in ("d", "g"):
            with self.only(name):
                self.optimizer_zero_grad()
                with self.autocast():
                    self.loss = self.loss_of(name, self.inputs)
                self.loss_backward()
                self.norms += (self.clip_gradients(CLIP),)
                self.optimizer_step()


class Joint(Adversaries):
    def training_step(self):
        self.optimizer_zero_grad()
        for name in ("d", "g"):
            with self.only(name):
                self.loss = self.loss_of(name, self.inputs)
                self.loss_backward()
        self.norms = self.clip_gradients(CLIP)
        self.optimizer_step()


def adversaries_by_hand(batches, alternating):
    trainer = Adversaries()
    for x, _ in batches:
        gradients = {}
        for name in ("d", "g"):
            parameters = list(trainer.model[name].parameters())
            gradients[name] = torch.autograd.grad(trainer.loss_of(name, x), parameters)
            if alternating:
                apply(parameters, gradients[name], trainer.optimizer[name], lambda p: nn.utils.clip_grad_norm_(p, CLIP))
        for name in () if alternating else ("d", "g"):
            parameters = list(trainer.model[name].parameters())
            apply(parameters, gradients[name], trainer.optimizer[name], lambda p: nn.utils.clip_grad_norm_(p, CLIP))
        for scheduler in trainer.scheduler.values():
            scheduler.step()
    return trainer.model


def test_each_optimizer_of_several_is_clipped_for_itself():
    trainer = silent(Alternating)
    for name, module in adversaries_by_hand(cut(*trainer.sizes), True).items():
        same(trainer.model[name], module)
    assert [sorted(norms) for norms in trainer.norms[:2]] == [["d"], ["g"]]
    for steps in (1, 4):
        trainer = silent(Joint, _accumulation_steps=steps)
        for name, module in adversaries_by_hand(windows(trainer.sizes, steps), False).items():
            same(trainer.model[name], module)
        assert sorted(trainer.norms) == ["d", "g"]


# ---------------------------------------------------------------- the gradients that a step reads


@pytest.mark.parametrize("kind", [ByTorch, BeforeTheStep, AfterTheLoss])
def test_torchs_own_clipping_in_fp16_is_the_setting(kind):
    by_setting = silent(Single, _precision="fp16", _clip_norm=CLIP)
    assert torch.equal(weights(silent(kind, _precision="fp16").model), weights(by_setting.model))


def test_norms_that_a_step_records_in_fp16_are_those_of_the_gradients():
    class Records(Own):
        def clip(self):
            self.batch_metrics["norm"] = nn.utils.get_total_norm([p.grad for p in self.model.parameters()])

    recorded = [silent(Records, _precision=p).history[0]["train"]["norm"] for p in ("fp32", "fp16")]
    assert recorded[1] == pytest.approx(recorded[0], rel=0.01)


class OneLoss(Single):
    def training_step(self):
        self.optimizer_zero_grad()
        with self.autocast():
            outputs = self.model(self.inputs)
            self.loss = nn.functional.mse_loss(outputs, self.targets) + outputs.abs().mean() * 0.1
        self.loss_backward()
        self.read = nn.utils.get_total_norm([p.grad for p in self.model.parameters()])
        self.optimizer_step()


@pytest.mark.parametrize("steps", [1, 4])
def test_two_losses_in_fp16(steps):
    class Two(Single):
        def training_step(self):
            self.optimizer_zero_grad()
            for number in range(2):
                with self.autocast():
                    outputs = self.model(self.inputs)
                    parts = nn.functional.mse_loss(outputs, self.targets), outputs.abs().mean() * 0.1
                self.loss = parts[number]
                self.loss_backward()
            self.read = nn.utils.get_total_norm([p.grad for p in self.model.parameters()])
            self.optimizer_step()

    settings = {"_precision": "fp16", "_accumulation_steps": steps}
    two, one = silent(Two, **settings), silent(OneLoss, **settings)
    same(two.model, one.model, rtol=0.02, atol=2e-3)
    torch.testing.assert_close(two.read, one.read, rtol=0.02, atol=1e-4)


class Gathers(Single):
    """Accumulates by itself: a step in every second batch."""

    stop_at = None

    def training_step(self):
        with self.autocast():
            self.loss = self.compute_loss()
        self.loss_backward()
        if self.step % 2 == 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer_step()
            self.optimizer_zero_grad()

    def on_end_training_batch(self):
        if self.step == self.stop_at:
            raise SystemExit


def test_a_step_that_accumulates_by_itself_in_fp16():
    expected = by_hand([], epochs=0).float()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    trainer = Gathers({"_precision": "fp16", "_num_epochs": 1})
    for number, (x, y) in enumerate(trainer.train_loader, 1):
        nn.functional.mse_loss(expected(x), y).backward()
        if number % 2 == 0:
            nn.utils.clip_grad_norm_(expected.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    trainer.train()
    same(trainer.model, expected, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("stop_at", [3, 4])
def test_and_goes_on_exactly(stop_at):
    settings = {"_precision": "fp16", "_num_epochs": 2}
    whole, stopped = Gathers(settings), Gathers({**settings, "_logdir": "runs"})
    whole.train()
    stopped.stop_at = stop_at
    with pytest.raises(SystemExit):
        stopped.train()
    resumed = Gathers({**settings, "_logdir": "runs"})
    resumed.train(resume=True)
    assert torch.equal(weights(whole.model), weights(resumed.model))


def test_a_batch_that_is_thrown_away_in_fp16():
    class Throws(Own):
        def training_step(self):
            if self.step == 2:
                self.loss = self.compute_loss()
                self.loss_backward()
                return  # the next batch begins by clearing the gradients
            super().training_step()

    class Clears(Throws):
        def training_step(self):
            super().training_step()
            if self.step == 2:
                self.optimizer.zero_grad()

    for kind in (Throws, Clears):
        assert silent(kind, _precision="fp16").model[0].weight.isfinite().all()


def test_an_overflow_that_is_clipped_is_left_out():
    class Overflows(Own):
        def compute_loss(self):
            loss = super().compute_loss()
            return loss * float("inf") if self.step == 2 else loss

    trainer = silent(Overflows, _precision="fp16")
    assert trainer._run_state.stepping.scalers[""].get_scale() == 2.0**15
    assert trainer.scheduler.last_epoch == 5 and weights(trainer.model).isfinite().all()


# ---------------------------------------------------------------- what a step ignores


class StepsByItself(Single):
    """As one writes it without the native methods."""

    def training_step(self):
        self.optimizer.zero_grad()
        self.loss = self.compute_loss()
        self.loss.backward()
        self.optimizer.step()


class OwnOptimizerStep(Single):
    def optimizer_step(self):
        self.optimizer.step()


@pytest.mark.parametrize("kind", [StepsByItself, OwnOptimizerStep])
@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({"_clip_norm": 1.0}, "self._clip_norm = 1.0 is ignored"),
        ({"_clip_value": 2.0}, "self._clip_value = 2.0 is ignored"),
        ({"_accumulation_steps": 3}, "self._accumulation_steps = 3 is ignored"),
        ({"_precision": "fp16"}, "the overflows of self._precision = 'fp16' is ignored"),
        ({"_on_nonfinite": "skip"}, "self._on_nonfinite = 'skip' is ignored"),
        ({"_clip_norm": 1.0, "_accumulation_steps": 3}, "_clip_norm = 1.0, self._accumulation_steps = 3 are ignored"),
    ],
    ids=str,
)
def test_settings_that_a_step_ignores_are_told_once(kind, settings, ignored):
    trainer, told = warned(kind, **settings)
    assert len(told) == 1 and told[0].startswith(f"{kind.__name__}: the training step "), told
    assert ignored in told[0] and "Write self.optimizer_step() in place of self.optimizer.step()" in told[0]
    assert trainer.step == 6


def test_a_backward_pass_past_the_scaler():
    class Past(Own):
        def loss_backward(self):
            self.loss.backward()

    for settings, words in (
        ({"_precision": "fp16"}, "ignores that fp16 scales the loss. Write self.loss_backward()"),
        ({"_accumulation_steps": 3}, "that accumulated batches weigh by their samples"),
    ):
        _, told = warned(Past, **settings)
        assert len(told) == 1 and words in told[0], told
    assert warned(Past)[1] == []


def test_a_step_that_does_not_cast():
    class Plain(Own):
        def training_step(self):
            self.optimizer_zero_grad()
            self.loss = self.compute_loss()
            self.loss_backward()
            self.optimizer_step()

    class ByTorchs(Own):
        def training_step(self):
            self.optimizer_zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                self.loss = self.compute_loss()
            self.loss_backward()
            self.optimizer_step()

    for precision in ("bf16", "fp16"):
        _, told = warned(Plain, _precision=precision)
        assert len(told) == 1 and f"outside of self.autocast(), so self._precision = '{precision}'" in told[0]
    assert warned(ByTorchs, _precision="bf16")[1] == []
    assert warned(Plain)[1] == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_of_half_a_window_that_a_step_changes(precision):
    _, told = warned(ByTorch, _precision=precision, _accumulation_steps=3)
    assert len(told) == 1
    assert "changes gradients before all of a window's batches are in them" in told[0]
    assert "self.clip_gradients(1.0)" in told[0]


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_of_half_a_window_that_a_step_clears(to_none):
    class Clears(Own):
        def optimizer_zero_grad(self):
            self.optimizer.zero_grad(set_to_none=to_none)

        def clip(self):
            pass

    _, told = warned(Clears, _accumulation_steps=3)
    assert len(told) == 1 and "clears or changes the gradients that earlier batches have left" in told[0]
    assert "self.optimizer_zero_grad()" in told[0]
    assert warned(Clears)[1] == []


def test_clipping_where_the_window_is_full_is_right():
    class Knows(Own):
        def clip(self):
            if self.step % 3 == 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)

    for precision in ("fp32", "fp16"):
        settings = {"_accumulation_steps": 3, "_precision": precision}
        by_setting = silent(Single, **settings, _clip_norm=CLIP)
        assert torch.equal(weights(silent(Knows, **settings).model), weights(by_setting.model))


def test_a_schedule_per_step_that_no_step_moves():
    _, told = warned(StepsByItself)
    assert len(told) == 1 and "self._scheduler_step = 'step'" in told[0] and "self.optimizer_step()" in told[0]


def test_what_needs_no_native_method_is_not_warned_of():
    class NoSchedule(StepsByItself):
        def build_model(self):
            super().build_model()
            self.scheduler = None

    assert warned(NoSchedule)[1] == []
