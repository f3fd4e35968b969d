"""Several losses with weights; several optimizers whose gradients do not mix."""

import pytest
import torch
from torch import nn

from farabio_like import ConfigError
from tests.trainers import INPUTS, TARGETS, Tiny


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
