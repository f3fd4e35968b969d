"""The watched metric: which part it is of, epochs without evaluation, direction, NaN, messages."""

import math
import re
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from farabio_like import Callback, ConfigError, Stage
from farabio_like.callbacks import (
    Accuracy,
    Checkpoint,
    EarlyStopping,
    MetricCallback,
    Only,
    PeriodicEvaluation,
    TorchMetric,
    on_evaluate_epoch_end,
)
from farabio_like.metrics.direction import higher_by_name
from farabio_like.rundir import reader
from farabio_like.training.monitor import Monitor
from tests.callbacks.scripted import scripted
from tests.trainers import INPUTS, Tiny

torchmetrics = pytest.importorskip("torchmetrics")
MetricCollection = torchmetrics.MetricCollection
MulticlassAccuracy = torchmetrics.classification.MulticlassAccuracy
MulticlassCalibrationError = torchmetrics.classification.MulticlassCalibrationError


class Reader(Callback):
    def __init__(self, *names):
        self.monitors = [Monitor(name) for name in names]
        self.values = []

    def on_epoch_end(self, trainer):
        self.values.append([monitor.read(trainer) for monitor in self.monitors])


def test_plain_name_is_the_valid_one_and_a_prefix_says_which():
    reader = Reader("accuracy", "valid/accuracy", "loss", "train/loss", "valid/loss")
    history = scripted([0.25, 0.5], reader).train()
    for entry, value, values in zip(history, [0.25, 0.5], reader.values, strict=True):
        train, valid = entry["train"]["loss"], entry["valid"]["loss"]
        assert train != valid
        assert values == [value, value, valid, train, valid]


def test_without_evaluation_it_is_the_one_of_training():
    reader = Reader("loss")
    history = scripted([0.0, 0.0], reader, _has_eval=False).train()
    assert reader.values == [[entry["train"]["loss"]] for entry in history]


def test_without_valid_loader_the_interval_does_not_matter():
    reader = Reader("loss")
    trainer = scripted([0.0, 0.0], reader, _eval_interval=2)
    trainer.valid_loader = None
    trainer.train()
    assert None not in [value for [value] in reader.values]


def test_epochs_without_evaluation_are_skipped():
    reader = Reader("accuracy", "loss", "valid/loss", "train/loss")
    history = scripted([0.1, 0.2, 0.3, 0.4], reader, _eval_interval=2).train()
    assert [values[:3] == [None] * 3 for values in reader.values] == [True, False, True, False]
    assert [values[0] for values in reader.values] == [None, 0.2, None, 0.4]
    assert [values[3] for values in reader.values] == [entry["train"]["loss"] for entry in history]


def test_evaluation_that_was_left_early_counts_for_nothing():
    class Leaves(Callback):
        def on_evaluate_batch_end(self, trainer):
            trainer.exit_trainer()

    reader = Reader("accuracy", "valid/loss")
    scripted([0.1], Leaves(), reader).train()
    assert reader.values == [[None, None]]


def test_metric_that_appeared_once_may_be_missing_later():
    class Sometimes(Tiny):
        def on_evaluate_epoch_end(self):
            if self._epoch != 2:
                self.loader_metrics["extra"] = float(self._epoch)

    reader = Reader("valid/extra")
    trainer = Sometimes({"_num_epochs": 3})
    trainer.callbacks = [reader]
    trainer.train()
    assert reader.values == [[1.0], [None], [3.0]]


@pytest.mark.parametrize("name", ["acuracy", "valid/acuracy"])
def test_unknown_metric_names_those_there_are(name):
    guess = "valid/accuracy" if "/" in name else "accuracy"
    with pytest.raises(ConfigError) as error:
        scripted([0.5], Reader(name)).train()
    assert str(error.value) == (
        f"monitor is {name!r}, but no such metric was recorded in epoch 1. Did you mean '{guess}'? "
        "There are: train/loss, valid/loss, valid/accuracy."
    )


