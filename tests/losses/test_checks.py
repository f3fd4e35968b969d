"""What cannot be right is an error that says what was got and what was expected."""

import math

import pytest
import torch

from farabio_like import ConfigError, DataError, NonFiniteError, losses
from farabio_like.losses import dice_loss, segmentation

from .catalogue import CASES, HARD_ONLY, batch, modes_of


def binary(*shape):
    return torch.zeros(shape)


def classes(*shape, dtype=torch.long):
    return torch.zeros(shape, dtype=dtype)


SHAPES = [
    ("binary", (2, 1, 4, 5), binary(2, 4, 4), "target (2, 4, 4) does not fit the logits (2, 1, 4, 5)"),
    ("binary", (2, 1, 4, 5), binary(1, 1, 4, 5), "takes (2, 4, 5) or (2, 1, 4, 5)"),
    ("binary", (2, 1, 4, 5), binary(4, 5), "target (4, 5)"),
    ("binary", (2, 1, 4, 5), binary(2, 3, 4, 5), "target (2, 3, 4, 5)"),
    ("binary", (2, 3, 4, 5), binary(2, 4, 5), 'mode="multiclass"'),
    ("multiclass", (2, 1, 4, 5), classes(2, 4, 5), 'mode="binary"'),
    ("multiclass", (2, 3, 4, 5), classes(2, 1, 4, 5), "target.squeeze(1)"),
    ("multiclass", (2, 3, 4, 5), classes(1, 4, 5), "class numbers (2, 4, 5) or class probabilities (2, 3, 4, 5)"),
    ("multiclass", (2, 3, 4, 5), classes(2, 5, 4), "target (2, 5, 4)"),
    ("multilabel", (2, 3, 4, 5), binary(2, 4, 5), "a mask per channel, (2, 3, 4, 5)"),
    ("multilabel", (2, 3, 4, 5), binary(2, 1, 4, 5), "target (2, 1, 4, 5)"),
    ("multiclass", (2, 3, 4, 5, 6), classes(2, 4, 5), "class numbers (2, 4, 5, 6)"),
    ("multilabel", (3, 4, 5), binary(3, 4, 5), "logits.unsqueeze(0)"),
    ("binary", (2, 1, 0, 5), binary(2, 1, 0, 5), "no pixel"),
]


@pytest.mark.parametrize(("mode", "shape", "target", "message"), SHAPES)
def test_shapes_that_do_not_fit(mode, shape, target, message):
    for case in (case for case in CASES if case.mode == mode):
        with pytest.raises(DataError) as error:
            case(torch.zeros(shape), target)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("mode", "logits", "target", "message"),
    [
        ("binary", {"out": 1, "aux": 2}, binary(2, 1, 4, 5), "logits must be a tensor, not dict. It has 'out', 'aux'"),
        ("binary", binary(2, 1, 4, 5), [[0]], "target must be a tensor, not list."),
        ("binary", classes(2, 1, 4, 5), binary(2, 1, 4, 5), "floating point numbers, not torch.int64"),
        ("multiclass", binary(2, 3, 4, 5), binary(2, 4, 5), "integers, not torch.float32: target.long()"),
        ("multiclass", binary(2, 3, 4, 5), classes(2, 4, 5, dtype=torch.bool), "integers, not torch.bool"),
        ("binary", binary(2, 1, 4, 5), binary(2, 1, 4, 5).to("meta"), "on cpu, the target on meta: target.to("),
    ],
)
def test_types_that_do_not_fit(mode, logits, target, message):
    with pytest.raises(DataError) as error:
        dice_loss(logits, target, mode)
    assert message in str(error.value)


WRONG = {
    "binary": [2.0, -1.0, 255.0, math.nan],
    "multilabel": [2.0, -0.1, math.nan],
    "multiclass": [3, -1, 255],
}


@modes_of(*CASES)
def test_targets_out_of_range(cases):
    for case in cases:
        for wrong in WRONG[case.mode]:
            logits, target = batch(case.mode)
            target = target if case.mode == "multiclass" else target.float()
            target[0, 0, 1] = wrong
            with pytest.raises(DataError, match=f"{wrong:g}"):
                case(logits, target)


def test_messages_name_the_way_out():
    logits, target = batch("multiclass")
    target[0, 0, :2] = 255
    with pytest.raises(DataError) as error:
        dice_loss(logits, target, "multiclass")
    assert str(error.value) == (
        "The logits have 3 classes, numbers 0 to 2, but 2 pixels of the target have 255. Pixels without a class are "
        "left out by ignore_index=255."
    )
    with pytest.raises(DataError) as error:
        dice_loss(logits[:, :1], (target > 0) * 255, "binary")
    assert "are 255. Masks of 0 and 255: target > 127." in str(error.value)


def test_a_byte_of_255_is_not_minus_one():
    logits, target = batch("multiclass")
    target[0, 0, 0] = 255
    with pytest.raises(DataError, match="255"):
        dice_loss(logits, target.byte(), "multiclass", ignore_index=-1)
    logits, target = batch("binary")
    target[0, 0, 0, 0] = 255
    with pytest.raises(DataError, match="255"):
        dice_loss(logits, target.byte(), "binary", ignore_index=-1)
    assert dice_loss(logits, target.byte(), "binary", ignore_index=255).isfinite()


@modes_of(*CASES)
def test_what_is_ignored_is_a_whole_number(cases):
    for case in cases:
        for wrong in ("255", 254.5, 255.0, True):
            message = f"ignore_index={wrong!r}, expected a whole number"
            with pytest.raises(ConfigError, match=message):
                case(*batch(case.mode), ignore_index=wrong)
            with pytest.raises(ConfigError, match=message):
                case.module(ignore_index=wrong)


