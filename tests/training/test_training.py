"""Stages, schedulers, several losses and optimizers: what steers a run beside its hooks."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from farabio_like import ConfigError, Stage
from tests.trainers import INPUTS, TARGETS, Tiny


class Scheduled(Tiny):
    scheduler_of = None

    def build_model(self):
        super().build_model()
        self.scheduler = type(self).scheduler_of(self.optimizer)


def rates(scheduler, trainer=Scheduled, **settings):
    class Own(trainer):
        scheduler_of = staticmethod(scheduler)
        seen = ()

        def optimizer_step(self):
            self.seen += (self.get_lr(),)
            super().optimizer_step()

    own = Own({"_num_epochs": 3, **settings})
    history = own.train()
    return own, own.seen, [entry["lr"] for entry in history]


def halving(optimizer):
    return lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def test_a_scheduler_steps_once_per_epoch():
    trainer, per_step, per_epoch = rates(halving)
    assert per_step == (0.1,) * 3 + (0.05,) * 3 + (0.025,) * 3
    assert per_epoch == [0.1, 0.05, 0.025]
    assert trainer.get_lr() == 0.0125


def test_a_scheduler_steps_once_per_step():
    _, per_step, _ = rates(halving, _scheduler_step="step")
    assert per_step == tuple(0.1 * 0.5**k for k in range(9))


def test_a_scheduler_that_a_hook_steps_is_left_alone():
    class Steps(Scheduled):
        def on_epoch_end(self):
            self.scheduler.step()

    assert rates(halving, Steps)[2] == [0.1, 0.05, 0.025]


def test_a_plateau_follows_the_monitored_metric():
    # Patience 3 and factor 0.1: of 13 values that only rise, the first is best, and every fourth bad one cuts.
    class Rising(Scheduled):
        def evaluate_batch(self, item):
            self.batch_metrics["loss"] = float(self.epoch)

    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=3)

    trainer, _, per_epoch = rates(plateau, Rising, _num_epochs=13)
    assert per_epoch == pytest.approx([0.1] * 5 + [0.01] * 4 + [0.001] * 4)
    assert trainer.get_lr() == pytest.approx(0.0001)


def test_a_plateau_waits_for_an_evaluation():
    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, mode="max")

    class Only(Scheduled):
        def evaluate_batch(self, item):
            self.batch_metrics["score"] = 1.0

    _, _, per_epoch = rates(plateau, Only, _num_epochs=5, _eval_interval=2, _monitor="score")
    assert per_epoch == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01])


def test_several_schedulers():
    class Two(Tiny):
        def build_model(self):
            self.model = nn.Linear(3, 1)
            self.criterion = nn.MSELoss()
            self.optimizer = {
                "weight": torch.optim.SGD([self.model.weight], lr=0.1),
                "bias": torch.optim.SGD([{"params": [self.model.bias], "lr": 0.2}], lr=1.0),
            }
            self.scheduler = {"weight": halving(self.optimizer["weight"])}

    history = Two().train()
    assert [entry["lr"] for entry in history] == [{"weight": 0.1, "bias": 0.2}, {"weight": 0.05, "bias": 0.2}]


def test_get_and_set_lr():
    trainer = Tiny()
    assert trainer.get_lr() == 0.1
    trainer.set_lr(0.3)
    assert trainer.get_lr() == 0.3
    trainer.optimizer = torch.optim.SGD(
        [{"params": [trainer.model.weight], "lr": 1.0}, {"params": [trainer.model.bias], "lr": torch.tensor(2.0)}]
    )
    assert trainer.get_lr() == [1.0, 2.0]
    trainer.set_lr([3, 4])
    assert trainer.get_lr() == [3.0, 4.0] and isinstance(trainer.optimizer.param_groups[1]["lr"], torch.Tensor)
    with pytest.raises(ConfigError, match="3 learning rates for 2 parameter groups"):
        trainer.set_lr([1, 2, 3])
    with pytest.raises(ConfigError, match="no such keys"):
        trainer.set_lr({"head": 1})
    for wrong in ("high", -1, float("nan"), None):
        with pytest.raises(ConfigError, match="expected a number, 0 or more"):
            trainer.set_lr(wrong)
    assert trainer.get_lr() == [3.0, 4.0]
    trainer.optimizer = {"a": torch.optim.SGD([trainer.model.weight], lr=1.0), "b": None}
    trainer.set_lr({"a": 0.5})
    assert trainer.get_lr() == {"a": 0.5, "b": None}


class TwoLosses(Tiny):
    def build_model(self):
        super().build_model()
        self.criterion = {"square": nn.MSELoss(), "absolute": nn.L1Loss()}


@pytest.mark.parametrize(
    ("weights", "factors"), [(None, (1, 1)), ("mean", (0.5, 0.5)), ({"square": 2, "absolute": 0.25}, (2, 0.25))]
)
def test_several_losses(weights, factors):
    metrics = TwoLosses({"_loss_weights": weights}).evaluate_epoch()
    parts = metrics["loss_square"], metrics["loss_absolute"]
    assert metrics["loss"] == pytest.approx(factors[0] * parts[0] + factors[1] * parts[1], rel=1e-6)
    outputs = TwoLosses().model(INPUTS)
    assert parts[0] == pytest.approx(nn.functional.mse_loss(outputs, TARGETS).item(), rel=1e-6)


def test_weights_of_losses_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"_loss_weights has the keys \['sqare'\].* has \['square', 'absolute'\]"):
        TwoLosses({"_loss_weights": {"sqare": 1}}).train()
    with pytest.raises(ConfigError, match="_loss_weights is 3; expected"):
        TwoLosses({"_loss_weights": 3})


class Pair(Tiny):
    """Two models that learn from each other's outputs, each by an optimizer of its own."""

    def build_model(self):
        torch.manual_seed(0)
        self.model = {"first": nn.Linear(3, 2), "second": nn.Linear(2, 1)}
        self.optimizer = {name: torch.optim.SGD(m.parameters(), lr=0.1) for name, m in self.model.items()}

    def training_step(self):
        for name, sign in (("second", 1), ("first", -1)):
            with self.only(name):
                self.optimizer[name].zero_grad()
                self.loss = (
                    sign * (self.model["second"](self.model["first"](self.inputs)) - self.targets).square().mean()
                )
                self.loss.backward()
                other = self.model["second" if name == "first" else "first"]
                assert not any(p.requires_grad for p in other.parameters())
            self.optimizer[name].step()
        assert all(p.requires_grad for m in self.model.values() for p in m.parameters())


