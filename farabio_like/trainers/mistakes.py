"""`WorstMistakes`: a picture of the images that a classifier is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed, plots
from ..callbacks.base import LOADER_OF, Callback
from ..rundir import layout

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class WorstMistakes(Callback):
    """Draws the wrongly classified images with the largest loss into ``plots/mistakes.png`` of the run.

    It is drawn at the end of the training, of the last evaluation, and after a test.

    Parameters
    ----------
    class_names : sequence of str
    task : {"binary", "multiclass", "multilabel"}
    number : int
        Of images.
    """

    def __init__(self, class_names: Sequence[str], task: str, number: int = 24) -> None:
        self.class_names = list(class_names)
        self.task = task
        self.number = number
        self._worst: list[tuple[float, str, Any]] = []  # loss, title, image on the CPU

    def listens_to(self, event: str) -> bool:
        """Leave out the training batches."""
        return LOADER_OF.get(event) in (None, "valid", "test")

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Begin with none."""
        if not trainer._run_state.of_other_loader:
            self._worst = []

    def on_evaluate_batch_end(self, trainer: ConvnetTrainer) -> None:
        """Keep the batch's worst."""
        if not trainer._run_state.of_other_loader:
            self._keep(trainer)

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Bring those of all processes together."""
        if not trainer._run_state.of_other_loader:
            self._gather()

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Draw those of the last evaluation."""
        if trainer.exception is None:
            self._draw(trainer, "valid")

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Begin with none."""
        self._worst = []

    def on_end_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Keep the batch's worst."""
        self._keep(trainer)

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Draw them."""
        self._gather()
        self._draw(trainer, "test")

    def close(self) -> None:
        """Let go of the images."""
        self._worst = []

    def _keep(self, trainer: ConvnetTrainer) -> None:
        run, images = trainer._run_state, trainer.inputs
        stand_in = run.skip and run.ranks is not None
        if stand_in or trainer.run_dir is None or not isinstance(images, Tensor) or images.ndim not in (3, 4):
            return
        with torch.no_grad():
            losses, titles = self._losses(trainer.outputs.detach().float(), trainer.targets)
        chosen = losses.topk(min(self.number, len(losses))).indices
        for index, loss in zip(chosen.tolist(), losses[chosen].tolist(), strict=True):
            if loss > 0:
                self._worst.append((loss, titles(index), _shown(images[index])))
        self._worst = sorted(self._worst, key=itemgetter(0), reverse=True)[: self.number]

    def _losses(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Any]:
        """Return the loss of each sample, 0 where it is right, and what gives the title of one."""
        names = self.class_names
        if self.task == "multiclass":
            predicted, true = outputs.argmax(1), targets.long()
            losses = F.cross_entropy(outputs, true, reduction="none") * (predicted != true)
            return losses, lambda k: f"{names[int(predicted[k])]}, is {names[int(true[k])]}"
        outputs, true = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None], targets.float()
        true = true.reshape(outputs.shape)
        wrong = (outputs > 0) != (true > 0.5)
        losses = (F.binary_cross_entropy_with_logits(outputs, true, reduction="none") * wrong).sum(1)
        if self.task == "binary":
            no, yes = names if len(names) == 2 else ("no", names[0] if names else "yes")
            return losses, lambda k: f"{(no, yes)[int(outputs[k, 0] > 0)]}, is {(no, yes)[int(true[k, 0])]}"

        def title(k: int) -> str:
            marks = [f"{'+' if outputs[k, c] > 0 else '-'}{names[c]}" for c in wrong[k].nonzero().flatten().tolist()]
            return " ".join(marks)

        return losses, title

    def _gather(self) -> None:
        of_ranks = distributed.gather_on_main(self._worst)
        self._worst = sorted((one for many in of_ranks for one in many), key=itemgetter(0), reverse=True)[: self.number]

    def _draw(self, trainer: ConvnetTrainer, loader: str) -> None:
        worst, self._worst = self._worst, []
        if not worst or trainer.run_dir is None or not distributed.is_main():
            return
        images = [image for _, _, image in worst]
        if len({image.shape for image in images}) > 1:
            size = max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)
            images = [F.interpolate(image[None], size)[0] for image in images]
        try:
            figure = plots.image_grid(torch.stack(images), [title for _, title, _ in worst], wrong=[True] * len(worst))
        except ImportError as error:
            trainer._run_state.console.once(f"no picture of the mistakes: {error}. Install it: pip install matplotlib")
            return
        figure.suptitle(f"{loader}: the worst mistakes first", fontsize=11)
        plots.save(figure, trainer.run_dir / layout.PLOTS / "mistakes.png")


def _shown(image: Tensor) -> Tensor:
    """Return an image with 1 or 3 channels, on the CPU: of others the mean."""
    image = image.detach().float().cpu()
    image = image[None] if image.ndim == 2 else image
    return image.clone() if image.shape[0] in (1, 3) else image.mean(0, keepdim=True)
