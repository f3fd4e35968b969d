"""What holds for every loss, in every mode that it takes."""

import copy
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import one_hot

from farabio_like import losses
from farabio_like.losses.segmentation import SegmentationLoss

from .catalogue import CASES, POINTWISE, REGION, SOFT, batch, modes_of

CLASSES = [case for case in CASES if case.mode == "multiclass"]
MASKS = [case for case in CASES if case.mode != "multiclass"]
BINARY = [case for case in CASES if case.mode == "binary"]
SMOOTHED = [case for case in CASES if "smoothing" in case.arguments]


def test_the_catalogue_has_all_losses():
    names = {case.name for case in CASES}
    assert {f"{name}_loss" for name in names} == {name for name in losses.__all__ if name.endswith("_loss")}
    modules = {n for n in losses.__all__ if n.endswith("Loss") and issubclass(getattr(losses, n), SegmentationLoss)}
    assert {type(case.module()).__name__ for case in CASES} == modules


# Gradients


@modes_of(*CASES)
@pytest.mark.parametrize("space", [(3, 4), (2, 3, 2)], ids=["2-D", "3-D"])
def test_gradient_is_that_of_finite_differences(cases, space):
    for case in cases:
        logits, target = batch(case.mode, space)
        logits.requires_grad_()
        assert gradcheck(partial(case, target=target), logits)
        target[..., -1, -1] = 9
        assert gradcheck(partial(case, target=target, ignore_index=9, **case.weights), logits)


@modes_of(*SOFT)
def test_gradient_with_soft_targets(cases):
    for case in cases:
        logits, target = batch(case.mode, soft=True)
        logits.requires_grad_()
        assert gradcheck(partial(case, target=target, **case.weights), logits)


@modes_of(*CASES)
def test_certain_predictions_have_finite_gradients(cases):
    for case in cases:
        logits, target = batch(case.mode)
        for spread in (1, 1e4):
            for true in (target, torch.zeros_like(target)):
                values = (logits * spread).float().requires_grad_()
                case(values, true).backward()
                assert values.grad.isfinite().all()


# Ignored pixels


@modes_of(*CASES)
@pytest.mark.parametrize("space", [(8, 6), (4, 8, 6)], ids=["2-D", "3-D"])
def test_ignored_pixels_move_nothing(cases, space):
    for case in cases:
        logits, target = batch(case.mode, space)
        ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3
        target[ignored] = 255
        mask = ignored.unsqueeze(1).expand_as(logits) if case.mode == "multiclass" else ignored
        logits.requires_grad_()
        loss = case(logits, target, ignore_index=255)
        loss.backward()
        assert not logits.grad[mask].any()
        assert logits.grad[~mask].any()
        moved = torch.where(mask, -7 * logits.detach() + 5, logits.detach())
        assert case(moved, target, ignore_index=255).item() == loss.item()


# The skeletons of clDice see an ignored pixel as background, and nothing beyond the edge of an image.
@modes_of(*(case for case in CASES if case.name != "cldice"))
def test_ignored_pixels_are_as_if_they_were_cut_off(cases):
    for case in cases:
        logits, target = batch(case.mode, (6, 5))
        cut = case(logits[..., 2:, :], target[..., 2:, :].clone(), **case.weights)
        target[..., :2, :] = 255
        torch.testing.assert_close(case(logits, target, ignore_index=255, **case.weights), cut)


@modes_of(*(case for case in CASES if case.mode == "multilabel"))
@pytest.mark.parametrize("absent", ["count", "skip"])
def test_a_channel_that_is_ignored_is_not_in_the_mean(cases, absent):
    for case in cases:
        arguments = {} if case.name in POINTWISE else {"absent": absent}
        logits, target = batch("multilabel")
        rest = case(logits[:, [0, 2]], target[:, [0, 2]], **arguments)
        target[:, 1] = 255
        torch.testing.assert_close(case(logits, target, ignore_index=255, **arguments), rest)


@modes_of(*CASES)
def test_all_pixels_ignored(cases):
    for case in cases:
        logits, target = batch(case.mode)
        logits.requires_grad_()
        loss = case(logits, torch.full_like(target, 255), ignore_index=255, **case.weights)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.eq(0).all()


# Values


@modes_of(*(case for case in CASES if case not in SMOOTHED))
def test_perfect_prediction(cases):
    for case in cases:
        _, target = batch(case.mode, (8, 6))
        masks = one_hot(target).movedim(-1, 1) if case.mode == "multiclass" else target
        assert case(masks * 80.0 - 40, target).item() == pytest.approx(0, abs=1e-6)


@modes_of(*(case for case in CASES if case.weights))
def test_class_weights(cases):
    for case in cases:
        logits, target = batch(case.mode)
        equal = case(logits, target, class_weights=[3.0, 3.0, 3.0])
        torch.testing.assert_close(equal, case(logits, target))
        weights = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3]]
        weighted = [case(logits, target, class_weights=some).item() for some in weights]
        assert len({round(value, 6) for value in weighted}) == 4
        assert min(weighted[:3]) < weighted[3] < max(weighted[:3])


# Classes without a true pixel


