"""A torchmetrics object as a metric: the same numbers as by hand, in every pass."""

import io

import pytest
import torch

from farabio_like import ConfigError
from farabio_like.callbacks.base import Callback, CallbackOrder
from farabio_like.callbacks.torch_metric import TorchMetric

from .replay import Replay, batches, replay, scores

torchmetrics = pytest.importorskip("torchmetrics")
classification = torchmetrics.classification


def collection():
    return torchmetrics.MetricCollection(
        {
            "auc": classification.MulticlassAUROC(3),
            "recall": classification.MulticlassRecall(3, average=None),
            "precision": classification.MulticlassPrecision(3),
        }
    )


def direct(metric, logits, target):
    metric = metric()
    metric.update(logits, target)
    return metric.compute()


@pytest.mark.parametrize("size", [7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_value_and_several(size, dtype):
    logits, target = scores(40, 3, dtype=dtype)
    callbacks = [TorchMetric("kappa", classification.MulticlassCohenKappa(3)), TorchMetric("all", collection())]
    trainer = replay(callbacks, batches(logits[:9], target[:9], size), batches(logits, target, size), _num_epochs=2)
    kappa, several = lambda: classification.MulticlassCohenKappa(3), collection
    for entry in trainer.train():
        for part, end in (("train", 9), ("valid", 40)):
            assert set(entry[part]) == {"loss", "kappa", "all_auc", "all_recall", "all_precision"}
            assert entry[part]["kappa"] == pytest.approx(direct(kappa, logits[:end], target[:end]).item(), abs=1e-6)
            for name, value in direct(several, logits[:end], target[:end]).items():
                assert entry[part][f"all_{name}"] == pytest.approx(value.tolist(), abs=1e-6)
    assert trainer.test()["kappa"] == trainer.history[-1]["train"]["kappa"]


def test_an_evaluation_within_a_training_batch_mixes_nothing():
    logits, target = scores(40, 3)

    class Often(Replay):
        def training_step(self):
            super().training_step()
            self.inner = self.evaluate_epoch()["kappa"]

    def kappa():
        return classification.MulticlassCohenKappa(3)

    trainer = replay(
        TorchMetric("kappa", kappa()), batches(logits, target), batches(logits[:9], target[:9]), kind=Often
    )
    (entry,) = trainer.train()
    valid = direct(kappa, logits[:9], target[:9]).item()
    assert trainer.inner == entry["valid"]["kappa"] == pytest.approx(valid, abs=1e-6)
    assert entry["train"]["kappa"] == pytest.approx(direct(kappa, logits, target).item(), abs=1e-6)


@pytest.mark.parametrize("metric", [collection, lambda: classification.MulticlassAUROC(3)], ids=["several", "one"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.filterwarnings("error:The ``compute`` method")
def test_a_resumed_pass_goes_on_where_it_was(metric, steps):
    logits, target = scores(40, 3)
    data = batches(logits, target)
    callback = TorchMetric("m", metric())

    class Keep(Callback):
        order = CallbackOrder.Other

        def on_end_training_batch(self, trainer):
            if trainer.step == steps:
                self.file = io.BytesIO()
                torch.save(callback.state_dict(), self.file)
                self.file.seek(0)

    keep = Keep()
    trainer = replay([callback, keep], data)
    (whole,) = trainer.train()
    assert callback.state_dict() == {}
    again = TorchMetric("m", metric())
    again.load_state_dict(torch.load(keep.file, weights_only=True))
    (rest,) = replay(again, data[steps:], data, _evaluate_first=True).train()
    assert rest["train"] == whole["train"] and rest["valid"] == whole["valid"]


def test_anything_of_that_shape_will_do():
    class Count:
        def reset(self):
            self.count = 0

        def update(self, prediction, target):
            self.count += len(target)

        def compute(self):
            return self.count

    trainer = replay(TorchMetric("count", Count()), batches(*scores(10, 2)))
    assert [entry["train"]["count"] for entry in [*trainer.train(), *trainer.train()]] == [10, 10, 10]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (torch.nn.Identity(), "a Identity without update, compute, reset"),
        (classification.BinaryAUROC, "the class BinaryAUROC"),
        (len, r"Write|write FunctionMetric\('m', function\)"),
    ],
)
def test_what_is_no_metric(metric, message):
    with pytest.raises(ConfigError, match=message):
        TorchMetric("m", metric)