def test_unknown_metric_is_an_error_at_the_first_evaluation_not_before():
    trainer = scripted([0.5] * 4, Reader("acuracy"), _eval_interval=3)
    with pytest.raises(ConfigError, match="no such metric"):
        trainer.train()
    assert trainer.epoch == 3


def test_metric_of_several_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"'accuracy', which is \[0.1, 0.2\]; expected .* a single number"):
        scripted([[0.1, 0.2]], Reader("accuracy")).train()


@pytest.mark.parametrize(
    ("name", "mode", "higher"),
    [
        *[
            ("accuracy", None, True),
            ("valid/accuracy", None, True),
            ("train/loss", None, False),
            ("dice_loss", None, False),
        ],
        *[
            ("acceleration_rmse", None, False),
            ("f1_macro", None, True),
            ("loss", "max", True),
            ("accuracy", "min", False),
        ],
    ],
)
def test_direction_is_by_whole_words_of_the_name(name, mode, higher):
    monitor = Monitor(name, mode)
    assert monitor.higher is higher
    assert monitor.better(2.0, 1.0) is higher
    assert monitor.better(1.0, 2.0) is not higher


def test_nan_never_improves_and_a_small_change_neither():
    monitor = Monitor("loss", min_delta=0.25)
    assert not monitor.better(math.nan, None)
    assert not monitor.better(math.nan, 1.0)
    assert monitor.better(1.0, None)
    assert not monitor.better(0.75, 1.0)
    assert monitor.better(0.5, 1.0)


@pytest.mark.parametrize(
    "arguments", [("",), (None,), ("loss", "up"), ("loss", None, -1), ("loss", None, math.nan), ("loss", None, "1")]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigError, match="expected"):
        Monitor(*arguments)


# ---------------------------------------------------------------- one rule for all who watch


class Falls(Tiny):
    """Gives the train loss 1 in every epoch, and the valid losses of its configuration where it evaluates."""

    def training_step(self):
        super().training_step()
        self.batch_metrics["loss"] = 1.0

    def evaluate_batch(self, item):
        self.batch_metrics["loss"] = self.values[self._epoch - 1]


class Seen(lr_scheduler.ReduceLROnPlateau):
    def __init__(self, optimizer, **options):
        super().__init__(optimizer, **options)
        self.seen = []

    def step(self, metrics, *more):
        self.seen.append(float(metrics))
        super().step(metrics, *more)


def falls(values, kind=Falls, **settings):
    trainer = kind({"values": values, "_num_epochs": len(values), **settings})
    trainer.scheduler = Seen(trainer.optimizer, patience=0)
    trainer.callbacks = [EarlyStopping(patience=2)]
    return trainer


def test_between_evaluations_nobody_is_given_the_train_loss():
    trainer = falls([9.0, 8.0, 9.0, 7.0, 9.0, 6.0], _eval_interval=2, _logdir="runs")
    history = trainer.train()
    assert trainer.scheduler.seen == [8.0, 7.0, 6.0] and {entry["lr"] for entry in history} == {0.1}
    assert trainer.callbacks[0].best == 6.0 and trainer._run_state.best == ("valid", "loss", 6.0, 6, None)


def test_a_metric_of_another_evaluation_is_no_evaluation_of_the_loss():
    trainer = falls([9.0, 8.0, 9.0, 7.0], _eval_interval=2)
    trainer.callbacks.append(PeriodicEvaluation(trainer.valid_loader, "night", every_epochs=1))
    trainer.train()
    assert trainer.scheduler.seen == [8.0, 7.0]


def test_evaluations_by_hand_in_some_epochs():
    class ByHand(Falls):
        def on_train_epoch_end(self):
            if self._epoch % 3 == 1:
                self.evaluate_epoch()

    trainer = falls([5.0, 9.0, 9.0, 4.0, 9.0], ByHand, _has_eval=False)
    trainer.train()
    assert trainer.scheduler.seen == [5.0, 4.0] and trainer._run_state.best[2:4] == (4.0, 4)


