"""Around a test: which weights it takes, what it prints and returns."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import checkpoint, components, distributed
from ..callbacks import dispatch
from ..checkpoint import sharded
from ..checks import hooks
from ..checks import run as run_checks
from ..distributed import fsdp
from ..errors import CheckpointError, ConfigError, HookError
from ..loggers import run as loggers
from ..metrics.values import plain_metrics
from ..resume import attributes, contents, saving
from ..rundir import layout, runs
from . import drawing

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def weights_to_test(trainer: ConvnetTrainer) -> Path | None:
    """Return the file that load_model() loads without a path, None for the weights in memory."""
    state = trainer._run_state
    if state.loaded is not None:
        return None
    if (
        state.running == "test" and state.progress.phase is not None
    ):  # test() in a hook of an epoch: training goes on with these
        return None
    saving.write_best(trainer)
    if state.folder is not None and state.folder.best.is_file():
        return state.folder.best
    if state.trained:
        return None
    if trainer._model_path is not None:
        if not isinstance(trainer._model_path, (str, Path)):
            raise ConfigError(
                f"{type(trainer).__name__}: _model_path is {trainer._model_path!r}; expected the path of a file of "
                "weights, or None."
            )
        return Path(trainer._model_path)
    return runs.newest_weights(trainer._logdir, type(trainer)) if trainer._logdir is not None else None


def load_weights(trainer: ConvnetTrainer, path: str | Path | None) -> None:
    """Do what `ConvnetTrainer.load_model` says."""
    state = trainer._run_state
    chosen_by_user = path is not None
    path = Path(path) if path is not None else distributed.from_main(lambda: weights_to_test(trainer))
    if path is None:
        state.weights = state.loaded or "those in memory" + ("" if state.trained else ", as built: no run was found")
        return
    found = distributed.from_main(partial(_read, path))
    ours = _is_ours(found)
    if ours:
        found = sharded.read_shards({**found, "run": None}, path, fsdp.mesh_of(trainer))
    try:
        components.load_model_state(components.model_of(trainer), checkpoint.weights_of(found), str(path))
    except CheckpointError as error:
        written = f"\nWritten by {found['class']}, read by {type(trainer).__name__}." if ours else ""
        raise CheckpointError(f"{error}{written}") from None
    averages = found["averages"] if ours else {}
    for name, callback in attributes.averaging(trainer).items():
        if name in averages:
            with contents.using(path, f"averages/{name}"):
                callback.load_model_state(trainer, averages[name])
    epoch = f", epoch {found['epoch']}" if ours else ""
    state.weights = f"{layout.shown(path)}{epoch}"
    if chosen_by_user:
        state.loaded = state.weights


def _read(path: Path) -> dict[str, Any]:
    found = checkpoint.read(path / layout.WEIGHTS if path.is_dir() else path)
    if _is_ours(found):
        contents.check_weights(found, path)
        sharded.check_folder(found, path)
    return found


def _is_ours(found: dict[str, Any]) -> bool:
    """Return whether a file is a checkpoint that a trainer has written, and no other one's."""
    return {"format", "class", "model"} <= found.keys()


def open_test(trainer: ConvnetTrainer) -> None:
    """Check that there is something to test on."""
    state = trainer._run_state
    if state.running is None:
        state.listeners = dispatch.listeners(trainer.callbacks)
    state.weights = ""
    state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    if trainer.test_loader is None and trainer.test_loop_iter is None:
        if hooks.is_default(trainer, "on_test_start", "test_loop"):
            raise HookError(
                f"{type(trainer).__name__} has no test loader. Write def get_testloader(self): "
                "self.test_loader = DataLoader(dataset, batch_size=32)."
            )
    run_checks.check_one_loader(trainer, "test")


def close_test(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Print and write the result of a test, and return it."""
    state = trainer._run_state
    metrics = plain_metrics(trainer.epoch_metrics.pop("test", {}))
    state.console.line()
    state.console.metrics("test", metrics)
    if state.weights:
        state.console.line(f"weights: {state.weights}")
    if state.folder is not None:
        state.folder.append({"test": metrics, "weights": state.weights})
        drawing.write_report(trainer)
    loggers.log_epoch(trainer, {"epoch": trainer._epoch, "test": metrics})
    return metrics
