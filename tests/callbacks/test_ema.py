import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from farabio_like import components
from farabio_like.callbacks.base import Callback
from farabio_like.callbacks.ema import EMA
from farabio_like.callbacks.lr_finder import find_lr
from farabio_like.callbacks.wrapper import Only
from farabio_like.errors import CheckpointError, ConfigError
from tests.callbacks.averaged import Attributes, Deep, Failing, Pair, Seen, flat, run
from tests.trainers import INPUTS, Tiny


class Reference(Callback):
    """torch's own average beside ours."""

    order = -1

    def __init__(self, decay):
        self.decay = decay

    def on_train_start(self, trainer):
        self.model = AveragedModel(trainer.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))

    def on_end_training_batch(self, trainer):
        self.model.update_parameters(trainer.model)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_ema_is_what_torch_averages(decay):
    ema, reference = EMA(decay), Reference(decay)
    trainer = run(Deep, ema, reference, _num_epochs=4)
    ours, theirs = ema.model_state(trainer), reference.model.module.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert torch.allclose(ours[key].double(), value.double(), rtol=0, atol=1e-7), key
    if decay:
        assert not torch.equal(ours["0.weight"], trainer.model[0].weight)


def test_training_goes_on_from_the_raw_weights():
    plain, seen = run(Deep, _num_epochs=3), Seen()
    trainer = run(Deep, EMA(0.9), seen, _num_epochs=3)
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[key]), key
    assert torch.equal(seen.outside[-1], flat(trainer))


@pytest.mark.parametrize("kind", [Deep, Pair, Attributes])
def test_evaluation_and_test_see_the_average(kind):
    ema, seen = EMA(0.9), Seen()
    trainer = run(kind, ema, seen, _num_epochs=2)
    average = torch.cat([ema._averages[name].flatten() for name in ema._averages])
    raw = flat(trainer)
    assert torch.equal(seen.inside[-1], average)
    seen.inside.clear()
    trainer.evaluate_epoch()
    trainer.test()
    assert len(seen.inside) == 6 and all(torch.equal(weights, average) for weights in seen.inside)
    assert torch.equal(flat(trainer), raw) and not torch.equal(raw, average)


def test_warmup_and_every_leave_steps_out():
    ema, weights = EMA(0.5, warmup_steps=2, every=2), []

    class Record(Callback):
        def on_end_training_batch(self, trainer):
            weights.append(flat(trainer))

    trainer = run(Tiny, Record(), ema, _num_epochs=3)  # 9 steps: updates after 4, 6, 8
    expected = 0.25 * weights[3] + 0.25 * weights[5] + 0.5 * weights[7]
    ours = ema.model_state(trainer)
    assert torch.allclose(torch.cat([ours["weight"].flatten(), ours["bias"]]), expected, atol=1e-7)


def test_before_the_first_update_there_is_no_average():
    ema, seen = EMA(warmup_steps=100), Seen()
    trainer = run(Tiny, ema, seen)
    assert ema.model_state(trainer) == {}
    assert torch.equal(seen.inside[-1], flat(trainer))


def test_raw_weights_are_back_after_an_error_in_the_evaluation():
    plain = run(Tiny, _num_epochs=2)
    trainer, ema = Failing({"_num_epochs": 2}), EMA(0.9)
    trainer.callbacks = [ema]
    with pytest.raises(ValueError, match="mine"):
        trainer.train()
    assert torch.equal(flat(trainer), flat(plain))


def test_an_error_in_a_test_does_not_stay_in_the_next_run():
    plain = run(Tiny, _num_epochs=1)
    trainer, ema = Failing({"_num_epochs": 1}), EMA(0.9)
    trainer.callbacks = [ema]
    trainer.train()
    with pytest.raises(ValueError, match="mine"):
        trainer.test()
    trainer.fails = False
    for run_ in (plain, trainer):
        run_.train()
    assert torch.equal(flat(trainer), flat(plain))


