"""What the losses of segmentation share: checks, one form of the targets, sums per class, means, the modules' base.

No formula of a loss lives here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError, NonFiniteError

Mode = Literal["binary", "multiclass", "multilabel"]
Absent = Literal["count", "skip"]
ClassWeights = Tensor | Sequence[float] | None

# How far the probabilities of a pixel may be from a sum of one; labels in half precision are off by this much.
SUM_TOLERANCE = 1e-2

# The least exponent or price, and where a root's infinite gradient at 0 is cut off.
SMALLEST = 1e-7


@dataclass(frozen=True, eq=False)
class Batch:
    """The logits and the targets of one call, checked, in the form that the formulas take.

    Attributes
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W), float32 or float64.
    target : Tensor
        In multiclass mode class numbers, the shape of `logits` without the channels, or probabilities in the shape
        of `logits`; else the masks in the shape of `logits`. Ignored pixels are 0.
    mode : Mode
    ignored : Tensor or None
        True where a pixel is left out, for all channels (N, 1, ...) or for each (N, C, ...); None where none is.
    sound : Tensor or None
        On an accelerator, whether the values are in range; on the CPU None, as this is checked already.
    """

    logits: Tensor
    target: Tensor
    mode: Mode
    ignored: Tensor | None
    sound: Tensor | None

    def probabilities(self) -> Tensor:
        """Return the predicted probabilities in the shape of the logits, 0 where a pixel is ignored."""
        values = self.logits.softmax(1) if self.mode == "multiclass" else self.logits.sigmoid()
        return values if self.ignored is None else values.masked_fill(self.ignored, 0)

    def masks(self) -> Tensor:
        """Return the targets in the shape of the logits, one mask per channel, 0 where a pixel is ignored."""
        if self.target.ndim == self.logits.ndim:
            return self.target
        ones = torch.zeros_like(self.logits).scatter_(1, self.target.unsqueeze(1), 1)
        return ones if self.ignored is None else ones.masked_fill_(self.ignored, 0)

    def pixels(self) -> Tensor:
        """Return how many pixels of each channel are not ignored, at least 1; one number where channels agree."""
        every = self.logits.numel() // self.logits.shape[1]
        if self.ignored is None:
            return self.logits.new_full((), every)
        if self.ignored.shape[1] == 1:
            count = every - self.ignored.count_nonzero()
        else:
            count = every - sum_over_pixels(self.ignored)
        return count.clamp(min=1).to(self.logits.dtype)

    def checked(self, loss: Tensor) -> Tensor:
        """Return the loss, or NaN where targets on an accelerator are out of range."""
        return loss if self.sound is None else torch.where(self.sound, loss, math.nan)


class RegionSums(NamedTuple):
    """Sums over batch and space for each class, in pixels: what predicted and true regions have, and have in common."""

    common: Tensor
    predicted: Tensor
    true: Tensor
    pixels: Tensor


def prepare(logits: Tensor, target: Tensor, mode: Mode, *, ignore_index: int | None = None, soft: bool = True) -> Batch:
    """Check logits and targets, and bring the targets into one form.

    Shapes and types are always checked, values on the CPU only: elsewhere reading them would stop the device at
    every step, so values out of range make the loss NaN there (`Batch.checked`).

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W); half precision is taken to float32.
    target : Tensor
        Binary: (N, ...) or (N, 1, ...). Multiclass: class numbers (N, ...), or probabilities (N, C, ...).
        Multilabel: (N, C, ...).
    mode : Mode
    ignore_index : int or None
        Pixels with this value in the target are left out.
    soft : bool
        Whether the formula is one for targets between 0 and 1, too.

    Returns
    -------
    Batch

    Raises
    ------
    ConfigError
        If `mode` is unknown, `ignore_index` is no whole number, or class probabilities come with one.
    DataError
        If shapes or types do not fit, or a target is NaN or out of range.
    NonFiniteError
        If the logits have NaN or infinite values.
    """
    check_choice("mode", mode, get_args(Mode))
    check_ignore_index(ignore_index)
    _check_tensors(logits, target, mode)
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    _check_finite(logits.detach())
    flat = target.shape == logits.shape[:1] + logits.shape[2:]
    if flat and mode == "multiclass":
        return _with_class_numbers(logits, target, ignore_index)
    if flat and mode == "binary":
        target = target.unsqueeze(1)
    if target.shape != logits.shape:
        raise DataError(_shape_message(logits, target, mode))
    if mode == "multiclass" and ignore_index is not None:
        raise ConfigError(
            "Class probabilities as targets have no ignored pixels: pass class numbers, target.argmax(1) with "
            f"{ignore_index} where a pixel is left out, or ignore_index=None."
        )
    # Integers within 0 and 1 cannot be soft.
    soft = soft or not target.is_floating_point()
    target, ignored = target.detach().to(logits.dtype), None
    if ignore_index is not None:
        ignored = target == ignore_index
        target = target.masked_fill(ignored, 0)
    sound = _check_masks(target, mode, soft)
    return Batch(logits, target, mode, ignored, sound)


def _check_tensors(logits: Tensor, target: Tensor, mode: Mode) -> None:
    for name, value in (("logits", logits), ("target", target)):
        if not isinstance(value, Tensor):
            hint = f" It has {', '.join(map(repr, value))}: pass one of them." if isinstance(value, dict) else ""
            raise DataError(f"The {name} must be a tensor, not {type(value).__name__}.{hint}")
    if not logits.is_floating_point():
        raise DataError(f"The logits must be floating point numbers, not {logits.dtype}.")
    if logits.ndim not in (4, 5):
        raise DataError(
            f"The logits must be (N, C, H, W) or (N, C, D, H, W), got {tuple(logits.shape)}. "
            "A single image needs logits.unsqueeze(0)."
        )
    if logits.numel() == 0:
        raise DataError(f"The logits {tuple(logits.shape)} have no pixel.")
    channels = logits.shape[1]
    if (mode == "binary") != (channels == 1) and mode != "multilabel":
        raise DataError(
            f"mode={mode!r} takes {'one channel' if mode == 'binary' else 'a channel per class, two or more'}, got "
            f"logits {tuple(logits.shape)}. "
            + (
                'One class: mode="binary".'
                if channels == 1
                else 'One class per pixel: mode="multiclass"; overlapping classes: mode="multilabel".'
            )
        )
    if target.device != logits.device:
        raise DataError(f"The logits are on {logits.device}, the target on {target.device}: target.to(logits.device).")


def _check_finite(logits: Tensor) -> None:
    # A sum is NaN or infinite where one of its numbers is; only then is it worth looking at each.
    if not _is_read(logits) or math.isfinite(logits.sum()):
        return
    nan, infinite = int(logits.isnan().sum()), int(logits.isinf().sum())
    if nan or infinite:
        raise NonFiniteError(
            f"The logits {tuple(logits.shape)} have {nan} NaN and {infinite} infinite values: the model's weights or "
            "its inputs are broken already, or half precision overflowed."
        )


def _shape_message(logits: Tensor, target: Tensor, mode: Mode) -> str:
    full, flat = tuple(logits.shape), tuple(logits.shape[:1] + logits.shape[2:])
    expected = {
        "binary": f"{flat} or {full}",
        "multiclass": f"class numbers {flat} or class probabilities {full}",
        "multilabel": f"a mask per channel, {full}",
    }[mode]
    message = f"The target {tuple(target.shape)} does not fit the logits {full}: mode={mode!r} takes {expected}."
    if mode == "multiclass" and tuple(target.shape) == (flat[0], 1, *flat[1:]):
        message += " Take the channel away: target.squeeze(1)."
    return message


def _with_class_numbers(logits: Tensor, target: Tensor, ignore_index: int | None) -> Batch:
    if target.is_floating_point() or target.dtype == torch.bool:
        raise DataError(f"Class numbers must be integers, not {target.dtype}: target.long().")
    # Before it is compared: 255 as a byte equals -1.
    target, classes, ignored = target.long(), logits.shape[1], None
    if ignore_index is not None:
        ignored = target == ignore_index
        target = target.masked_fill(ignored, 0)
        ignored = ignored.unsqueeze(1)
    low, high = target.aminmax()
    sound = None
    if not _is_read(target):
        sound = (low >= 0) & (high < classes)
        target = target.clamp(0, classes - 1)
    elif low < 0 or high >= classes:
        wrong = target[(target < 0) | (target >= classes)]
        raise DataError(
            f"The logits have {classes} classes, numbers 0 to {classes - 1}, but {wrong.numel()} pixels of the target "
            f"have {_some(wrong)}. Pixels without a class are left out by ignore_index={int(wrong[0])}."
        )
    return Batch(logits, target, "multiclass", ignored, sound)


def _check_masks(target: Tensor, mode: Mode, soft: bool) -> Tensor | None:
    """Raise on the CPU if a target is out of range; elsewhere return whether all are in range."""
    low, high = target.aminmax()
    between = None if soft else (target * target != target).any()
    off = (target.sum(1) - 1).abs().amax() if mode == "multiclass" else None
    if not _is_read(target):
        sound = (low >= 0) & (high <= 1)
        sound = sound if between is None else sound & ~between
        return sound if off is None else sound & (off <= SUM_TOLERANCE)
    if not (low.item() >= 0 and high.item() <= 1):
        wrong = target[~((target >= 0) & (target <= 1))]
        raise DataError(
            f"Targets of mode={mode!r} are {'from 0 to 1' if soft else '0 or 1'}, but {wrong.numel()} of "
            f"{tuple(target.shape)} are {_some(wrong)}. Masks of 0 and 255: target > 127. "
            "Pixels left out: ignore_index=..."
        )
    if between is not None and between:
        raise DataError(f"This loss takes targets of 0 or 1 only, got {_some(target[target * target != target])}.")
    if off is not None and off.item() > SUM_TOLERANCE:
        raise DataError(
            f"The class probabilities of a pixel must add up to 1, here they are off by up to {off.item():.3g}. "
            'Classes that overlap: mode="multilabel".'
        )
    return None


def _is_read(values: Tensor) -> bool:
    """Return whether the values may be looked at: on an accelerator this would make it wait for the host."""
    return values.is_cpu


def _some(values: Tensor) -> str:
    shown = [f"{value:g}" for value in values.flatten()[:10_000].unique()[:5].tolist()]
    return ", ".join(shown)


def sum_over_pixels(values: Tensor) -> Tensor:
    """Return the sums over batch and space, one for each channel."""
    return values.sum((0, *range(2, values.ndim)))


def region_sums(batch: Batch) -> RegionSums:
    """Return the sums that all measures of overlap are made of.

    What two soft regions have in common is the smaller value at each pixel. For a mask of 0 and 1 this is the product
    of the usual formulas; between them it has the property that a prediction equal to its target has no loss (Wang
    et al., "Dice Semimetric Losses", MICCAI 2023, and "Jaccard Metric Losses", NeurIPS 2023).
    """
    predicted, true = batch.probabilities(), batch.masks()
    missed = (true - predicted).relu_()  # true less the smaller value, and cheaper than torch.minimum
    total = sum_over_pixels(true)
    return RegionSums(total - sum_over_pixels(missed), sum_over_pixels(predicted), total, batch.pixels())


def ratio_or_painted(wrong: Tensor, size: Tensor, sums: RegionSums) -> Tensor:
    """Return ``wrong / size`` for each class; for one without a true pixel its mean predicted probability.

    Without a true pixel the measures of overlap are 1 whatever is predicted, so nothing would push a prediction
    down. The mean probability goes from 0 to 1 as they do, and its gradient reaches every pixel.
    """
    absent = sums.true == 0
    return torch.where(absent, sums.predicted, wrong) / torch.where(absent, sums.pixels, size)


def mean_over_classes(
    losses: Tensor, true: Tensor, batch: Batch, class_weights: Tensor | None, absent: Absent
) -> Tensor:
    """Return the weighted mean over the classes that count; 0 if there is none.

    A class without a true pixel counts or not, as `absent` says; one all of whose pixels are ignored never does.
    """
    check_choice("absent", absent, get_args(Absent))
    weights = torch.ones_like(losses) if class_weights is None else class_weights
    if absent == "skip":
        weights = weights * (true > 0)
    if batch.ignored is not None and batch.ignored.shape[1] > 1:
        weights = weights * (sum_over_pixels(~batch.ignored) > 0)
    return divided((losses * weights).sum(), weights.sum())


def mean_over_pixels(values: Tensor, batch: Batch, class_weights: Tensor | None) -> Tensor:
    """Return the mean over pixels and channels, weighted by channel, without ignored pixels; 0 if none is left."""
    if batch.ignored is None and class_weights is None:
        return values.sum() / values.numel()  # the gradient of mean() is a pass longer
    count = values.new_full((values.shape[1],), values.numel() // values.shape[1])
    if batch.ignored is not None:
        values = values.masked_fill(batch.ignored, 0)
        count = sum_over_pixels((~batch.ignored).expand_as(values)).to(values.dtype)
    weights = torch.ones_like(count) if class_weights is None else class_weights
    return divided((sum_over_pixels(values) * weights).sum(), (count * weights).sum())


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, 0 where the denominator is 0."""
    empty = denominator == 0
    return numerator.masked_fill(empty, 0) / denominator.masked_fill(empty, 1)


