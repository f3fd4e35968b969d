"""Mistakes: found before the first step, with what was got, what is expected, where, and the line to write."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from farabio_like import ConfigError, ConvnetTrainer, DataError, HookError

from ..trainers import INPUTS, TARGETS, Tiny


class Steps(Tiny):
    """Counts the steps that it takes."""

    taken = 0

    def on_end_training_batch(self):
        self.taken += 1


def refused(error, trainer, *words, steps=0):
    """Assert that training raises `error` with all of `words`, after so many steps."""
    with pytest.raises(error) as caught:
        trainer.train()
    assert_words(caught, words)
    assert getattr(trainer, "taken", 0) == steps
    return str(caught.value)


def assert_words(caught, words):
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---------------------------------------------------------------- hooks


class Bare(ConvnetTrainer):
    def define_log_attr(self):
        self._logdir, self._verbose = None, False


def test_no_build_model():
    with pytest.raises(HookError) as caught:
        Bare()
    assert_words(caught, ["Bare does not override build_model", "self.model = MyNetwork()", "self.optimizer"])


def test_no_get_trainloader():
    class NoLoader(Bare):
        build_model = Tiny.build_model

    refused(HookError, NoLoader(), "NoLoader does not override get_trainloader", "self.train_loader = DataLoader(")


def test_no_get_testloader():
    class NoTest(Tiny):
        def get_testloader(self):
            pass

    with pytest.raises(HookError) as caught:
        NoTest().test()
    assert_words(caught, ["NoTest has no test loader", "self.test_loader = DataLoader("])


def test_no_valid_loader_when_evaluation_is_called():
    trainer = Tiny()
    trainer.valid_loader = None
    with pytest.raises(HookError, match=r"no valid loader. Set self.valid_loader in get_trainloader\(self\)"):
        trainer.evaluate_epoch()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet18", ["a str in self.model", "expected a torch.nn.Module"]),
        (nn.Linear, ["a type in self.model"]),
        ([nn.Linear(1, 1)], ["a list in self.model"]),
        ({"head": nn.Linear(1, 1), "encoder": 5}, ["a int in self.model['encoder']"]),
    ],
    ids=["name", "class", "list", "dict"],
)
@pytest.mark.parametrize("settings", [{}, {"_data_parallel": True}], ids=["one device", "data parallel"])
def test_a_model_that_is_no_module(model, words, settings):
    class NoModule(Tiny):
        def build_model(self):
            self.model = model

    with pytest.raises(HookError) as caught:
        NoModule(settings)
    assert_words(caught, ["NoModule.build_model left", "self.model = MyNetwork()", *words])


def test_no_criterion_and_no_optimizer():
    without_criterion, without_optimizer = Steps(), Steps()
    without_criterion.criterion = without_optimizer.optimizer = None
    refused(HookError, without_criterion, "no self.criterion", "self.criterion = torch.nn.CrossEntropyLoss()")
    refused(HookError, without_optimizer, "no self.optimizer", "self.optimizer = torch.optim.Adam(")


def test_an_own_step_needs_neither():
    class Own(Steps):
        def build_model(self):
            self.model = nn.Linear(3, 1)

        def training_step(self):
            self.loss = self.model(self.inputs).mean()

        def evaluate_batch(self, item):
            self.loss = self.model(self.inputs).mean()

    trainer = Own()
    trainer.train()
    assert trainer.taken == 6


def test_an_own_optimizer_step_needs_no_optimizer():
    class ByHand(Steps):
        def build_model(self):
            super().build_model()
            self.optimizer = None

        def optimizer_step(self):
            for parameter in self.model.parameters():
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None

    by_hand, plain = ByHand(), Steps()
    assert by_hand.train()[-1]["valid"] == plain.train()[-1]["valid"]


def test_several_models_without_a_forward():
    class Two(Steps):
        def build_model(self):
            super().build_model()
            self.model = {"encoder": nn.Linear(3, 3), "head": self.model}

    refused(
        HookError, Two(), "['encoder', 'head']", "def forward(self): return self.model['head'](self.model['encoder']"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_epoc_end", "on_epoch_end"),
        ("on_train_epoch_begin", "on_train_epoch_start"),
        ("on_training_epoch_start", "on_train_epoch_start"),
        ("on_evaluation_epoch_start", "on_evaluate_epoch_start"),
        ("on_start_train_batch", "on_start_training_batch"),
        ("trainning_step", "training_step"),
        ("computeloss", "compute_loss"),
        ("get_train_loader", "get_trainloader"),
        ("buildmodel", "build_model"),
        ("define_training_attr", "define_train_attr"),
    ],
)
def test_a_misspelt_hook(name, meant):
    with pytest.warns(UserWarning) as caught:
        type("Misspelt", (Tiny,), {name: lambda self: None})
    assert str(caught[0].message) == f"Misspelt.{name} is no hook, nothing calls it. Did you mean '{meant}'?"
    assert caught[0].filename == __file__


def test_methods_of_ones_own_are_no_mistakes():
    class Own(Tiny):
        def on_button(self):
            pass

        def plot_curves(self):
            pass

        def train_discriminator(self):
            pass

        def test_steps(self):
            """Nearly a hook, but called by the class itself."""

        def on_test_end(self):
            self.test_steps()

        def _on_epoch_ends(self):
            pass

    Own().test()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("_num_epoch", "_num_epochs"), ("_eval_intervall", "_eval_interval"), ("_log_dir", "_logdir")],
)
@pytest.mark.parametrize("how", ["in a hook", "on the class"])
def test_a_misspelt_setting(name, meant, how):
    class Misspelt(Tiny):
        def define_train_attr(self):
            if how == "in a hook":
                setattr(self, name, 5)

    if how == "on the class":
        setattr(Misspelt, name, 5)
    with pytest.warns(UserWarning) as caught:
        Misspelt()
    assert str(caught[0].message) == f"Misspelt sets {name}, which is no setting. Did you mean '{meant}'?"
    assert caught[0].filename == __file__


def test_a_setting_of_ones_own_that_is_read_is_no_mistake():
    class Own(Tiny):
        def define_train_attr(self):
            self._num_epoch = 3

        def on_train_start(self):
            self.seen = self._num_epoch

    trainer = Own()
    trainer.train()
    assert trainer.seen == 3


WRONG = {
    "on_start_training_batch": lambda self: None,
    "evaluate_batch": lambda self: None,
    "test_step": lambda self, batch, index: None,
    "on_epoch_end": lambda self, epoch: None,
    "on_train_epoch_start": lambda: None,
    "training_step": lambda self, batch: None,
    "compute_loss": lambda self, outputs, targets: None,
    "define_train_attr": lambda self, needed: None,
    "build_model": lambda self, needed: None,
    "get_trainloader": 5,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_hook_with_a_wrong_signature_is_an_error_at_construction(name):
    class Wrong(Tiny):
        pass

    setattr(Wrong, name, WRONG[name])
    with pytest.raises(HookError) as caught:
        Wrong()
    assert_words(caught, [f"Wrong.{name}", f"def {name}(self"])


def test_hooks_may_take_anything_besides_what_they_are_given():
    class Free(Tiny):
        def define_train_attr(self, *args, **kwargs):
            pass

        def on_epoch_end(self, extra=None):
            pass

        def on_start_training_batch(self, something):
            self.take_batch(something)

        @staticmethod
        def on_train_start():
            pass

        def evaluate_batch(self, *args):
            assert len(args) == 1

    Free().train()


# ---------------------------------------------------------------- loaders


def test_a_train_loader_that_is_none():
    trainer = Steps()
    trainer.train_loader = None
    refused(ConfigError, trainer, "Steps.get_trainloader left self.train_loader None", "DataLoader")


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_loaders_without_a_batch(name):
    few = TensorDataset(INPUTS[:3], TARGETS[:3])
    for loader, words in (
        (DataLoader(few, batch_size=4, drop_last=True), ["3 samples", "batch_size=4", "drop_last=True"]),
        (DataLoader(Subset(few, []), batch_size=4), ["0 samples"]),
        ([], ["It is a list"]),
    ):
        trainer = Steps()
        setattr(trainer, f"{name}_loader", loader)
        refused(DataError, trainer, f"self.{name}_loader gives no batch", *words, "drop_last=False")


def test_a_stream_without_a_batch_is_found_when_it_is_read():
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    trainer = Steps()
    trainer.train_loader = DataLoader(Nothing())
    refused(DataError, trainer, "the train loader gave no batch")


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_generator_for_several_epochs(name):
    trainer = Steps({"_num_epochs": 2})
    setattr(trainer, f"{name}_loader", ((x, y) for x, y in [(INPUTS, TARGETS)]))
    refused(DataError, trainer, f"self.{name}_loader is a generator", "read only once", "2 epochs", "__iter__")


def test_a_generator_for_one_pass_is_fine():
    trainer = Steps({"_num_epochs": 1})
    trainer.train_loader = ((x, y) for x, y in [(INPUTS, TARGETS)])
    trainer.valid_loader = zip([INPUTS], [TARGETS], strict=True)
    trainer.test_loader = map(tuple, [(INPUTS, TARGETS)])
    assert len(trainer.train()) == 1
    assert trainer.test()["loss"] > 0
    several = Steps({"_num_epochs": 2})
    several.test_loader = iter([(INPUTS, TARGETS)])
    several.test_loader = (pair for pair in several.test_loader)
    several.train()
    assert several.test()["loss"] > 0


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("name", ["_num_epochs", "_start_epoch", "_eval_interval", "_save_epoch"])
@pytest.mark.parametrize("value", [-1, 2.0, 1.5, "3", None, True, [1]], ids=repr)
def test_numbers_of_epochs_and_intervals(name, value):
    with pytest.raises(ConfigError) as caught:
        Tiny({name: value})
    assert_words(caught, ["Tiny", name, repr(value), "expected a whole number", f"self.{name} = "])
    trainer = Steps()
    setattr(trainer, name, value)
    refused(ConfigError, trainer, name)


@pytest.mark.parametrize("name", ["_eval_interval", "_save_epoch"])
def test_an_interval_of_zero(name):
    with pytest.raises(ConfigError, match=rf"{name} is 0; expected a whole number, 1 or more"):
        Tiny({name: 0})


def test_zero_epochs_and_whole_numbers_of_other_kinds_are_fine():
    done = []
    trainer = Steps({"_num_epochs": 0})
    trainer.on_train_start = lambda: done.append("start")
    trainer.on_train_end = lambda: done.append("end")
    assert trainer.train() == [] and done == ["start", "end"] and trainer.taken == 0
    assert len(Steps({"_num_epochs": torch.tensor(2)}).train()) == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("_use_tqdm", "yes", ["'yes'", "(None, True, False)"]),
        ("_monitor_mode", "lowest", ["'lowest'", "'min', 'max'"]),
        ("_monitor", 3, ["3", "the name of a metric"]),
        ("_logdir", 5, ["5", "expected a path, or None"]),
        ("_logdir", False, ["False", "expected a path, or None"]),
        ("_device", "gpu", ["'gpu'", "'auto', 'cpu', 'cuda'"]),
        ("_device", 1.5, ["1.5", "'auto'"]),
        ("_data_parallel", "all", ["'all'", "[0, 1] say"]),
        ("_data_parallel", [True], ["[True]"]),
        ("_data_parallel", [99], ["[99]", "CUDA devices"]),
        ("_on_nonfinite", "ignore", ["'ignore'", "'raise'"]),
    ],
)
def test_other_settings(name, value, words):
    with pytest.raises(ConfigError) as caught:
        Tiny({name: value})
    assert_words(caught, [name, *words])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match="'cuda', but torch sees no CUDA device. Write _device = 'auto'"):
        Tiny({"_device": "cuda"})


def test_a_monitored_metric_that_does_not_exist():
    class Monitoring(Steps):
        def compute_loss(self):
            self.batch_metrics["accuracy"] = 0.5
            return super().compute_loss()

    trainer = Monitoring({"_monitor": "acuracy"})
    words = ["_monitor is 'acuracy'", "epoch 1", "Did you mean 'accuracy'?", "There are: ", "loss"]
    refused(ConfigError, trainer, *words, steps=3)
    fine = Monitoring({"_monitor": "accuracy", "_eval_interval": 2, "_num_epochs": 2})
    assert len(fine.train()) == 2


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        *[
            (name, True)
            for name in ("accuracy", "val_acc", "AUC", "dice", "mean_iou", "f1", "F1-macro", "psnr", "top5_accuracy")
        ],
        *[(name, False) for name in ("loss", "mse", "perplexity", "error")],
        *[
            (name, False)
            for name in ("loss_layer2", "previous_error", "indices_error", "acceleration_rmse", "dice_loss")
        ],
        *[(name, True) for name in ("accuracy01", "accuracy_top3", "R2")],
    ],
)
def test_which_epoch_is_best_by_a_metrics_name(name, higher):
    class Named(Tiny):
        def evaluate_batch(self, item):
            self.batch_metrics[name] = float(self.epoch)

    trainer = Named({"_monitor": name, "_num_epochs": 3, "_logdir": "runs"})
    trainer.train()
    read = [line for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines() if '"best": true' in line]
    assert len(read) == (3 if higher else 1)


def test_a_missing_key_of_the_configuration_names_the_closest():
    class Reading(Tiny):
        def build_model(self):
            super().build_model()
            self.optimizer.param_groups[0]["lr"] = self.config.learning_rate

    with pytest.raises(ConfigError) as caught:
        Reading({"learningrate": 0.1})
    assert_words(caught, ["no key 'learning_rate'", "Did you mean 'learningrate'?"])


def test_an_attribute_that_does_not_exist():
    with pytest.raises(AttributeError, match="'Tiny' object has no attribute 'modle'"):
        Tiny().modle  # noqa: B018
    with pytest.raises(AttributeError, match="Tiny has no inputs: no batch is under way"):
        Tiny().inputs  # noqa: B018


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda t: (t.outputs - t.targets) ** 2, "a tensor of shape (4, 1)"),
        (
            lambda t: ((t.outputs - t.targets) ** 2).mean().detach(),
            "a tensor without a gradient (2 of 2 parameters are",
        ),
        (lambda t: ((t.outputs - t.targets) ** 2).mean().item(), "a float"),
        (lambda t: None, "None"),
        (lambda t: {"loss": t.outputs.mean()}, "a dict, {'loss': float32 ()}"),
        (lambda t: (t.outputs.mean(), t.outputs), "a tuple, (float32 (), float32 (4, 1));"),
        (lambda t: torch.zeros(0, requires_grad=True), "a tensor of shape (0,)"),
    ],
    ids=["vector", "no gradient", "float", "None", "dict", "tuple", "empty"],
)
def test_a_loss_that_cannot_be_minimised(loss, found):
    class Losing(Steps):
        def compute_loss(self):
            self.outputs = self.model(self.inputs)
            return loss(self)

    words = ["Losing.compute_loss returned", found, "expected a tensor with one element", "return self.criterion("]
    refused(HookError, Losing(), *words)


def test_a_frozen_model_is_counted():
    trainer = Steps()
    trainer.model.requires_grad_(False)
    refused(HookError, trainer, "without a gradient (0 of 2 parameters are trainable)")


def test_an_error_of_the_backward_pass_that_has_nothing_to_do_with_the_loss_comes_out_unchanged():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            raise RuntimeError("of the user's backward")

    class Own(Steps):
        def forward(self):
            return Failing.apply(self.model(self.inputs))

    with pytest.raises(RuntimeError, match="of the user's backward") as caught:
        Own().train()
    assert caught.type is RuntimeError


def test_a_batch_without_targets_needs_a_loss_of_its_own():
    trainer = Steps()
    trainer.train_loader = [INPUTS]
    refused(HookError, trainer, "compute_loss: self.targets is None", "Override compute_loss")


def test_a_loss_of_one_element_in_brackets_is_fine():
    class Bracketed(Steps):
        def compute_loss(self):
            return super().compute_loss().reshape(1)

    assert Bracketed().train()[0]["train"]["loss"] > 0


# ---------------------------------------------------------------- optimizers


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize(("loader", "found"), [(42, "42"), (DataLoader, "DataLoader"), ("train.csv", "'train.csv'")])
def test_a_loader_that_cannot_be_read(part, loader, found):
    trainer = Steps()
    setattr(trainer, f"{part}_loader", loader)
    refused(
        DataError, trainer, f"self.{part}_loader is", found, "expected an iterable of batches", "DataLoader(dataset"
    )


@pytest.mark.parametrize("several", [False, True])
def test_something_that_is_no_optimizer(several):
    trainer = Steps()
    trainer.optimizer = {"main": trainer.optimizer.step} if several else trainer.optimizer.step
    where = "self.optimizer['main']" if several else "self.optimizer;"
    refused(HookError, trainer, "Steps.build_model left <", where, "expected a torch.optim.Optimizer")


def test_an_optimizer_of_another_model():
    class Rebuilt(Steps):
        def build_model(self):
            super().build_model()
            self.model = nn.Linear(3, 1)

    refused(ConfigError, Rebuilt(), "none of the 2 parameters of self.optimizer", "the run would train nothing")


def test_one_of_several_optimizers_of_another_model():
    class Rebuilt(Steps):
        def build_model(self):
            super().build_model()
            other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
            self.optimizer = {"own": self.optimizer, "other": other}

    refused(ConfigError, Rebuilt(), "none of the 2 parameters of self.optimizer['other']")


def test_parameters_that_no_optimizer_has():
    class Half(Steps):
        def build_model(self):
            super().build_model()
            self.model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(1, 1), nn.Linear(1, 1))
            self.optimizer = torch.optim.SGD(self.model[0].parameters(), lr=0.1)

    with pytest.warns(UserWarning) as caught:
        Half().train()
    message = str(caught[0].message)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "6 trainable parameters are in no optimizer" in message
    assert "1.weight, 1.bias, 2.weight, 2.bias, 3.weight, ..." in message
    assert "requires_grad_(False)" in message


def test_frozen_parameters_and_several_optimizers_are_no_mistakes():
    class Careful(Steps):
        def build_model(self):
            super().build_model()
            self.model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1))
            parts = {"first": self.model[0], "last": self.model[2]}
            self.optimizer = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in parts.items()}

    trainer = Careful()
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train()
    changed = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert changed == [True, True, False, False, True, True]


# ---------------------------------------------------------------- batches


class Keyed(Steps):
    def get_trainloader(self):
        self.train_loader = [{"image": INPUTS, "label": TARGETS}]


def test_a_batch_with_other_keys_lists_them():
    words = ["Keyed: self.inputs cannot be taken from the batch, a dict with the keys ['image', 'label']"]
    refused(DataError, Keyed(), *words, "'inputs' and 'targets'", "on_start_training_batch(self, item)")


def test_a_batch_of_three_lists_what_it_has():
    trainer = Steps()
    trainer.train_loader = [(INPUTS, TARGETS, ["name"] * 10)]
    refused(DataError, trainer, "self.inputs cannot be taken from the batch, a tuple of 3: Tensor, Tensor, list")


def test_a_hook_that_reads_the_keys_makes_it_right():
    class Right(Keyed):
        def on_start_training_batch(self, item):
            super().on_start_training_batch(item)
            self.inputs, self.targets = self.batch["image"], self.batch["label"]

    trainer = Right({"_has_eval": False})
    trainer.train()
    assert trainer.taken == 2


def test_batch_norm_and_a_last_batch_of_one_are_announced():
    class Normalised(Steps):
        def build_model(self):
            super().build_model()
            self.model = nn.Sequential(nn.BatchNorm1d(3), self.model)
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    samples = TensorDataset(INPUTS[:9], TARGETS[:9])
    trainer = Normalised()
    trainer.train_loader = DataLoader(samples, batch_size=4)
    with pytest.warns(
        UserWarning, match=r"last train batch has one sample \(9 samples, batch_size=4\).*drop_last=True"
    ) as caught:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            trainer.train()
    assert caught[0].filename == __file__
    drawn = Normalised()
    drawn.train_loader = DataLoader(samples, batch_size=4, sampler=WeightedRandomSampler([1.0] * 9, 5))
    with pytest.warns(UserWarning, match=r"last train batch has one sample \(5 samples"), pytest.raises(ValueError):
        drawn.train()
    for fine in (
        DataLoader(samples, batch_size=4, drop_last=True),
        DataLoader(samples, batch_size=5),
        DataLoader(samples, batch_size=4, sampler=WeightedRandomSampler([1.0] * 9, 8)),
        DataLoader(samples, batch_sampler=[[0, 1], [2, 3]]),
        [(INPUTS, TARGETS)],
    ):
        trainer = Normalised()
        trainer.train_loader = fine
        trainer.train()
    plain = Steps()
    plain.train_loader = DataLoader(samples, batch_size=4)
    plain.train()
    assert plain.taken == 6


# ---------------------------------------------------------------- errors of the user's own


class OwnError(Exception):
    pass


def fails(*_):
    raise OwnError("mine")


class FailingDataset(TensorDataset):
    def __getitem__(self, index):
        return fails() if index == 5 else super().__getitem__(index)


@pytest.mark.parametrize(
    "loader",
    [
        lambda data: DataLoader(FailingDataset(*data.tensors), batch_size=4),
        lambda data: DataLoader(data, batch_size=4, collate_fn=fails),
        lambda data: DataLoader(data, batch_size=4, sampler=itertools.chain([1, 2, 3, 4], map(fails, [0]))),
        lambda data: itertools.chain([data[:4]], map(fails, [0])),
    ],
    ids=["dataset", "collate_fn", "sampler", "own loader"],
)
def test_an_exception_of_the_users_data_comes_out_unchanged(loader):
    trainer = Steps({"_num_epochs": 1})
    trainer.train_loader = loader(TensorDataset(INPUTS, TARGETS))
    ended = []
    trainer.on_train_end = lambda: ended.append(True)
    with pytest.raises(OwnError) as caught:
        trainer.train()
    assert str(caught.value) == "mine"
    assert caught.traceback[-1].name == "fails" and caught.value.__cause__ is None
    assert ended == [True] and trainer.taken <= 1


@pytest.mark.parametrize(
    "hook",
    ["forward", "compute_loss", "loss_backward", "optimizer_step", "optimizer_zero_grad", "batch_size_of", "to_device"],
)
def test_an_exception_in_a_native_method_comes_out_unchanged(hook):
    trainer = type("Failing", (Tiny,), {hook: lambda self, *args: fails()})()
    with pytest.raises(OwnError) as caught:
        trainer.train()
    assert str(caught.value) == "mine"
    assert caught.traceback[-1].name == "fails" and caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["model", "criterion", "metric"])
def test_an_exception_in_a_part_comes_out_unchanged(kind):
    class Module(nn.Linear):
        forward = fails

    class Metric:
        update = fails

        def compute(self):
            return 0.0

        def reset(self):
            pass

    trainer = Tiny()
    if kind == "model":
        trainer.model = Module(3, 1)
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    elif kind == "criterion":
        trainer.criterion = fails
    else:
        trainer.metrics = Metric()
    with pytest.raises(OwnError) as caught:
        trainer.train()
    assert str(caught.value) == "mine"