def test_weights_loaded_later_are_tested_as_they_are():
    ema, seen = EMA(0.9), Seen()
    trainer = run(Tiny, ema, seen)
    other = nn.Linear(3, 1)
    trainer.model.load_state_dict(other.state_dict())
    seen.inside.clear()
    trainer.test()
    assert torch.equal(seen.inside[0], torch.cat([other.weight.flatten(), other.bias]))


def test_the_best_checkpoint_is_tested_with_its_averages():
    class Worse(Deep):
        def on_evaluate_batch_end(self):
            self.batch_metrics["score"] = float(self.epoch == 2)  # epoch 2 is the best of 3

    ema, seen = EMA(0.9), Seen()
    trainer = run(Worse, ema, seen, _logdir="runs", _num_epochs=3, _monitor="score", _monitor_mode="max")
    second = seen.inside[3:6][0]
    seen.inside.clear()
    trainer.test()
    assert all(torch.equal(weights, second) for weights in seen.inside) and len(seen.inside) == 3
    saved = torch.load(trainer.run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    assert torch.equal(flat(trainer), torch.cat([saved["model"][n].flatten() for n, _ in named(trainer)]))
    average = torch.cat([saved["averages"]["EMA"][n].flatten() for n, _ in named(trainer)])
    assert torch.equal(average, second) and not torch.equal(average, flat(trainer))


def named(trainer):
    return trainer.model.named_parameters()


def test_an_average_of_another_trainer_is_not_taken_over():
    shared, fresh = EMA(0.9), EMA(0.9)
    run(Deep, shared)
    again, alone = run(Tiny, shared), run(Tiny, fresh)
    for key, value in fresh.model_state(alone).items():
        assert torch.equal(shared.model_state(again)[key], value)


@pytest.mark.parametrize("kind", [Deep, Pair, Attributes])
def test_ema_goes_on_from_a_saved_state(kind, tmp_path):
    whole, first, second = EMA(0.9), EMA(0.9), EMA(0.9)
    trainer = run(kind, whole, _num_epochs=2)
    torch.manual_seed(0)
    half = run(kind, first, _num_epochs=1)
    torch.save(
        {"raw": components.model_state(components.model_of(half)), "ema": first.model_state(half)},
        tmp_path / "state.pt",
    )
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = kind({"_num_epochs": 1})
    components.load_model_state(components.model_of(resumed), state["raw"], "state.pt")
    second.load_model_state(resumed, state["ema"])
    resumed.callbacks = [second]
    resumed.train()
    ours, expected = second.model_state(resumed), whole.model_state(trainer)
    if kind is not Deep:
        ours, expected = [{f"{n}.{k}": v for n, part in s.items() for k, v in part.items()} for s in (ours, expected)]
    assert list(ours) == list(expected)
    for key, value in expected.items():
        assert torch.equal(ours[key], value), key


def test_a_state_of_another_model_is_refused():
    ema = EMA(0.9)
    state = ema.model_state(run(Tiny, ema))
    with pytest.raises(CheckpointError, match="for 0.weight they hold nothing"):
        EMA().load_model_state(Deep(), state)


def test_a_step_that_changes_nothing_is_fine():
    class Skips(Tiny):
        def optimizer_step(self):
            pass

    ema = EMA(0.9)
    trainer = run(Skips, ema)
    assert torch.allclose(ema.model_state(trainer)["weight"], trainer.model.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1}, "from 0 to below 1"),
        ({"decay": "high"}, "EMA\\(decay='high'\\)"),
        ({"warmup_steps": -1}, "0 or more"),
        ({"every": 0}, "1 or more"),
    ],
)
def test_ema_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EMA(**arguments)


def raw_output(trainer, inputs=INPUTS):
    with torch.no_grad():
        return trainer.model(inputs)


