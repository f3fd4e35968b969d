"""Whether more or less of a metric is better: what its name says, word by word, and what a metric object says itself.

What neither says is None, and is asked for elsewhere; nothing is guessed.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple

from ..duck_typing import attribute

_HIGHER = {
    *("acc", "accuracy", "accuracies", "ap", "auc", "auroc", "auprc", "bleu", "concordance", "correct", "correlation"),
    *("dice", "f1", "f2", "fbeta", "fscore", "iou", "jaccard", "kappa", "map", "mar", "mcc", "meteor", "miou", "mrr"),
    *("ndcg", "npv", "ppv", "precision", "psnr", "r2", "recall", "reward", "rouge", "sdr", "snr", "score"),
    *("sensitivity", "similarity", "specificity", "ssim", "stoi"),
}
_LOWER = {
    *("bce", "brier", "cer", "cost", "distance", "divergence", "ece", "eer", "entropy", "err", "error", "errors"),
    *("fid", "hausdorff", "loss", "losses", "lpips", "mae", "mape", "mse", "msle", "nll", "penalty", "perplexity"),
    *("ppl", "rmse", "rmsle", "wer"),
}
_TURNS = {"neg", "negative", "minus", "inverse", "inverted"}  # a name with such a word may mean either
# Words that have capitals inside, then capitals in a row, then a word; digits belong to what stands before them.
_WORD = re.compile(r"(?:m?IoU|m?AP|AuC|AuROC|[A-Z]+(?![a-z])|[A-Z]?[a-z]+)\d*|\d+")
_LIKE = 0.85  # how near a misspelt word is to one that is known
_SHORTEST_LIKE = 5  # characters of such a word


class Best(NamedTuple):
    """The best value of the monitored metric so far."""

    part: str  # "train" or "valid"
    metric: str
    value: float
    epoch: int
    step: int | None = None  # of an evaluation within that epoch

    @property
    def place(self) -> str:
        """Where it was, for a line that says so."""
        return f"in epoch {self.epoch}" + (f", step {self.step}" if self.step is not None else "")


def higher_by_name(name: str) -> bool | None:
    """Return whether a metric is better when it is higher, by the words of its name; None where they do not tell.

    Words end at capitals, digits and whatever is no letter: ``MulticlassF1Score`` has the word ``f1``, ``val_acc`` the
    word ``acc``. A loss or an error is better when lower, whatever else is in its name.

    Examples
    --------
    >>> higher_by_name("MulticlassAccuracy"), higher_by_name("dice_loss"), higher_by_name("bias")
    (True, False, None)
    """
    words = _words(name)
    if words & _TURNS:
        return None
    if words & _LOWER:
        return False
    if words & _HIGHER:
        return True
    known = [*_HIGHER, *_LOWER]
    long = [word for word in words if len(word) >= _SHORTEST_LIKE]
    near = {match for word in long for match in difflib.get_close_matches(word, known, n=1, cutoff=_LIKE)}
    return None if not near else not near & _LOWER


def higher_by_object(metric: Any) -> bool | None:
    """Return what a metric object says of itself by ``higher_is_better``, as those of torchmetrics do; else None."""
    said = attribute(metric, "higher_is_better")
    if not isinstance(said, bool):  # a wrapper says it for the metric inside
        said = attribute(attribute(metric, "_base_metric"), "higher_is_better")
    return said if isinstance(said, bool) else None


def improves(higher: bool, value: float, best: float, min_delta: float = 0.0) -> bool:
    """Return whether a value is better than the best one so far; a change of `min_delta` or less is none."""
    return value > best + min_delta if higher else value < best - min_delta


def _words(name: str) -> set[str]:
    tokens = re.findall(r"[A-Za-z0-9]+", name)
    found = {part.lower() for token in tokens for part in (token, *_WORD.findall(token))}
    return found | {word.rstrip("0123456789") for word in found}
