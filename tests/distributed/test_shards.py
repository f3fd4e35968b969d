"""Shards in one process: which settings go with them, and what is a unit."""

import pytest
from torch import nn

from farabio_like import ConfigError
from farabio_like.distributed import fsdp

from ..trainers import Still


@pytest.mark.parametrize(
    ("setting", "value"), [("_async_checkpoint", True), ("_channels_last", True), ("_compile", {"mode": "default"})]
)
def test_settings_that_do_not_go_together(setting, value):
    class Both(Still):
        _strategy = "fsdp"

        def define_misc_attr(self):
            setattr(self, setting, value)

    with pytest.raises(ConfigError, match=rf"Both: {setting} and _strategy = 'fsdp' do not go together: .* two out"):
        Both()


def test_in_one_process_nothing_is_in_shards(tmp_path):
    class Alone(Still):
        _strategy, _num_epochs, _logdir = "fsdp", 1, tmp_path

    trainer = Alone()
    trainer.train()
    assert type(trainer.model.weight) is nn.Parameter
    assert not list(tmp_path.rglob("*.shards"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(2000, 100)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(320, 320), nn.Linear(320, 320)) for _ in range(2)])
        self.small = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.heads = nn.ModuleDict({"words": nn.Linear(100, 2000, bias=False)})
        self.heads["words"].weight = self.words.weight
        self.tied = nn.Sequential(nn.Linear(100, 2000, bias=False))
        self.tied[0].weight = self.words.weight
        self.twice = nn.Sequential(nn.Linear(320, 320), nn.ReLU())
        self.twice.append(self.twice[0])

    def forward(self, x):
        return x


def test_the_units_are_the_large_outermost_blocks():
    model = Model()
    assert fsdp._units(model) == [*model.blocks]
    assert fsdp._roots(model) == [model]
    assert fsdp._roots(model.blocks) == [*model.blocks]
