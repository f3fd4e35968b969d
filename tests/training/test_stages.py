"""Stages one after the other, and what comes before the first step."""

import pytest

from farabio_like import ConfigError, Stage
from tests.trainers import Tiny


class Staged(Tiny):
    def define_train_attr(self):
        self.seen = []

    def on_stage_start(self):
        self.seen.append(f"start {self.stage.name}")
        if self.stage.name == "finetune":
            self.model.weight.requires_grad_(False)

    def on_stage_end(self):
        self.seen.append(f"end {self.stage.name}")

    def on_epoch_end(self):
        self.seen.append((self.epoch, self._eval_interval))


STAGES = [Stage("pretrain", 2), Stage("finetune", num_epochs=2, eval_interval=2)]


def test_stages_run_one_after_the_other():
    trainer = Staged({"_stages": STAGES})
    history = trainer.train()
    assert trainer.seen == [
        *("start pretrain", (1, 1), (2, 1), "end pretrain"),
        *("start finetune", (3, 2), (4, 2), "end finetune"),
    ]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4] and trainer.stage is None
    assert [bool(entry["valid"]) for entry in history] == [True, True, False, True]
    assert trainer._eval_interval == 1


def test_a_run_goes_on_in_the_stage_where_it_stopped():
    class Stops(Staged):
        def on_epoch_end(self):
            super().on_epoch_end()
            if self.epoch == 3:
                self.stop_train()

    trainer = Stops({"_stages": STAGES})
    trainer.train()
    trainer.seen.clear()
    assert [entry["epoch"] for entry in trainer.train()] == [1, 2, 3, 4]
    assert trainer.seen == ["start finetune", (4, 2), "end finetune"]


def test_without_stages_there_is_no_stage_event():
    trainer = Staged({"_num_epochs": 1})
    trainer.train()
    assert trainer.seen == [(1, 1)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "expected a list of Stage"),
        ("pretrain", "expected a list of Stage"),
        (lambda: [Stage("a", 1), Stage("a", 1)], "a name twice"),
        (lambda: [Stage("a", 0)], "num_epochs=0; expected a whole number, 1 or more"),
        (lambda: [Stage("a", 1, eval_intervall=2)], "sets 'eval_intervall', which is no setting.*'eval_interval'"),
    ],
)
def test_stages_that_cannot_run(stages, message):
    with pytest.raises(ConfigError, match=message):
        Staged({"_stages": stages() if callable(stages) else stages})


def test_evaluation_before_the_first_step(capsys):
    trainer = Tiny({"_evaluate_first": True, "_verbose": True, "_num_epochs": 1})
    loss = trainer.evaluate_epoch()["loss"]
    trainer.train()
    assert f"before the first step  loss {loss:.4f}" in capsys.readouterr().out
