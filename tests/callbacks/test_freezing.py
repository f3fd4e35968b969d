import pytest
import torch
from torch import nn

from farabio_like import components
from farabio_like.callbacks.base import Callback
from farabio_like.callbacks.freezing import Freeze, Unfreeze
from farabio_like.errors import ConfigError
from tests.trainers import Tiny


class Parts(Tiny):
    def build_model(self):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.model = nn.Sequential()
        self.model.encoder, self.model.head = encoder, nn.Linear(4, 1)
        self.criterion = nn.MSELoss()
        # Weight decay and momentum move a parameter whose gradient is zero.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def optimizer_zero_grad(self):
        self.optimizer.zero_grad(set_to_none=False)


class Networks(Tiny):
    def build_model(self):
        self.encoder, self.head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 1)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD([*self.encoder.parameters(), *self.head.parameters()], lr=0.1)

    def forward(self):
        return self.head(self.encoder(self.inputs))

    def on_evaluate_batch_start(self, item):
        self.take_batch(item)
        assert not any(part.training for part in self.encoder.modules())


class Changes(Callback):
    """Which parts an epoch changed, statistics included."""

    def __init__(self):
        self.changed = []

    def on_train_epoch_start(self, trainer):
        self.before = self.parts(trainer)

    def on_train_epoch_end(self, trainer):
        after = self.parts(trainer)
        self.changed.append({name for name in after if not torch.equal(after[name], self.before[name])})

    def parts(self, trainer):
        encoder = trainer.encoder if trainer.model is None else trainer.model.encoder
        head = trainer.head if trainer.model is None else trainer.model.head
        return {
            "encoder": torch.cat([p.detach().flatten() for p in encoder.parameters()]),
            "head": torch.cat([p.detach().flatten() for p in head.parameters()]),
            "statistics": encoder[1].running_mean.clone(),
        }


ALL = {"encoder", "head", "statistics"}


def flags(trainer):
    parts = [part for module in components.modules_of(trainer) for part in module.modules()]
    parameters = [p for module in components.modules_of(trainer) for p in module.parameters()]
    return [p.requires_grad for p in parameters], [part.training for part in parts]


@pytest.mark.parametrize("kind", [Parts, Networks])
@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        ([Freeze("encoder.*", until_epoch=2)], [{"head"}, {"head"}, ALL, ALL]),
        ([Freeze("encoder.*", from_epoch=2)], [ALL, {"head"}, {"head"}, {"head"}]),
        ([Freeze(["encoder.*"], until_epoch=3, from_epoch=2)], [ALL, {"head"}, {"head"}, ALL]),
        ([Freeze("head.*"), Freeze("encoder.0.*", from_epoch=9)], [{"encoder", "statistics"}] * 4),
        ([Freeze("*"), Unfreeze("head.*")], [{"head"}] * 4),
        (
            [Freeze("encoder.*"), Unfreeze("encoder.*", from_epoch=2, until_epoch=3)],
            [{"head"}, ALL, ALL, {"head"}],
        ),
    ],
)
def test_only_the_rest_learns(kind, callbacks, expected):
    trainer, changes = kind({"_num_epochs": 4}), Changes()
    before = flags(trainer)
    trainer.callbacks = [changes, *callbacks]
    trainer.train()
    assert changes.changed == expected
    assert flags(trainer) == before


def test_unfreeze_lets_a_frozen_part_learn_and_gives_it_back():
    trainer, changes = Parts({"_num_epochs": 3}), Changes()
    trainer.model.encoder.requires_grad_(False)
    trainer.callbacks = [changes, Unfreeze("encoder.*", from_epoch=2)]
    trainer.train()
    assert changes.changed == [{"head", "statistics"}, ALL, ALL]
    assert not any(p.requires_grad for p in trainer.model.encoder.parameters())


def test_everything_is_back_after_an_error():
    class Fails(Parts):
        def on_end_training_batch(self):
            assert not self.model.encoder[0].weight.requires_grad
            assert not self.model.encoder[1].training
            raise ValueError("mine")

    trainer = Fails()
    before = flags(trainer)
    trainer.callbacks = [Freeze("encoder.*")]
    with pytest.raises(ValueError, match="mine"):
        trainer.train()
    assert flags(trainer) == before


def test_names_of_a_dict_begin_with_its_key():
    class Dict(Networks):
        def build_model(self):
            super().build_model()
            self.networks = {"encoder": self.encoder, "head": self.head}
            del self.encoder, self.head
            self.model = self.networks

        def forward(self):
            return self.model["head"](self.model["encoder"](self.inputs))

        def on_evaluate_batch_start(self, item):
            self.take_batch(item)

    trainer = Dict()
    before = trainer.model["head"].weight.clone()
    trainer.callbacks = [Freeze("head.*")]
    trainer.train()
    assert torch.equal(trainer.model["head"].weight, before)


def test_a_pattern_without_a_match_names_the_nearest():
    trainer = Parts()
    trainer.callbacks = [Freeze("encodr.*")]
    with pytest.raises(ConfigError, match=r"none of the model's 6 parameters\. Did you mean 'encoder\.\*'\?"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "a pattern or a list"),
        ((3,), "a pattern or a list"),
        (("a", 0), "until_epoch=0"),
        (("a", None, 1.5), "from_epoch=1.5"),
        (("a", 2, 3), "holds in no epoch; write until_epoch=3, from_epoch=2"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Unfreeze(*arguments)


def test_what_a_hook_freezes_during_the_run_stays_frozen():
    class Thaws(Parts):
        def on_train_epoch_start(self):
            if self.epoch == 3:
                self.model.encoder.requires_grad_(False)

    trainer, changes = Thaws({"_num_epochs": 4}), Changes()
    trainer.callbacks = [changes, Freeze("encoder.*", until_epoch=2), Freeze("head.*", from_epoch=9)]
    trainer.train()
    assert changes.changed == [{"head"}, {"head"}, {"head", "statistics"}, {"head", "statistics"}]
    assert not any(p.requires_grad for p in trainer.model.encoder.parameters())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_flags_are_back_after_each_epoch_whatever_the_order(order):
    class Looks(Callback):
        def __init__(self):
            self.seen = []

        def on_evaluate_epoch_start(self, trainer):
            self.seen.append([p.requires_grad for p in trainer.model.parameters()])

    trainer, looks = Parts(), Looks()
    before = flags(trainer)[0]
    given = [Freeze("*"), Unfreeze("encoder.*"), Freeze("encoder.0.*")]
    trainer.callbacks = [looks, *[given[index] for index in order]]
    trainer.train()
    assert looks.seen == [before, before] and all(module.training for module in trainer.model.modules())