def test_after_a_resume_between_two_evaluations():
    first = falls([8.0, 7.0, 9.0, 6.0], _eval_interval=2, _logdir="runs", _save_epoch=1)
    first._num_epochs = 3
    first.train()
    second = falls([8.0, 7.0, 9.0, 6.0, 9.0, 5.0], _eval_interval=2, _logdir="runs", _save_epoch=1)
    second.train(resume=first.run_dir)
    assert second.scheduler.seen == [7.0, 6.0, 5.0]  # the first one from the file


def test_each_stage_says_anew_of_which_loader_the_metric_is():
    stages = [Stage("with", 2), Stage("without", 2, has_eval=False)]
    trainer = falls([5.0, 4.0, 9.0, 9.0], _stages=stages, _logdir="runs")
    trainer.callbacks = []
    trainer.train()
    assert trainer.scheduler.seen == [5.0, 4.0, 1.0, 1.0] and trainer._run_state.best[:4] == ("train", "loss", 1.0, 3)


def test_an_evaluation_that_was_left_counts_for_no_one():
    class Leaves(Falls):
        def on_evaluate_batch_end(self):
            if self._epoch == 2:
                self.exit_trainer()

    trainer = falls([9.0, 1.0, 1.0], Leaves, _logdir="runs")
    trainer.train()
    assert trainer.scheduler.seen == [9.0] and trainer._run_state.best.epoch == 1


@pytest.mark.parametrize("name", ["valid/accuracy", "accuracy"])
def test_the_setting_names_the_part_as_callbacks_do(name, capsys):
    values = [0.1, 0.3, 0.2]
    stopping = EarlyStopping(name)
    trainer = scripted(values, stopping, Checkpoint(name, top_k=1), _monitor=name, _logdir="runs", _verbose=True)
    trainer.train()
    assert trainer._run_state.best == ("valid", "accuracy", 0.3, 2, None) and stopping.best == 0.3
    assert torch.load(trainer.run_dir / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 2
    assert [path.name.split("-")[1] for path in trainer.callbacks[1].files] == ["0002"]
    assert "best (*) valid accuracy 0.3000 in epoch 2" in capsys.readouterr().out
    assert reader.read(trainer.run_dir).best("accuracy") == ("valid", 0.3, 2)


def test_the_setting_may_name_the_train_loader():
    trainer = falls([3.0, 2.0, 1.0], _monitor="train/loss", _logdir="runs")
    trainer.train()
    assert trainer.scheduler.seen == [1.0] * 3 and trainer._run_state.best[:4] == ("train", "loss", 1.0, 1)


def test_another_metric_is_not_compared_with_the_best_of_the_one_before():
    trainer = scripted([0.5, 0.25], _logdir="runs")
    trainer.train()
    trainer._monitor = "accuracy"
    trainer.script = [0, 0, 0.125, 0.0625]
    trainer.train()
    assert trainer._run_state.best == ("valid", "accuracy", 0.125, 3, None)


# ---------------------------------------------------------------- the direction


def objects(kind=Tiny, **settings):
    """Return a trainer of three classes with torchmetrics objects."""

    class Classes(kind):
        def get_trainloader(self):
            batch = INPUTS, torch.arange(10) % 3
            self.train_loader = self.valid_loader = [batch]

        def build_model(self):
            self.model = torch.nn.Linear(3, 3)
            self.criterion = torch.nn.CrossEntropyLoss()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    return Classes(settings)


def collection():
    return MetricCollection([MulticlassAccuracy(3, average="micro"), MulticlassCalibrationError(3)], prefix="x/")


@pytest.mark.parametrize(
    ("metrics", "name", "higher"),
    [
        (lambda: MulticlassAccuracy(3), "metric", True),
        (lambda: {"quality": MulticlassAccuracy(3)}, "quality", True),
        (lambda: {"accuracy": MulticlassCalibrationError(3)}, "accuracy", False),  # the object knows better
        (lambda: {"both": collection()}, "x/MulticlassAccuracy", True),
        (collection, "valid/x/MulticlassCalibrationError", False),
    ],
)
def test_metric_objects_say_their_direction(metrics, name, higher):
    trainer = objects(_monitor=name, _logdir="runs")
    trainer.metrics = metrics()
    trainer.callbacks = [EarlyStopping(name, patience=9)]
    trainer.train()
    assert trainer.callbacks[0].monitor.higher is higher
    values = [entry["valid"][name.removeprefix("valid/")] for entry in trainer.history]
    assert trainer._run_state.best.value == (max if higher else min)(values)
    assert reader.read(trainer.run_dir).best(name.removeprefix("valid/"))[1] == (max if higher else min)(values)


def test_metric_objects_that_a_hook_makes():
    class Late(Tiny):
        def on_train_start(self):
            self.metrics = {"quality": MulticlassAccuracy(3)}

    trainer = objects(Late, _monitor="quality")
    assert len(trainer.train()) == 2
    trainer = objects(Late, _monitor="bias")
    with pytest.raises(ConfigError, match="nothing tells whether"):
        trainer.train()
    assert trainer.step == 0


def test_callbacks_say_the_direction_of_what_they_measure():
    class Own(MetricCallback):
        def announces(self):
            return {"odd": True}

        def update(self, state, prediction, target):
            state["odd"] = 1.0

        def compute(self, state):
            return {"odd": state["odd"]}

    trainer = objects(_monitor="kind_MulticlassAccuracy")
    trainer.callbacks = [
        TorchMetric("kind", MetricCollection([MulticlassAccuracy(3)])),
        *(TorchMetric("level", MulticlassCalibrationError(3)), Own(), EarlyStopping("level"), Checkpoint("odd")),
    ]
    trainer._logdir = "runs"
    trainer.train()
    assert trainer.callbacks[3].monitor.higher is False and trainer.callbacks[4].monitor.higher is True


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        *[
            (name, True)
            for name in ("MulticlassAccuracy", "BinaryF1Score", "mIoU", "valAcc", "mAP_50", "R2Score", "dice3d")
        ],
        *[(name, False) for name in ("MeanSquaredError", "KLDivergence", "diceLoss", "WordErrorRate", "val_mae")],
        *[(name, None) for name in ("bias", "neg_mean_squared_error", "acceleration", "lost", "mapping")],
    ],
)
def test_words_of_a_name_end_at_capitals_and_digits(name, higher):
    assert higher_by_name(name) is higher


