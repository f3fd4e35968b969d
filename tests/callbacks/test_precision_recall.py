"""Precision, recall and F1 equal scikit-learn's with zero_division=0."""

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from farabio_like import ConfigError, DataError
from farabio_like.callbacks.precision_recall import PrecisionRecallF1

from .replay import measure, scores

NAMES = ("precision", "recall", "f1")
HALVES = [torch.float32, torch.float16, torch.bfloat16]


def expected(target, predicted, average, **options):
    values = precision_recall_fscore_support(target, predicted, average=average, zero_division=0, **options)[:3]
    return dict(zip(NAMES, values, strict=True))


def compare(found, target, predicted, average, labels=None):
    each = expected(target, predicted, None, labels=labels)
    assert list(found) == [*(NAMES if average else ()), *(f"{name}_per_class" for name in NAMES)]
    for name in NAMES:
        assert found[f"{name}_per_class"] == pytest.approx(each[name].tolist(), abs=1e-6)
    if average:
        assert {name: found[name] for name in NAMES} == pytest.approx(expected(target, predicted, average), abs=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@pytest.mark.parametrize("size", [7, 50])
def test_classes(dtype, average, size):
    logits, target = scores(50, 5, dtype=dtype)
    found = measure(PrecisionRecallF1(average=average), logits, target, size)
    compare(found, target, logits.double().argmax(1), average)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
def test_classes_that_are_never_predicted_or_never_true_or_neither(average):
    target = torch.tensor([0, 0, 1, 1, 1, 2])
    predicted = torch.tensor([0, 1, 1, 1, 3, 0])  # 2 is never predicted, 3 never true, 4 neither
    found = measure(PrecisionRecallF1(5, average), predicted, target, 4)
    compare(found, target, predicted, average, labels=range(5))


@pytest.mark.parametrize("average", ["binary", "macro", "micro", "weighted", None])
@pytest.mark.parametrize("dtype", HALVES)
def test_binary(average, dtype):
    logits, target = scores(45, 2, dtype=dtype)
    compare(measure(PrecisionRecallF1(average=average), logits, target), target, logits.argmax(1), average)
    score = logits[:, 1]
    compare(measure(PrecisionRecallF1(average=average), score, target.float()), target, score > 0, average)
    found = measure(PrecisionRecallF1(average=average, threshold=0.7), score.sigmoid(), target)
    compare(found, target, score.sigmoid() > 0.7, average)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_several_labels(average, threshold):
    several = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    labels = (several + torch.randn(40, 6, generator=torch.Generator().manual_seed(2)) > 0.5).long()
    labels[:, 4], several[:, 4] = 0, -1.0  # never true, never predicted; scikit-learn counts it here
    found = measure(PrecisionRecallF1(average=average, threshold=threshold), several, labels)
    compare(found, labels, several > threshold, average)


def test_no_positive_at_all_is_zero():
    found = measure(PrecisionRecallF1(average="binary"), -torch.ones(5), torch.zeros(5))
    assert [found[name] for name in NAMES] == [0.0, 0.0, 0.0]


def test_what_is_ignored_does_not_count():
    logits, target = scores(50, 3)
    target[::4] = 255
    kept = target != 255
    found = measure(PrecisionRecallF1(ignore_index=255), logits, target)
    compare(found, target[kept], logits[kept].argmax(1), "macro")


def test_mistakes():
    with pytest.raises(ConfigError, match=r"average='makro'.*Did you mean 'macro'"):
        PrecisionRecallF1(average="makro")
    with pytest.raises(DataError, match="got 3 classes; expected two classes"):
        measure(PrecisionRecallF1(average="binary"), *scores(9, 3))
    with pytest.raises(DataError, match="got 2 labels; expected two classes"):
        measure(PrecisionRecallF1(average="binary"), torch.randn(9, 2), torch.ones(9, 2))
    with pytest.raises(DataError, match=r"num_classes=3\) got predictions of 2 classes"):
        measure(PrecisionRecallF1(3), torch.randn(9, 2), torch.ones(9, 2))
