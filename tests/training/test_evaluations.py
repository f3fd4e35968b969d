"""Evaluations within an epoch: each one is a line, a record and a point, with its step, and may be the best."""

import csv
import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Logger, Stage, plots
from farabio_like.callbacks import EMA, PeriodicEvaluation, find_lr
from farabio_like.rundir import reader
from tests.trainers import INPUTS, TARGETS, Tiny

FURTHER = [(INPUTS[:6] + 1, TARGETS[:6]), (INPUTS[6:] + 1, TARGETS[6:])]


class Lines(Tiny):
    """Five batches in an epoch; evaluates in the hook `where` after the steps `at`."""

    where, at = "on_end_training_batch", (2, 4)

    def get_trainloader(self):
        data = TensorDataset(INPUTS, TARGETS)
        self.train_loader, self.valid_loader = (
            DataLoader(data, batch_size=2, shuffle=True),
            DataLoader(data, batch_size=4),
        )
        self.seen = []

    def evaluate_in(self, where):
        if where == self.where and self.step % 5 in self.at:
            self.seen.append((self.step, self.evaluate_epoch()["loss"]))

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        self.evaluate_in("on_start_training_batch")

    def training_step(self):
        super().training_step()
        self.evaluate_in("training_step")

    def on_end_training_batch(self):
        self.evaluate_in("on_end_training_batch")

    def on_train_epoch_end(self):
        self.evaluate_in("on_train_epoch_end")

    def on_epoch_end(self):
        self.evaluate_in("on_epoch_end")


def lines_of(trainer):
    return [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]


def run(kind=Lines, callbacks=(), resume=False, **settings):
    trainer = kind({"_logdir": "runs", "_num_epochs": 2, **settings})
    trainer.callbacks = list(callbacks)
    torch.manual_seed(1)
    trainer.train(resume=resume)
    return trainer


def within(trainer):
    return [(line["epoch"], line["step"], line["valid"]["loss"]) for line in lines_of(trainer) if "batch" in line]


def test_each_is_a_line_a_row_a_record_and_a_point():
    class Records(Logger):
        def __init__(self):
            self.records = []

        def scalars(self, values, step):
            if "epoch" not in values:
                self.records.append((step, values))

    records = Records()
    trainer = run(_loggers=["csv", records])
    expected = [(1 if step < 6 else 2, step, loss) for step, loss in trainer.seen]
    assert [step for step, _ in trainer.seen] == [2, 4, 7, 9] and within(trainer) == expected
    assert [entry["epoch"] for entry in lines_of(trainer)] == [1, 1, 1, 2, 2, 2]
    assert records.records == [(step, {"valid/loss": loss}) for step, loss in trainer.seen]
    with open(trainer.run_dir / "metrics.csv") as file:
        rows = [(int(row["step"]), float(row["valid/loss"])) for row in csv.DictReader(file) if not row["epoch"]]
    assert rows == trainer.seen
    own = [entry["valid"]["loss"] for entry in trainer.history]
    xs = [(0.4, trainer.seen[0][1]), (0.8, trainer.seen[1][1]), (1, own[0])]
    xs += [(1.4, trainer.seen[2][1]), (1.8, trainer.seen[3][1]), (2, own[1])]
    assert plots.points_of(trainer.history, "valid", "loss") == xs
    assert plots.points_of(reader.read(trainer.run_dir).history, "valid", "loss") == xs
    assert [record["step"] for record in trainer.history[1]["evaluations"]] == [7, 9]


def test_a_further_loader_every_few_steps():
    trainer = run(Tiny, [PeriodicEvaluation(FURTHER, "night", every_steps=2)])
    made = [(r["epoch"], r["step"], r["night_loss"]) for r in trainer.callbacks[0].results]
    found = [
        (line["epoch"], line["step"], line["valid"]["night_loss"]) for line in lines_of(trainer) if "batch" in line
    ]
    assert found == made and len(made) == 3
    assert plots.metric_names(trainer.history) == ["loss", "night_loss"]


class Worsens(Lines):
    """Every step makes the model worse, so that the first evaluation is the best."""

    def optimizer_step(self):
        with torch.no_grad():
            self.model.weight.sub_(1.0 if self.step > 2 else 0.0)


