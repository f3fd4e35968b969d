"""Packages that a logger needs and that may be missing."""

from __future__ import annotations

import importlib.util

from ..errors import ConfigError


def needs(package: str, who: str) -> None:
    """Raise a ConfigError that says how to install a package that is missing.

    Parameters
    ----------
    package : str
    who : str
        Who needs it, for the message.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{who} needs the package {package}, which is not installed. Install it: pip install {package}"
        )
