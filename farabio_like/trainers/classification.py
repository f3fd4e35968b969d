"""`ClassificationTrainer`: a class, or several, for every image. Its metrics are those of `callbacks`."""

from __future__ import annotations

from itertools import groupby, islice
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import components
from ..callbacks import AUC, Accuracy, ConfusionMatrix, PrecisionRecallF1
from ..checkpoint.files import write_text
from ..config.allowed import Allowed
from ..errors import ConfigError, DataError, HookError
from .masks import as_csv
from .mistakes import WorstMistakes
from .ready_made import ReadyMadeTrainer, above_zero, measured, paths_of, several


class ClassificationTrainer(ReadyMadeTrainer):
    """Trains a network that gives every image a class, or says yes or no to each of several labels.

    Measured are the accuracy, also among the best k classes, precision, recall and F1 averaged over the classes
    (macro), the area under the ROC curve, and the confusion matrix; precision, recall and F1 also for each class, as
    bars in ``plots/per_class.png``. ``plots/mistakes.png`` has the images that the network is most wrong about. The
    epoch with the best accuracy is best; with several labels each the one with the best F1.

    Parameters
    ----------
    config : None, dict, argparse.Namespace, dataclass, or any object with attributes, optional
        Options may stand in it too, under their names.
    model : module, or callable that returns one
        Gives logits, N x classes; binary: N x 1, or N.
    train, valid, test : Dataset, DataLoader or iterable of batches, optional
        Of images and class numbers; multilabel: of images and 0 or 1 for every label, N x classes.
    classes : int or sequence of str, optional
        Default: the ``classes`` of the first data set, as those of torchvision have. Two names in binary mode are those
        of no and yes.
    mode : {"binary", "multiclass", "multilabel"}, optional
        Default: multiclass, for one class binary.
    loss : callable or dict of them, optional
        Default: cross entropy with `class_weights` and `smoothing`.
    optimizer, scheduler, callbacks
        See `ReadyMadeTrainer`.
    **options
        ``lr`` (0.001), ``batch_size`` (8, of all ranks together), ``num_workers`` (0), ``class_weights`` (one number
        per class or label), ``smoothing`` (of the targets; 0.1, say), ``top_k`` (``(1, 5)``: also the accuracy among
        the best five). And every setting without its underscore: ``num_epochs=20``.

    Raises
    ------
    ConfigError
        For an option that is not there, or has a value that is not allowed.

    Examples
    --------
    ``ClassificationTrainer(model=net, train=train, valid=valid, classes=["benign", "malignant"]).train()``
    """

    OPTIONS: ClassVar[dict[str, Allowed]] = {**ReadyMadeTrainer.OPTIONS, "top_k": several("classes", 1, (1, 5))}

    _top_k: Any = (1,)

    def build_criterion(self) -> Any:
        """Return the loss, or a dict of losses."""
        given = self._parts["loss"]
        if any(isinstance(part, str) for part in components.each(given)):
            raise ConfigError(f"{type(self).__name__}: loss={given!r}; expected a function of outputs and targets.")
        self.check_loss(given)
        if given is not None:
            return given
        channels = 1 if self.task == "binary" else len(self.class_names)
        weights = None if self._class_weights is None else torch.as_tensor(self._class_weights, dtype=torch.float32)
        if weights is not None and weights.shape != (channels,):
            raise ConfigError(
                f"{type(self).__name__}: class_weights has the shape {tuple(weights.shape)}; expected {channels} "
                f"numbers, one for each {'class' if self.task == 'multiclass' else 'label'}."
            )
        if self.task == "multiclass":
            return nn.CrossEntropyLoss(weight=weights, label_smoothing=self._smoothing)
        return BinaryCrossEntropy(weights, self._smoothing)

    def build_callbacks(self) -> list[Any]:
        """Return the metrics, and what draws the confusion matrix and the worst mistakes."""
        places = ("valid", "test")  # in training, targets may be mixed
        names = self.class_names
        options: dict[str, Any] = {"loaders": places, "prediction": None if self.task == "multiclass" else above_zero}
        average = "binary" if self.task == "binary" else "macro"
        found: list[Any] = [
            Accuracy(top_k=tuple(self._top_k), **options),
            PrecisionRecallF1(average=average, **options),
        ]
        found.append(AUC(loaders=places))
        if self.task != "multilabel":
            shown = names if len(names) > 1 else ["no", names[0] if names else "yes"]
            found.append(ConfusionMatrix(class_names=shown, **options))
        return [*found, WorstMistakes(names, self.task)]

    def output_spec(self) -> dict[str, Any]:
        """Return that outputs are classes, and which."""
        return {"output": "classes", "classes": self.class_names or None, "task": self.task}

    def best_by(self) -> str | None:
        """Return ``"accuracy"``, of several labels each ``"f1"``, where that is measured."""
        kind, name = (PrecisionRecallF1, "f1") if self.task == "multilabel" else (Accuracy, "accuracy")
        return name if measured(self.callbacks, kind, "valid") else None

    def compute_loss(self) -> Any:
        """Return the loss, once the outputs are known to have the shape that the classes need."""
        self.check_targets()
        found = super().compute_loss()
        shape = tuple(self.outputs.shape)
        channels = 1 if self.task == "binary" else len(self.class_names)
        if len(shape) != 2 or shape[1] != channels:
            if self.task != "binary" or len(shape) != 1:
                raise HookError(
                    f"{type(self).__name__}: the model gives outputs of the shape {shape}; expected N x {channels}, "
                    f"for {self.task}. Let its last layer have {channels} features, or give classes=."
                )
        return found

    def check_targets(self) -> None:
        """Raise a DataError for targets that the cross entropy of classes does not take."""
        targets, classes = self.targets, len(self.class_names)
        if type(self.criterion) is not nn.CrossEntropyLoss or not isinstance(targets, Tensor):
            return
        shares = targets.is_floating_point() and targets.ndim == 2 and targets.shape[1] == classes
        if not shares and (targets.ndim != 1 or targets.dtype not in (torch.int64, torch.uint8)):
            raise DataError(
                f"{type(self).__name__}: targets of the shape {tuple(targets.shape)}, {targets.dtype}; expected class "
                f"numbers, N of int64, or probabilities, N x {classes}. In the data set, write label.long() and no "
                "further dimension; 0 or 1 for each label is for mode='multilabel'."
            )
        # On an accelerator a look at the values would make it wait; torch itself stops there.
        if not shares and targets.is_cpu and targets.numel() and not 0 <= targets.min() <= targets.max() < classes:
            raise DataError(
                f"{type(self).__name__} has {classes} classes, numbers 0 to {classes - 1}, and targets from "
                f"{int(targets.min())} to {int(targets.max())}. Write classes={int(targets.max()) + 1}, say."
            )

    def prediction_transform(self, outputs: Any) -> Any:
        """Return probabilities, N x classes; binary: N x 1."""
        if self.task == "multiclass":
            return outputs.softmax(1)
        return outputs.reshape(len(outputs), -1).sigmoid()

    def predict_images(
        self, paths_or_folder: Any, table: str | Path | None = None, transform: Any = None
    ) -> list[dict[str, Any]]:
        """Classify files of images, and write a table with a row for each.

        Parameters
        ----------
        paths_or_folder : path, or sequence of paths
            Files of images, or a folder of them.
        table : path, optional
            Default: ``predictions.csv`` in the run folder; without one nothing is written.
        transform : callable, optional
            Gets an image, float32 of channels x height x width from 0 to 1; what the data set did.

        Returns
        -------
        list of dict
            ``file``, ``predicted`` (a name; of several labels those that apply, with ``;`` between them) and the
            probability of every class, under its name.

        Raises
        ------
        DataError
            For a file that cannot be read; it names the file.
        """
        names = self.class_names if self.task != "binary" or len(self.class_names) != 2 else self.class_names[1:]
        names = names or ["yes"]
        rows: list[dict[str, Any]] = []
        paths = iter(paths_of(paths_or_folder).values())
        while chunk := list(islice(paths, self._batch_size)):
            images = [(path, self.read(path, transform)) for path in chunk]
            for _, group in groupby(images, key=lambda pair: pair[1].shape):
                files, tensors = zip(*group, strict=True)
                for path, row in zip(files, next(self.predict(torch.stack(tensors))).float().tolist(), strict=True):
                    if len(row) != len(names):
                        raise DataError(f"{path}: the model gives {len(row)} numbers for {len(names)} classes.")
                    rows.append(
                        {"file": str(path), "predicted": self._name_of(row), **dict(zip(names, row, strict=True))}
                    )
        target = self.run_dir / "predictions.csv" if table is None and self.run_dir is not None else table
        if target is not None:
            cells = [[f"{v:.6g}" if isinstance(v, float) else v for v in row.values()] for row in rows]
            write_text(Path(target), as_csv([["file", "predicted", *names], *cells]))
        return rows

    def _name_of(self, row: list[float]) -> str:
        """Return the name of what was predicted by these probabilities."""
        names = self.class_names
        if self.task == "multiclass":
            return names[max(range(len(row)), key=row.__getitem__)]
        if self.task == "multilabel":
            return ";".join(name for name, probability in zip(names, row, strict=True) if probability > 0.5)
        no, yes = names if len(names) == 2 else ("no", names[0] if names else "yes")
        return yes if row[0] > 0.5 else no


