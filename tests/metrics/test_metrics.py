"""Means over a loader: weighted by samples, folded on the device, read back once."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import HookError
from farabio_like.metrics.running import FOLD_EVERY, RunningMeans

from ..trainers import INPUTS, TARGETS, Tiny


def mean_of(pairs, name="loss"):
    means = RunningMeans()
    for value, samples in pairs:
        means.update({name: value}, samples)
    return means.compute()[name]


@pytest.mark.parametrize(
    "make",
    [float, torch.tensor, np.float32, lambda v: torch.tensor([v])],
    ids=["float", "tensor", "numpy", "tensor of one"],
)
def test_the_running_mean_after_every_batch(make):
    means = RunningMeans()
    running = []
    for value, samples in zip([1.0, 0.0, 2.0, 3.0], [10, 5, 15, 25], strict=True):
        means.update({"loss": make(value)}, samples)
        running.append(round(means.compute()["loss"], 4))
    assert running == [1, 0.6667, 1.3333, 2.0909]


def test_many_batches_are_folded_in_parts():
    values = torch.rand(3 * FOLD_EVERY + 5, dtype=torch.float64)
    sizes = [8] * 100 + [3] * 40 + [8] * (len(values) - 140)
    expected = sum(v.item() * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)
    assert mean_of(zip(values, sizes, strict=True)) == pytest.approx(expected, rel=1e-12)


def test_sums_are_kept_in_double_precision():
    values = [torch.tensor(1e8)] + [torch.tensor(1.0)] * 1000
    assert mean_of((v, 1) for v in values) == (1e8 + 1000) / 1001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_every_type_of_number(dtype):
    values = [torch.tensor(1, dtype=dtype), torch.tensor(0, dtype=dtype)] * 100
    assert mean_of((v, 4) for v in values) == 0.5


def test_numbers_and_tensors_of_every_kind_in_one_mean():
    values = [1, 2.0, torch.tensor(3.0), torch.tensor([4.0]), torch.tensor([[5]]), np.float64(6), True, np.int32(8)]
    assert mean_of((v, 2) for v in values) == (1 + 2 + 3 + 4 + 5 + 6 + 1 + 8) / 8


def test_a_name_that_appears_sometimes_is_averaged_over_the_samples_for_which_it_did():
    means = RunningMeans()
    for step, samples in enumerate([4, 4, 4, 2]):
        values = {"loss": torch.tensor(float(step))}
        if step % 2:
            values["penalty"] = torch.tensor(10.0 * step)
        means.update(values, samples)
    assert means.compute() == {"loss": (0 * 4 + 1 * 4 + 2 * 4 + 3 * 2) / 14, "penalty": (10 * 4 + 30 * 2) / 6}


def test_not_finite_values_are_shown_and_concern_their_own_name_alone():
    means = RunningMeans()
    for value in (1.0, math.nan, 2.0):
        means.update({"bad": torch.tensor(value), "number": value, "good": 1.0, "large": math.inf}, 3)
    found = means.compute()
    assert math.isnan(found["bad"]) and math.isnan(found["number"])
    assert found["good"] == 1.0 and found["large"] == math.inf


def test_an_empty_batch_counts_nothing():
    assert mean_of([(torch.tensor(2.0), 3), (torch.tensor(math.nan), 0), (math.nan, 0)]) == 2.0


def test_what_changes_in_place_later_counts_as_what_it_was():
    scale, seen = nn.Parameter(torch.tensor(0.0)), []
    means = RunningMeans()
    for step in range(5):
        with torch.no_grad():
            scale.fill_(step)
        means.update({"parameter": scale, "view": scale.view(()), "data": scale.data}, 1)
        seen.append(float(step))
    assert means.compute() == dict.fromkeys(("parameter", "view", "data"), sum(seen) / 5)


def test_no_graph_is_kept():
    means = RunningMeans()
    weight = torch.ones(3, requires_grad=True)
    middle = weight * 2
    alive = weakref.ref(middle)
    means.update({"loss": (middle * middle).sum()}, 1)
    del middle
    gc.collect()
    assert alive() is None
    assert means.compute() == {"loss": 12.0}


@pytest.mark.parametrize("before", [[], [torch.tensor(1.0)], [1.0], [torch.tensor([1.0])]], ids=str)
@pytest.mark.parametrize(
    ("value", "word"),
    [
        (torch.zeros(4), "(4,)"),
        (torch.zeros(0), "(0,)"),
        (torch.zeros(2, 2), "(2, 2)"),
        (None, "NoneType"),
        ([1.0], "list"),
        ("high", "str"),
        ({"a": 1.0}, "dict"),
    ],
    ids=str,
)
def test_a_value_that_is_no_number_is_an_error_at_its_own_batch(value, word, before):
    means = RunningMeans()
    for first in before:
        means.update({"accuracy": first}, 4)
    with pytest.raises(HookError) as caught:
        means.update({"accuracy": value}, 4)
    assert "batch_metrics['accuracy']" in str(caught.value) and word in str(caught.value)


# ---------------------------------------------------------------- in a run


class Measured(Tiny):
    """Records a mean, a batch's sum of errors, and one that appears only in the first batch."""

    def compute_loss(self):
        loss = super().compute_loss()
        self.batch_metrics["error"] = (self.outputs - self.targets).abs().mean()
        if self.inputs[0, 0] == INPUTS[0, 0]:
            self.batch_metrics["first"] = self.targets.mean()
        return loss


