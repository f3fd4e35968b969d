"""``_next_loop``: it skips the batch under way, in every loop, and no other; of a skipped batch nothing counts."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, ConvnetTrainer

BATCHES = [(torch.full((4 - (i == 5), 1), float(i)), torch.zeros(4 - (i == 5), 1)) for i in range(6)]
SKIPPED = (0, 2, 5)


class Skips(ConvnetTrainer):
    """Batch i has the value i; every hook notes it, and some skip."""

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 2
        self.ended, self.stepped = {"train": [], "valid": [], "test": []}, []
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        self.train_loader = self.valid_loader = self.test_loader = list(BATCHES)

    def build_model(self):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001)

    @property
    def value(self):
        return int(self.batch[0][0].item())

    def optimizer_step(self):
        self.stepped.append(self.value)
        super().optimizer_step()

    def on_end_training_batch(self):
        self.ended["train"].append(self.value)

    def on_evaluate_batch_end(self):
        self.ended["valid"].append(self.value)

    def on_end_test_batch(self):
        self.ended["test"].append(self.value)

    def compute_loss(self):
        self.batch_metrics["value"] = self.inputs.mean()
        return super().compute_loss()

    def skip_some(self):
        if self.value in SKIPPED:
            self._next_loop = True


class AtStart(Skips):
    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        self.skip_some()

    def on_evaluate_batch_start(self, item):
        super().on_evaluate_batch_start(item)
        self.skip_some()

    def on_start_test_batch(self):
        self.skip_some()


class InStep(Skips):
    def training_step(self):
        self.skip_some()
        if not self._next_loop:
            super().training_step()

    def evaluate_batch(self, item):
        self.skip_some()
        super().evaluate_batch(item)

    def test_step(self, item):
        super().test_step(item)
        self.skip_some()


class Skipper(Callback):
    def on_start_training_batch(self, trainer):
        trainer.skip_some()

    on_evaluate_batch_start = on_start_test_batch = on_start_training_batch


class ByCallback(Skips):
    def define_misc_attr(self):
        super().define_misc_attr()
        self.callbacks = [Skipper()]


class OwnTrainBatch(AtStart):
    """A loop of its own around the hooks, written before there was a flag to obey."""

    def train_batch(self, item):
        self.on_start_training_batch(item)
        if not self._next_loop:
            self.training_step()
            self.on_end_training_batch()


class OwnItems(AtStart):
    def on_train_epoch_start(self):
        self.train_epoch_iter = iter(self.train_loader)


class LeavesOutTheTake(AtStart):
    def on_start_training_batch(self, item):
        if int(item[1][0][0].item()) in SKIPPED:
            self._next_loop = True
        else:
            self.take_batch(item)


KINDS = [AtStart, InStep, ByCallback, OwnTrainBatch, OwnItems, LeavesOutTheTake]


def by_hand(windows=1, epochs=2, skipped=SKIPPED):
    """Return the weight and each epoch's means of a loop that passes over some batches."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    left = [batch for batch in BATCHES if batch[0][0].item() not in skipped]
    for _ in range(epochs):
        groups = [left[i : i + windows] for i in range(0, len(left), windows)]
        for group in groups:
            optimizer.zero_grad()
            inputs = torch.cat([inputs for inputs, _ in group])
            model(inputs).pow(2).mean().backward()
            optimizer.step()
    every = torch.cat([inputs for inputs, _ in left])
    return model.weight.item(), every.mean().item(), model(every).pow(2).mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_batch_is_skipped_in_every_loop(kind):
    trainer = kind()
    entry = trainer.train()[-1]
    weight, mean, loss = by_hand()
    assert trainer.ended["train"] == trainer.ended["valid"] == trainer.stepped == [1, 3, 4] * 2
    assert trainer.model.weight.item() == pytest.approx(weight)
    assert entry["train"]["value"] == entry["valid"]["value"] == pytest.approx(mean)
    assert entry["valid"]["loss"] == pytest.approx(loss)
    if kind.on_start_test_batch is not Skips.on_start_test_batch or kind in (InStep, ByCallback):
        tested = trainer.test()
        assert trainer.ended["test"] == [1, 3, 4]
        assert tested["loss"] == pytest.approx(loss) and tested["value"] == pytest.approx(mean)
    assert trainer._next_loop is False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"_clip_norm": 1e9}])