@modes_of(*BINARY)
def test_an_empty_mask_pushes_down_what_is_painted(cases):
    for case in cases:
        painted = torch.full((2, 1, 4, 5), 1.5)
        painted[1] = -0.5
        painted.requires_grad_()
        case(painted, torch.zeros(2, 4, 5)).backward()
        assert (painted.grad > 1e-4).all()


@modes_of(*(case for case in BINARY if case in REGION))
def test_empty_masks_teach_to_paint_nothing(cases):
    for case in cases:
        painted = torch.full((2, 1, 8, 8), 2.0, requires_grad=True)
        optimizer = torch.optim.SGD([painted], lr=100.0)
        for _ in range(60):
            optimizer.zero_grad()
            case(painted, torch.zeros(2, 8, 8)).backward()
            optimizer.step()
        assert painted.sigmoid().max() < 0.3


@modes_of(*CLASSES)
def test_a_class_without_a_true_pixel_is_pushed_down(cases):
    for case in cases:
        logits, target = batch("multiclass")
        target[target == 2] = 0
        logits.requires_grad_()
        case(logits, target).backward()
        assert logits.grad[:, 2].sum() > 1e-3


@modes_of(*(case for case in REGION if case.weights))
def test_absent_skip_leaves_the_class_out(cases):
    for case in cases:
        logits, target = batch(case.mode)
        if case.mode == "multiclass":
            target[target == 2] = 0
        else:
            target[:, 2] = 0
        weights = {"class_weights": [1.0, 1.0, 0.0]}
        skipped, counted = (case(logits, target, absent=absent) for absent in ("skip", "count"))
        assert skipped.item() != pytest.approx(counted.item(), abs=1e-4)
        if case in SMOOTHED:  # a sum with a cross entropy; Dice alone leaves the class out
            dice = (losses.dice_loss(logits, target, case.mode, **more) for more in (weights, {}))
            torch.testing.assert_close(skipped - counted, next(dice) - next(dice))
        else:
            torch.testing.assert_close(skipped, case(logits, target, **weights))


@modes_of(*(case for case in REGION if case in MASKS and case not in SMOOTHED))
def test_absent_skip_without_any_class(cases):
    for case in cases:
        logits, target = batch(case.mode)
        logits.requires_grad_()
        loss = case(logits, torch.zeros_like(target), absent="skip")
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.eq(0).all()


# Other forms of the same batch


@modes_of(*CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(cases, dtype):
    for case in cases:
        logits, target = batch(case.mode, (64, 64))
        half = logits.to(dtype).requires_grad_()
        full = logits.to(dtype).float().requires_grad_()
        loss, exact = case(half, target), case(full, target)
        assert loss.dtype == torch.float32
        assert loss.item() == exact.item()  # 8192 pixels are more than float16 counts
        loss.backward()
        exact.backward()
        assert half.grad.dtype == dtype
        torch.testing.assert_close(half.grad, full.grad.to(dtype))


@modes_of(*CASES)
def test_autocast_changes_nothing(cases):
    for case in cases:
        logits, target = batch(case.mode, (16, 16))
        with torch.autocast("cpu", torch.bfloat16):
            loss = case(logits.float(), target)
        assert loss.item() == case(logits.float(), target).item()


@modes_of(*CASES)
def test_shapes_and_memory_formats(cases):
    for case in cases:
        logits, target = batch(case.mode, (6, 5))
        loss = case(logits, target)
        volume = case(logits.unsqueeze(2), target.unsqueeze(1 if case.mode == "multiclass" else 2))
        torch.testing.assert_close(volume, loss)
        torch.testing.assert_close(case(logits.contiguous(memory_format=torch.channels_last), target), loss)
        torch.testing.assert_close(case(logits.mT.contiguous().mT, target.mT.contiguous().mT), loss)


@modes_of(*CASES)
def test_kinds_of_targets(cases):
    for case in cases:
        logits, target = batch(case.mode)
        loss = case(logits, target, **case.weights)
        same = [target.to(dtype) for dtype in (torch.uint8, torch.int32)]
        if case.mode == "multiclass":
            same += [one_hot(target).movedim(-1, 1), one_hot(target).movedim(-1, 1).double()]
        else:
            same += [target.to(dtype) for dtype in (torch.bool, torch.float16, torch.float64)]
        if case.mode == "binary":
            same += [target.squeeze(1)]
        for form in same:
            torch.testing.assert_close(case(logits, form, **case.weights), loss)


@modes_of(*CASES)
def test_module_is_the_function(cases):
    for case in cases:
        arguments = {"ignore_index": 255, **case.weights}
        if case.name not in POINTWISE:
            arguments["absent"] = "skip"
        module = case.module(**arguments)
        logits, target = batch(case.mode)
        target[..., 0, 0] = 255
        expected = case(logits, target, **arguments).item()
        assert module(logits, target).item() == expected
        assert copy.deepcopy(module)(logits, target).item() == expected
        assert module.state_dict() == {}
        for name, value in {**case.arguments, **arguments}.items():
            assert f"{name}={value!r}" in repr(module)


@modes_of(*CASES)
def test_nothing_is_read_back_from_an_accelerator(cases):
    for case in cases:
        logits, target = batch(case.mode)
        module = case.module(ignore_index=255, **case.weights).to("meta")
        values = logits.to("meta").requires_grad_()  # values there cannot be read at all
        module(values, target.to("meta")).backward()
        assert values.grad.shape == logits.shape
