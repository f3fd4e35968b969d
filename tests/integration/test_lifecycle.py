"""The order of the hooks, their arguments, and what the base does around them: golden lists."""

import contextlib
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from farabio_like import ConvnetTrainer, DataError, NonFiniteError

BATCHES = [(torch.ones(2, 3), torch.zeros(2, 1)), (torch.ones(1, 3), torch.zeros(1, 1))]

CONSTRUCTION = [
    "default_attr",
    "init_attr",
    "define_data_attr",
    "define_model_attr",
    "define_train_attr",
    "define_test_attr",
    "define_log_attr",
    "define_compute_attr",
    "define_misc_attr",
    "get_trainloader",
    "get_testloader",
    "build_model",
]
TRAIN_BATCH = ["train_batch({i})", "on_start_training_batch({i})", "training_step", "on_end_training_batch"]
EVALUATE_BATCH = ["on_evaluate_batch_start({i})", "evaluate_batch({i})", "on_evaluate_batch_end"]
TEST_BATCH = ["on_start_test_batch", "test_step({i})", "on_end_test_batch"]


def batches(hooks, n=2):
    return [hook.format(i=i) for i in range(n) for hook in hooks]


EVALUATION = ["evaluate_epoch", "on_evaluate_epoch_start", *batches(EVALUATE_BATCH), "on_evaluate_epoch_end"]
TRAINING_PART = ["train_epoch", "on_train_epoch_start", *batches(TRAIN_BATCH), "on_train_epoch_end"]
EPOCH = [*TRAINING_PART, *EVALUATION, "on_epoch_end"]
START = ["train", "on_train_start", "start_logger", "train_loop"]
TEST = ["test", "load_model", "on_test_start", "test_loop", *batches(TEST_BATCH), "on_test_end"]

HOOKS = sorted({name.split("(")[0] for name in [*CONSTRUCTION, *START, *EPOCH, "on_train_end", *TEST]})
ALL_HOOKS = [*HOOKS, "build_parallel_model", "load_parallel_model"]


def recording(name):
    """Return a hook that notes its name and argument, then does what the base's own does."""

    def hook(self, *args):
        self.__dict__.setdefault("calls", []).append(name + (f"({args[0][0]})" if args else ""))
        if name == self.__dict__.get("fails_in"):
            raise ZeroDivisionError(name)
        result = getattr(ConvnetTrainer, name)(self, *args)
        action = self.__dict__.get("actions", {}).get(name)
        if action is not None:
            action(self)
        return result

    return hook


class Setup(ConvnetTrainer):
    """A linear model on two batches, quiet and without files."""

    def define_train_attr(self, *args):
        self._num_epochs = 2

    def define_log_attr(self):
        self._logdir, self._verbose = None, False

    def get_trainloader(self):
        self.train_loader = self.valid_loader = list(BATCHES)

    def get_testloader(self):
        self.test_loader = list(BATCHES)

    def build_model(self):
        self.model = nn.Linear(3, 1)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)


class Recorder(Setup):
    def __init__(self, **settings):
        self.__dict__["given"] = settings
        super().__init__()


def record_construction(name):
    base = getattr(Setup, name)

    def hook(self):
        self.__dict__.setdefault("calls", []).append(name)
        base(self)
        if name == "define_misc_attr":
            vars(self).update(self.given)

    return hook


for _name in ALL_HOOKS:
    setattr(Recorder, _name, (record_construction if _name in CONSTRUCTION else recording)(_name))


def record(settings=None, actions=None, fails_in=None):
    trainer = Recorder(**(settings or {}))
    trainer.calls.clear()
    trainer.actions, trainer.fails_in = actions or {}, fails_in
    return trainer


def test_construction():
    assert Recorder().calls == CONSTRUCTION


def test_construction_for_several_devices():
    trainer = Recorder(_data_parallel=True)
    assert trainer.calls == [*CONSTRUCTION[:-1], "build_parallel_model", "build_model"]
    assert isinstance(trainer.model, nn.DataParallel)


