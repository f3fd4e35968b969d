"""Trainers as other people write them: own names, own iterators, own steps, overrides of one hook only."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from farabio_like import ConfigError, ConvnetTrainer, DataError, HookError, NonFiniteError
from tests.trainers import INPUTS, TARGETS, Tiny


def dicts(scale=1.0, size=4):
    return [
        {"image": scale * x, "mask": scale * y} for x, y in zip(INPUTS.split(size), TARGETS.split(size), strict=True)
    ]


class Dicts(Tiny):
    """Batches with other keys, taken by the hook of the training alone."""

    def get_trainloader(self):
        self.train_loader, self.valid_loader = dicts(), dicts(100.0)

    def on_start_training_batch(self, item):
        self.inputs, self.targets = item[1]["image"], item[1]["mask"]


def test_an_evaluation_never_reads_what_the_training_left():
    with pytest.raises(
        DataError, match=r"inputs cannot be taken from the batch, a dict with the keys \['image', 'mask'\]"
    ):
        Dicts().train()
    trainer = Dicts({"_has_eval": False})
    trainer.train()
    with pytest.raises(DataError, match="inputs cannot be taken"):
        next(trainer.predict(dicts()[0]))
    with pytest.raises(DataError, match="inputs cannot be taken"):
        trainer.val_step(dicts()[0])
    trainer.evaluate_batch = lambda item: setattr(trainer, "asked", hasattr(trainer, "inputs"))
    trainer.evaluate_epoch()
    assert trainer.asked is False


def test_an_own_take_batch_leaves_no_stale_batch():
    class Own(Tiny):
        seen = ()

        def take_batch(self, item):
            self.inputs, self.targets = item[1]

        def compute_loss(self):
            self.seen += (len(self.batch[0]),)
            return super().compute_loss()

    trainer = Own({"_num_epochs": 1})
    trainer.train()
    assert trainer.seen == (4, 4, 2) * 2


def test_leaving_once_does_not_leave_for_ever():
    class Leaves(Tiny):
        evaluated = 0

        def on_train_epoch_end(self):
            self.exit_trainer()

        def on_evaluate_batch_end(self):
            self.evaluated += 1

        def on_train_end(self):
            self.evaluate_epoch()

    trainer = Leaves()
    trainer.train()
    assert trainer.evaluated == 3
    trainer.on_end_test_batch = trainer.exit_trainer
    trainer.test()
    trainer.evaluate_epoch()
    assert trainer.evaluated == 6


class Gan(ConvnetTrainer):
    """Two networks under names of its own; one is frozen and thawed by every step."""

    def define_train_attr(self):
        self._num_epochs, self._logdir, self._verbose = 2, "runs", False

    def get_trainloader(self):
        self.train_loader = self.valid_loader = [(INPUTS, TARGETS)]

    def get_testloader(self):
        self.test_loader = self.train_loader

    def build_model(self):
        self.net_g, self.nets = nn.Sequential(nn.Linear(3, 1), nn.Dropout()), {"d": nn.Linear(1, 1)}
        self.features = nn.BatchNorm1d(3).requires_grad_(False).eval()
        self.opt = torch.optim.SGD(self.net_g.parameters(), lr=0.1)

    def training_step(self):
        assert self.net_g.training and self.nets["d"].training and not self.features.training
        self.nets["d"].requires_grad_(False)
        self.loss = self.nets["d"](self.net_g(self.inputs)).square().mean()
        self.opt.zero_grad()
        self.loss.backward()
        self.opt.step()

    def evaluate_batch(self, item):
        assert not self.net_g.training and not self.nets["d"].training

    test_step = evaluate_batch


def test_networks_that_are_frozen_on_the_way_stay_networks():
    trainer = Gan()
    trainer.train()
    saved = torch.load(trainer.run_dir / "model.pth", weights_only=True)
    assert sorted(saved) == ["net_g", "nets.d"]
    other = Gan()
    other.load_model(trainer.run_dir / "model.pth")
    assert torch.equal(other.nets["d"].weight, trainer.nets["d"].weight)
    trainer.test()


@pytest.mark.parametrize("start", [0, 0.0, torch.zeros(())], ids=["int", "float", "tensor"])
def test_a_running_sum_is_not_shown_as_the_loss(start):
    class Sums(Tiny):
        def on_evaluate_epoch_start(self):
            self.loss = copy.copy(start)

        def evaluate_batch(self, item):
            self.loss += 1.0

    assert Sums().evaluate_epoch() == {}


def test_a_number_in_an_attribute_is_no_running_sum():
    class Numbers(Tiny):
        def define_train_attr(self):
            self.loss = 0.0

        def evaluate_batch(self, item):
            self.loss = (2, 2, 0)[item[0]]

    assert Numbers().evaluate_epoch() == {"loss": pytest.approx((2 * 4 + 2 * 4 + 0 * 2) / 10)}


@pytest.mark.parametrize("wrong", [None, torch.ones(3), "text"])
def test_a_loss_of_an_evaluation_that_is_no_number(wrong):
    class Wrong(Tiny):
        def compute_loss(self):
            return super().compute_loss() if self.model.training else wrong

    with pytest.raises(HookError, match="Wrong.compute_loss returned (None|a tensor of shape|'text')"):
        Wrong().train()
    with pytest.raises(HookError, match="compute_loss returned"):
        Wrong().test()


@pytest.mark.parametrize("mode", ["raise", "warn"])
def test_weights_that_are_not_finite_replace_nothing(mode):
    class Breaks(Tiny):
        def on_train_epoch_end(self):
            if self.epoch == 2:
                with torch.no_grad():
                    self.model.bias.fill_(float("inf"))

    trainer = Breaks({"_logdir": "runs", "_on_nonfinite": mode, "_has_eval": False})
    with pytest.raises(NonFiniteError) if mode == "raise" else warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    text = str(caught.value) if mode == "raise" else str(caught[0].message)
    assert "1 parameters are not finite in epoch 2, the first is bias" in text
    files = [trainer.run_dir / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    assert [torch.load(file, weights_only=True)["epoch"] for file in files] == [1, 1]
    assert not (trainer.run_dir / "model.pth").exists()


@pytest.mark.parametrize("sizes", [(0, 0), (10, 0)])
def test_weights_that_are_not_finite_are_found_without_a_run_folder(sizes):
    class Empty(Tiny):
        def get_trainloader(self):
            self.train_loader = [(INPUTS[:size], TARGETS[:size]) for size in sizes]

        def compute_loss(self):
            return super().compute_loss() * self.model.weight.sum()

    with pytest.raises(NonFiniteError, match="1 parameters are not finite in epoch 1, the first is weight"):
        Empty({"_num_epochs": 1}).train()


def test_single_steps_return_nothing_of_the_last_call():
    trainer = Tiny()
    trainer.val_step((INPUTS, TARGETS))
    trainer.evaluate_batch = lambda item: None
    result = trainer.val_step((INPUTS[:2], TARGETS[:2]))
    assert result["prediction"] is None and result["loss"] is None and len(result["target"]) == 2
    trainer.on_evaluate_batch_start = lambda item: setattr(trainer, "_next_loop", True)
    trainer.val_step((INPUTS, TARGETS))
    assert trainer._next_loop is False


def test_nothing_of_a_skipped_batch_counts():
    class Skips(Tiny):
        def on_evaluate_batch_start(self, item):
            self.take_batch(item)
            self.batch_metrics["samples"] = len(self.inputs)
            self.loss = torch.tensor(100.0)
            self._next_loop = item[0] == 0

    metrics = Skips().evaluate_epoch()
    assert metrics["samples"] == pytest.approx((4 * 4 + 2 * 2) / 6) and metrics["loss"] < 100


def test_the_epoch_after_stop_is_the_last_one():
    class Stops(Tiny):
        def on_epoch_end(self):
            self.stop_train()

        def on_train_end(self):
            self.ended = self._epoch

    trainer = Stops({"_num_epochs": 5})
    trainer.train()
    assert trainer.ended == 1
    trainer._start_epoch, trainer._num_epochs = 4, 5
    assert [entry["epoch"] for entry in trainer.train()] == [1, 4]


def test_two_learning_rates_are_shown(capsys):
    class Two(Tiny):
        def build_model(self):
            super().build_model()
            groups = [{"params": [self.model.weight]}, {"params": [self.model.bias], "lr": 0.5}]
            self.optimizer = torch.optim.SGD(groups, lr=0.1)

    assert Two({"_verbose": True}).train()[0]["lr"] == [0.1, 0.5]
    assert "1.00e-01" in capsys.readouterr().out


def test_numbers_of_numpy_and_tensors_are_recorded_as_plain_data():
    class Numpy(Tiny):
        def on_evaluate_epoch_end(self):
            self.epoch_metrics["valid"]["auc"] = np.float32(0.5)
            self.epoch_metrics["valid"]["dice"] = torch.tensor(0.25)
            self.epoch_metrics["valid"]["per_class"] = np.ones(2)

    trainer = Numpy({"_logdir": "runs", "_start_epoch": np.int64(1), "_monitor": "auc"})
    valid = trainer.train()[0]["valid"]
    assert valid["auc"] == 0.5 and valid["dice"] == 0.25 and valid["per_class"] == [1.0, 1.0]
    assert type(valid["auc"]) is float
    trainer.test()
    trainer = Numpy({"_monitor": "per_class", "_monitor_mode": "max"})
    with pytest.raises(
        ConfigError, match=r"_monitor is 'per_class', which is \[1.0, 1.0\]; expected the name of a single"
    ):
        trainer.train()


def test_names_of_a_subclass_meet_none_of_the_base():
    class Names(Tiny):
        def build_model(self):
            super().build_model()
            self._model, self._bar, self._history, self._stop, self.step = self.model, [], {}, 3, 7
            self.scheduler, self.callbacks, self.metrics, self.history = "cosine", {}, {"dice": []}, []
            self.batch = 32

        def _save_checkpoint(self, epoch, path):
            raise AssertionError

        def _is_best(self):
            raise AssertionError

        def save_checkpoint(self, epoch, *, name):
            raise AssertionError

        def get_lr(self, optimizer):
            raise AssertionError

        def save_model(self, epoch):
            raise AssertionError

    trainer = Names({"_logdir": "runs"})
    assert len(trainer.train()) == 2
    assert trainer.step == 7 and trainer.history == []
    trainer.test()


def test_own_loops_are_recorded_too():
    class OwnLoop(Tiny):
        def train_loop(self):
            for self._epoch in range(1, 4):
                self.train_epoch()

    trainer = OwnLoop({"_logdir": "runs"})
    assert [entry["epoch"] for entry in trainer.train()] == [1, 2, 3]
    assert len((trainer.run_dir / "metrics.jsonl").read_text().splitlines()) == 3

    class OwnEpoch(Tiny):
        def train_epoch(self):
            for item in enumerate(self.train_loader):
                self.train_batch(item)

    trainer = OwnEpoch({"_logdir": "runs"})
    assert [entry["epoch"] for entry in trainer.train()] == [1, 2]
    assert (trainer.run_dir / "model.pth").is_file()

    class OwnEvaluation(Tiny):
        def evaluate_epoch(self):
            assert not self.model.training and not torch.is_grad_enabled()
            self.evaluated = self.epoch

    trainer = OwnEvaluation()
    trainer.train()
    assert trainer.evaluated == 2


def test_no_valid_loader_and_an_own_start_of_the_evaluation(capsys):
    class Starts(Tiny):
        def on_evaluate_epoch_start(self):
            self.predictions = []

    trainer = Starts({"_verbose": True})
    trainer.valid_loader = None
    assert len(trainer.train()) == 2
    assert capsys.readouterr().out.count("there is no valid loader") == 1


def test_what_is_set_before_the_base_or_as_a_class_attribute_stays():
    class Early(Tiny):
        criterion = nn.L1Loss()

        def __init__(self, net):
            self._eval_interval, self.net = 2, net
            super().__init__()

        def build_model(self):
            self.model = self.net
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

        @property
        def _save_epoch(self):
            return 1

    trainer = Early(nn.Linear(3, 1))
    trainer.train()
    assert trainer._eval_interval == 2 and isinstance(trainer.criterion, nn.L1Loss)


def test_an_error_in_a_property_is_not_hidden():
    class Property(Tiny):
        @property
        def encoder(self):
            return self.model.does_not_exist

    with pytest.raises(AttributeError, match="does_not_exist"):
        Property().encoder  # noqa: B018


def test_a_deleted_loss_and_a_lazy_layer():
    class Lazy(Tiny):
        def build_model(self):
            self.model = nn.LazyLinear(1)
            self.criterion = nn.MSELoss()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

        def on_end_training_batch(self):
            del self.loss

    assert len(Lazy().train()) == 2


def test_a_copy_of_a_trainer_has_a_life_of_its_own():
    trainer = Tiny({"_logdir": "runs"})
    trainer.train()
    other = copy.deepcopy(trainer)
    assert not hasattr(other, "no_such") and other.evaluate_epoch() == trainer.evaluate_epoch()
    other.train()
    assert other.run_dir != trainer.run_dir
    assert len((trainer.run_dir / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_hook_that_a_call_does_not_run():
    class Generator(Tiny):
        def on_epoch_end(self):
            yield

    class Coroutine(Tiny):
        async def on_epoch_end(self):
            pass

    for kind in (Generator, Coroutine):
        with pytest.raises(HookError, match="on_epoch_end is a coroutine or a generator"):
            kind()


def test_helpers_with_names_near_a_native_method_are_no_mistake():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Helpers(Tiny):
            def load_models(self):
                pass

            def save_models(self):
                pass

    assert Helpers().load_models() is None


def test_a_scheduler_that_a_hook_steps_now_and_then():
    class Now(Tiny):
        def build_model(self):
            super().build_model()
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)

        def on_epoch_end(self):
            if self._epoch % 2 == 0:
                self.scheduler.step()

    class Reads(Now):
        def on_epoch_end(self):
            self.seen = self.scheduler.get_last_lr()
            self.optimizer.step()

    # Reading a scheduler is not stepping it.
    assert [entry["lr"] for entry in Reads({"_num_epochs": 3}).train()] == [0.1, 0.05, 0.025]
    assert [entry["lr"] for entry in Now({"_num_epochs": 4}).train()] == [0.1, 0.1, 0.05, 0.05]


def test_nested_configurations():
    from argparse import Namespace
    from dataclasses import dataclass

    @dataclass
    class Layer:
        width: int = 3

    class Raises:
        rate = 0.5

        @property
        def path(self):
            raise RuntimeError("not yet")

    config = Tiny({"layer": Layer(), "data": Namespace(size=2), "names": {0: "cat"}}).config
    assert config.layer["width"] == 3 and config["data"].size == 2 and config.names[0] == "cat"
    assert Tiny(None).config.get("x") is None

    class Quiet(Tiny):
        def define_misc_attr(self):
            self._logdir, self._verbose = None, False

    assert Quiet(Raises()).config.rate == 0.5


class EasyDict(dict):
    """As the package of that name: a missing key is a KeyError, of an attribute too."""

    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


@pytest.mark.parametrize("kind", ["dict", "attributes", "path", "list"])
def test_an_own_configuration_in_place_of_the_one_of_the_base(kind):
    easy = EasyDict(optim=EasyDict(lr=0.1))
    config = {"dict": {"lr": 0.1}, "attributes": easy, "path": "config.yaml", "list": [1, 2]}[kind]

    class Own(Tiny):
        def __init__(self, given):
            super().__init__({"_logdir": "runs", "_num_epochs": 1})
            self.config = self.options = given

    trainer = Own(config)
    trainer.train()
    assert trainer.config is config
    written = (trainer.run_dir / "config.yaml").read_text()
    assert ("lr: 0.1" if isinstance(config, dict) else repr(config)) in written


def warned(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make().train()
    return [str(warning.message) for warning in caught]


def test_hooks_that_are_set_on_the_instance_are_checked_before_the_first_step():
    def once(self):
        yield

    for hook, words in (
        (lambda item: None, "cannot be called as"),
        (once.__get__(Tiny()), "a generator, which a call"),
    ):
        trainer = Tiny()
        trainer.on_epoch_end = hook
        with pytest.raises(HookError, match=f"Tiny.on_epoch_end.*{words}"):
            trainer.train()
        assert trainer.step == 0


def test_a_constructor_that_leaves_out_the_one_of_the_base():
    class Forgot(Tiny):
        def __init__(self):
            self.lr = 0.1

    for method in (Forgot().train, Forgot().test):
        with pytest.raises(HookError, match=r"Forgot.__init__ does not call .* Write super\(\).__init__\(config\)"):
            method()


def test_a_step_that_only_returns_its_loss():
    class Returns(Tiny):
        def training_step(self):
            return self.compute_loss()

    class ByHand(Tiny):
        def training_step(self):
            self.optimizer.zero_grad()
            self.criterion(self.model(self.inputs), self.targets).backward()
            self.optimizer.step()

    class NoBackward(Tiny):
        def training_step(self):
            self.loss = self.compute_loss()

    class NoStep(Tiny):
        def training_step(self):
            self.optimizer_zero_grad()
            self.loss = self.compute_loss()
            self.loss_backward()

    class PastTheCount(Tiny):
        def training_step(self):
            self.model.zero_grad()
            self.loss = self.compute_loss()
            self.loss.backward()
            for parameter in self.model.parameters():
                parameter.data -= 0.1 * parameter.grad

    class Resting(ByHand):
        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)

    (message,) = warned(Returns)
    assert "Returns.training_step has set no self.loss and changed no weights in epoch 1" in message
    (message,) = warned(NoBackward)
    assert message.startswith("NoBackward.training_step has changed no weights in epoch 1. Call self.loss_backward()")
    (message,) = warned(NoStep)
    assert message.startswith("NoStep.training_step has gathered gradients and changed no weights in epoch 1. Call")
    assert warned(ByHand) == warned(PastTheCount) == warned(Resting) == []


def test_schedulers_that_nothing_steps():
    class Listed(Tiny):
        def build_model(self):
            super().build_model()
            self.scheduler = [torch.optim.lr_scheduler.StepLR(self.optimizer, 1)]

    class Steps(Listed):
        def on_epoch_end(self):
            for part in self.scheduler:
                part.step()

    (message,) = warned(Listed)
    assert message.startswith("Listed: self.scheduler is a list, which nothing steps")
    assert warned(Steps) == []


def test_names_of_other_libraries():
    class Reads(Tiny):
        def define_train_attr(self):
            self.epochs = 3
            self._num_epochs = self.epochs

    class Sets(Tiny):
        def define_train_attr(self):
            self.max_epochs = 3

        def define_misc_attr(self):
            self._logdir, self._verbose = None, False

    assert warned(Reads) == []
    assert warned(Sets) == ["Sets sets max_epochs, which no method reads. Did you mean '_num_epochs'?"]
    with pytest.warns(UserWarning, match="validation_step is no hook, nothing calls it. Did you mean 'evaluate_batch'"):
        type("Lightning", (Tiny,), {"validation_step": lambda self, batch: None})
