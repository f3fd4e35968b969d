import pytest
import torch
from torch.utils.data import DataLoader

from farabio_like.callbacks.base import Callback
from farabio_like.callbacks.transform import BatchTransform
from farabio_like.errors import ConfigError, DataError, HookError
from tests.trainers import INPUTS, TARGETS, Tiny


class Seen(Callback):
    """The inputs and targets that a step computes with, by loader."""

    def __init__(self):
        self.inputs, self.targets = {}, {}

    def note(self, trainer):
        self.inputs.setdefault(trainer.loader_name, []).append(trainer.inputs)
        self.targets.setdefault(trainer.loader_name, []).append(trainer.targets)

    on_end_training_batch = on_evaluate_batch_end = on_end_test_batch = note


class Forms(Tiny):
    """Test batches as a mapping or a tensor."""

    def get_testloader(self):
        form = self.config._form
        rows = {"mapping": [{"inputs": INPUTS, "targets": TARGETS, "name": "a"}], "tensor": [INPUTS], "other": ["text"]}
        self.test_loader = rows[form]

    def compute_loss(self):
        self.outputs = self.forward()
        return self.outputs.mean()


def run(trainer, *callbacks):
    trainer.callbacks = list(callbacks)
    trainer.train()
    return trainer.test()


@pytest.mark.parametrize("loaders", [("train",), ("valid",), ("test",), ("train", "valid", "test")])
def test_inputs_of_the_chosen_loaders_are_changed(loaders):
    seen = Seen()
    run(Tiny({"_num_epochs": 1}), BatchTransform(lambda inputs: inputs * 10, loaders), seen)
    for loader in ("train", "valid", "test"):
        assert torch.equal(torch.cat(seen.inputs[loader]), INPUTS * (10 if loader in loaders else 1)), loader
        assert torch.equal(torch.cat(seen.targets[loader]), TARGETS)


def test_targets_too_and_one_after_the_other():
    seen = Seen()
    first = BatchTransform(lambda inputs, targets: (inputs + 1, -targets), ("train", "valid", "test"), targets=True)
    second = BatchTransform(lambda inputs: inputs * 2, ("train", "valid", "test"))
    trainer = Tiny({"_num_epochs": 1})
    metrics = run(trainer, first, second, seen)
    for loader in ("train", "valid", "test"):
        assert torch.equal(torch.cat(seen.inputs[loader]), (INPUTS + 1) * 2), loader
        assert torch.equal(torch.cat(seen.targets[loader]), -TARGETS), loader
    assert metrics == trainer.test()  # nothing is wrapped twice
    with torch.no_grad():
        expected = trainer.criterion(trainer.model((INPUTS + 1) * 2), -TARGETS)
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("form", ["mapping", "tensor"])
def test_test_batches_of_other_forms(form):
    seen = Seen()
    run(Forms({"_num_epochs": 1, "_form": form}), BatchTransform(torch.neg, ["test"]), seen)
    assert torch.equal(seen.inputs["test"][0], -INPUTS)
    assert torch.equal(INPUTS[0], torch.arange(3.0) / 30)


def test_a_test_batch_without_inputs():
    with pytest.raises(DataError, match="a str; expected a pair"):
        run(Forms({"_num_epochs": 1, "_form": "other"}), BatchTransform(torch.neg, ("test",)))


def test_a_loader_without_a_length_stays_lazy():
    trainer = Tiny({"_num_epochs": 1})
    drawn = []

    def stream():
        for batch in DataLoader(torch.utils.data.TensorDataset(INPUTS, TARGETS), batch_size=5):
            drawn.append(1)
            yield batch

    class Stop(Callback):
        def on_end_test_batch(self, trainer):
            trainer.stop_loader()

    trainer.train()
    trainer.test_loader = stream()
    trainer.callbacks = [BatchTransform(torch.neg, ("test",)), Stop()]
    trainer.test()
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (BatchTransform(lambda inputs: None), "<lambda>\\): the function returned None"),
        (BatchTransform(lambda inputs, targets: inputs, targets=True), "returned a Tensor; expected \\(inputs"),
    ],
)
def test_functions_that_return_something_else(callback, message):
    with pytest.raises(HookError, match=message):
        run(Tiny(), callback)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "expected a function"),
        ((abs, "train"), r"expected names of loaders, loaders=\('train',\)"),
        ((abs, ("trian",)), "no loader 'trian' for it. Did you mean 'train'"),
        ((abs, ()), "There are: train, valid, test"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        BatchTransform(*arguments)
