"""Outputs and targets that only fit by broadcasting are an error in the default loss, and never where that is meant."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from farabio_like import HookError

from ..trainers import INPUTS, TARGETS, Tiny

CRITERIA = {
    **{kind.__name__: kind for kind in (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss)},
    **{kind.__name__: kind for kind in (nn.BCEWithLogitsLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss)},
    "mse_loss": lambda: functional.mse_loss,
    "partial": lambda: functools.partial(functional.huber_loss, delta=2.0),
    "subclass": lambda: type("Mine", (nn.MSELoss,), {})(),
}


class Steps(Tiny):
    taken = 0

    def get_trainloader(self):
        super().get_trainloader()
        for name in ("train", "valid"):
            setattr(self, f"{name}_loader", [(INPUTS, self.config.get(f"of_{name}", TARGETS))] * 2)

    def define_misc_attr(self):
        for name, value in self.config.items():
            if name.startswith("_"):
                setattr(self, name, value)
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 1

    def on_end_training_batch(self):
        self.taken += 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CRITERIA)
def test_targets_without_the_last_dimension(name):
    trainer = Steps({"of_train": TARGETS[:, 0].sigmoid()})
    trainer.criterion = CRITERIA[name]()
    before = trainer.model.weight.clone()
    with pytest.raises(HookError) as caught:
        trainer.train()
    for word in ("Steps.compute_loss", "(10, 1)", "(10,)", "(10, 10)", "self.targets.view_as(self.outputs)"):
        assert word in str(caught.value)
    assert trainer.taken == 0 and torch.equal(trainer.model.weight, before)


def test_targets_that_are_spread_on_purpose_are_to_be_written():
    trainer = Steps({"of_train": torch.ones(1)})
    with pytest.raises(HookError, match=r"\(10, 1\).*\(1,\).*self.targets = self.targets.expand_as\(self.outputs\)"):
        trainer.train()

    class Writes(Steps):
        def compute_loss(self):
            self.targets = self.targets.expand_as(self.inputs[:, :1])
            return super().compute_loss()

    assert Writes({"of_train": torch.ones(1)}).train()[0]["train"]["loss"] > 0


@pytest.mark.parametrize("call", ["evaluate_epoch", "test", "train_step", "val_step"])
def test_it_holds_for_every_loader(call):
    trainer = Steps({"of_valid": TARGETS[:, 0]})
    trainer.test_loader = trainer.valid_loader
    arguments = () if call in ("evaluate_epoch", "test") else ((INPUTS, TARGETS[:, 0]),)
    with pytest.raises(HookError, match=r"\(10, 1\).*\(10,\)"):
        getattr(trainer, call)(*arguments)


def test_a_batch_in_the_middle_is_found_before_its_step():
    trainer = Steps()
    trainer.train_loader = [(INPUTS, TARGETS)] * 3 + [(INPUTS[:4], TARGETS[:4, 0])]
    with pytest.raises(HookError, match=r"\(4, 1\).*\(4,\).*\(4, 4\)"):
        trainer.train()
    assert trainer.taken == 3


def test_one_of_several_criteria():
    trainer = Steps({"of_train": TARGETS[:, 0]})
    trainer.criterion = {"own": lambda outputs, targets: (outputs[:, 0] - targets).abs().mean(), "mse": nn.MSELoss()}
    with pytest.raises(HookError, match="MSELoss would spread them"):
        trainer.train()
    trainer.criterion = {"own": trainer.criterion["own"]}
    assert trainer.train()[0]["train"]["loss_own"] > 0


def test_a_criterion_that_a_hook_changes():
    class Changes(Steps):
        def on_start_training_batch(self, item):
            self.take_batch(item)
            if self.step == 2:
                self.criterion = nn.L1Loss()

    trainer = Changes({"of_train": TARGETS[:, 0]})
    trainer.criterion = lambda outputs, targets: (outputs[:, 0] - targets).square().mean()
    with pytest.raises(HookError, match="L1Loss would spread them"):
        trainer.train()
    assert trainer.taken == 1


class Squeezes(nn.MSELoss):
    """It knows what it does."""

    def forward(self, outputs, targets):
        return super().forward(outputs.squeeze(1), targets)


def squeezed(module, arguments):
    return arguments[0].squeeze(1), arguments[1]


@pytest.mark.filterwarnings("error:Using a target size")
def test_what_is_meant_is_no_error():
    hooked = nn.MSELoss()
    hooked.register_forward_pre_hook(squeezed)
    for criterion in (Squeezes(), hooked, lambda outputs, targets: (outputs[:, 0] - targets).square().mean()):
        trainer = Steps({"of_train": TARGETS[:, 0], "of_valid": TARGETS[:, 0]})
        trainer.criterion = criterion
        assert trainer.train()


CLASSES = {
    "cross entropy": (nn.CrossEntropyLoss(), 3, torch.arange(10) % 3),
    "nll": (nn.NLLLoss(), 3, torch.arange(10) % 3),
    "multi margin": (nn.MultiMarginLoss(), 3, torch.arange(10) % 3),
    "scalars": (lambda outputs, targets: outputs.mean() - targets, 3, torch.tensor(1.0)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_criteria_that_compare_otherwise(name):
    criterion, width, targets = CLASSES[name]

    class Wide(Steps):
        def build_model(self):
            self.model, self.criterion = nn.Linear(3, width), criterion
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    assert len(Wide({"of_train": targets, "of_valid": targets}).train()) == 1


def test_one_sample_whose_form_alone_differs_is_right():
    trainer = Steps()
    trainer.train_loader = [(INPUTS[:1], TARGETS[:1, 0])]
    with pytest.warns(UserWarning, match="Using a target size"):  # torch's own
        assert trainer.train()[0]["train"]["loss"] > 0
