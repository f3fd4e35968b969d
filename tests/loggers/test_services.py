"""TensorBoard, Weights & Biases, trackio and MLflow, read back by their own readers, without a network."""

import json
import sqlite3
import struct

import pytest
import torch

from farabio_like.loggers.images import as_bytes, grid

from ..trainers import Tiny

SCRIPT = """
import sys, json, warnings
warnings.simplefilter("error", UserWarning)
import torch
from tests.trainers import Tiny
from farabio_like.loggers.wandb import WandbLogger
from farabio_like.loggers.mlflow import MLflowLogger

class Records(Tiny):
    def on_epoch_end(self):
        self.loggers.images("inputs", torch.rand(4, 1, 8, 8))
        self.loggers.matrix("confusion", torch.eye(3).long(), ["a", "b", "c"])

trainer = Records({"_logdir": "runs", "_log_interval": 2, "_num_epochs": 3, "_loggers": LOGGER})
trainer.train()
trainer.train()
print("history", json.dumps([entry["train"]["loss"] for entry in trainer.history]))
"""


def losses(printed):
    return json.loads(next(line for line in printed.splitlines() if line.startswith("history")).split(" ", 1)[1])


class Records(Tiny):
    def on_epoch_end(self):
        self.loggers.images("inputs", torch.rand(4, 1, 8, 8))
        self.loggers.matrix("confusion", torch.eye(3).long(), ["a", "b", "c"])


def test_tensorboard_files_hold_what_was_recorded():
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = Records({"_loggers": "tensorboard", "_logdir": "runs", "_log_interval": 2, "_num_epochs": 3})
    trainer.train()
    found = EventAccumulator(str(trainer.run_dir / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    tags = found.Tags()
    assert set(tags["scalars"]) == {
        *("epoch", "train/loss", "valid/loss", "lr", "seconds", "running/loss", "running/lr"),
    }
    for part in ("train", "valid"):
        points = [(event.step, event.value) for event in found.Scalars(f"{part}/loss")]
        assert points == [(3 * e["epoch"], pytest.approx(e[part]["loss"], rel=1e-6)) for e in trainer.history]
    assert [event.step for event in found.Scalars("running/loss")] == [2, 4, 6, 8]
    assert "confusion" in tags["images"]
    assert {"run info/text_summary", "config/text_summary"} <= set(tags["tensors"])


def test_tensorboard_shows_no_point_twice_of_a_run_that_was_killed_and_goes_on():
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Fails(Records):
        def on_end_training_batch(self):
            super().on_end_training_batch()
            if self.step == 8 and "fails" in self.config:
                raise RuntimeError("as if it were killed")

    settings = {"_loggers": "tensorboard", "_logdir": "runs", "_log_interval": 1, "_num_epochs": 4, "_save_steps": 5}
    trainer = Fails({**settings, "fails": True})
    with pytest.raises(RuntimeError):
        trainer.train()
    (trainer.run_dir / "checkpoints" / "crash.ckpt").unlink()
    again = Fails(settings)
    again.train(resume=trainer.run_dir)
    assert again.run_dir == trainer.run_dir
    found = EventAccumulator(str(trainer.run_dir / "tensorboard"), {"scalars": 0}).Reload()
    for name in ("running/loss", "train/loss"):
        steps = [event.step for event in found.Scalars(name)]
        assert len(steps) > 3 and steps == sorted(set(steps)), (name, steps)


@pytest.mark.slow
@pytest.mark.integration
def test_wandb_offline_run_holds_what_was_recorded(python, tmp_path):
    pytest.importorskip("wandb")
    here = {name: str(tmp_path / "wandb-home") for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")}
    printed = python(SCRIPT.replace("LOGGER", 'WandbLogger(mode="offline")'), HOME=str(tmp_path), **here)
    (first, second) = sorted(tmp_path.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    rows = [*wandb_rows(first), *wandb_rows(second)]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == losses(printed)
    assert [row["running/loss"] for row in rows if "running/loss" in row]
    assert len(list(tmp_path.rglob("*.png"))) > 6


def wandb_rows(path):
    """Yield the rows of history: protocol buffers in LevelDB's log format, blocks of 32 KiB, after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    file, place, data = path.read_bytes(), 7, b""
    while place + 7 <= len(file):
        left = 32768 - place % 32768
        if left < 7:  # padding: no header fits
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", file[place : place + 7])
        data += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            record = wandb_internal_pb2.Record.FromString(data)
            data = b""
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


@pytest.mark.slow
@pytest.mark.integration
def test_mlflow_database_holds_what_was_recorded(python, tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    read = """
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///m.db")
experiment = client.get_experiment_by_name("Records")
(run,) = client.search_runs([experiment.experiment_id])
print("read", json.dumps({
    "loss": [m.value for m in sorted(client.get_metric_history(run.info.run_id, "train/loss"), key=lambda m: m.step)],
    "status": run.info.status, "params": run.data.params,
    "files": [f.path for f in client.list_artifacts(run.info.run_id, "pictures")],
}))
"""
    printed = python(SCRIPT.replace("LOGGER", 'MLflowLogger("sqlite:///m.db")') + read, HOME=str(tmp_path))
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("read")).split(" ", 1)[1])
    assert found["loss"] == losses(printed)
    assert found["status"] == "FINISHED"
    assert found["params"]["_num_epochs"] == "3"
    assert "pictures/inputs-0000003.png" in found["files"] and "pictures/confusion-0000018.png" in found["files"]


@pytest.mark.slow
@pytest.mark.integration
def test_trackio_database_holds_what_was_recorded(python, tmp_path):
    pytest.importorskip("trackio")
    folder = tmp_path / "trackio"
    printed = python(SCRIPT.replace("LOGGER", '"trackio"'), HOME=str(tmp_path), TRACKIO_DIR=str(folder))
    (database,) = folder.glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by id")]
    connection.close()
    assert [row["train/loss"] for row in rows if "train/loss" in row] == losses(printed)


def test_images_become_bytes():
    assert as_bytes(torch.tensor([[[-1.0, 0.5], [2.0, float("nan")]]]))[0, 0].tolist() == [[0, 128], [255, 0]]
    assert as_bytes(torch.tensor([[[True, False]]])).tolist() == [[[[255, 0]]] * 3]
    assert as_bytes(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)).unique().tolist() == [7]
    masks = as_bytes(torch.tensor([[[0, 1, 2, 8, 9]]]))[0, :, 0].T.tolist()
    assert masks[0] == [0, 0, 0]
    assert masks[1] == masks[3] != masks[2]
    assert masks[2] == masks[4]


def test_grid_enlarges_small_images_and_has_one_row_for_eight():
    assert grid(torch.zeros(8, 1, 8, 8)).shape == (3, 68, 8 * 66 + 2)
    assert grid(torch.zeros(9, 3, 100, 50)).shape == (3, 206, 8 * 52 + 2)
    assert grid(torch.zeros(0, 1, 8, 8)).shape == (3, 1, 1)
