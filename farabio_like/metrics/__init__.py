"""Metrics of a pass over a loader: means weighted by samples, metric objects, several ranks as one.

Nothing here knows a trainer. Of the formulas only `psnr` and `ssim` live here: others are callbacks, or torchmetrics.
"""

from .direction import Best, higher_by_name, higher_by_object, improves
from .images import psnr, ssim
from .objects import MetricObjects
from .running import Mean, RunningMeans, merged_means
from .values import plain_metrics

__all__ = [
    "Best",
    "Mean",
    "MetricObjects",
    "RunningMeans",
    "higher_by_name",
    "higher_by_object",
    "improves",
    "merged_means",
    "plain_metrics",
    "psnr",
    "ssim",
]
