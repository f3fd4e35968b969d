"""Metrics of a pass over a loader: means weighted by samples, metric objects, several ranks as one.

Nothing here knows a trainer, and no formula of a metric lives here: those are callbacks, or torchmetrics.
"""

from .objects import MetricObjects
from .running import Mean, RunningMeans, merged_means
from .values import improves, plain_metrics

__all__ = ["Mean", "MetricObjects", "RunningMeans", "improves", "merged_means", "plain_metrics"]