def weights_for(batch: Batch, class_weights: ClassWeights) -> Tensor | None:
    """Return the checked class weights on the logits' device, one for each of their channels."""
    if class_weights is None:
        return None
    weights, classes = class_weights_tensor(class_weights, batch.mode), batch.logits.shape[1]
    if len(weights) != classes:
        raise ConfigError(f"class_weights has {len(weights)} weights, the logits have {classes} classes.")
    return weights.to(batch.logits)


def class_weights_tensor(class_weights: Tensor | Sequence[float], mode: Mode) -> Tensor:
    """Return the class weights as a tensor; a weight that is negative, no number or the only one is an error."""
    if mode == "binary":
        raise ConfigError(
            'class_weights has nothing to weigh in mode="binary": there is one class. Tversky\'s beta and the focal '
            "loss's alpha weigh its pixels against the background."
        )
    weights = torch.as_tensor(class_weights).detach()
    if weights.ndim != 1:
        raise ConfigError(f"class_weights must be a list of one number per class, got shape {tuple(weights.shape)}.")
    if _is_read(weights) and not (bool((weights >= 0).all()) and 0 < float(weights.sum()) < math.inf):
        raise ConfigError(f"class_weights must be numbers from 0 up, not all of them 0, got {weights.tolist()}.")
    return weights


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise if an argument is none of the words that are allowed."""
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}, expected {' or '.join(repr(word) for word in allowed)}.")


def check_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise if an argument is no number from `low` to `high`."""
    if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(
            f"{name}={value!r}, expected a number from {low:g} {f'to {high:g}' if high < math.inf else 'up'}."
        )


