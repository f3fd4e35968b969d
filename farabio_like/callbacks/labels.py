"""`LabelMetric`: from outputs and targets of any usual shape to labels and their counts, on the device."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .metric import MetricCallback, add


class Labels(NamedTuple):
    """One batch: what was predicted, what is true, and which of it counts; three tensors of one shape."""

    predicted: Tensor  # int64, 0 to classes - 1
    true: Tensor  # the same
    counts: Tensor  # bool: not to be ignored
    classes: int
    binary: bool  # one yes or no per entry
    multilabel: bool  # of these, dimension 1 are labels of their own


class LabelMetric(MetricCallback):
    """Base of metrics that compare labels; it tells by the shapes which kind of task it is.

    ================================  =======================  ==========================================
    prediction                        target                   task
    ================================  =======================  ==========================================
    (N, C, ...), C > 1                (N, ...) or (N, 1, ...)  classes: the highest of the C scores
    (N, 1, ...) or (N, ...)           (N, ...) or (N, 1, ...)  binary: a score above `threshold` is class 1
    (N, C) or (N, C, H, W, ...)       the same                 several labels each: C binary ones
    (N, ...), integers or bool        (N, ...)                 labels already
    ================================  =======================  ==========================================

    Parameters
    ----------
    threshold : float
        For binary scores: 0 for logits, 0.5 for probabilities. A warning says when the scores look otherwise.
    ignore_index : int, optional
        Where the target has this value, nothing is counted.
    num_classes : int, optional
        Needed where the predictions are labels already; elsewhere it is compared with what is there.
    **options
        ``loaders``, ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For shapes that fit none of the tasks, and, after the last batch (nothing is read back before), for
        targets that are no labels.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.0,
        ignore_index: int | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        name = type(self).__name__
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise ConfigError(f"{name}(threshold={threshold!r}): expected 0.0 for logits, 0.5 for probabilities.")
        for argument, value, least in (("ignore_index", ignore_index, None), ("num_classes", num_classes, 2)):
            if value is None or (type(value) is int and (least is None or value >= least)):
                continue
            wanted = "an integer" if least is None else f"an integer, {least} or more"
            raise ConfigError(f"{name}({argument}={value!r}): expected {wanted}, or None.")
        self.threshold = threshold
        self.ignore_index = ignore_index
        self.num_classes = num_classes

    def merge(self, states: list[Any]) -> Any:
        """Return one state for those of several processes."""
        merged = super().merge(states)
        for name, pick in (("low", torch.minimum), ("high", torch.maximum)):
            if name in merged:
                merged[name] = reduce(pick, [state[name] for state in states if name in state])
        return merged

    def labels(self, state: dict[str, Any], prediction: Any, target: Any) -> Labels:
        """Return the labels of a batch; what is to be checked after the last one is noted in the state."""
        prediction, target, multilabel = self.aligned(prediction, target)
        binary = prediction.dim() == target.dim() and (prediction.is_floating_point() or prediction.dtype == torch.bool)
        if prediction.dim() > target.dim():
            classes = prediction.shape[1]
            predicted = prediction.max(1).indices  # of images on the CPU it takes a twentieth of argmax's time
        elif prediction.is_floating_point():
            classes = 2
            predicted = (prediction > self.threshold).long()
            if prediction.numel():
                low, high = prediction.float().aminmax()
                state["low"] = low if "low" not in state else torch.minimum(low, state["low"].to(low.device))
                state["high"] = high if "high" not in state else torch.maximum(high, state["high"].to(high.device))
        else:
            classes = 2 if binary or multilabel else self._asked_classes()
            predicted = prediction.long()
        found = prediction.shape[1] if multilabel else classes
        if self.num_classes not in (None, found):
            raise DataError(
                f"{type(self).__name__}(num_classes={self.num_classes}) got predictions of {found} classes, "
                f"{_described(prediction)}. Write num_classes={found}."
            )
        if target.is_floating_point():
            add(state, "fractions", (target != target.round()).sum())
        true = target.long()
        counts = torch.ones_like(true, dtype=torch.bool) if self.ignore_index is None else true != self.ignore_index
        inside = (true >= 0) & (true < classes) & (predicted >= 0) & (predicted < classes)
        add(state, "outside", (counts & ~inside).sum())
        # A label that does not exist ends in an error after the last batch; as an index it would end a GPU's process.
        predicted, true = predicted.clamp(0, classes - 1), true.clamp(0, classes - 1)
        return Labels(predicted, true, counts, classes, binary, multilabel)

    def aligned(self, prediction: Any, target: Any) -> tuple[Tensor, Tensor, bool]:
        """Return both without a channel of 1, and whether they have several labels each.

        For classes the prediction keeps its dimension 1, which the target has not.
        """
        for argument, value in (("prediction", prediction), ("target", target)):
            if not isinstance(value, Tensor):
                raise DataError(
                    f"{type(self).__name__} got a {type(value).__name__} as {argument}; expected a tensor. "
                    f"Write {argument}=lambda trainer: ..., which takes it out."
                )
        given = f"a prediction of {_described(prediction)} and a target of {_described(target)}"
        target = target.to(prediction.device)
        one_channel = prediction.dim() > 1 and prediction.shape[1] == 1
        if one_channel:
            prediction = prediction.squeeze(1)
        if target.dim() > 1 and target.shape[1] == 1 and prediction.shape != target.shape:
            target = target.squeeze(1)
        if prediction.shape == target.shape:
            return prediction, target, not one_channel and (prediction.dim() == 2 or prediction.dim() > 3)
        if prediction.dim() == target.dim() + 1 and prediction.shape[:1] + prediction.shape[2:] == target.shape:
            return prediction, target, False
        raise DataError(
            f"{type(self).__name__} got {given}; expected (N, C, ...) and (N, ...) for classes, or twice the same "
            "shape. Write prediction=lambda trainer: ... or target=lambda trainer: ..., which brings them to it."
        )

    def check(self, state: dict[str, Any]) -> None:
        """Look at what `labels` has noted. Called by `compute`: here the device is read."""
        name = type(self).__name__
        if "fractions" in state and state["fractions"].item():
            raise DataError(
                f"{name}: {state['fractions'].item()} targets are no whole numbers (mixed samples?); expected labels. "
                f"Write {name}(target=lambda trainer: ...) to give them, or leave that loader out of loaders=."
            )
        if state["outside"].item():
            raise DataError(
                f"{name}: {state['outside'].item()} targets or predictions are outside of 0 to the number of classes "
                f"- 1. Are some to be left out? Write {name}(ignore_index=255), say."
            )
        if "low" not in state:
            return
        low, high = state["low"].item(), state["high"].item()
        seen = f"{name}: the scores lie between {low:.3g} and {high:.3g}, which looks like"
        if self.threshold == 0 and low >= 0 and high <= 1 and high > 0:
            self.say_once(f"{seen} probabilities, and the threshold is for logits. Write {name}(threshold=0.5).")
        elif self.threshold == 0.5 and (low < 0 or high > 1):
            self.say_once(f"{seen} logits, and the threshold is for probabilities. Write {name}(threshold=0.0).")

    def _asked_classes(self) -> int:
        if self.num_classes is None:
            name = type(self).__name__
            raise DataError(
                f"{name} got labels as predictions and cannot know of how many. Write {name}(num_classes=3), say."
            )
        return self.num_classes