class Biased(Tiny):
    def compute_loss(self):
        loss = super().compute_loss()
        self.batch_metrics["bias"] = loss.detach()
        return loss


def test_a_direction_that_nothing_tells_is_asked_for_before_the_run():
    watched = [
        (
            {"_monitor": "bias"},
            [],
            "Biased: _monitor is 'bias', and nothing .* Write self._monitor_mode = 'max', or 'min'",
        ),
        (
            {},
            [EarlyStopping("valid/bias")],
            "EarlyStopping: monitor is 'valid/bias', .* Write mode='max', or mode='min'",
        ),
        ({"_logdir": "runs"}, [Only(Checkpoint("bias"), epochs=1)], "Checkpoint: monitor is 'bias'"),
        ({"_stages": [Stage("a", 1), Stage("b", 1, monitor="bias")]}, [], "_monitor is 'bias'"),
    ]
    for settings, callbacks, message in watched:
        trainer = Biased(settings)
        trainer.callbacks = callbacks
        with pytest.raises(ConfigError, match=message):
            trainer.train()
        assert trainer.step == 0 and trainer.run_dir is None
    trainer = Biased({"_monitor": "bias", "_monitor_mode": "min"})
    trainer.callbacks = [EarlyStopping("bias", mode="max")]
    assert len(trainer.train()) == 2