@modes_of(*CASES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(cases, wrong):
    for case in cases:
        logits, target = batch(case.mode)
        logits[0, 0, 1, 1] = wrong
        for values in (logits, logits.half()):
            with pytest.raises(NonFiniteError, match="1 NaN and 0" if math.isnan(wrong) else "0 NaN and 1 infinite"):
                case(values, target)


def test_large_logits_whose_sum_is_infinite_are_finite():
    logits, target = torch.full((1, 1, 8, 8), 3e38), torch.ones(1, 8, 8)
    assert dice_loss(logits, target, "binary").item() == 0


@modes_of(*(case for case in CASES if case.name in HARD_ONLY))
def test_soft_targets_where_the_formula_has_none(cases):
    for case in cases:
        logits, target = batch(case.mode, soft=True)
        with pytest.raises(DataError, match="takes targets of 0 or 1 only, got 0"):
            case(logits, target)


def test_class_probabilities():
    logits, target = batch("multiclass", soft=True)
    assert dice_loss(logits, target.half(), "multiclass").isfinite()
    with pytest.raises(DataError, match=r'add up to 1, here they are off by up to 0\.5.*mode="multilabel"'):
        dice_loss(logits, target / 2, "multiclass")
    with pytest.raises(ConfigError, match=r"pass class numbers, target.argmax\(1\) with 255"):
        dice_loss(logits, target, "multiclass", ignore_index=255)


ARGUMENTS = [
    ("dice", "binary", {"absent": "ignore"}, "absent='ignore', expected 'count' or 'skip'"),
    ("lovasz", "binary", {"absent": None}, "absent=None"),
    ("dice", "binary", {"class_weights": [1.0]}, 'nothing to weigh in mode="binary"'),
    ("dice", "multiclass", {"class_weights": [1.0, -1.0, 1.0]}, "from 0 up, not all of them 0, got [1.0, -1.0, 1.0]"),
    ("dice", "multiclass", {"class_weights": [0.0, 0.0, 0.0]}, "not all of them 0"),
    ("dice", "multiclass", {"class_weights": [1.0, math.nan, 1.0]}, "nan"),
    ("dice", "multiclass", {"class_weights": [[1.0, 1.0, 1.0]]}, "got shape (1, 3)"),
    ("lovasz", "multilabel", {"class_weights": [1.0, 1.0, 1.0]}, "one hinge over all channels"),
    ("tversky", "binary", {"alpha": -0.1}, "alpha=-0.1, expected a number from 0 up"),
    ("tversky", "binary", {"beta": 0}, "beta=0, expected a number from 1e-07 up"),
    ("focal_tversky", "binary", {"gamma": 0}, "gamma=0"),
    ("focal", "binary", {"gamma": -1}, "gamma=-1"),
    ("focal", "binary", {"alpha": 2}, "alpha=2, expected a number from 0 to 1"),
    ("soft_bce", "binary", {"smoothing": 1.5}, "smoothing=1.5, expected a number from 0 to 1"),
    ("soft_ce", "multiclass", {"smoothing": "no"}, "smoothing='no'"),
    ("dice_ce", "multiclass", {"smoothing": -1}, "smoothing=-1"),
    ("dice_bce", "binary", {"smoothing": math.nan}, "smoothing=nan"),
    ("cldice", "binary", {"alpha": 1.5}, "alpha=1.5"),
    ("cldice", "binary", {"iterations": 2.5}, "iterations=2.5, expected a whole number from 0 up"),
]


@pytest.mark.parametrize(("name", "mode", "arguments", "message"), ARGUMENTS)
def test_arguments_are_checked_when_a_module_is_made_and_when_a_function_is_called(name, mode, arguments, message):
    case = next(case for case in CASES if (case.name, case.mode) == (name, mode))
    for attempt in (lambda: case.module(**arguments), lambda: case(*batch(mode), **arguments)):
        with pytest.raises(ConfigError) as error:
            attempt()
        assert message in str(error.value)


def test_modes_are_checked():
    for attempt in (lambda: losses.DiceLoss("multi"), lambda: dice_loss(*batch("binary"), "multi")):
        with pytest.raises(ConfigError, match="mode='multi', expected 'binary' or 'multiclass' or 'multilabel'"):
            attempt()
    for attempt in (
        lambda: losses.SoftBCELoss("multiclass"),
        lambda: losses.soft_bce_loss(*batch("multiclass"), "multiclass"),
        lambda: losses.DiceBCELoss("multiclass"),
        lambda: losses.dice_bce_loss(*batch("multiclass"), "multiclass"),
    ):
        with pytest.raises(ConfigError, match="SoftCELoss, DiceCELoss"):
            attempt()


def test_as_many_weights_as_classes():
    with pytest.raises(ConfigError, match="class_weights has 2 weights, the logits have 3 classes"):
        losses.DiceLoss("multiclass", class_weights=[1, 2])(*batch("multiclass"))


@modes_of(*CASES)
def test_on_an_accelerator_wrong_targets_make_the_loss_nan(cases, monkeypatch):
    monkeypatch.setattr(segmentation, "_is_read", lambda values: False)
    for case in cases:
        logits, target = batch(case.mode)
        right = case(logits, target)
        for wrong in WRONG[case.mode]:
            broken = target.clone() if case.mode == "multiclass" else target.float()
            broken[0, 0, 1] = wrong
            assert case(logits, broken).isnan()
        if case.name in HARD_ONLY and case.mode != "multiclass":
            assert case(logits, target / 2).isnan()
        logits[0, 0, 1, 1] = math.nan
        assert case(logits, target).isnan()
        assert right.isfinite()