def confusion(labels: Labels, per_image: bool = False) -> Tensor:
    """Count the pairs of true and predicted class.

    Parameters
    ----------
    labels : Labels
    per_image : bool
        Count each sample apart.

    Returns
    -------
    Tensor
        int64, shape (C, C), or (N, C, C) for `per_image`; rows are the true class. For several labels each (L, 2, 2)
        or (N, L, 2, 2), L being dimension 1.
    """
    predicted, true, counts, classes, _, multilabel = labels
    groups = [len(true)] if per_image or multilabel else []
    if multilabel:
        groups.append(true.shape[1])
    cells = classes * classes
    flat = true.shape[: len(groups)].numel() if groups else 1
    pair = (true * classes + predicted).reshape(flat, true.shape[len(groups) :].numel())
    # What does not count goes to a cell of its own, cut off below. No bincount: on a GPU it reads its extremes back.
    pair = pair.where(counts.reshape(pair.shape), cells)
    pair = pair + torch.arange(flat, device=pair.device).unsqueeze(1) * (cells + 1)
    found = torch.zeros(flat * (cells + 1), dtype=torch.long, device=pair.device)
    found.scatter_add_(0, pair.flatten(), torch.ones((), dtype=torch.long, device=pair.device).expand(pair.numel()))
    found = found.reshape(*groups, cells + 1)[..., :-1].reshape(*groups, classes, classes)
    return found.sum(0) if multilabel and not per_image else found


def class_sums(matrix: Tensor, multilabel: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return, per class or label, how many were hit, predicted and true: float64, shape (..., C)."""
    if multilabel:
        sums = matrix[..., 1, 1], matrix[..., :, 1].sum(-1), matrix[..., 1, :].sum(-1)
    else:
        sums = matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-2), matrix.sum(-1)
    return tuple(part.double() if part.device.type != "mps" else part.cpu().double() for part in sums)  # type: ignore


def divided(numerator: Tensor, denominator: Tensor, zero: float) -> Tensor:
    """Divide, with the value `zero` where the denominator is 0."""
    return torch.where(denominator > 0, numerator / denominator.clamp_min(1), zero)


def _described(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}"
