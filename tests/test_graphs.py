"""The graphs of the documentation show what a real trainer does: no edge too many, none missing."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from farabio_like import ConvnetTrainer

GRAPHS = Path(__file__).parents[1] / "docs" / "graphs"

# What the default bodies of the batch hooks use, and predict: the graphs end at the hooks.
INSIDE_HOOKS = {
    "get_lr",
    "autocast",
    "batch_size_of",
    "compute_loss",
    "forward",
    "loss_backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "prediction_transform",
    "save_checkpoint",
    "evaluate_loader",
    "take_batch",
    "to_device",
}

EDGE = re.compile(r"^\s*(\w+) -> (\w+) \[(.*)\]")


class Call:
    """One call of a method, with the calls of other methods that it made, in order."""

    def __init__(self, name):
        self.name = name
        self.callees = []


class Linear(ConvnetTrainer):
    """Two epochs of two batches each."""

    def define_train_attr(self):
        self._num_epochs = 2
        for name, value in self.config.items():
            setattr(self, name, value)

    def define_log_attr(self):
        self._logdir, self._verbose, self._use_tqdm = None, False, False

    def get_trainloader(self):
        batches = [(torch.ones(3, 1), torch.ones(3, 1)), (torch.zeros(3, 1), torch.zeros(3, 1))]
        self.train_loader = self.valid_loader = self.test_loader = batches

    def build_model(self):
        self.model = torch.nn.Linear(1, 1)
        self.criterion = torch.nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


class SkipFirst(Linear):
    def on_evaluate_batch_start(self, item):
        self._next_loop = item[0] == 0


def run(base, **settings):
    """Train and test a trainer whose every public method is overridden; return the calls from outside."""
    outside = Call("")
    stack = [outside]

    def recorded(name):
        def method(self, *args, **kwargs):
            call = Call(name)
            stack[-1].callees.append(call)
            stack.append(call)
            try:
                return getattr(base, name)(self, *args, **kwargs)
            finally:
                stack.pop()

        return method

    names = [name for name, _ in inspect.getmembers(base, inspect.isfunction)]
    names = [name for name in names if not name.startswith("_") and name not in INSIDE_HOOKS]
    trainer = type("Recorded", (base,), {name: recorded(name) for name in names})(settings)
    trainer.train()
    trainer.test()
    return outside.callees


def edges_of(calls, root, leaf=None):
    """Return the ("calls", ...) and ("next", ...) edges of what `root` did, without what `leaf` did."""
    edges = set()
    waiting = [(call, call.name == root) for call in calls]
    while waiting:
        call, below = waiting.pop()
        if below and call.name != leaf:
            names = [callee.name for callee in call.callees]
            edges |= {("calls", call.name, name) for name in names}
            edges |= {("next", *pair) for pair in zip(names, names[1:], strict=False)}
        waiting += [(callee, callee.name == root or (below and call.name != leaf)) for callee in call.callees]
    return edges


def edges_in(path):
    """Return the ("calls", ...) and ("next", ...) edges of a graph; a visible edge must be either."""
    edges = []
    for line in re.sub(r"^\s*//.*", "", path.read_text(), flags=re.MULTILINE).splitlines():
        if "->" in line:
            found = EDGE.match(line)
            assert found, f"{path.name}: write one edge a line, as: a -> b [class=...]\n{line}"
            first, second, attributes = found.groups()
            kind = re.search(r'class="(calls|next)"', attributes)
            assert kind or "style=invis" in attributes, f"{path.name}: no class in {line}"
            if kind:
                edges.append((kind[1], first, second))
    assert len(edges) == len(set(edges)), f"{path.name} has an edge twice"
    return set(edges)


@pytest.fixture(scope="module")
def calls():
    return [
        *run(Linear),
        *run(Linear, _eval_interval=2),
        *run(SkipFirst),
        *run(Linear, _data_parallel=True),
    ]


@pytest.mark.parametrize(
    ("graph", "root", "leaf"),
    [("train", "train", "evaluate_epoch"), ("evaluate", "evaluate_epoch", None), ("test", "test", None)],
)
def test_graph_is_what_a_trainer_does(graph, root, leaf, calls):
    drawn, done = edges_in(GRAPHS / f"{graph}.dot"), edges_of(calls, root, leaf)
    assert drawn == done, f"drawn only: {sorted(drawn - done)}, done only: {sorted(done - drawn)}"


def test_every_graph_is_checked():
    assert {path.stem for path in GRAPHS.glob("*.dot")} == {"train", "evaluate", "test"}


def test_plain_run_is_the_training_graph_without_its_branches():
    """Two epochs, each evaluated, is all of the graph but the edge around the evaluation."""
    done = edges_of(run(Linear), "train", "evaluate_epoch")
    assert edges_in(GRAPHS / "train.dot") - done == {("next", "on_train_epoch_end", "on_epoch_end")}
