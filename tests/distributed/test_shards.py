"""Shards in one process: which settings go with them, what is a unit, which folders are removed."""

import pytest
import torch
from torch import nn

from farabio_like import ConfigError, checkpoint
from farabio_like.checkpoint import sharded
from farabio_like.distributed import fsdp
from farabio_like.distributed.forward_methods import forward_methods

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


def test_folders_that_no_checkpoint_names_are_removed(tmp_path):
    folders = ["step-00000001.shards", "step-00000002.shards", "step-00000002-1.shards", "own.shards"]
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / "step-9.shards").write_text("a file")
    (tmp_path / "damaged.ckpt").write_bytes(b"no checkpoint")
    checkpoint.save({"format": 2, "shards": {"folder": folders[1]}}, tmp_path / "last.ckpt")
    checkpoint.save({"format": 2}, tmp_path / "plain.ckpt")
    sharded.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.shards")) == ["own.shards", folders[1], "step-9.shards"]


def test_methods_from_outside_run_as_the_forward():
    class Net(nn.Module):
        def forward(self, x):
            return self.doubled(x)

        def doubled(self, x):
            return 2 * x

        def name(self):
            return "net"

        @staticmethod
        def half(x):
            return x / 2

    net, calls = Net(), []
    forward_methods(net)
    net.register_forward_hook(lambda *_: calls.append(1))
    one = torch.ones(())
    assert (net.doubled(one), len(calls)) == (2, 1)
    assert (net(one), len(calls)) == (2, 2)
    assert (net.name(), net.half(one), len(calls)) == ("net", 0.5, 2)
    with pytest.raises(TypeError):
        net.doubled(one, one)
    assert (net(one), len(calls)) == (2, 3)
