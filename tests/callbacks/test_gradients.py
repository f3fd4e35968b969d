"""GradientNorm: against norms taken by hand."""

import pytest
import torch
from torch import nn

from farabio_like import Callback, ConfigError
from farabio_like.callbacks.gradients import GradientNorm
from tests.trainers import INPUTS, TARGETS, Tiny


class Two(Tiny):
    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


def by_hand(norm_type, epochs=2):
    """Return the mean norms per epoch of a hand-written loop, of the whole model and of its two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(epochs):
        sums = torch.zeros(3, dtype=torch.float64)
        for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(INPUTS[part]), TARGETS[part]).backward()
            for index, module in enumerate((model, model[0], model[2])):
                flat = torch.cat([p.grad.flatten() for p in module.parameters()])
                sums[index] += flat.norm(norm_type).double() * len(INPUTS[part])
            optimizer.step()
        found.append((sums / 10).tolist())
    return found


@pytest.mark.parametrize("norm_type", [1, 2.0, float("inf")])
def test_norms_are_those_of_a_loop_by_hand(norm_type):
    trainer = Two()
    trainer.callbacks = [GradientNorm(norm_type, per_module=True)]
    history = trainer.train()
    for entry, expected in zip(history, by_hand(norm_type), strict=True):
        found = [entry["train"][name] for name in ("grad_norm", "grad_norm_0", "grad_norm_2")]
        assert found == pytest.approx(expected, rel=1e-6)
        assert "grad_norm_1" not in entry["train"] and list(entry["valid"]) == ["loss"]


def test_models_in_a_dict_have_their_names():
    class Pair(Tiny):
        def build_model(self):
            self.model = {"body": nn.Linear(3, 2), "head": nn.Linear(2, 1)}
            self.criterion = nn.MSELoss()
            parameters = [p for module in self.model.values() for p in module.parameters()]
            self.optimizer = torch.optim.SGD(parameters, lr=0.1)

        def forward(self):
            return self.model["head"](self.model["body"](self.inputs))

    trainer = Pair({"_num_epochs": 1})
    trainer.train_loader = [(INPUTS, TARGETS)]
    trainer.callbacks = [GradientNorm(per_module=True)]
    norms = trainer.train()[0]["train"]
    assert norms["grad_norm"] == pytest.approx((norms["grad_norm_body"] ** 2 + norms["grad_norm_head"] ** 2) ** 0.5)


def test_values_stay_tensors_in_the_loop_and_nothing_is_kept_after_it():
    seen = []

    class Watches(Callback):
        order = 300

        def on_end_training_batch(self, trainer):
            seen.append(type(trainer.batch_metrics["grad_norm"]))

    trainer = Tiny({"_num_epochs": 1})
    trainer.callbacks = [GradientNorm(), Watches()]
    trainer.train()
    assert seen == [torch.Tensor] * 3
    assert trainer.callbacks[0].groups == {}


def test_sparse_gradients():
    class Words(Tiny):
        def build_model(self):
            self.model = nn.EmbeddingBag(5, 1, sparse=True, mode="sum")
            self.criterion = nn.MSELoss()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)

    trainer = Words({"_num_epochs": 1, "_has_eval": False})
    words, target = torch.tensor([[1, 1, 2]]), torch.zeros(1, 1)
    trainer.train_loader = [(words, target)]
    trainer.callbacks = [GradientNorm()]
    norm = trainer.train()[0]["train"]["grad_norm"]
    dense = nn.EmbeddingBag(5, 1, mode="sum")
    dense.load_state_dict(trainer.model.state_dict())
    nn.functional.mse_loss(dense(words), target).backward()
    assert norm == pytest.approx(dense.weight.grad.norm().item())


def test_a_step_that_leaves_no_gradients_is_told(capsys):
    class Clears(Tiny):
        def training_step(self):
            super().training_step()
            self.optimizer_zero_grad()

    trainer = Clears({"_verbose": True, "_use_tqdm": False})
    trainer.callbacks = [GradientNorm()]
    assert "grad_norm" not in trainer.train()[0]["train"]
    assert capsys.readouterr().out.count("no grad_norm: training_step leaves no gradients") == 1


@pytest.mark.parametrize("norm_type", [0, -1, "2", True, float("nan")])
def test_norm_is_checked(norm_type):
    with pytest.raises(ConfigError, match="norm_type.*expected a number greater than 0"):
        GradientNorm(norm_type)