def whole(model, inputs=INPUTS, targets=TARGETS):
    with torch.no_grad():
        outputs = model(inputs)
    return {
        "loss": nn.functional.mse_loss(outputs, targets).item(),
        "error": (outputs - targets).abs().mean().item(),
        "first": TARGETS[:4].mean().item(),
    }


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 10, 100])
def test_evaluation_in_batches_is_evaluation_at_once(batch_size):
    trainer = Measured()
    trainer.valid_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=batch_size)
    expected = whole(trainer.model)
    expected["first"] = TARGETS[:batch_size].mean().item()
    assert trainer.evaluate_epoch() == pytest.approx(expected, rel=1e-6)


def test_train_valid_and_test_are_each_the_mean_of_their_loader():
    trainer = Measured({"_num_epochs": 1})
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    expected = pytest.approx(whole(trainer.model), rel=1e-6)
    (entry,) = trainer.train()
    assert entry["train"] == expected and entry["valid"] == expected
    assert trainer.test() == expected
    assert trainer.loader_metrics == expected


def test_the_train_loss_is_the_mean_of_the_losses_that_were_stepped_on():
    losses = []

    class Noted(Tiny):
        def on_end_training_batch(self):
            losses.append((self.loss.item(), len(self.inputs)))

    history = Noted().train()
    for epoch in (0, 1):
        part = losses[3 * epoch : 3 * epoch + 3]
        assert [samples for _, samples in part] == [4, 4, 2]
        expected = sum(loss * samples for loss, samples in part) / 10
        assert history[epoch]["train"] == {"loss": pytest.approx(expected, rel=1e-6)}


def test_a_parameter_as_a_metric_is_averaged_over_what_it_was_after_every_step():
    class Scaled(Tiny):
        seen = ()

        def on_end_training_batch(self):
            self.batch_metrics["bias"] = self.model.bias
            self.seen += ((self.model.bias.item(), len(self.inputs)),)

    trainer = Scaled({"_num_epochs": 1})
    (entry,) = trainer.train()
    assert entry["train"]["bias"] == pytest.approx(sum(bias * n for bias, n in trainer.seen) / 10, rel=1e-6)


def test_a_metric_that_is_no_number_ends_the_run_with_the_metrics_name():
    class Wrong(Tiny):
        def compute_loss(self):
            self.batch_metrics["error"] = (self.outputs - self.targets) if self.outputs is not None else 0.0
            return super().compute_loss()

    with pytest.raises(HookError, match=r"batch_metrics\['error'\] has the shape \(4, 1\).*\.mean\(\)"):
        Wrong().train()