def test_gradients_of_one_optimizer_do_not_reach_the_other():
    trainer = Pair({"_num_epochs": 1, "_has_eval": False})
    first, second = nn.Linear(3, 2), nn.Linear(2, 1)
    first.load_state_dict(trainer.model["first"].state_dict())
    second.load_state_dict(trainer.model["second"].state_dict())
    trainer.train()
    by_first, by_second = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second))
    for x, y in zip(INPUTS.split(4), TARGETS.split(4), strict=True):
        for optimizer, module, sign in ((by_second, second, 1), (by_first, first, -1)):
            loss = sign * (second(first(x)) - y).square().mean()
            gradients = torch.autograd.grad(loss, list(module.parameters()))
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), trainer.model["first"].parameters(), strict=True))
    assert all(
        torch.equal(p, q) for p, q in zip(second.parameters(), trainer.model["second"].parameters(), strict=True)
    )
    assert trainer.step == 3


def test_a_frozen_parameter_stays_frozen_and_an_error_restores():
    trainer = Pair()
    trainer.model["first"].bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), trainer.only("second"):
        raise ZeroDivisionError
    assert trainer.model["first"].weight.requires_grad and not trainer.model["first"].bias.requires_grad
    with pytest.raises(ConfigError, match=r"no optimizer 'third'; self.optimizer is \['first', 'second'\]"):
        with trainer.only("third"):
            pass


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


def test_the_best_weights_at_the_end():
    class Worsens(Tiny):
        def training_step(self):
            with torch.no_grad():
                self.model.weight.fill_(self.epoch)

        def evaluate_batch(self, item):
            self.batch_metrics["score"] = -float(self.epoch)

    for load_best, weight in ((True, 1.0), (False, 3.0)):
        trainer = Worsens({"_load_best": load_best, "_monitor": "score", "_logdir": "runs", "_num_epochs": 3})
        trainer.train()
        assert trainer.model.weight.unique().tolist() == [weight]
        saved = torch.load(trainer.run_dir / "model.pth", weights_only=True)
        assert saved["weight"].unique().tolist() == [weight]
