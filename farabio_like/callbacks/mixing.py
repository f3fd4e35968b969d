"""Mixing the samples of a training batch with each other: Mixup and CutMix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, DataError
from .base import Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class _Mixing(Callback):
    """Mixes every training batch with a permutation of itself."""

    order = CallbackOrder.Internal

    def __init__(self, alpha: float, num_classes: int | None = None) -> None:
        own = type(self).__name__
        if not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
            raise ConfigError(f"{own}(alpha={alpha!r}): expected a number above 0, {own}(alpha=0.2) say.")
        if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
            raise ConfigError(f"{own}(num_classes={num_classes!r}): expected a number of classes, 1 or more.")
        self.alpha = alpha
        self.num_classes = num_classes
        strength = torch.tensor(float(alpha), device="cpu")
        self._beta = torch.distributions.Beta(strength, strength)

    def on_start_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Mix the batch."""
        inputs, targets = trainer.inputs, trainer.targets
        if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or len(inputs) != len(targets):
            got = " and ".join(
                f"{name} {tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__}"
                for name, v in (("inputs", inputs), ("targets", targets))
            )
            raise DataError(
                f"{type(self).__name__} got {got}; expected two tensors with the samples in the first dimension. "
                "Set self.inputs and self.targets in on_start_training_batch(self, item)."
            )
        share = float(self._beta.sample())  # drawn on the CPU: nothing is read back from the device
        order = torch.randperm(len(inputs), device=inputs.device)
        trainer.inputs, share = self._mix(inputs, order, share)
        soft = self._soft(targets, inputs.dtype)
        mixed = torch.lerp(soft[order.to(soft.device)], soft, share)
        mixed._own_targets = getattr(targets, "_own_targets", targets)  # type: ignore[attr-defined]
        trainer.targets = mixed

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Give the batch its own targets back, for the metrics."""
        trainer.targets = getattr(trainer.targets, "_own_targets", trainer.targets)

    def _mix(self, inputs: Tensor, order: Tensor, share: float) -> tuple[Tensor, float]:
        """Return the mixed inputs, and the share that every sample keeps of itself."""
        raise NotImplementedError

    def _soft(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return targets that can be mixed: class indices (N, ...) as probabilities (N, C, ...)."""
        # Probabilities of half precision would not sum to 1.
        dtype = torch.promote_types(dtype if dtype.is_floating_point else torch.float32, torch.float32)
        if targets.is_floating_point():
            return targets
        if targets.dtype == torch.bool:
            return targets.to(dtype)
        own = type(self).__name__
        if self.num_classes is None:
            raise ConfigError(
                f"{own} cannot know the number of classes of integer targets {tuple(targets.shape)}; write "
                f"{own}(alpha={self.alpha}, num_classes=10)."
            )
        try:
            return F.one_hot(targets.long(), self.num_classes).movedim(-1, 1).to(dtype)
        except RuntimeError as error:
            raise DataError(
                f"{own}(num_classes={self.num_classes}) got targets from {int(targets.min())} to "
                f"{int(targets.max())}; expected class indices from 0 to {self.num_classes - 1}."
            ) from error


class Mixup(_Mixing):
    """Mixup: every sample of a training batch becomes a mean of itself and another one.

    ``inputs = share * inputs + (1 - share) * inputs[order]``, the targets likewise, with one ``share`` per batch
    from Beta(alpha, alpha). Integer targets (N, ...) become probabilities (N, C, ...), which
    ``CrossEntropyLoss`` takes as they are; floating targets (soft labels, regression) are mixed as they are.
    From ``on_end_training_batch`` on, ``trainer.targets`` are the batch's own again, so that metrics of the train
    loader work: they compare predictions for mixed inputs with each sample's own target. ``trainer.batch``
    is never changed. The random numbers are those of torch's global generators, so ``torch.manual_seed`` makes a
    run reproducible, and a checkpoint, which holds their state, lets it go on with the same ones.

    H. Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017, https://arxiv.org/abs/1710.09412.

    Parameters
    ----------
    alpha : float
        Above 0; the smaller, the closer is a mixed sample to one of the two.
    num_classes : int, optional
        Needed where targets are class indices.

    Raises
    ------
    ConfigError
        For an `alpha` that is not allowed; for class indices without `num_classes`.
    DataError
        For a batch that is no pair of tensors.

    Examples
    --------
    >>> Mixup(alpha=0.4, num_classes=10).alpha
    0.4
    """

    def __init__(self, alpha: float = 0.2, num_classes: int | None = None) -> None:
        super().__init__(alpha, num_classes)

    def _mix(self, inputs: Tensor, order: Tensor, share: float) -> tuple[Tensor, float]:
        if not (inputs.is_floating_point() or inputs.is_complex()):
            raise DataError(
                f"Mixup got inputs of {inputs.dtype}; expected floating point numbers. Convert them in the dataset, "
                "or on the device: BatchTransform(lambda inputs: inputs.float() / 255) before it."
            )
        return torch.lerp(inputs[order], inputs, share), share


class CutMix(_Mixing):
    """CutMix: every image of a training batch gets a rectangle of another one.

    The rectangle's sides are ``sqrt(1 - share)`` of the image's, with one ``share`` per batch from
    Beta(alpha, alpha), its centre is anywhere in the image, and what lies outside the image is cut off. Targets are
    mixed by the area that is left of each sample; everything else is as in `Mixup`.

    S. Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019,
    https://arxiv.org/abs/1905.04899.

    Parameters
    ----------
    alpha : float
        Above 0.
    num_classes : int, optional
        Needed where targets are class indices.

    Raises
    ------
    ConfigError
        For an `alpha` that is not allowed; for class indices without `num_classes`.
    DataError
        For inputs that are no images (N, ..., H, W), or targets that are: a mask has to be cut, not mixed.

    Examples
    --------
    >>> CutMix(num_classes=10).alpha
    1.0
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        super().__init__(alpha, num_classes)

    def _mix(self, inputs: Tensor, order: Tensor, share: float) -> tuple[Tensor, float]:
        if inputs.ndim < 3:
            raise DataError(f"CutMix got inputs {tuple(inputs.shape)}; expected images (N, ..., H, W).")
        height, width = inputs.shape[-2:]
        side = math.sqrt(1 - share)
        top, bottom = _span(height, int(height * side))
        left, right = _span(width, int(width * side))
        inputs = inputs.clone()
        box = inputs[..., top:bottom, left:right]
        inputs[..., top:bottom, left:right] = box[order]
        return inputs, 1 - (bottom - top) * (right - left) / (height * width)

    def _soft(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        if targets.ndim > 2:
            raise DataError(
                f"CutMix got targets {tuple(targets.shape)}; expected one label per image, (N,) or (N, C). "
                "For masks write Mixup(alpha=0.2)."
            )
        return super()._soft(targets, dtype)


def _span(size: int, length: int) -> tuple[int, int]:
    """Return where a stretch around a random centre begins and ends, inside 0 to `size`."""
    begin = int(torch.randint(size, (), device="cpu")) - length // 2
    return max(begin, 0), max(0, min(begin + length, size))