def test_two_epochs():
    trainer = record()
    trainer.train()
    assert trainer.calls == [*START, *EPOCH, *EPOCH, "on_train_end"]


def test_items_are_pairs_of_index_and_batch():
    trainer = record()
    seen = []
    trainer.on_start_training_batch = seen.append
    trainer.train()
    assert [item[0] for item in seen] == [0, 1, 0, 1]
    assert seen[0][1] is BATCHES[0]


def test_no_evaluation():
    trainer = record({"_has_eval": False})
    trainer.train()
    assert trainer.calls == [*START, *[*TRAINING_PART, "on_epoch_end"] * 2, "on_train_end"]


def test_no_valid_loader(capsys):
    trainer = record({"_verbose": True})
    trainer.valid_loader = None
    # The recorder overrides the evaluation's hooks: with the base's own there is nothing to evaluate with.
    for name in ("evaluate_epoch", "on_evaluate_epoch_start"):
        setattr(type(trainer), name, getattr(ConvnetTrainer, name))
    try:
        trainer.train()
    finally:
        for name in ("evaluate_epoch", "on_evaluate_epoch_start"):
            setattr(Recorder, name, recording(name))
    assert trainer.calls == [*START, *[*TRAINING_PART, "on_epoch_end"] * 2, "on_train_end"]
    assert capsys.readouterr().out.count("there is no valid loader") == 1


def test_interval_of_two():
    trainer = record({"_eval_interval": 2, "_num_epochs": 3})
    trainer.train()
    short = [*TRAINING_PART, "on_epoch_end"]
    assert trainer.calls == [*START, *short, *EPOCH, *short, "on_train_end"]


def test_zero_epochs():
    trainer = record({"_num_epochs": 0})
    assert trainer.train() == []
    assert trainer.calls == [*START, "on_train_end"]


def test_first_epoch_is_a_setting():
    trainer = record({"_start_epoch": 2, "_num_epochs": 3})
    assert [entry["epoch"] for entry in trainer.train()] == [2, 3]
    assert trainer.epoch == 3


def test_test():
    trainer = record()
    trainer.test()
    assert trainer.calls == TEST


def test_test_of_a_data_parallel_run():
    trainer = record({"_data_parallel": True})
    trainer.test()
    assert trainer.calls == ["test", "load_parallel_model", *TEST[1:]]


def test_stop_in_a_training_batch():
    trainer = record(actions={"training_step": ConvnetTrainer.stop_train})
    trainer.train()
    part = ["train_epoch", "on_train_epoch_start", *batches(TRAIN_BATCH, 1), "on_train_epoch_end"]
    assert trainer.calls == [*START, *part, *EVALUATION, "on_epoch_end", "on_train_end"]


def test_exit_in_a_training_batch_skips_the_evaluation():
    trainer = record(actions={"training_step": ConvnetTrainer.exit_trainer})
    trainer.train()
    part = ["train_epoch", "on_train_epoch_start", *batches(TRAIN_BATCH, 1), "on_train_epoch_end"]
    assert trainer.calls == [*START, *part, "on_epoch_end", "on_train_end"]


def test_exit_in_the_evaluation_skips_the_rest_of_it():
    trainer = record(actions={"evaluate_batch": ConvnetTrainer.exit_trainer})
    trainer.train()
    part = ["evaluate_epoch", "on_evaluate_epoch_start", *batches(EVALUATE_BATCH, 1), "on_evaluate_epoch_end"]
    assert trainer.calls == [*START, *TRAINING_PART, *part, "on_epoch_end", "on_train_end"]


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_evaluate_batch_end", "on_train_epoch_end"])
def test_stop_elsewhere_finishes_the_epoch(hook):
    trainer = record(actions={hook: ConvnetTrainer.stop_train})
    trainer.train()
    assert trainer.calls == [*START, *EPOCH, "on_train_end"]


