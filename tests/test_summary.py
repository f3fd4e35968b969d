"""A summary says what the layers are, and leaves the trainer as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.errors import ConfigError

from .trainers import Tiny


class Net(Tiny):
    """A small convolutional network with everything that a forward may change."""

    def get_trainloader(self):
        images, labels = torch.rand(12, 1, 8, 8), torch.randint(0, 3, (12,))
        self.train_loader = DataLoader(TensorDataset(images, labels), batch_size=4, shuffle=True)

    def build_model(self):
        body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.model = nn.Sequential(body, nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)


def by_name(summary):
    return {row.name: row for row in summary.rows}


def test_layers_shapes_parameters_and_memory():
    summary = Net().summary()
    assert [(row.depth, row.name, row.kind, row.shape, row.trained) for row in summary.rows] == [
        (0, "", "Sequential", "1 x 3", 819),
        (1, "0", "Sequential", "1 x 4 x 8 x 8", 48),
        (2, "0", "Conv2d", "1 x 4 x 8 x 8", 40),
        (2, "1", "BatchNorm2d", "1 x 4 x 8 x 8", 8),
        (2, "2", "ReLU", "1 x 4 x 8 x 8", 0),
        (1, "1", "Dropout", "1 x 4 x 8 x 8", 0),
        (1, "2", "Flatten", "1 x 256", 0),
        (1, "3", "Linear", "1 x 3", 771),
    ]
    assert (summary.trained, summary.frozen) == (819, 0)
    assert summary.bytes == 4 * (819 + 8) + 8, "with the running statistics and the counter of the batch norm"
    assert summary.output_bytes == 4 * (5 * 256 + 3)
    assert summary.sample == "one sample: 1 x 1 x 8 x 8"


def test_depth():
    assert [len(Net().summary(depth).rows) for depth in (1, 2, 9)] == [5, 8, 8]
    for depth in (0, -1, 1.5, "2", True):
        with pytest.raises(ConfigError, match=r"summary\(depth\)"):
            Net().summary(depth)


def test_frozen_parameters_are_counted_apart_and_shown_in_the_header(capsys):
    trainer = Net({"_verbose": True})
    trainer.model[0].requires_grad_(False)
    summary = trainer.summary()
    assert (summary.trained, summary.frozen) == (771, 48)
    assert "771 parameters trained, 48 frozen" in str(summary)
    assert "frozen" not in str(Net().summary())
    trainer.train()
    assert capsys.readouterr().out.startswith("Net: 819 parameters (48 frozen) on cpu, epochs 1 to 2\n")


def everything(trainer):
    state = trainer._run_state
    return copy.deepcopy(
        {
            "weights": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "flags": [module.training for module in trainer.model.modules()],
            "hooks": [len(module._forward_hooks) for module in trainer.model.modules()],
            "random": torch.get_rng_state(),
            "names": sorted(vars(trainer)),
            "metrics": (trainer.batch_metrics, trainer.loader_metrics, trainer.epoch_metrics, trainer.history),
            "step": state.progress.step,
        }
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("trained", [False, True])
def test_a_summary_leaves_everything_as_it_was(trained):
    trainer = Net()
    if trained:
        trainer.train()
    trainer.model[0][1].eval()
    before = everything(trainer)
    trainer.summary()
    after = everything(trainer)
    assert [name for name in before if not same(before[name], after[name])] == []


def test_a_training_after_a_summary_is_the_same_bit_for_bit():
    weights = []
    for ask in (False, True):
        torch.manual_seed(3)
        trainer = Net()
        if ask:
            trainer.summary()
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert same(*weights)


class Pair(Net):
    def build_model(self):
        super().build_model()
        self.model = {"encoder": self.model, "head": nn.Linear(3, 2), "recurrent": nn.LSTM(3, 4)}
        self.optimizer = torch.optim.Adam([p for module in self.model.values() for p in module.parameters()])

    def compute_loss(self):
        self.batch_metrics["seen"] = 1.0
        features = self.model["encoder"](self.inputs)
        self.model["recurrent"](features.unsqueeze(0))
        return self.model["head"](features).sum()


def test_several_models_that_meet_in_compute_loss():
    trainer = Pair()
    rows = by_name(trainer.summary())
    assert rows["encoder"].shape == "1 x 3" and rows["head"].shape == "1 x 2"
    assert rows["recurrent"].shape == "1 x 1 x 4 +2", "the first tensor, and how many more"
    assert trainer.batch_metrics == {}


def test_a_shared_module_is_counted_once():
    trainer = Net()
    layer = nn.Linear(3, 3)
    trainer.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), layer, layer)
    summary = trainer.summary()
    assert summary.trained == 64 * 3 + 3 + 9 + 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: setattr(t, "train_loader", iter([])), "no shapes: the loader can be read only once"),
        (lambda t: vars(t).update(train_loader=None, valid_loader=None, test_loader=None), "there is no loader"),
        (lambda t: setattr(t, "model", nn.Sequential(nn.Flatten(), nn.LazyLinear(3))), "lazy modules"),
        (lambda t: setattr(t, "model", nn.Linear(7, 3)), "shapes are incomplete: RuntimeError"),
        (lambda t: setattr(t, "train_loader", []), "shapes are incomplete"),
    ],
    ids=["one pass", "none", "lazy", "does not fit", "empty"],
)
def test_without_a_forward_there_is_a_table_without_shapes(change, said):
    trainer = Net()
    change(trainer)
    summary = trainer.summary()
    assert said in summary.sample
    assert summary.rows[0].shape == "-" and summary.output_bytes is None
    assert max(map(len, str(summary).splitlines())) <= 80


def test_a_lazy_model_stays_lazy():
    trainer = Net()
    trainer.model = nn.LazyLinear(3)
    trainer.summary()
    assert trainer.model.has_uninitialized_params()


def test_no_worker_is_started_and_a_loader_with_workers_stays():
    trainer = Net()
    dataset = trainer.train_loader.dataset
    trainer.train_loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    assert trainer.summary().rows[0].shape == "1 x 3"
    assert trainer.train_loader.num_workers == 1 and trainer.train_loader._iterator is None


def test_a_wrapped_model_is_shown_as_what_it_wraps():
    trainer = Net()
    trainer.model = nn.DataParallel(trainer.model)
    assert trainer.summary().rows[0].kind == "Sequential"
    assert trainer.summary().rows[0].shape == "1 x 3"


@pytest.mark.slow
def test_a_compiled_model_is_not_compiled_again():
    trainer = Net()
    trainer.model = torch.compile(trainer.model)
    rows = trainer.summary().rows
    assert rows[0].kind == "Sequential" and rows[-1].shape == "1 x 3"


def test_no_line_is_wider_than_80_columns_and_all_are_aligned():
    trainer = Net()
    inner = nn.Sequential()
    for _ in range(6):
        inner = nn.ModuleDict({"a_rather_long_name_of_a_layer_" * 2: inner})
    trainer.model = nn.ModuleList([inner, nn.Linear(99, 100000)])
    text = str(trainer.summary(depth=9))
    table = text.split("\n-")[0].splitlines() + [line for line in text.splitlines() if "layer_" in line]
    assert max(map(len, text.splitlines())) <= 80
    assert len({len(line) for line in table}) == 1
    assert "~" in text and "10,000,000" in text


def test_a_notebook_shows_the_table():
    assert Net().summary()._repr_html_().startswith("<pre>layer ")