@pytest.mark.parametrize(
    ("monitor", "mode", "said"),
    [
        ("accuracy", "min", "mode='min', and _monitor is 'accuracy', of which more is better.* Write mode='max'"),
        (None, "max", "_monitor is None, the loss, of which less is better.* Write mode='min'"),
        ("accuracy", "max", None),
        (None, "min", None),
    ],
)
def test_a_plateau_that_contradicts_what_is_monitored_is_named(monitor, mode, said):
    trainer = scripted([0.1, 0.2], _monitor=monitor)
    trainer.scheduler = {"one": lr_scheduler.ReduceLROnPlateau(trainer.optimizer, mode=mode)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    found = [str(one.message) for one in caught if "ReduceLROnPlateau" in str(one.message)]
    assert bool(found) == bool(said) and all(re.search(said, text) for text in found)


# ---------------------------------------------------------------- a metric that is not there


def test_what_nothing_will_record_is_told_before_the_first_step():
    def with_objects(trainer):
        trainer.metrics = {"accuracy": MulticlassAccuracy(3)}

    def with_callback(trainer):
        trainer.callbacks = [Accuracy(top_k=(1, 2), prefix="my_")]

    for declare, there in ((with_objects, "loss, accuracy"), (with_callback, "loss, my_accuracy, my_accuracy_top2")):
        for watch in ({"_monitor": "acuracy"}, {"_monitor": "valid/acuracy"}, {}):
            trainer = objects(**watch)
            declare(trainer)
            if not watch:
                trainer.callbacks = [*trainer.callbacks, EarlyStopping("acuracy")]
            with pytest.raises(
                ConfigError, match=f"acuracy', but no such metric will be recorded.* There are: {there}"
            ):
                trainer.train()
            assert trainer.step == 0


def test_what_may_be_recorded_by_a_hook_a_callback_or_later_is_waited_for():
    class Records(Tiny):
        def on_evaluate_epoch_end(self):
            self.loader_metrics["accuracy2"] = 0.5

    trainer = objects(Records, _monitor="accuracy2")
    trainer.metrics = {"accuracy": MulticlassAccuracy(3)}
    assert len(trainer.train()) == 2
    trainer = objects(_monitor="accuracy2")
    trainer.metrics = {"accuracy": MulticlassAccuracy(3)}
    trainer.callbacks = [on_evaluate_epoch_end(lambda trainer: trainer.loader_metrics.update(accuracy2=1.0))]
    assert len(trainer.train()) == 2
    trainer = objects(_monitor="night_loss", _num_epochs=3)
    trainer.callbacks = [
        PeriodicEvaluation(trainer.valid_loader, "night", every_epochs=2),
        *(EarlyStopping("night_loss"), Only(Accuracy(), epochs=range(2, 9)), EarlyStopping("valid/accuracy")),
    ]
    assert len(trainer.train()) == 3
    assert trainer.callbacks[1].best_epoch == 2 and trainer.callbacks[3].best_epoch == 2


@pytest.mark.parametrize("settings", [{}, {"_eval_interval": 2}, {"_save_epoch": 5}, {"_async_checkpoint": True}])
def test_an_unknown_metric_loses_nothing(settings):
    trainer = Tiny({"_monitor": "acuracy", "_num_epochs": 4, "_logdir": "runs", **settings})
    trainer.scheduler = lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
    with pytest.raises(ConfigError, match="_monitor is 'acuracy', but no such metric was recorded in epoch"):
        trainer.train()
    epochs = settings.get("_eval_interval", 1)
    saved = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == epochs and saved["step"] == trainer.step == 3 * epochs
    found = reader.read(trainer.run_dir)
    assert len(found.history) == epochs and "acuracy" in found.error
    again, whole = (Tiny({"_num_epochs": 4, "_logdir": "runs"}) for _ in range(2))
    for one in (again, whole):
        one.scheduler = lr_scheduler.ExponentialLR(one.optimizer, 0.5)
    again.train(resume=trainer.run_dir)
    whole.train()
    assert torch.equal(again.model.weight, whole.model.weight) and again.get_lr() == whole.get_lr()


def test_an_unknown_metric_of_a_callback_loses_nothing():
    trainer = scripted([0.5] * 3, EarlyStopping("acuracy"), _logdir="runs")
    with pytest.raises(
        ConfigError, match="EarlyStopping: monitor is 'acuracy', but no such metric was recorded in epoch 1"
    ):
        trainer.train()
    assert torch.load(trainer.run_dir / "checkpoints" / "crash.ckpt", weights_only=True)["step"] == trainer.step == 3
