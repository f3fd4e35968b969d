"""What a run depends on besides its settings: versions, machine, commit, and a copy of its code."""

from __future__ import annotations

import inspect
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .. import distributed
from ..config.secrets import Secrets
from ..packages import inside, installed

LARGEST_SOURCE = 1 << 20  # bytes; a larger .py file is generated, not written


def environment(secrets: Secrets) -> dict[str, Any]:
    """Return what a run depends on besides its code: versions, machine, command without `secrets`, commit."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": secrets.arguments([sys.executable, *sys.argv]),
        "folder": os.getcwd(),
        "git_commit": _git_commit(),
        "torchrun_job": distributed.job(),
        "processes": distributed.world_size(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """Return the installed packages, read off the folders' names: parsing their metadata takes half a second."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for info in Path(folder or ".").glob("*-*.dist-info"):
            name, version = info.name.removesuffix(".dist-info").rsplit("-", 1)
            found.setdefault(name, version)
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def _git_commit() -> str | None:
    try:
        asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def copy_code(owner: type, folder: Path) -> None:
    """Copy the sources that belong to the run: the script, the trainer's file and the modules beside them."""
    package = sys.modules.get(owner.__module__.partition(".")[0])
    files = [getattr(module, "__file__", None) for module in (sys.modules.get("__main__"), package)]
    try:
        files.append(inspect.getsourcefile(owner))
    except (TypeError, OSError):
        pass
    own = [Path(file).resolve() for file in files if file and Path(file).is_file()]
    own = [path for path in own if path.suffix == ".py" and not installed(path)]
    homes = {path.parent for path in own}
    sources = set(own)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # Resolving the path of every installed module would take longer than the rest together.
        if isinstance(file, str) and file.endswith(".py") and not installed(Path(file)):
            path = Path(file).resolve()
            if inside(path, homes) and not installed(path) and path.is_file():
                sources.add(path)
    if not sources:
        return
    common = Path(os.path.commonpath([path.parent for path in sources]))
    for path in sources:
        if path.stat().st_size <= LARGEST_SOURCE:
            target = folder / path.relative_to(common)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
