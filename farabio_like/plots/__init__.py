"""Pictures of a run: curves, grids of images, confusion matrices, bars. Figures only, no pyplot, no window.

Nothing here knows a trainer; what is drawn when is in `training.drawing`.
"""

from .classes import MOST_CELLS, class_bars, class_labels, confusion_matrix
from .curves import (
    LONGEST_LABEL,
    MOST_PANELS,
    TITLE_WIDTH,
    comparison,
    curves,
    is_logarithmic,
    metric_names,
    place_of,
    points_of,
)
from .figure import LONGEST_NAME, can_be_drawn, label, new_figure, save, shorten
from .images import image_grid, prediction_grid

__all__ = [
    "LONGEST_LABEL",
    "LONGEST_NAME",
    "MOST_CELLS",
    "MOST_PANELS",
    "TITLE_WIDTH",
    "can_be_drawn",
    "class_bars",
    "class_labels",
    "comparison",
    "confusion_matrix",
    "curves",
    "image_grid",
    "is_logarithmic",
    "label",
    "metric_names",
    "new_figure",
    "place_of",
    "points_of",
    "prediction_grid",
    "printable",
    "save",
    "shorten",
]