def test_stop_before_the_first_epoch():
    trainer = record(actions={"on_train_start": ConvnetTrainer.stop_train})
    assert trainer.train() == []
    assert trainer.calls == [*START, "on_train_end"]


def test_stop_before_the_first_batch():
    trainer = record(actions={"on_train_epoch_start": ConvnetTrainer.stop_train})
    trainer.train()
    part = ["train_epoch", "on_train_epoch_start", "on_train_epoch_end"]
    assert trainer.calls == [*START, *part, *EVALUATION, "on_epoch_end", "on_train_end"]


def test_next_loop_skips_a_batch():
    def skip_first(trainer):
        trainer._next_loop = trainer.calls[-1] == "on_evaluate_batch_start(0)"

    trainer = record(actions={"on_evaluate_batch_start": skip_first})
    trainer.evaluate_epoch()
    assert trainer.calls == [*EVALUATION[:3], *EVALUATION[5:]]
    assert trainer._next_loop is False


IN_TRAINING = sorted({name.split("(")[0] for name in [*START[1:], *EPOCH, "on_train_end"]})


@pytest.mark.parametrize("hook", IN_TRAINING)
def test_exception_in_a_hook_comes_out_unchanged(hook):
    trainer = record(fails_in=hook)
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.train()
    assert caught.value.args == (hook,)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    normal = [*START, *EPOCH]
    if hook == "on_train_end":
        assert trainer.calls == [*normal, *EPOCH, "on_train_end"]
    else:
        first = next(i for i, name in enumerate(normal) if name.split("(")[0] == hook)
        assert trainer.calls == [*normal[: first + 1], "on_train_end"]


def test_first_error_wins(capsys):
    trainer = record(fails_in="training_step")

    def fail():
        trainer.calls.append("on_train_end")
        raise RuntimeError("second")

    trainer.on_train_end = fail
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.calls.count("on_train_end") == 1
    assert "second" in capsys.readouterr().err


