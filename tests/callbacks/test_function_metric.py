"""A function as a metric: averaged by samples, or called once with everything."""

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from farabio_like import ConfigError, DataError
from farabio_like.callbacks.function_metric import FunctionMetric
from tests.trainers import INPUTS, TARGETS, Tiny

from .replay import batches, measure, replay, scores


def mae(prediction, target):
    return (prediction - target).abs().mean()


def kappa(prediction, target):
    return cohen_kappa_score(target, prediction.argmax(1))


@pytest.mark.parametrize("size", [3, 7, 20])
def test_per_batch_is_a_mean_over_samples(size):
    prediction, target = torch.randn(20), torch.randn(20)
    expected = mae(prediction, target).item()
    assert measure(FunctionMetric("mae", mae), prediction, target, size) == {"mae": pytest.approx(expected, abs=1e-6)}
    found = measure(FunctionMetric("mae", lambda p, t: mae(p, t).item()), prediction, target, size)
    assert found == {"mae": pytest.approx(expected, abs=1e-6)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_per_loader_is_called_once_with_everything(dtype):
    logits, target = scores(50, 3, dtype=dtype)
    calls = []

    def function(prediction, wanted):
        calls.append(prediction.dtype)
        return kappa(prediction, wanted)

    found = measure(FunctionMetric("kappa", function, per="loader", loaders=("valid",)), logits, target)
    assert calls == [dtype] and found == {"kappa": pytest.approx(kappa(logits, target), abs=1e-9)}
    wrong = measure(FunctionMetric("kappa", kappa), logits, target)
    assert wrong["kappa"] != pytest.approx(found["kappa"], abs=1e-3)


def test_in_a_training_that_learns():
    trainer = Tiny()
    trainer.callbacks = [FunctionMetric("mae", mae), FunctionMetric("again", mae, per="loader")]
    plain = Tiny()
    history, expected = trainer.train(), plain.train()
    assert torch.equal(trainer.model.weight, plain.model.weight)
    for entry, other in zip(history, expected, strict=True):
        assert entry["train"]["loss"] == other["train"]["loss"]
        assert entry["train"]["mae"] == pytest.approx(entry["train"]["again"], abs=1e-6)
    assert history[-1]["valid"]["mae"] == pytest.approx(mae(trainer.model(INPUTS), TARGETS).item(), abs=1e-6)


def test_a_value_per_class_and_restriction_to_a_loader():
    callback = FunctionMetric("mean", lambda p, t: p.mean(0), per="loader", loaders=("valid",))
    assert measure(callback, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2), 1) == {"mean": [2.0, 3.0]}
    trainer = replay(FunctionMetric("mae", mae, loaders=("test",), prefix="a_"), batches(torch.ones(4), torch.zeros(4)))
    (entry,) = trainer.train()
    assert set(entry["train"]) == set(entry["valid"]) == {"loss"} and trainer.test() == {"loss": 0.0, "a_mae": 1.0}


def test_any_kind_of_outputs_per_batch_tensors_per_loader():
    data = [({"out": torch.ones(3)}, torch.zeros(3))]
    first = FunctionMetric("mae", lambda p, t: mae(p["out"], t))
    assert replay(first, data).train()[0]["train"]["mae"] == 1.0
    with pytest.raises(DataError, match=r"per='loader'\) got a dict as prediction.*prediction=lambda trainer"):
        replay(FunctionMetric("mae", mae, per="loader"), data).train()
    taken = FunctionMetric("mae", mae, per="loader", prediction=lambda trainer: trainer.outputs["out"])
    assert replay(taken, data).train()[0]["train"]["mae"] == 1.0


def test_mistakes():
    with pytest.raises(ConfigError, match=r'per=\'epoch\'.*expected "batch" or "loader"'):
        FunctionMetric("mae", mae, per="epoch")
    with pytest.raises(ConfigError, match="expected a name and a function"):
        FunctionMetric("mae", 3)
    with pytest.raises(ConfigError, match="expected a name and a function"):
        FunctionMetric(mae, mae)
    data = batches(torch.ones(4), torch.zeros(4))
    with pytest.raises(ConfigError, match="another metric called 'mae'"):
        replay([FunctionMetric("mae", mae), FunctionMetric("mae", mae)], data).train()


@pytest.mark.parametrize("per", ["batch", "loader"])
def test_the_name_of_the_loss_is_taken(per):
    with pytest.raises(ConfigError, match="that of the loss itself"):
        FunctionMetric("loss", lambda prediction, target: 0.0, per=per)
    assert FunctionMetric("loss", lambda prediction, target: 0.0, per=per, prefix="other_").name == "loss"
