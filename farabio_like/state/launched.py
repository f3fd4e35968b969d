"""`Launched`: what a trainer has from a configuration file beside its class; nothing, where a script builds it.

The trainer asks at the places where its hooks are called. What is answered is in `launch`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Launched:
    """The answers of a trainer that no configuration file has made.

    Attributes
    ----------
    name : str or None
        Of the run's folder, in place of a number.
    keeps_code : bool
        Whether `describe` copies the code, by the names that it is imported under.
    """

    name: str | None = None
    keeps_code: bool = False

    def settle(self, trainer: ConvnetTrainer) -> None:
        """Set settings and callbacks, after the class has set its own."""

    def before_build(self, trainer: ConvnetTrainer) -> None:
        """Set the model, before `build_model`."""

    def after_build(self, trainer: ConvnetTrainer) -> None:
        """Set what is made for the model, after `build_model`."""

    def describe(self, folder: Path) -> None:
        """Write into the run's folder from what it was launched."""
