"""A run is a folder: its name, its files, the runs beside it, and how they are read again.

Nothing here knows a trainer, and nothing shows one: pages and pictures are made in `report`, `compare` and `plots`.
When something is written is decided elsewhere: checkpoints in `resume.saving`, numbers in `training`.
"""

from .folder import RunDir

__all__ = ["RunDir"]
