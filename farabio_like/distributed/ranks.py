"""How much the gradients of this rank weigh in the step under way."""

from typing import Any

from torch import Tensor

from . import process_group
from .agreement import StepAgreement


class Ranks:
    """How much the gradients of this rank weigh in the step under way.

    Attributes
    ----------
    count : int
        Number of ranks.
    samples : int
        The samples of all ranks together.
    share_of_step : float
        Those of this rank over those of all ranks.
    weight : float
        By how much the gradients are multiplied before they are summed: by the share, or by 1 where the losses were.
    agreement : StepAgreement
    postponed : list of Requests
        What this rank asks for, put aside until the ranks agree.
    tallied : set of str
        Loaders of which the samples that all ranks read were compared with the data set.
    mesh : DeviceMesh or None
        Over which modules are in shards.
    """

    def __init__(self) -> None:
        self.count = process_group.world_size()
        self.samples = 0
        self.share_of_step = self.weight = 1 / self.count
        self.agreement = StepAgreement()
        self.postponed: list[Any] = []
        self.mesh: Any = None
        self.tallied: set[str] = set()

    def share(self, samples: int, on_all: int) -> None:
        """Note the samples of a step."""
        self.samples = on_all
        self.share_of_step = self.weight = samples / on_all if on_all else 1 / self.count

    def weigh(self, gradients: Tensor) -> None:
        """Multiply the gradients of this rank by its share."""
        if self.weight:
            gradients.mul_(self.weight)
        else:
            gradients.zero_()  # those of a stand-in may be NaN

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        """Stay one: the wrapped modules of a copied trainer look here."""
        return self
