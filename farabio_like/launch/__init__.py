"""Trainers from a configuration file, or from the folder of a run with the code that it has kept.

The file is read by `config`; training and testing are the trainer's own methods.
"""

from .build import build
from .rebuild import rebuild

__all__ = ["build", "rebuild"]
