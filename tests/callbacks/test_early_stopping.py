"""EarlyStopping: when it stops, what it says, its state."""

import math

import pytest
import torch

from farabio_like import ConfigError, Stage
from farabio_like.callbacks.early_stopping import EarlyStopping
from tests.callbacks.scripted import scripted

NAN, INF = math.nan, math.inf


def epochs(values, stopping, **settings):
    return len(scripted(values, stopping, **settings).train())


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], {"patience": 1}, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.1], {"patience": 3}, 4),
        ([0.5, 0.4, 0.3, 0.6, 0.1, 0.1, 0.9], {"patience": 2}, 3),
        ([0.5, 0.4, 0.6, 0.1, 0.1, 0.9], {"patience": 2}, 5),
        ([0.5, 0.5, 0.9], {"patience": 1}, 2),  # equal is no improvement
        ([0.5, 0.5, 0.9], {"patience": 0}, 2),
        ([0.5, 0.55, 0.59, 0.9], {"patience": 2, "min_delta": 0.1}, 3),
        ([0.5, 0.55, 0.7, 0.71, 0.72], {"patience": 2, "min_delta": 0.1}, 5),
        ([0.5, 0.4, 0.3, 0.4, 0.4], {"patience": 2, "mode": "min"}, 5),
        ([0.1, 0.2, 0.9], {"patience": 2, "baseline": 0.5}, 2),
        ([0.1, 0.6, 0.7, 0.6, 0.6, 0.9], {"patience": 2, "baseline": 0.5}, 5),
        ([0.1, NAN, 0.9], {"patience": 5}, 2),
        ([0.1, INF, 0.9], {"patience": 5}, 2),
        ([NAN, NAN, 0.9], {"patience": 2, "check_finite": False}, 2),
        ([0.1, NAN, 0.2, NAN, 0.3], {"patience": 2, "check_finite": False}, 5),
    ],
)
def test_stops_after(values, arguments, expected):
    assert epochs(values, EarlyStopping("accuracy", **arguments)) == expected


def test_counts_only_evaluated_epochs():
    values = [0.9, 0.5, 0.9, 0.4, 0.9, 0.3, 0.9, 0.2]
    stopping = EarlyStopping("accuracy", patience=2)
    assert epochs(values, stopping, _eval_interval=2) == 6
    assert (stopping.best, stopping.best_epoch, stopping.wait) == (0.5, 2, 2)


def test_says_why_in_one_line(capsys):
    epochs([0.5, 0.25, 0.25], EarlyStopping("accuracy", patience=2), _verbose=True, _use_tqdm=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped")]
    assert lines == [
        "stopped early after epoch 3: accuracy 0.25 is no better than 0.5 (epoch 1), for 2 evaluated epochs"
    ]
    epochs([0.5, NAN, 0.25], EarlyStopping("accuracy"), _verbose=True, _use_tqdm=False)
    assert "stopped early after epoch 2: accuracy is nan\n" in capsys.readouterr().out
    epochs([0.1], EarlyStopping("accuracy", patience=1, baseline=0.5), _verbose=True, _use_tqdm=False)
    assert "accuracy 0.1 is no better than 0.5 (the baseline), for 1 " in capsys.readouterr().out
    epochs([NAN], EarlyStopping("accuracy", patience=1, check_finite=False), _verbose=True, _use_tqdm=False)
    assert "accuracy nan is no better than no number yet, for 1 " in capsys.readouterr().out


def test_another_run_begins_anew_and_a_run_that_goes_on_gets_its_patience_again():
    stopping = EarlyStopping("accuracy", patience=2)
    assert epochs([0.9, 0.1, 0.1, 0.1], stopping) == 3
    trainer = scripted([0.5, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3], stopping)
    assert len(trainer.train()) == 3
    assert stopping.best == 0.5
    assert len(trainer.train()) == 5


def test_each_stage_counts_for_itself():
    stages = [Stage("first", 3), Stage("second", 4)]
    values = [0.9, 0.1, 0.2, 0.3, 0.1, 0.2, 0.9]
    assert epochs(values, EarlyStopping("accuracy", patience=3), _stages=stages) == 7
    assert epochs(values, EarlyStopping("accuracy", patience=2), _stages=stages) == 3


def test_state_round_trips_through_a_file():
    values = [0.5, 0.4, 0.6, 0.3, 0.2, 0.1]
    first = EarlyStopping("accuracy", patience=3)
    trainer = scripted(values, first, _num_epochs=4)
    trainer.train()
    torch.save(first.state_dict(), "state.pt")
    second = EarlyStopping("accuracy", patience=3)
    second.load_state_dict(torch.load("state.pt", weights_only=True))
    assert second.state_dict() == first.state_dict() == {"best": 0.6, "best_epoch": 3, "wait": 1, "stage": None}
    trainer.callbacks, trainer._num_epochs = [second], 6
    trainer.train()
    assert second.wait == 3


@pytest.mark.parametrize(
    "arguments",
    [{"patience": -1}, {"patience": 1.5}, {"patience": True}, {"min_delta": -0.1}, {"mode": "auto"}, {"baseline": NAN}],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))}.* is .*expected"):
        EarlyStopping(**arguments)
