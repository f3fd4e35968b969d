"""The watched metric: which part it is of, epochs without evaluation, direction, NaN, messages."""

import math

import pytest

from farabio_like import Callback, ConfigError
from farabio_like.callbacks.monitor import Monitor
from tests.callbacks.scripted import scripted
from tests.trainers import Tiny


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
        f"monitor is {name!r}, but there is no such metric. Did you mean '{guess}'? "
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
