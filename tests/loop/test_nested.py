"""An evaluation, a prediction, a test or a search within a hook leaves the pass around it as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback
from farabio_like.callbacks import (
    EMA,
    Accuracy,
    ConfusionMatrix,
    LimitBatches,
    MetricCallback,
    Only,
    PrecisionRecallF1,
    TorchMetric,
    find_lr,
)
from tests.trainers import Tiny

torchmetrics = pytest.importorskip("torchmetrics")
F1 = torchmetrics.classification.MulticlassF1Score

GENERATOR = torch.Generator().manual_seed(3)
INPUTS, LABELS = torch.randn(40, 4, generator=GENERATOR), torch.arange(40) % 3
TRAIN = [(INPUTS[i : i + 4], LABELS[i : i + 4]) for i in range(0, 20, 4)]
VALID = [(INPUTS[20:27], LABELS[20:27]), (INPUTS[27:30], LABELS[27:30])]
NIGHT = [(5 * INPUTS[30:35], LABELS[30:35]), (INPUTS[35:], LABELS[35:])]


class Sum(Callback):
    """Sums the samples of the valid passes, as a callback of the user's may."""

    def __init__(self):
        self.samples, self.kept, self.total = 0, [], torch.zeros(())

    def on_evaluate_epoch_start(self, trainer):
        self.samples, self.kept = 0, []
        self.total.zero_()

    def on_evaluate_batch_end(self, trainer):
        self.samples += len(trainer.inputs)
        self.kept.append(len(trainer.inputs))
        self.total += len(trainer.inputs)

    def on_evaluate_epoch_end(self, trainer):
        trainer.loader_metrics["samples"] = self.samples + 100 * sum(self.kept) + 10000 * self.total.item()


class Outer(Tiny):
    """Does `inner` in the hook `where`, once per call of it that is not nested itself."""

    inner, where, busy = None, "", False

    def define_train_attr(self):
        self.metrics = {"tm": F1(3, average="macro")}
        self.callbacks = [
            *(
                Accuracy(),
                PrecisionRecallF1(prefix="p_"),
                TorchMetric("kappa", torchmetrics.CohenKappa("multiclass", num_classes=3)),
            ),
            *(Sum(), Only(ConfusionMatrix(), epochs=range(1, 9)), LimitBatches(valid=9)),
        ]

    def get_trainloader(self):
        self.train_loader, self.valid_loader = TRAIN, VALID

    def get_testloader(self):
        self.test_loader = NIGHT

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def compute_loss(self):
        loss = super().compute_loss()
        self.batch_metrics["of_valid" if self.loader_name != "train" else "of_train"] = self.inputs.mean()
        return loss

    def at(self, where):
        if where != self.where or self.busy:
            return
        self.busy = True
        names = ("batch", "inputs", "targets", "outputs", "loss", "loader_metrics", "batch_metrics", "_next_loop")
        before = {name: vars(self).get(name) for name in names}
        metrics = copy.deepcopy(self.batch_metrics), copy.deepcopy(self.loader_metrics)
        flags = [module.training for module in self.model.modules()]
        try:
            type(self).inner(self)
        except LookupError:
            pass
        after = {name: vars(self).get(name) for name in names}
        assert all(after[name] is before[name] for name in names), [n for n in names if after[n] is not before[n]]
        assert (self.batch_metrics, self.loader_metrics) == metrics
        assert flags == [module.training for module in self.model.modules()]
        self.busy = False

    def on_train_epoch_start(self):
        self.at("on_train_epoch_start")

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        self.at("on_start_training_batch")

    def training_step(self):
        self.optimizer_zero_grad()
        with self.autocast():
            self.loss = self.compute_loss()
            self.at("training_step")
        self.loss_backward()
        self.optimizer_step()

    def on_end_training_batch(self):
        self.batch_metrics["mine"] = float(len(self.inputs))
        self.at("on_end_training_batch")

    def on_train_epoch_end(self):
        self.at("on_train_epoch_end")

    def on_evaluate_epoch_start(self):
        self.at("on_evaluate_epoch_start")

    def on_evaluate_batch_start(self, item):
        super().on_evaluate_batch_start(item)
        self.at("on_evaluate_batch_start")

    def on_evaluate_batch_end(self):
        self.at("on_evaluate_batch_end")

    def on_evaluate_epoch_end(self):
        self.at("on_evaluate_epoch_end")

    def on_epoch_end(self):
        self.at("on_epoch_end")