def test_few_frames_between_train_and_the_users_step():
    class Deep(Setup):
        def training_step(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        Deep().train()
    files = [str(entry.path) for entry in caught.traceback]
    ours = [file for file in files if file.endswith("farabio_like/trainer.py")]
    assert len(ours) <= 4


@pytest.mark.parametrize("error", [StopIteration, KeyError, IndexError, KeyboardInterrupt, SystemExit])
def test_any_exception_of_a_step_surfaces(error):
    trainer = record()

    def step():
        raise error("mine")

    trainer.training_step = step
    with pytest.raises(error, match="mine"):
        trainer.train()
    assert trainer.calls[-1] == "on_train_end"


class Foreign(ConvnetTrainer):
    """Overrides everything, calls super() nowhere, keeps self.model None."""

    def default_attr(self, *args):
        self.losses = []

    def init_attr(self, *args):
        self.define_train_attr()
        self.define_log_attr()

    def define_train_attr(self, *args):
        self._num_epochs = 5
        self.stopped_at = None

    def define_log_attr(self, *args):
        self._logdir, self._verbose = None, False

    def get_trainloader(self, *args):
        self.batches = list(BATCHES)

    def get_testloader(self, *args):
        self.held_out = list(BATCHES)

    def build_model(self, *args):
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def on_train_start(self, *args):
        self.log = []

    def start_logger(self, *args):
        self.log.append("logger")

    def on_train_epoch_start(self, *args):
        self.train_epoch_iter = enumerate(self.batches)

    def on_start_training_batch(self, item, *args):
        self.index, (self.x, self.y) = item

    def training_step(self, *args):
        assert self.net.training and torch.is_grad_enabled()
        self.optimizer_zero_grad()
        self.loss = nn.functional.mse_loss(self.net(self.x), self.y)
        self.loss_backward()
        self.optimizer_step()

    def optimizer_zero_grad(self):
        self.opt.zero_grad()

    def loss_backward(self):
        self.loss.backward()

    def optimizer_step(self):
        self.opt.step()

    def on_end_training_batch(self, *args):
        self.losses.append(self.loss.item())

    def on_evaluate_epoch_start(self, *args):
        self.valid_epoch_iter = iter(self.batches)

    def on_evaluate_batch_start(self, item, *args):
        self.x, self.y = item

    def evaluate_batch(self, *args):
        assert not self.net.training and not torch.is_grad_enabled()
        self.log.append(nn.functional.mse_loss(self.net(self.x), self.y).item())

    def on_epoch_end(self, *args):
        if self._epoch == 3:
            self.stopped_at = self.epoch
            self.stop_train()
        self.save_model("epoch", number=self._epoch)

    def save_model(self, name, number):
        self.saved = (name, number)

    def load_model(self, *args):
        self.loaded = True

    def on_test_start(self):
        self.test_loop_iter = enumerate(self.held_out)
        self.tested = []

    def test_step(self, item):
        self.tested.append(self.net(item[1][0]).shape)


def test_a_trainer_that_overrides_everything():
    trainer = Foreign()
    assert trainer.model is None
    history = trainer.train()
    assert trainer.stopped_at == 3 and trainer.saved == ("epoch", 3)
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert len(trainer.losses) == 6 and trainer.losses[-1] < trainer.losses[0]
    # Weighted by the samples of each batch, 2 and 1, over the losses that the subclass saw itself.
    assert history[0]["train"]["loss"] == pytest.approx((2 * trainer.losses[0] + trainer.losses[1]) / 3)
    trainer.test()
    assert trainer.loaded and [tuple(shape) for shape in trainer.tested] == [(2, 1), (1, 1)]
    trainer.log.clear()
    trainer.evaluate_epoch()
    assert len(trainer.log) == 2


def test_an_override_that_only_prints_breaks_nothing():
    class Prints(Setup):
        def on_start_training_batch(self, item):
            pass

        def on_evaluate_batch_start(self, item):
            pass

        def on_start_test_batch(self):
            pass

    torch.manual_seed(0)
    plain = Setup()
    torch.manual_seed(0)
    printing = Prints()
    for mine, its in zip(plain.train(), printing.train(), strict=True):
        assert mine["train"] == its["train"] and mine["valid"] == its["valid"]
    assert plain.test() == printing.test()


def test_an_own_evaluate_batch_finds_the_batch():
    class Own(Setup):
        seen = ()

        def on_evaluate_batch_start(self, item):
            pass

        def evaluate_batch(self, item):
            self.seen += (len(self.inputs), self.inputs is BATCHES[item[0]][0])

    trainer = Own()
    trainer.train()
    assert trainer.seen == (2, True, 1, True) * 2


def test_a_running_loss_of_the_subclass_is_left_alone():
    class Running(Setup):
        def on_train_epoch_start(self):
            self.loss = 0

        def training_step(self):
            self.loss += self.criterion(self.model(self.inputs), self.targets).item()

    assert "loss" not in Running().train()[0]["train"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_before_anything_is_saved(bad, tmp_path):
    class Diverges(Setup):
        def compute_loss(self):
            return super().compute_loss() * (bad if self.epoch == 2 and self.model.training else 1.0)

    trainer = Diverges()
    trainer._logdir, trainer._save_epoch = tmp_path, 1
    with pytest.raises(NonFiniteError, match="in epoch 2, at step 3, is (nan|inf), with lr .*1 of|2 of 2 parameters"):
        trainer.train()
    good = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert good["epoch"] == 1 and good["model"]["weight"].isfinite().all()
    trainer = Diverges()
    trainer._on_nonfinite = "warn"
    with pytest.warns(UserWarning, match="the training loss of epoch 2"):
        assert len(trainer.train()) == 2


class Flags(Setup):
    def build_model(self):
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.Linear(3, 1)))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def get_trainloader(self):
        self.train_loader = self.valid_loader = BATCHES[:1] * 2

    def on_train_epoch_start(self):
        assert all(module.training for module in self.model.modules())
        self.model[1].eval()

    def evaluate_batch(self, item):
        assert not any(module.training for module in self.model.modules())
        assert not torch.is_grad_enabled()
        self.loss = torch.zeros(())

    test_step = evaluate_batch


