"""What a trained model is used with: windows over an image of any size, means over flips, larger images.

Any module or function will do. Nothing here trains, knows a trainer, or opens files of images.
"""

from .flips import flips
from .sliding_window import sliding_window
from .upscaling import upscale

__all__ = ["flips", "sliding_window", "upscale"]
