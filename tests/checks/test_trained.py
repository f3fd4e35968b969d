"""Parameters that no optimizer has: named before the first step, wherever a trainer keeps them, and when they come."""

import copy
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from farabio_like import ConfigError, HookError, Stage
from farabio_like.callbacks import EMA, Freeze

from ..trainers import Tiny


class Learned(nn.Module):
    """A criterion with a temperature."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, outputs, targets):
        return ((outputs - targets) ** 2).mean() * self.w.sum()


@dataclass
class Heads:
    head: nn.Module = field(default_factory=lambda: nn.Linear(2, 1))
    size: int = 3


class Uncertainty:
    """Weights of several losses, kept as one likes to."""

    def __init__(self):
        self.log_vars = {"a": nn.Parameter(torch.zeros(())), "b": nn.Parameter(torch.zeros(()))}


PLACES = {
    "criterion": (Learned, ["self.criterion.w"]),
    "scale": (lambda: nn.Parameter(torch.ones(2)), ["self.scale"]),
    "leaf": (lambda: torch.zeros(2, requires_grad=True), ["self.leaf"]),
    "weights": (lambda: {"a": nn.Parameter(torch.ones(1)), "n": 3}, ["self.weights['a']"]),
    "listed": (lambda: [nn.Parameter(torch.ones(1)), "text"], ["self.listed[0]"]),
    "pair": (lambda: (1, nn.Linear(1, 1, bias=False)), ["self.pair[1].weight"]),
    "table": (lambda: nn.ParameterDict({"x": torch.ones(1)}), ["self.table.x"]),
    "several": (lambda: nn.ParameterList([torch.ones(1)]), ["self.several.0"]),
    "heads": (Heads, ["self.heads.head.weight", "self.heads.head.bias"]),
    "space": (lambda: SimpleNamespace(net=nn.Linear(1, 1, bias=False)), ["self.space.net.weight"]),
    "nested": (lambda: {"a": [{"b": nn.Parameter(torch.ones(1))}]}, ["self.nested['a'][0]['b']"]),
    "losses": (Uncertainty, ["self.losses.log_vars['a']", "self.losses.log_vars['b']"]),
    "projector": (lambda: nn.Linear(3, 1), ["self.projector.weight", "self.projector.bias"]),
}


def of_own(name, make, *bases):
    def build_model(self):
        Tiny.build_model(self)
        setattr(self, name, make())

    return type("Own", (*bases, Tiny), {"build_model": build_model})


def told(trainer):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


class OwnStep(Tiny):
    def training_step(self):
        self.optimizer.zero_grad()
        self.loss = self.compute_loss()
        self.loss.backward()
        self.optimizer.step()


@pytest.mark.parametrize("bases", [(), (OwnStep,)], ids=["default step", "own step"])
@pytest.mark.parametrize("name", PLACES)
def test_what_no_optimizer_has_is_named_wherever_it_is(name, bases):
    make, names = PLACES[name]
    (said,) = told(of_own(name, make, *bases)())
    text = f"{len(names)} trainable parameters are in no optimizer and will not change: {', '.join(names)}. Give them"
    assert said.startswith(f"Own: {text}")


@pytest.mark.parametrize("where", ["self.optimizer", "another attribute", "a record"])
def test_any_optimizer_counts(where):
    class Own(OwnStep):
        def build_model(self):
            super().build_model()
            self.criterion = Learned()
            optimizer = torch.optim.SGD(self.criterion.parameters(), lr=0.1)
            if where == "self.optimizer":
                self.optimizer.add_param_group({"params": self.criterion.parameters()})
            elif where == "another attribute":
                self.of_criterion = optimizer
            else:
                self.parts = SimpleNamespace(optimizers=[optimizer])

    assert told(Own()) == []


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start", "start_logger"])
def test_an_optimizer_that_a_hook_makes_before_the_first_batch_counts(hook):
    class Own(Tiny):
        def build_model(self):
            super().build_model()
            self.criterion = Learned()

    def make(self):
        if self.epoch == 1:
            self.optimizer.add_param_group({"params": self.criterion.parameters()})

    assert told(type("Made", (Own,), {hook: make})()) == []
    assert len(told(Own())) == 1


def test_what_is_not_to_be_trained_is_not_named():
    class Own(Tiny):
        def build_model(self):
            super().build_model()
            self.teacher = copy.deepcopy(self.model)
            self.average = torch.optim.swa_utils.AveragedModel(self.model)
            self.extractor = nn.Linear(5, 5).requires_grad_(False)
            self.same, self.weight = self.model, self.model.weight
            self.records = {"images": [torch.rand(2) for _ in range(500)], "seen": torch.zeros(3)}
            self.callbacks = [EMA(0.9), Freeze("bias", until_epoch=1)]

    trainer = Own({"_num_epochs": 3})
    assert told(trainer) == []
    assert told(trainer) == []  # the average is another one by now


def test_nothing_is_said_of_a_step_without_an_optimizer():
    class Own(Tiny):
        def build_model(self):
            super().build_model()
            self.optimizer = None

        def training_step(self):
            self.loss = self.compute_loss()
            self.loss.backward()
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None

    assert told(Own()) == []


def test_a_model_in_parts_names_them_by_their_keys():
    class Parts(Tiny):
        def build_model(self):
            super().build_model()
            self.model = {"body": nn.Linear(3, 3), "head": nn.Linear(3, 1)}
            self.optimizer = torch.optim.SGD(self.model["head"].parameters(), lr=0.1)

        def forward(self):
            return self.model["head"](self.model["body"](self.inputs))

    (said,) = told(Parts())
    assert "2 trainable parameters are in no optimizer and will not change: body.weight, body.bias." in said
    # A stage may train a part of the model; what is outside of it is named there too.
    stages = [Stage("one", 1), Stage("two", 1)]
    assert told(Parts({"_stages": stages})) == []
    (said,) = told(of_own("criterion", Learned)({"_stages": stages}))
    assert "self.criterion.w" in said


# ---------------------------------------------------------------- in the middle of a run


class Deep(Tiny):
    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self._num_epochs = 4

    def replace(self):
        self.model[1] = nn.Linear(3, 1)


@pytest.mark.parametrize(
    ("hook", "when", "found"),
    [
        ("on_train_epoch_start", lambda self: self.epoch == 2, 2),
        ("on_epoch_end", lambda self: self.epoch == 2, 3),
        ("on_evaluate_epoch_end", lambda self: self.epoch == 2, 3),
        ("on_end_training_batch", lambda self: self.step == 4, 3),
    ],
)
def test_a_layer_that_a_hook_replaces_is_found_at_the_next_epoch(hook, when, found):
    kind = type("Replacing", (Deep,), {hook: lambda self: self.replace() if when(self) else None})
    (said,) = told(kind())
    assert said.startswith(f"Replacing: in epoch {found} 2 trainable parameters have come that are in no optimizer")
    assert "1.weight, 1.bias" in said and "2 that an optimizer has are in no model" in said
    assert "self.optimizer.add_param_group" in said


def test_one_whose_parameters_an_optimizer_gets_is_right():
    class Adds(Deep):
        def on_epoch_end(self):
            if self.epoch == 2:
                self.replace()
                self.optimizer.add_param_group({"params": self.model[1].parameters()})

    class Anew(Deep):
        def on_epoch_end(self):
            if self.epoch == 2:
                self.replace()
                self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    for kind in (Adds, Anew):
        trainer = kind()
        assert told(trainer) == []
        assert len(trainer.history) == 4


def test_a_part_that_is_unfrozen_and_in_no_optimizer():
    class Unfreezes(Deep):
        def build_model(self):
            super().build_model()
            self.model[0].requires_grad_(False)
            self.optimizer = torch.optim.SGD(self.model[1].parameters(), lr=0.1)

        def on_train_epoch_start(self):
            self.model[0].requires_grad_(self.epoch >= 3)

    (said,) = told(Unfreezes())
    assert "in epoch 3 2 trainable parameters have come" in said and "0.weight, 0.bias" in said


def test_a_model_that_a_hook_replaces_as_a_whole_is_an_error():
    class Whole(Deep):
        def on_epoch_end(self):
            if self.epoch == 2:
                self.model = nn.Linear(3, 1)

    with pytest.raises(ConfigError, match="Whole: none of the 4 parameters of self.optimizer belongs to a model"):
        Whole().train()


def test_each_is_told_once():
    class Again(Deep):
        def on_epoch_end(self):
            if self.epoch == 1:
                self.replace()

    assert len(told(Again({"_num_epochs": 4}))) == 1


def test_of_a_run_that_goes_on_it_is_told_too():
    class Stops(Deep):
        stop_at = None

        def on_train_epoch_start(self):
            if self.epoch == 3:
                self.replace()

        def on_end_training_batch(self):
            if self.step == self.stop_at:
                raise SystemExit

    stopped = Stops({"_logdir": "runs"})
    stopped.stop_at = 4
    with pytest.raises(SystemExit):
        stopped.train()
    trainer = Stops({"_logdir": "runs"})
    with pytest.warns(UserWarning, match="in epoch 3 2 trainable parameters have come"):
        trainer.train(resume=True)


# ---------------------------------------------------------------- optimizers that call the loss themselves


class Lbfgs(Tiny):
    def build_model(self):
        super().build_model()
        self.optimizer = torch.optim.LBFGS(self.model.parameters(), lr=0.5, max_iter=4)


def test_lbfgs_is_told_the_code():
    with pytest.raises(HookError) as caught:
        Lbfgs().train()
    for word in ("step() of self.optimizer, a LBFGS, needs a function", "self.optimizer.step(self.closure)"):
        assert word in str(caught.value)


def test_and_that_code_is_right():
    class Told(Lbfgs):
        def training_step(self):
            self.loss = self.optimizer.step(self.closure)

        def closure(self):
            self.optimizer.zero_grad()
            loss = self.compute_loss()
            loss.backward()
            return loss

    trainer, by_hand = Told(), Lbfgs()
    assert told(trainer) == []
    model, optimizer = by_hand.model, by_hand.optimizer
    for _ in range(2):
        for x, y in by_hand.train_loader:

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert torch.equal(trainer.model.weight, model.weight)