def test_flags_are_given_back_per_module():
    trainer = Flags()
    trainer.train()
    assert [module.training for module in trainer.model.modules()] == [True, True, False, True, True, True]
    trainer.model[2].eval()
    before = [module.training for module in trainer.model.modules()]
    trainer.evaluate_epoch()
    trainer.test()
    trainer.val_step(BATCHES[0])
    assert [module.training for module in trainer.model.modules()] == before
    assert torch.is_grad_enabled()


def test_flags_are_given_back_after_an_exception():
    class Fails(Flags):
        def evaluate_batch(self, item):
            raise ZeroDivisionError

    trainer = Fails()
    with contextlib.suppress(ZeroDivisionError):
        trainer.evaluate_epoch()
    assert all(module.training for module in trainer.model.modules()) and torch.is_grad_enabled()


def test_a_frozen_network_beside_the_model_keeps_its_mode():
    class Perceptual(Foreign):
        def build_model(self):
            super().build_model()
            self.features = nn.BatchNorm1d(3).eval().requires_grad_(False)

    trainer = Perceptual()
    trainer.train()
    assert not trainer.features.training and trainer.net.training


def test_evaluation_inside_a_training_batch_disturbs_nothing():
    class Nested(Setup):
        def on_end_training_batch(self):
            inputs, loss = self.inputs, self.loss
            self.evaluate_epoch()
            assert self.inputs is inputs and self.loss is loss

    torch.manual_seed(0)
    plain = Setup()
    torch.manual_seed(0)
    nested = Nested()
    assert [e["train"] for e in plain.train()] == [e["train"] for e in nested.train()]


def test_the_iterators_are_lazy_and_may_be_wrapped():
    class Loader:
        started = 0

        def __iter__(self):
            Loader.started += 1
            return iter(BATCHES)

        def __len__(self):
            return len(BATCHES)

    class Wraps(Setup):
        def get_trainloader(self):
            self.train_loader = self.valid_loader = Loader()

        def on_train_epoch_start(self):
            assert Loader.started == self.expected
            assert len(self.train_epoch_iter) == 2
            self.seen = []
            self.train_epoch_iter = (self.seen.append(item[0]) or item for item in self.train_epoch_iter)

        def on_evaluate_epoch_start(self):
            self.valid_epoch_iter = list(self.valid_epoch_iter)[:1]

        def on_evaluate_batch_end(self):
            self.evaluated = getattr(self, "evaluated", 0) + 1

        def on_epoch_end(self):
            assert self.seen == [0, 1] and self.evaluated == self._epoch
            self.expected = Loader.started

    trainer = Wraps()
    trainer.expected = 0
    trainer.train()
    assert Loader.started == 4


def test_training_again_goes_on_counting():
    trainer = Setup()
    assert [e["epoch"] for e in trainer.train()] == [1, 2]
    assert [e["epoch"] for e in trainer.train()] == [1, 2, 3, 4]
    trainer._num_epochs = 5
    assert [e["epoch"] for e in trainer.train()][-1] == 5
    assert trainer.step == 10


def test_training_goes_on_after_stop():
    trainer = record({"_num_epochs": 4}, actions={"on_epoch_end": lambda t: t.stop_train() if t.epoch == 1 else None})
    assert [e["epoch"] for e in trainer.train()] == [1]
    assert [e["epoch"] for e in trainer.train()] == [1, 2, 3, 4]


def test_two_trainers_share_nothing():
    first, second = Setup(), Setup()
    first.train()
    first.batch_metrics["x"] = 1
    assert second.history == [] and second.epoch_metrics == {} and second.batch_metrics == {}


