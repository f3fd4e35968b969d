"""Folders of shards: which of them are removed."""

from farabio_like import checkpoint
from farabio_like.checkpoint import sharded


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
