"""LimitBatches, QuickCheck, OverfitBatches: which batches are read."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, ConfigError, Stage
from farabio_like.callbacks.limits import LimitBatches, OverfitBatches, QuickCheck
from tests.trainers import INPUTS, TARGETS, Tiny


class Noting(Tiny):
    """Notes the first input of every batch, by loader; has five batches in each."""

    def get_trainloader(self):
        data = TensorDataset(INPUTS, TARGETS)
        self.train_loader = DataLoader(data, batch_size=2, shuffle=self.config.get("shuffle", False))
        self.valid_loader = DataLoader(data, batch_size=2)
        self.seen = {"train": [], "valid": [], "test": []}

    def get_testloader(self):
        self.test_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=2)

    def compute_loss(self):
        self.seen[self.loader_name].append(round(self.inputs[0, 0].item() * 30))
        return super().compute_loss()


def trainer_with(*callbacks, **settings):
    trainer = Noting(settings)
    trainer.callbacks = list(callbacks)
    return trainer


def test_limits_each_loader_for_itself():
    trainer = trainer_with(LimitBatches(train=3, valid=2, test=1))
    trainer.train()
    trainer.test()
    assert trainer.seen == {"train": [0, 6, 12] * 2, "valid": [0, 6] * 2, "test": [0]}


def test_a_loader_without_limit_is_read_to_its_end():
    trainer = trainer_with(LimitBatches(valid=2), _num_epochs=1)
    trainer.train()
    assert trainer.seen["train"] == [0, 6, 12, 18, 24] and trainer.seen["valid"] == [0, 6]


def test_no_batch_is_fetched_beyond_the_limit():
    def batches():
        yield INPUTS, TARGETS
        yield INPUTS, TARGETS
        raise AssertionError("a third batch was asked for")

    class Loader:
        def __iter__(self):
            return batches()

    trainer = trainer_with(LimitBatches(train=2), _has_eval=False)
    trainer.train_loader = Loader()
    trainer.train()
    assert trainer.step == 4


def test_skipped_batches_count():
    class Skips(Callback):
        def on_evaluate_batch_start(self, trainer):
            trainer._next_loop = trainer.batch[0][0, 0] == 0

    trainer = trainer_with(Skips(), LimitBatches(valid=2), _num_epochs=1)
    trainer.train()
    assert trainer.seen["valid"] == [6]


def test_metrics_are_those_of_the_batches_read():
    trainer = trainer_with(LimitBatches(valid=1), _num_epochs=1)
    [entry] = trainer.train()
    with torch.no_grad():
        expected = trainer.criterion(trainer.model(INPUTS[:2]), TARGETS[:2]).item()
    assert entry["valid"]["loss"] == pytest.approx(expected, rel=1e-6)


def test_quick_check_reads_few_of_everything_and_ends_the_run():
    trainer = trainer_with(QuickCheck(2), _num_epochs=9, _eval_interval=5)
    assert len(trainer.train()) == 1
    trainer.test()
    assert trainer.seen == {"train": [0, 6], "valid": [0, 6], "test": [0, 6]}
    assert trainer._eval_interval == 5


def test_quick_check_gives_the_setting_back_after_an_exception():
    class Fails(Callback):
        def on_end_training_batch(self, trainer):
            raise LookupError

    trainer = trainer_with(QuickCheck(), Fails(), _eval_interval=5)
    with pytest.raises(LookupError):
        trainer.train()
    assert trainer._eval_interval == 5


def test_overfits_on_the_same_batches():
    trainer = trainer_with(OverfitBatches(2), shuffle=True, _num_epochs=3)
    trainer.train()
    first = trainer.seen["train"][:2]
    assert trainer.seen["train"] == first * 3
    assert trainer.seen["valid"] == [0, 6, 12, 18, 24] * 3
    other = trainer_with(*trainer.callbacks, shuffle=True, _num_epochs=1)
    torch.manual_seed(5)
    other.train()
    assert other.seen["train"] != first  # another run has its own


def test_overfit_keeps_batches_as_the_loader_gave_them():
    class InPlace(Noting):
        def on_start_training_batch(self, item):
            self.take_batch(item)
            self.inputs.add_(1)

    trainer = InPlace({"_num_epochs": 3})
    trainer.callbacks = [OverfitBatches(1)]
    trainer.train()
    assert trainer.seen["train"] == [30, 30, 30]


def test_overfit_with_more_batches_than_there_are_takes_them_all():
    trainer = trainer_with(OverfitBatches(99), _num_epochs=2)
    trainer.train()
    assert trainer.seen["train"] == [0, 6, 12, 18, 24] * 2


def test_length_for_the_bar():
    lengths = []

    class Lengths(Callback):
        order = 300

        def on_train_epoch_start(self, trainer):
            lengths.append(len(trainer.train_epoch_iter))

    trainer_with(OverfitBatches(2), Lengths()).train()
    trainer_with(OverfitBatches(99), Lengths(), _num_epochs=1).train()
    assert lengths == [2, 2, 5]


def test_overfit_state_goes_on_with_the_same_batches():
    first = trainer_with(OverfitBatches(2), shuffle=True, _num_epochs=1)
    first.train()
    torch.save(first.callbacks[0].state_dict(), "state.pt")
    resumed = OverfitBatches(2)
    resumed.load_state_dict(torch.load("state.pt", weights_only=True))
    first.callbacks, first._num_epochs = [resumed], 2
    first.train()
    assert first.seen["train"][2:] == first.seen["train"][:2]


def test_batches_that_are_no_plain_data_stay_out_of_the_state():
    class Batch:
        inputs, targets = INPUTS, TARGETS

    trainer = trainer_with(OverfitBatches(1), _num_epochs=1)
    trainer.train_loader = [Batch()]
    trainer.batch_size_of = lambda batch: 10
    trainer.train()
    assert trainer.callbacks[0].state_dict() == {}
    OverfitBatches(1).load_state_dict({})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_arguments_are_checked(value):
    with pytest.raises(ConfigError, match=r"LimitBatches\(valid\) is .*expected a whole number, 1 or more"):
        LimitBatches(valid=value)
    for kind in (OverfitBatches, QuickCheck):
        with pytest.raises(ConfigError, match=rf"{kind.__name__}\(batches\) is .*1 or more"):
            kind(value)


def test_quick_check_runs_an_epoch_of_every_stage():
    class Staged(Noting):
        def on_stage_start(self):
            self.stages = [*getattr(self, "stages", []), self.stage.name]

    stages = [Stage("a", 3), Stage("b", 4, eval_interval=4), Stage("c", 2)]
    trainer = Staged({"_stages": stages, "_eval_interval": 3})
    trainer.callbacks = [QuickCheck(1)]
    history = trainer.train()
    assert trainer.stages == ["a", "b", "c"] and len(history) == 3 and all(entry["valid"] for entry in history)
    assert trainer._eval_interval == 3