def test_settings_may_be_class_attributes():
    class Short(Setup):
        _num_epochs = 7

        def define_train_attr(self):
            pass

    assert Short()._num_epochs == 7


def test_a_trainer_dies_with_its_last_reference():
    trainer = Setup()
    trainer.train()
    trainer.test()
    list(trainer.predict(BATCHES))
    trainer.train_step(BATCHES[0])
    dead = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert dead() is None
    finally:
        gc.enable()


def test_a_trainer_dies_after_a_failed_run():
    trainer = record(fails_in="training_step")
    with contextlib.suppress(ZeroDivisionError):
        trainer.train()
    dead = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert dead() is None


def test_single_steps():
    class Sigmoid(Setup):
        def prediction_transform(self, outputs):
            return torch.sigmoid(outputs)

    trainer = Sigmoid()
    x, y = BATCHES[0]
    before = [p.clone() for p in trainer.model.parameters()]
    outputs = trainer.model(x)
    result = trainer.val_step((x, y))
    assert set(result) == {"prediction", "target", "loss"} and isinstance(result["loss"], float)
    assert torch.equal(result["prediction"], torch.sigmoid(outputs)) and torch.equal(result["target"], y)
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))
    result = trainer.train_step([x, y])
    assert result["loss"] == pytest.approx(nn.functional.mse_loss(outputs, y).item())
    assert not result["prediction"].requires_grad
    assert not any(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))


def test_overriding_one_single_step_leaves_the_other_alone():
    class Own(Setup):
        def train_step(self, batch):
            return "mine"

    trainer = Own()
    assert trainer.train_step(BATCHES[0]) == "mine"
    assert isinstance(trainer.val_step(BATCHES[0])["loss"], float)


def test_predict_without_a_loader():
    with pytest.raises(DataError, match="predict got None"):
        next(Setup().predict(None))


def test_predict():
    trainer = Setup()
    trainer.model.train()
    x = torch.randn(3, 3)
    expected = trainer.model(x).detach()
    assert [torch.equal(p, expected) for p in trainer.predict(x)] == [True]
    assert [torch.equal(p, expected) for p in trainer.predict((x, None))] == [True]
    assert [torch.equal(p, expected) for p in trainer.predict([[x, x], {"inputs": x}])] == [True, True]
    for _ in trainer.predict([[x], [x]]):
        assert torch.is_grad_enabled() and trainer.model.training


def test_several_models_need_only_a_forward():
    class Two(Setup):
        def build_model(self):
            self.model = {"encoder": nn.Linear(3, 2), "head": nn.Linear(2, 1)}
            self.criterion = {"square": nn.MSELoss(), "absolute": nn.L1Loss()}
            self.optimizer = {k: torch.optim.SGD(m.parameters(), lr=0.1) for k, m in self.model.items()}

        def forward(self):
            return self.model["head"](self.model["encoder"](self.inputs))

    trainer = Two()
    before = {k: m.weight.clone() for k, m in trainer.model.items()}
    history = trainer.train()
    train = history[0]["train"]
    assert train["loss"] == pytest.approx(train["loss_square"] + train["loss_absolute"], rel=1e-6)
    assert history[0]["lr"] == {"encoder": 0.1, "head": 0.1}
    assert not any(torch.equal(before[k], m.weight) for k, m in trainer.model.items())
    assert next(trainer.predict(BATCHES[0])).shape == (2, 1)


@pytest.mark.parametrize(
    "config", [{"lr": 0.5}, SimpleNamespace(lr=0.5), type("C", (), {"lr": 0.5}), type("C", (), {"lr": 0.5})()]
)
def test_config_reaches_the_hooks(config):
    class Reads(Setup):
        def define_train_attr(self):
            self.rates = self.config.lr, self.config["lr"]

    assert Reads(config).rates == (0.5, 0.5)