def test_windows_of_accumulated_batches_count_what_was_trained(kind, settings):
    trainer = kind({"_accumulation_steps": 2, **settings})
    trainer.train()
    assert trainer.model.weight.item() == pytest.approx(by_hand(windows=2)[0])


@pytest.mark.parametrize(
    "hook", ["on_train_epoch_start", "on_evaluate_epoch_start", "on_train_epoch_end", "on_test_start"]
)
def test_outside_of_a_batch_there_is_nothing_to_skip(hook):
    def skip(self):
        self._next_loop = True

    trainer = type("Outside", (Skips,), {hook: skip})()
    trainer.train()
    trainer.test()
    assert trainer.ended == {"train": list(range(6)) * 2, "valid": list(range(6)) * 2, "test": list(range(6))}


def test_set_in_the_last_hook_it_takes_out_the_numbers_and_skips_no_other():
    class InLast(Skips):
        def on_end_training_batch(self):
            super().on_end_training_batch()
            self.skip_some()

    trainer = InLast({"_num_epochs": 1})
    entry = trainer.train()[-1]
    assert trainer.ended["train"] == list(range(6)) and trainer.ended["valid"] == list(range(6))
    assert entry["train"]["value"] == pytest.approx((1 + 3 + 4) / 3)


def test_an_evaluation_within_a_batch_that_is_skipped():
    class Nested(Skips):
        def on_start_training_batch(self, item):
            super().on_start_training_batch(item)
            self.skip_some()
            self.found = self.evaluate_loader(self.valid_loader[:2])

    trainer = Nested({"_num_epochs": 1, "_has_eval": False})
    entry = trainer.train()[-1]
    assert trainer.ended["train"] == [1, 3, 4] and trainer.ended["valid"] == [0, 1] * 6
    assert trainer.found["value"] == 0.5 and entry["train"]["value"] == pytest.approx((1 + 3 + 4) / 3)


def test_schedules_move_where_the_weights_do():
    class Scheduled(AtStart):
        def build_model(self):
            super().build_model()
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)
            self._scheduler_step = "step"

    trainer = Scheduled({"_num_epochs": 1})
    trainer.train()
    assert trainer.scheduler.last_epoch == 3


def test_a_run_goes_on_behind_a_skipped_batch(tmp_path):
    class Stopped(AtStart):
        def on_start_training_batch(self, item):
            super().on_start_training_batch(item)
            if self.step == self.config.stop:
                raise KeyboardInterrupt

    for stop in range(1, 13):
        settings = {"_logdir": str(tmp_path / str(stop)), "_accumulation_steps": 2, "_save_steps": 1, "stop": stop}
        with pytest.raises(KeyboardInterrupt):
            Stopped(settings).train()
        trainer = Stopped({**settings, "stop": 0})
        history = trainer.train(resume=True)
        assert trainer.model.weight.item() == pytest.approx(by_hand(windows=2)[0])
        assert history[-1]["train"]["value"] == pytest.approx(by_hand(windows=2)[1])


def test_single_batches_are_skipped_too():
    trainer = AtStart()
    before = trainer.model.weight.item()
    assert trainer.train_step(BATCHES[2])["loss"] is None and trainer.val_step(BATCHES[2])["prediction"] is None
    assert trainer.model.weight.item() == before and trainer._next_loop is False
    assert trainer.train_step(BATCHES[1])["loss"] == pytest.approx(1.0)


def test_all_batches_skipped():
    class All(AtStart):
        def skip_some(self):
            self._next_loop = True

    trainer = All()
    entry = trainer.train()[-1]
    assert trainer.stepped == [] and entry["valid"] == {}
    assert trainer.model.weight.item() == 1.0
    assert list(itertools.chain(*trainer.ended.values())) == []


def test_a_data_loader_and_its_workers_are_skipped_as_lists_are():
    class Loaded(AtStart):
        def get_trainloader(self):
            rows = torch.cat([inputs for inputs, _ in BATCHES])
            self.train_loader = self.valid_loader = DataLoader(TensorDataset(rows, torch.zeros(len(rows), 1)), 4)

    trainer = Loaded()
    trainer.train()
    assert trainer.model.weight.item() == pytest.approx(by_hand()[0])