def test_batch_size_of_can_be_overridden():
    class Tokens(Tiny):
        def batch_size_of(self, batch):
            return int(batch[0][:, 0].sum() * 30)

    trainer = Tokens()
    losses = [nn.functional.mse_loss(trainer.model(i), t).item() for i, t in trainer.valid_loader]
    weights = [int(i[:, 0].sum() * 30) for i, _ in trainer.valid_loader]
    expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    assert trainer.evaluate_epoch()["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_kept_in_one_place_is_averaged_as_it_was_in_every_batch():
    class Static(Tiny):
        place = torch.zeros(())

        def evaluate_batch(self, item):
            self.loss = self.place.copy_(self.compute_loss())

    static, plain = Static(), Tiny()
    assert static.evaluate_epoch() == plain.evaluate_epoch()


def test_a_loss_that_is_a_number_is_a_metric_too():
    class Number(Tiny):
        def evaluate_batch(self, item):
            self.loss = self.compute_loss().item()

    assert Number().evaluate_epoch() == pytest.approx(Tiny().evaluate_epoch())


class CountReads(TorchDispatchMode):
    """Counts what makes Python wait for a device: .item(), float(), bool() of a tensor, .nonzero()."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"):
            self.reads.append(function.name())
        return function(*args, **(kwargs or {}))


class Counted(Tiny):
    """Notes how often a tensor was read back in every step."""

    counter = None

    def compute_loss(self):
        self.outputs = self.forward()
        self.batch_metrics["error"] = (self.outputs - self.targets).abs().mean()
        return self.criterion(self.outputs, self.targets)

    def on_train_epoch_start(self):
        self.noted = []

    def on_end_training_batch(self):
        self.noted.append(len(self.counter.reads))


@pytest.mark.parametrize("batches", [5, FOLD_EVERY, 3 * FOLD_EVERY + 2])
def test_nothing_is_read_back_between_two_log_points(batches):
    data = TensorDataset(INPUTS.repeat(batches, 1), TARGETS.repeat(batches, 1))
    trainer = Counted({"_num_epochs": 1})
    trainer.train_loader = DataLoader(data, batch_size=10)
    trainer.valid_loader = DataLoader(data, batch_size=10)
    with CountReads() as trainer.counter:
        float(torch.ones(()))
        assert trainer.counter.reads == ["aten::_local_scalar_dense"], "the counter does count"
        trainer.train()
    assert trainer.noted == [1] * batches, "a step read a tensor back"
    # The last: whether the weights of the last epoch are finite, where no save looks at them.
    assert len(trainer.counter.reads) == 1 + 2 * 2 + 2, "one for each metric of each loader, and for each parameter"


# ---------------------------------------------------------------- torchmetrics

LOGITS = torch.tensor([[0.1, 2.0, 0.3]]).repeat(10, 1) * torch.linspace(-1, 1, 10).unsqueeze(1)
LABELS = torch.tensor([0, 1, 2, 1, 1, 0, 1, 2, 1, 0])


class Classes(Tiny):
    """A classifier of ten samples in batches of four."""

    def get_trainloader(self):
        data = TensorDataset(LOGITS, LABELS)
        self.train_loader, self.valid_loader = DataLoader(data, batch_size=4), DataLoader(data, batch_size=4)

    def get_testloader(self):
        self.test_loader = DataLoader(TensorDataset(LOGITS, LABELS), batch_size=4)

    def build_model(self):
        self.model = nn.Linear(3, 3)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.metrics = {
            "auc": torchmetrics.AUROC(task="multiclass", num_classes=3),
            "recall": torchmetrics.Recall(task="multiclass", num_classes=3, average="none"),
        }


def expected_metrics(model):
    outputs = model(LOGITS).detach()
    auc = torchmetrics.AUROC(task="multiclass", num_classes=3)(outputs, LABELS).item()
    recall = torchmetrics.Recall(task="multiclass", num_classes=3, average="none")(outputs, LABELS).tolist()
    return {"auc": pytest.approx(auc), "recall": pytest.approx(recall)}


def without_loss(metrics):
    return {name: value for name, value in metrics.items() if name != "loss"}


def test_metric_objects_are_computed_over_every_loader():
    trainer = Classes()
    expected = expected_metrics(trainer.model)
    history = trainer.train()
    assert len(history) == 2
    for entry in history:
        assert without_loss(entry["train"]) == expected
        assert without_loss(entry["valid"]) == expected
        assert type(entry["valid"]["auc"]) is float and type(entry["valid"]["recall"]) is list
    assert without_loss(trainer.test()) == expected


def test_evaluation_inside_a_training_batch_leaves_the_outer_metrics_alone():
    class Nested(Classes):
        inner = ()

        def on_end_training_batch(self):
            outputs, loss, targets = self.outputs, self.loss, self.targets
            self.batch_metrics["samples"] = len(targets)
            self.inner += (dict(self.evaluate_epoch()),)
            assert self.outputs is outputs and self.loss is loss and self.targets is targets
            assert self.batch_metrics["samples"] == len(targets)
            assert self.model.training

    trainer = Nested({"_num_epochs": 1})
    expected = expected_metrics(trainer.model)
    (entry,) = trainer.train()
    assert [without_loss(metrics) for metrics in trainer.inner] == [expected] * 3
    assert without_loss(entry["train"]) == {**expected, "samples": pytest.approx((4 * 4 + 4 * 4 + 2 * 2) / 10)}
    assert entry["train"]["loss"] == pytest.approx(entry["valid"]["loss"], rel=1e-6)


def test_evaluation_before_the_step_of_a_training_batch():
    class Nested(Classes):
        def on_start_training_batch(self, item):
            super().on_start_training_batch(item)
            self.evaluate_epoch()

    trainer = Nested({"_num_epochs": 1})
    expected = expected_metrics(trainer.model)
    (entry,) = trainer.train()
    assert without_loss(entry["train"]) == expected == without_loss(entry["valid"])


def test_one_metric_object_and_a_collection():
    class One(Classes):
        def build_model(self):
            super().build_model()
            self.metrics = torchmetrics.Accuracy(task="multiclass", num_classes=3)

    class Collection(Classes):
        def build_model(self):
            super().build_model()
            kinds = {"a": torchmetrics.Accuracy, "b": torchmetrics.F1Score}
            made = {name: kind(task="multiclass", num_classes=3) for name, kind in kinds.items()}
            self.metrics = {"both": torchmetrics.MetricCollection(made)}

    one, collection = One(), Collection()
    hits = (one.model(LOGITS).argmax(1) == LABELS).float().mean().item()
    assert without_loss(one.evaluate_epoch()) == {"metric": pytest.approx(hits)}
    assert set(without_loss(collection.evaluate_epoch())) == {"a", "b"}


def test_where_a_batch_metric_has_the_name_of_an_object_the_object_counts_and_it_is_said(capsys):
    class Both(Classes):
        def on_evaluate_batch_end(self):
            self.batch_metrics["auc"] = 7.0

    trainer = Both({"_verbose": True})
    outputs = trainer.model(LOGITS).detach()
    expected = torchmetrics.AUROC(task="multiclass", num_classes=3)(outputs, LABELS).item()
    assert trainer.evaluate_epoch()["auc"] == trainer.evaluate_epoch()["auc"] == pytest.approx(expected)
    assert capsys.readouterr().out.count("auc is what self.metrics['auc'] computes") == 1


def test_targets_of_an_own_hook_are_used():
    class Own(Classes):
        def on_evaluate_batch_start(self, item):
            self.inputs, self.targets = item[1][0], (item[1][1] + 1) % 3

    trainer = Own()
    outputs = trainer.model(LOGITS).detach()
    expected = torchmetrics.AUROC(task="multiclass", num_classes=3)(outputs, (LABELS + 1) % 3).item()
    assert trainer.evaluate_epoch()["auc"] == pytest.approx(expected)


def test_skipped_batches_are_in_no_metric():
    class Skipping(Classes):
        def on_evaluate_batch_start(self, item):
            super().on_evaluate_batch_start(item)
            self.batch_metrics["never"] = 1.0
            self._next_loop = item[0] == 1

    trainer = Skipping()
    kept = torch.tensor([0, 1, 2, 3, 8, 9])
    outputs = trainer.model(LOGITS[kept]).detach()
    metrics = trainer.evaluate_epoch()
    assert metrics["loss"] == pytest.approx(nn.functional.cross_entropy(outputs, LABELS[kept]).item())
    recall = torchmetrics.Recall(task="multiclass", num_classes=3, average="none")(outputs, LABELS[kept])
    assert metrics["recall"] == pytest.approx(recall.tolist())


def test_a_subclass_may_keep_records_of_its_own_under_the_same_name():
    class Records(Tiny):
        def define_train_attr(self):
            self.best = 0

        def build_model(self):
            super().build_model()
            self.metrics = {"history": [], "note": "x", "best": 0.5, "table": {"a": 1}, "value": torch.zeros(3)}

    trainer = Records()
    assert set(trainer.train()[0]["train"]) == {"loss"}
    assert trainer.metrics["note"] == "x" and trainer.metrics["history"] == []


def test_an_object_that_is_no_metric_is_named():
    class Wrong(Tiny):
        def build_model(self):
            super().build_model()
            self.metrics = {"auc": nn.MSELoss()}

    with pytest.raises(HookError, match=r"self\.metrics\['auc'\] is a MSELoss without update, compute, reset"):
        Wrong().train()


def test_a_step_without_outputs_updates_no_metric_object():
    class Own(Classes):
        def training_step(self):
            self.loss = self.criterion(self.model(self.inputs), self.targets)

    (entry,) = Own({"_num_epochs": 1}).train()
    assert set(entry["train"]) == {"loss"}
    assert set(entry["valid"]) == {"loss", "auc", "recall"}


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda metric: [metric], "self.metrics is a list"),
        (lambda metric: (1, metric), "self.metrics is a tuple"),
        (lambda metric: {"all": [metric]}, r"self\.metrics\['all'\] is a list"),
    ],
)
def test_metric_objects_in_a_list_are_not_passed_over(make, where):
    class Listed(Tiny):
        def define_misc_attr(self):
            self.metrics = make(torchmetrics.MeanSquaredError())

    with pytest.raises(HookError, match=f"{where} with a MeanSquaredError in it; expected one metric, or a dict"):
        Listed().train()