class BinaryCrossEntropy(nn.Module):
    """Binary cross entropy of logits, for one or for several labels of a sample.

    Parameters
    ----------
    weights : Tensor, optional
        One for each label.
    smoothing : float
        0.1 makes of a 1 a 0.95, and of a 0 a 0.05.

    Raises
    ------
    ConfigError
        For a smoothing that is not from 0 to below 1.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing={smoothing!r}; expected 0 to below 1.")
        self.register_buffer("weights", weights, persistent=False)
        self.smoothing = smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over samples and labels.

        Parameters
        ----------
        outputs : Tensor
            N x labels, or N.
        targets : Tensor
            0 or 1, of the same shape; for one label (N,) and (N, 1) are the same.

        Raises
        ------
        DataError
            For other shapes, and for targets that are not from 0 to 1; on an accelerator the loss is NaN then.
        """
        if outputs.numel() == len(outputs) == targets.numel():
            outputs, targets = outputs.reshape(-1, 1), targets.reshape(-1, 1)
        if outputs.shape != targets.shape:
            raise DataError(
                f"outputs of the shape {tuple(outputs.shape)} and targets of {tuple(targets.shape)}; expected the "
                "same: 0 or 1 for each label. Class numbers are for mode='multiclass'."
            )
        targets = targets.to(outputs.dtype)
        low, high = targets.aminmax()
        if targets.is_cpu and not 0 <= low <= high <= 1:
            raise DataError(
                f"targets from {low.item():g} to {high.item():g}; expected 0 or 1 for each label. Class numbers are "
                "for mode='multiclass'."
            )
        loss = F.binary_cross_entropy_with_logits(
            outputs, targets * (1 - self.smoothing) + self.smoothing / 2, weight=self.weights
        )
        return loss if targets.is_cpu else torch.where((low >= 0) & (high <= 1), loss, torch.nan)