class InCallback(Callback):
    def on_end_training_batch(self, trainer):
        trainer.at("callback batch")

    def on_evaluate_batch_end(self, trainer):
        trainer.at("callback valid")


def evaluate(trainer):
    trainer.evaluate_epoch()


def another_loader(trainer):
    trainer.evaluate_loader(NIGHT)


def a_single_batch(trainer):
    trainer.val_step(NIGHT[0])


def predict(trainer):
    list(trainer.predict(NIGHT))


def a_test(trainer):
    trainer.test()


def search(trainer):
    find_lr(trainer, num_steps=4)


def fail(trainer):
    def fails(item):
        raise LookupError

    trainer.evaluate_batch = fails
    try:
        trainer.evaluate_epoch()
    finally:
        del trainer.evaluate_batch


def twice(trainer):
    class Again(Callback):
        def on_evaluate_batch_end(self, trainer):
            if trainer.busy == 1:
                trainer.busy = 2
                trainer.evaluate_loader(NIGHT)
                trainer.busy = 1

    listeners = trainer._run_state.listeners
    trainer._run_state.listeners = {
        **listeners,
        "on_evaluate_batch_end": [*listeners["on_evaluate_batch_end"], lambda t: Again().on_evaluate_batch_end(t)],
    }
    try:
        trainer.evaluate_epoch()
    finally:
        trainer._run_state.listeners = listeners


TRAINING = ("on_train_epoch_start", "on_start_training_batch", "training_step", "on_end_training_batch")
HOOKS = (
    *(*TRAINING, "on_train_epoch_end", "on_evaluate_epoch_start", "on_evaluate_batch_start", "on_evaluate_batch_end"),
    *("on_evaluate_epoch_end", "on_epoch_end", "callback batch", "callback valid"),
)
INNER = (evaluate, another_loader, a_single_batch, predict, a_test, search, fail, twice)


def run(inner=None, where="", kind=Outer, **settings):
    class Own(kind):
        pass

    Own.inner, Own.where = inner, where
    trainer = Own({"_num_epochs": 2, **settings})
    trainer.callbacks.append(InCallback())
    trainer.train()
    return trainer


def histories(trainer):
    return [(entry["train"], entry["valid"], entry["lr"]) for entry in trainer.history]


@pytest.fixture(scope="module")
def plain():
    return run()


@pytest.mark.parametrize("where", HOOKS)
@pytest.mark.parametrize("inner", INNER, ids=lambda inner: inner.__name__)
def test_the_pass_around_is_as_it_was(inner, where, plain):
    if inner is search and where == "training_step":
        pytest.skip("a step within a step clears its gradients")
    trainer = run(inner, where)
    assert histories(trainer) == histories(plain)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    assert trainer.callbacks[3].samples == (0 if (inner, where) == (fail, "on_epoch_end") else 10)
    assert trainer.step == plain.step == 10
    assert trainer.callbacks[4].matrix.sum() == 10
    assert trainer.metrics["tm"].compute().item() == plain.metrics["tm"].compute().item()


SETTINGS = [
    {"_accumulation_steps": 3},
    {"_precision": "bf16"},
    {"_accumulation_steps": 2, "_precision": "bf16", "_clip_norm": 0.5},
    {"_on_nonfinite": "skip"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
@pytest.mark.parametrize("inner", [evaluate, predict, search], ids=lambda inner: inner.__name__)
@pytest.mark.parametrize("where", ["training_step", "on_end_training_batch"])
def test_with_windows_and_another_precision(inner, where, settings):
    if inner is search and where == "training_step":
        pytest.skip("a step within a step clears its gradients")
    plain, trainer = run(**settings), run(inner, where, **settings)
    assert histories(trainer) == histories(plain)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), trainer.model.parameters(), strict=True))


class Averaged(Outer):
    def define_train_attr(self):
        super().define_train_attr()
        self.callbacks = [*self.callbacks, EMA(0.5)]


@pytest.mark.parametrize("inner", [evaluate, another_loader, fail, twice, a_test], ids=lambda inner: inner.__name__)
@pytest.mark.parametrize("where", HOOKS)
def test_with_averaged_weights(inner, where):
    plain, trainer = run(kind=Averaged), run(inner, where, kind=Averaged)
    assert histories(trainer) == histories(plain)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), trainer.model.parameters(), strict=True))