def check_ignore_index(value: Any) -> None:
    """Raise if what is to be ignored is no whole number, so that no pixel could have it."""
    if value is not None and type(value) is not int:
        raise ConfigError(f"ignore_index={value!r}, expected a whole number or None: ignore_index=255.")


class SegmentationLoss(nn.Module):
    """Base of the loss modules: keeps the arguments, moves the class weights with the module.

    Parameters
    ----------
    mode : Mode
    class_weights : Tensor, sequence of float or None
    ignore_index : int or None
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: Mode,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, get_args(Mode))
        check_ignore_index(ignore_index)
        self.mode = mode
        self.ignore_index = ignore_index
        weights = None if class_weights is None else class_weights_tensor(class_weights, mode)
        # An argument, no state: a checkpoint does not bring an old one back.
        self.register_buffer("class_weights", weights, persistent=False)

    def extra_repr(self) -> str:
        """Return the arguments as they were given."""
        given = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        if self.class_weights is not None:
            given["class_weights"] = self.class_weights.tolist()
        return ", ".join(f"{name}={value!r}" for name, value in given.items())


class RegionLoss(SegmentationLoss):
    """Base of the loss modules that compare regions, so that a class without a true pixel needs a rule.

    Parameters
    ----------
    mode : Mode
    class_weights : Tensor, sequence of float or None
    ignore_index : int or None
    absent : Absent
    """

    def __init__(
        self,
        mode: Mode,
        *,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__(mode, class_weights, ignore_index)
        check_choice("absent", absent, get_args(Absent))
        self.absent = absent
