"""Trained models in use: exported to files that run without their code, and called with pictures and arrays.

Serving over a network is in `serving`; the commands are in `cli`.
"""

from .exported import Exported, export
from .quantized import Quantized, quantize
from .trained import Sample, TrainedModel

__all__ = ["Exported", "Quantized", "Sample", "TrainedModel", "export", "quantize"]