@pytest.mark.parametrize("where", ["on_end_training_batch", "training_step"])
@pytest.mark.parametrize("settings", [{}, {"_save_epoch": 1}, {"_save_steps": 1}, {"_async_checkpoint": True}])
def test_the_best_is_saved_with_its_own_weights(where, settings, capsys):
    class Own(Worsens):
        pass

    Own.where = where
    trainer = run(Own, _verbose=True, **settings)
    step, value = trainer.seen[0]
    assert trainer._run_state.best == ("valid", "loss", value, 1, step)
    assert f"in epoch 1, step {step}" in capsys.readouterr().out
    saved = torch.load(trainer.run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    again = Worsens()
    again.load_model(trainer.run_dir / "checkpoints" / "best.ckpt")
    assert saved["step"] == step and again.evaluate_epoch()["loss"] == pytest.approx(value, rel=1e-6)
    assert [line["step"] for line in lines_of(trainer) if line["best"]] == [step]
    found = reader.read(trainer.run_dir)
    assert found.best("loss") == ("valid", value, 1) and found.best_epoch == 1
    assert (trainer.run_dir / "plots" / "curves.png").is_file() and (trainer.run_dir / "report.html").is_file()
    trainer.test()
    assert torch.equal(trainer.model.weight, saved["model"]["weight"])


def test_the_best_of_a_further_loader():
    class Own(Worsens):
        at = ()

    trainer = run(Own, [PeriodicEvaluation(FURTHER, "night", every_steps=2)], _monitor="night_loss")
    best, made = trainer._run_state.best, trainer.callbacks[0].results
    assert (best.step, best.value) == (2, min(record["night_loss"] for record in made))
    assert torch.load(trainer.run_dir / "checkpoints" / "best.ckpt", weights_only=True)["step"] == 2


def test_what_was_evaluated_before_the_step_is_no_best():
    class Before(Worsens):
        where = "on_start_training_batch"

    trainer = run(Before)
    assert trainer._run_state.best[2:] == (trainer.history[0]["valid"]["loss"], 1, None)
    assert len(within(trainer)) == 4 and not any(line["best"] for line in lines_of(trainer) if "batch" in line)
    only = run(Before, _has_eval=False)
    # The epoch has the numbers of an earlier step: no weights are saved under them.
    assert only._run_state.best is None and len(within(only)) == 4


@pytest.mark.parametrize("where", ["on_train_epoch_end", "on_epoch_end"])
def test_after_the_training_batches(where):
    class After(Lines):
        at = (0,)

    After.where = where
    trainer = run(After)
    assert [(step, loss) for _, step, loss in within(trainer)] == trainer.seen
    by_hand = run(After, _has_eval=False)
    if where == "on_train_epoch_end":  # it is the epoch's own
        assert not within(by_hand) and [entry["valid"]["loss"] for entry in by_hand.history] == [
            v for _, v in by_hand.seen
        ]
        assert by_hand._run_state.best.step is None
    else:
        assert [(step, loss) for _, step, loss in within(by_hand)] == by_hand.seen
        assert by_hand._run_state.best[2:] == (min(v for _, v in by_hand.seen), 2, 10)
    assert by_hand._run_state.best.value == min(loss for _, loss in by_hand.seen)


def test_with_averages_that_have_moved_since_it_is_no_best():
    callback = PeriodicEvaluation(FURTHER, "night", every_steps=2)

    class Own(Worsens):
        at = ()

    trainer = run(Own, [callback, EMA(0.5)], _monitor="night_loss")
    assert trainer._run_state.best.step == 2  # it comes after the average


def stopped(step, kind=Lines, **settings):
    class Stops(kind):
        def on_end_training_batch(self):
            super().on_end_training_batch()
            if self.step == step and not self.resumed:
                raise KeyboardInterrupt

    Stops.resumed = False
    with pytest.raises(KeyboardInterrupt):
        run(Stops, **settings)
    Stops.resumed = True
    return Stops


@pytest.mark.parametrize("step", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("settings", [{}, {"_eval_interval": 2}, {"_has_eval": False}])
def test_a_resume_in_the_middle(step, settings):
    whole = run(**settings)
    kind = stopped(step, _save_steps=1, **settings)
    resumed = kind({"_logdir": "runs", "_num_epochs": 2, **settings})
    resumed.train(resume=True)

    def plain(trainer):
        return [{**entry, "seconds": 0} for entry in trainer.history]

    assert plain(resumed) == plain(whole) and resumed._run_state.best == whole._run_state.best
    assert within(resumed) == within(whole)
    assert [(line["epoch"], line["best"]) for line in lines_of(resumed) if "best" in line] == [
        (line["epoch"], line["best"]) for line in lines_of(whole)
    ]


def test_a_run_that_goes_on_from_an_older_file_brings_its_evaluations_along():
    first = run(_num_epochs=3, _save_epoch=1)
    first.save_checkpoint("old.ckpt")
    again = run(_num_epochs=4, resume="old.ckpt")
    assert again.run_dir != first.run_dir and within(again)[:6] == within(first) and len(within(again)) == 8


def test_outside_of_a_run_nothing_is_recorded():
    trainer = run()
    before = lines_of(trainer)
    trainer.evaluate_epoch()
    trainer.evaluate_loader(FURTHER)
    assert lines_of(trainer) == before


def test_at_the_end_of_a_stage_and_before_an_error():
    class Staged(Lines):
        at = ()

        def on_stage_end(self):
            self.seen.append((self.step, self.evaluate_epoch()["loss"]))

    trainer = run(Staged, _stages=[Stage("one", 1), Stage("two", 1)])
    assert [(step, loss) for _, step, loss in within(trainer)] == trainer.seen and len(trainer.seen) == 2
    assert [[record["step"] for record in entry["evaluations"]] for entry in trainer.history] == [[5], [10]]

    class Fails(Lines):
        def on_end_training_batch(self):
            super().on_end_training_batch()
            if self.step == 4:
                raise LookupError

    trainer = Fails({"_logdir": "runs"})
    with pytest.raises(LookupError):
        trainer.train()
    assert [line["step"] for line in lines_of(trainer)] == [2, 4, 4] and "error" in lines_of(trainer)[-1]


def test_what_a_search_evaluates_is_no_line():
    class Searches(Lines):
        def on_train_epoch_end(self):
            find_lr(self, num_steps=6)

    trainer = run(Searches)
    assert [step for _, step, _ in within(trainer)] == [2, 4, 7, 9]


def test_a_subclass_with_epochs_of_its_own_has_its_evaluation_in_the_epoch():
    class Own(Tiny):
        def train_epoch(self):
            for item in enumerate(self.train_loader):
                self.train_batch(item)
            self.evaluate_epoch()

    trainer = Own({"_logdir": "runs"})
    history = trainer.train()
    assert not within(trainer) and len(lines_of(trainer)) == 2
    assert trainer._run_state.best.value == min(entry["valid"]["loss"] for entry in history)
