import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from farabio_like import components
from farabio_like.callbacks.base import Callback
from farabio_like.callbacks.swa import SWA
from farabio_like.errors import ConfigError
from tests.callbacks.averaged import Deep, Failing, Seen, averaged_network, flat, run
from tests.trainers import INPUTS, TARGETS, Tiny


def test_swa_is_the_mean_of_the_epochs_with_new_statistics():
    swa, seen = SWA(start_epoch=2), Seen()
    trainer = run(Deep, swa, seen, _num_epochs=4)
    mean = torch.stack(seen.outside[1:]).mean(0)
    assert torch.allclose(flat(trainer), mean, atol=1e-6)
    reference = averaged_network()
    reference.load_state_dict(trainer.model.state_dict())
    update_bn(trainer.train_loader, reference)
    for key, value in reference.state_dict().items():
        assert torch.allclose(trainer.model.state_dict()[key], value, atol=1e-6), key
    assert trainer.model[1].momentum == 0.1
    assert torch.equal(seen.outside[-1], torch.cat([swa.raw[n].flatten() for n, _ in trainer.model.named_parameters()]))
    plain = run(Deep, _num_epochs=4)
    for key, value in plain.model.state_dict().items():
        assert torch.equal(swa.raw[key], value), key
    trainer.model.eval()
    expected = nn.functional.mse_loss(trainer.model(INPUTS), TARGETS).item()
    assert trainer.test()["loss"] == pytest.approx(expected)


def test_swa_weights_are_those_of_the_run_folder_and_of_the_test():
    swa = SWA(start_epoch=1)
    trainer = run(Deep, swa, _logdir="runs", _num_epochs=2)
    saved = torch.load(trainer.run_dir / "model.pth", weights_only=True)
    assert torch.equal(saved["0.weight"], trainer.model[0].weight)
    before = flat(trainer)
    trainer.test()
    assert torch.equal(flat(trainer), before)
    assert trainer._run_state.weights == "the average of 2 epochs"


def test_swa_sets_the_rate_and_gives_it_back():
    rates = []

    class Rates(Callback):
        def on_train_epoch_end(self, trainer):
            rates.append(trainer.get_lr())

    trainer = run(Tiny, SWA(2, lr=0.5), Rates(), _num_epochs=3)
    assert rates == [0.1, 0.5, 0.5] and trainer.get_lr() == 0.1


def test_swa_after_an_error_leaves_the_weights():
    trainer, swa = Failing({"_num_epochs": 2}), SWA(1)
    trainer.callbacks = [swa]
    with pytest.raises(ValueError, match="mine"):
        trainer.train()
    assert torch.equal(flat(trainer), flat(run(Tiny, _num_epochs=2))) and swa.raw is None


def test_swa_goes_on_from_a_saved_state():
    class Stops(Deep):
        def on_epoch_end(self):
            if self.config.get("_stops") and self.epoch == 2:
                raise ValueError("killed")

    whole, first, second = SWA(1), SWA(1), SWA(1)
    trainer = run(Stops, whole, _num_epochs=4)
    half = Stops({"_num_epochs": 4, "_stops": True})
    half.callbacks = [first]
    with pytest.raises(ValueError, match="killed"):
        half.train()
    resumed = Stops({"_start_epoch": 3, "_num_epochs": 4})
    components.load_model_state(resumed.model, components.model_state(half.model), "half")
    second.load_model_state(resumed, first.model_state(half))
    second.load_state_dict(first.state_dict())
    resumed.callbacks = [second]
    resumed.train()
    assert torch.equal(flat(resumed), flat(trainer))


@pytest.mark.parametrize(
    ("swa", "settings", "message"),
    [
        (SWA(5), {}, "the last epoch is 2"),
        (SWA(1), {"_load_best": True, "_logdir": "runs"}, "leave one of them out"),
    ],
)
def test_swa_and_settings_that_contradict_it(swa, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(Tiny, swa, **settings)


def test_swa_arguments():
    with pytest.raises(ConfigError, match="number of an epoch"):
        SWA(0)
    with pytest.raises(ConfigError, match="above 0"):
        SWA(1, lr=0)

    class Scheduled(Tiny):
        def build_model(self):
            super().build_model()
            self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    with pytest.raises(ConfigError, match="both set the rate"):
        run(Scheduled, SWA(1, lr=0.1), _scheduler_step="step")
