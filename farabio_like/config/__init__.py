"""What a user configures: `Config`, the settings of a trainer, and the stages of a run.

Values and their meaning live here, not what a run does with them; the checks of a whole trainer are in `checks`.
"""

from .config import Config, to_dict

__all__ = ["Config", "to_dict"]
