"""Folders of shards: which of them are removed, and what those of strangers cannot do."""

import hashlib
import pickle
import sys

import pytest
import torch
from torch.distributed import checkpoint as dcp

from farabio_like import CheckpointError, checkpoint
from farabio_like.checkpoint import sharded

from ..trainers import Still


def test_folders_that_no_checkpoint_names_are_removed(tmp_path):
    folders = ["step-00000001.shards", "step-00000002.shards", "step-00000002-1.shards", "own.shards"]
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / "step-9.shards").write_text("a file")
    (tmp_path / "damaged.ckpt").write_bytes(b"no checkpoint")
    checkpoint.save({"format": 2, "shards": {"folder": folders[1]}}, tmp_path / "last.ckpt")
    checkpoint.save({"format": 2}, tmp_path / "plain.ckpt")
    sharded.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.shards")) == ["own.shards", folders[1], "step-9.shards"]


def hostile(tmp_path, index, folder="a.shards", names=(".metadata",)):
    """Write a checkpoint with a folder beside it, in which all has the checksum that the file gives."""
    beside = tmp_path / "a.shards"
    beside.mkdir()
    files = {}
    for name in names:
        (beside / name).write_bytes(index)
        files[name] = [len(index), hashlib.sha256(index).hexdigest()]
    saved = {"format": 2, "class": "Still", "epoch": 1, "step": 1, "model": {}, "averages": {}, "run": {}}
    saved["model"]["weight"] = {"in shards": "/model/weight", "shape": [1, 3], "dtype": torch.float32, "dim": 0}
    saved["model"]["bias"] = torch.zeros(1)
    torch.save({**saved, "shards": {"folder": folder, "files": files, "same": {}}}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def call(module, name, argument):
    """Return a pickle that calls ``module.name(argument)``; with protocol 4 a name may be dotted."""

    def text(value):
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


FILESYSTEM, METADATA = "torch.distributed.checkpoint.filesystem", "torch.distributed.checkpoint.metadata"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (FILESYSTEM, "os.system"),
        (METADATA, "os.system"),
        (FILESYSTEM, "FileSystemReader"),
        (FILESYSTEM, "_generate_uuid"),
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "hub.load"),
        ("torch", "load"),
        ("pathlib", "Path.touch"),
        ("this", "s"),
    ],
)
def test_an_index_of_a_stranger_runs_and_imports_nothing(tmp_path, module, name):
    mark = tmp_path / "ran"
    path = hostile(tmp_path, call(module, name, f"touch {mark}"))
    sys.modules.pop("this", None)
    with pytest.raises(CheckpointError, match="the tensors of .* cannot be read"):
        Still().load_model(path)
    assert not mark.exists() and "this" not in sys.modules


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\\b", "/etc", "a\0", 3, None])
def test_a_name_in_a_file_is_a_name(tmp_path, name):
    path = hostile(tmp_path, b"", folder=name)
    with pytest.raises(CheckpointError, match="which is no name of a file beside it"):
        Still().load_model(path)
    saved = torch.load(path, weights_only=True)
    saved["shards"].update(folder="a.shards", files={name: [0, ""]})
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match="which is no name of a file beside it"):
        Still().load_model(path)


def test_an_index_names_no_file_outside_of_its_folder(tmp_path):
    dcp.save({"/model/weight": torch.ones(1, 3)}, storage_writer=dcp.FileSystemWriter(tmp_path / "b"), no_dist=True)
    with open(tmp_path / "b" / ".metadata", "rb") as file:
        found = pickle.load(file)
    for info in found.storage_data.values():
        info.relative_path = f"../b/{info.relative_path}"
    path = hostile(tmp_path, pickle.dumps(found))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Still().load_model(path)
