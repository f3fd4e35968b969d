"""`PSNR` and `SSIM`: how near images are to what they should be. Their formulas are in `metrics.images`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import DataError
from ..metrics import images
from .metric import MetricCallback, add


class ImageQuality(MetricCallback):
    """Base of what is measured of each image: a subclass gives `name` and `score`.

    Parameters
    ----------
    protocol : {"rgb", "y"}
        ``"rgb"``: all channels. ``"y"``: the luma of BT.601 in studio range, as papers on super-resolution report it;
        the name of the metric then ends in ``_y``.
    crop : int
        Pixels left out at every border; with ``"y"`` papers leave out as many as the scale.
    data_range : float
        1 for images of 0 to 1.
    **options
        ``loaders``, ``prediction``, ``target``, ``prefix``: see `MetricCallback`.
    """

    name: str

    def __init__(
        self, protocol: images.Protocol = "rgb", crop: int = 0, data_range: float = 1.0, **options: Any
    ) -> None:
        images.check_settings(type(self).__name__, data_range, protocol, crop)
        super().__init__(**options)
        self.protocol = protocol
        self.crop = crop
        self.data_range = data_range

    @staticmethod
    def score(image: Tensor, target: Tensor, data_range: float, protocol: images.Protocol, crop: int) -> Tensor:
        """Return the score of each image, N."""
        raise NotImplementedError

    def announces(self) -> dict[str, bool | None] | None:
        """Return the name."""
        return {f"{self.prefix}{self._name()}": True}

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Add the scores of the batch's images."""
        for argument, value in (("prediction", prediction), ("target", target)):
            if not isinstance(value, Tensor):
                raise DataError(
                    f"{type(self).__name__} got a {type(value).__name__} as {argument}; expected a tensor of images. "
                    f"Write {type(self).__name__}({argument}=lambda trainer: ...)."
                )
        scores = self.score(prediction, target.to(prediction.device), self.data_range, self.protocol, self.crop)
        add(state, "sum", scores.sum())
        add(state, "images", scores.new_tensor(len(scores)))
        add(state, "infinite", scores.isinf().sum())

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the mean over the images."""
        if state["infinite"] > 0:
            self.say_once(images.identical(int(state["infinite"]), int(state["images"])))
        return {self._name(): state["sum"] / state["images"]}

    def _name(self) -> str:
        return self.name if self.protocol == "rgb" else f"{self.name}_{self.protocol}"


class PSNR(ImageQuality):
    """Measures the peak signal-to-noise ratio of images in decibels: ``psnr``, or ``psnr_y`` of the luma.

    The mean over the images of a loader, by `farabio_like.metrics.psnr`. With an image that equals its target it is
    infinite; a warning says so once. Images that a network gives are not clamped: write
    ``prediction=lambda trainer: trainer.outputs.clamp(0, 1)`` to measure what a file of them would hold.

    Parameters
    ----------
    protocol : {"rgb", "y"}
        ``"rgb"``: all channels. ``"y"``: the luma of BT.601 in studio range, as papers on super-resolution report it.
    crop : int
        Pixels left out at every border; with ``"y"`` papers leave out as many as the scale.
    data_range : float
        1 for images of 0 to 1.
    **options
        ``loaders``, ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For images of different shapes, or with nothing left of them.

    Examples
    --------
    ``self.callbacks = [PSNR(), PSNR("y", crop=4)]``
    """

    name = "psnr"
    score = staticmethod(images.psnr_of_each)


class SSIM(ImageQuality):
    """Measures the structural similarity of images: ``ssim``, or ``ssim_y`` of the luma.

    The mean over the images of a loader, by `farabio_like.metrics.ssim`.

    Parameters
    ----------
    protocol, crop, data_range, **options
        As `PSNR` takes them.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For images of different shapes, or of less than 11 x 11 pixels.

    Examples
    --------
    ``self.callbacks = [SSIM("y", crop=4, loaders=("valid",))]``
    """

    name = "ssim"
    score = staticmethod(images.ssim_of_each)
