"""`ConfusionMatrix`: which class was taken for which, counted and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import distributed, plots
from ..errors import ConfigError, DataError
from ..rundir import layout
from .labels import LabelMetric, confusion
from .metric import add

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class ConfusionMatrix(LabelMetric):
    """Counts which class was taken for which, and draws it into ``plots/confusion_matrix.png`` of the run.

    Parameters
    ----------
    num_classes : int, optional
        Needed where the predictions are labels already.
    class_names : sequence of str, optional
        Default: the numbers of the classes.
    loaders : sequence of {"train", "valid", "test"}
        Where it counts; each loader's picture takes the place of the one before. Of `evaluate_loader` there is none.
    **options
        ``threshold``, ``ignore_index``, and the shapes: see `LabelMetric`. ``prediction``, ``target``: see
        `MetricCallback`. ``prefix``: here it is put before the picture's name.

    Attributes
    ----------
    matrix : Tensor or None
        The counts of the last loader: int64, shape (C, C), on the CPU; row = true class, column = predicted class.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For several labels each, and for another number of names than classes.

    Examples
    --------
    ``self.callbacks = [ConfusionMatrix(class_names=["cat", "dog"])]``
    """

    def __init__(
        self,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        *,
        loaders: Sequence[str] = ("valid", "test"),
        **options: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, loaders=loaders, **options)
        if isinstance(class_names, str):
            raise ConfigError(f"ConfusionMatrix(class_names={class_names!r}): expected a list with one name per class.")
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        if self.class_names is not None and num_classes not in (None, len(self.class_names)):
            raise ConfigError(f"ConfusionMatrix has num_classes={num_classes} and {len(self.class_names)} class_names.")
        self.matrix: Tensor | None = None

    def announces(self) -> dict[str, bool | None] | None:
        """Return nothing: a matrix is no number."""
        return {}

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Count the batch's pairs of classes."""
        batch = self.labels(state, prediction, target)
        if batch.multilabel:
            raise DataError(
                f"ConfusionMatrix got {tuple(prediction.shape)} twice, several labels each; expected targets of the "
                "shape (N,) or (N, H, W). Write ConfusionMatrix(target=lambda trainer: trainer.targets.argmax(1)), say."
            )
        if self.class_names is not None and len(self.class_names) != batch.classes:
            raise DataError(
                f"ConfusionMatrix has {len(self.class_names)} class_names for {batch.classes} classes. "
                f"Write class_names=[...] with {batch.classes} of them."
            )
        add(state, "matrix", confusion(batch))

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Keep the matrix; it is no number, so nothing goes to the history."""
        self.check(state)
        self.matrix = state["matrix"].cpu()
        return {}

    def _finish(self, trainer: ConvnetTrainer, loader: str) -> bool:
        found = super()._finish(trainer, loader)
        if found and self.matrix is not None and not trainer._run_state.of_other_loader:
            trainer.loggers.matrix(f"{loader} {self.prefix}confusion matrix", self.matrix, self.class_names)
        if found and trainer.run_dir is not None and not trainer._run_state.of_other_loader and distributed.is_main():
            self._draw(trainer, loader)
        return found

    def _draw(self, trainer: ConvnetTrainer, loader: str) -> None:
        assert trainer.run_dir is not None and self.matrix is not None

        try:
            figure = plots.confusion_matrix(self.matrix, self.class_names)
        except ImportError as error:
            self.say_once(f"no picture of the confusion matrix: {error}. Install it: pip install matplotlib")
            return
        figure.axes[0].set_title(loader if loader == "test" else f"{loader}, epoch {trainer.epoch}")
        plots.save(figure, trainer.run_dir / layout.PLOTS / f"{layout.in_file_name(self.prefix)}confusion_matrix.png")