def test_what_is_nested_is_measured_by_itself():
    found = []
    alone = run(_num_epochs=0)
    expected = alone.evaluate_loader(NIGHT)

    def both(trainer):
        found.append((trainer.evaluate_epoch(), trainer.evaluate_loader(NIGHT), trainer.test()))
        assert trainer.epoch_metrics.get("valid") == found[-1][0]

    run(both, "on_start_training_batch", _num_epochs=1)
    valid, night, tested = found[0]
    assert night == expected and tested["loss"] == expected["loss"] and tested["tm"] == expected["tm"]
    assert valid["samples"] == 10 + 1000 + 100000 and valid["loss"] != night["loss"]


def test_the_objects_that_a_hook_updates_itself():
    class Own(Outer):
        def compute_loss(self):
            loss = super().compute_loss()
            self.metrics["tm"].update(self.outputs, self.targets)
            self.outputs = None if self.metrics else self.outputs
            return loss

        def define_train_attr(self):
            super().define_train_attr()
            self.callbacks = []

    plain = run(kind=Own)
    for inner in (evaluate, another_loader, a_single_batch, search):
        assert histories(run(inner, "on_end_training_batch", Own)) == histories(plain)


def test_a_batch_that_is_to_be_skipped_is_the_one_around():
    class Skips(Outer):
        def on_evaluate_batch_start(self, item):
            self.take_batch(item)
            self._next_loop = item[0] == 0 and not self.busy
            self.at("on_evaluate_batch_start")

    plain = run(kind=Skips)
    assert plain.history[0]["valid"]["samples"] == 3 + 300 + 30000
    for inner in (predict, a_single_batch, another_loader, evaluate):
        assert histories(run(inner, "on_evaluate_batch_start", Skips)) == histories(plain)


def test_stopping_what_is_nested_stops_nothing_else():
    def stops(trainer):
        def one(item):
            type(trainer).evaluate_batch(trainer, item)
            trainer.stop_loader()

        trainer.evaluate_batch = one
        try:
            trainer.evaluate_epoch()
        finally:
            del trainer.evaluate_batch

    assert histories(run(stops, "on_end_training_batch")) == histories(run())

    class Leaves(Outer):
        def on_end_test_batch(self):
            self.exit_trainer()

    assert histories(run(a_test, "on_end_training_batch", Leaves)) == histories(run())
    assert histories(run(a_test, "on_epoch_end", Leaves, _monitor="loss")) == histories(run())


def test_workers_that_stay_read_on():
    class Workers(Outer):
        def get_trainloader(self):
            data = TensorDataset(INPUTS, LABELS)
            self.train_loader = DataLoader(data, 8, num_workers=1, persistent_workers=True)
            self.valid_loader = VALID

    def same_loader(trainer):
        trainer.evaluate_loader(trainer.train_loader)
        next(iter(trainer.predict(trainer.train_loader)))

    plain, trainer = run(kind=Workers, _num_epochs=1), run(same_loader, "on_end_training_batch", Workers, _num_epochs=1)
    assert histories(trainer) == histories(plain) and trainer.step == plain.step == 5


def test_a_record_that_hooks_add_to_stays():
    class Records(Outer):
        def define_train_attr(self):
            super().define_train_attr()
            self.seen, self.by_epoch = [], {}

        def on_evaluate_epoch_end(self):
            self.seen.append(self.epoch_metrics["valid"]["loss"])
            self.by_epoch[len(self.seen)] = self.epoch_metrics["valid"]["loss"]
            super().on_evaluate_epoch_end()

    trainer = run(another_loader, "on_evaluate_epoch_end", Records)
    assert len(trainer.seen) == len(trainer.by_epoch) == 4


def test_a_state_of_its_own_for_each_pass_within_another():
    class Inputs(MetricCallback):
        def update(self, state, prediction, target):
            state["sum"] = state.get("sum", 0.0) + prediction.shape[0]

        def compute(self, state):
            return {"count": state["sum"]}

    class Own(Outer):
        def define_train_attr(self):
            self.callbacks = [Inputs()]

    Own.at = lambda self, where: Outer.at(self, where)
    counts = []

    def note(trainer):
        counts.append(trainer.evaluate_loader(NIGHT)["count"])

    class Quiet(Own):
        def define_train_attr(self):
            super().define_train_attr()

    trainer = Quiet({"_num_epochs": 1})
    Quiet.inner, Quiet.where = note, "on_evaluate_batch_end"
    (entry,) = trainer.train()
    assert counts == [10, 10] and entry["valid"]["count"] == 10 and entry["train"]["count"] == 20