def test_predict_and_val_step_use_the_average_and_leave_the_weights():
    ema = EMA(0.9)
    trainer = run(Tiny, ema)
    raw, weights = raw_output(trainer), ema.model_state(trainer)
    expected = INPUTS @ weights["weight"].T + weights["bias"]
    predictions = trainer.predict([INPUTS, INPUTS])
    assert torch.allclose(next(predictions), expected) and not torch.allclose(raw, expected)
    assert torch.equal(raw_output(trainer), raw)  # between two batches too
    assert torch.allclose(trainer.val_step((INPUTS, INPUTS[:, :1]))["prediction"], expected)
    with pytest.raises(RuntimeError):
        next(trainer.predict(torch.rand(2, 7)))
    assert torch.equal(raw_output(trainer), raw)
    with ema.applied(trainer), ema.applied(trainer):
        assert torch.allclose(raw_output(trainer), expected)
    assert torch.equal(raw_output(trainer), raw)


def test_weights_trained_since_are_predicted_with_as_they_are():
    trainer = run(Tiny, EMA(0.9))
    trainer.train_step((INPUTS, INPUTS[:, :1]))
    assert torch.equal(next(trainer.predict(INPUTS)), raw_output(trainer))


def test_predict_within_a_step_leaves_the_weights_of_its_backward_pass():
    class Predicts(Deep):
        def compute_loss(self):
            loss = super().compute_loss()
            if torch.is_grad_enabled():
                outputs, loss_of_step = self.outputs, loss
                self.seen = next(self.predict(self.inputs))
                self.outputs, loss = outputs, loss_of_step
            return loss

    assert len(run(Predicts, EMA(0.9)).history) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_of_half_precision_weights_does_not_stall(dtype):
    class Half(Tiny):
        def build_model(self):
            super().build_model()
            self.model = self.model.to(dtype)

        def forward(self):
            return self.model(self.inputs.to(dtype)).float()

    class Exact(Callback):
        average = None

        def on_end_training_batch(self, trainer):
            weight = trainer.model.weight.detach().double()
            self.average = weight if self.average is None else 0.999 * self.average + 0.001 * weight

    ema, exact = EMA(0.999), Exact()
    trainer = run(Half, ema, exact, _num_epochs=20)
    ours = ema.model_state(trainer)["weight"]
    assert ours.dtype == torch.float32 and torch.allclose(ours.double(), exact.average, atol=1e-6)
    assert trainer.model.weight.dtype == dtype  # and 20 evaluations with the average have rounded nothing
    trainer.test()
    fresh, other = EMA(0.999), Half()
    fresh.load_model_state(other, ema.model_state(trainer))
    assert torch.equal(fresh.model_state(other)["weight"], ours)


def test_find_lr_between_two_trainings_does_not_lose_the_average():
    ema = EMA(0.9)
    trainer = run(Tiny, ema)
    expected = next(trainer.predict(INPUTS))
    find_lr(trainer, num_steps=5)
    assert torch.equal(next(trainer.predict(INPUTS)), expected)


def test_a_callback_inside_wrappers_is_saved_once_under_its_name():
    class Holds(Callback):
        def __init__(self, callback):
            self.callback = callback

    ema = EMA(0.9)
    wrapped = Only(Only(ema, loaders=("train", "valid")), epochs=(1, 2))
    trainer = run(Tiny, wrapped, Holds(ema), _logdir="runs")
    saved = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)["averages"]
    assert list(saved) == ["EMA"] and torch.equal(saved["EMA"]["weight"], ema.model_state(trainer)["weight"])


def test_a_state_of_another_device_or_precision_is_taken_as_it_is():
    ema, fresh = EMA(0.9), EMA(0.9)
    trainer = run(Tiny, ema)
    state = ema.state_dict()
    fresh.load_state_dict({"averages": {name: average.double() for name, average in state["averages"].items()}})
    assert torch.equal(fresh.model_state(trainer)["weight"], ema.model_state(trainer)["weight"])
