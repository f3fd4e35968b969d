"""Files of weights: complete under their name or not there; read without running anything in them."""

import contextlib
import json
import os
import pickle
import random
import re
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from farabio_like import CheckpointError, ConfigError, checkpoint

from ..trainers import Tiny

STATE = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "steps": torch.tensor([1, 2]),
    "plain": {"lr": 1e-5, "names": ["a", None, True], "nan": float("inf")},
}


def assert_state(found, expected=STATE):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[key], value) and found[key].dtype == value.dtype, key
        else:
            assert found[key] == value, key


def files():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


# ---------------------------------------------------------------- writing


def test_what_is_saved_is_read():
    checkpoint.save(STATE, Path("deep/er/state.ckpt"))
    assert_state(checkpoint.read(Path("deep/er/state.ckpt")))
    assert files() == ["deep/er/state.ckpt"]


def test_saving_again_replaces_the_file():
    path = Path("state.ckpt")
    checkpoint.save({"weight": torch.zeros(1000)}, path)
    checkpoint.save(STATE, path)
    assert_state(checkpoint.read(path))
    assert files() == ["state.ckpt"]


class Unpicklable:
    def __reduce__(self):
        raise ValueError("cannot be pickled")


@pytest.mark.parametrize("error", [ValueError("of the writer"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failing_write_leaves_the_old_file_and_no_other(error):
    path = Path("state.ckpt")
    checkpoint.save(STATE, path)

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        checkpoint.write_durably(path, write)
    assert caught.value is error
    assert_state(checkpoint.read(path))
    assert files() == ["state.ckpt"]


def test_a_state_that_cannot_be_pickled_leaves_the_old_file():
    path = Path("state.ckpt")
    checkpoint.save(STATE, path)
    with pytest.raises(ValueError, match="cannot be pickled"):
        checkpoint.save({"weight": torch.ones(3), "object": Unpicklable()}, path)
    assert_state(checkpoint.read(path))
    assert files() == ["state.ckpt"]


def test_an_error_that_is_being_handled_is_not_given_as_the_reason():
    with contextlib.suppress(FileNotFoundError):
        raised = None
        try:
            open("nothing-here")
        except FileNotFoundError:
            with pytest.raises(ValueError, match="cannot be pickled") as raised:
                checkpoint.save({"object": Unpicklable()}, Path("state.ckpt"))
    assert raised is not None and files() == []


def test_the_content_is_on_the_disk_before_the_name(monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noted_replace(old, new):
        done.append(("rename", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    path = Path("folder/state.ckpt").resolve()
    checkpoint.save(STATE, path)
    temporary = done[0][1]
    assert temporary not in ("state.ckpt", "folder")
    assert done == [("sync", temporary), ("rename", temporary, "state.ckpt"), ("sync", "folder")]


def save_with_little_room(values, room):
    """Save a new state where files may only become `room` bytes large; return the error's message."""
    path = Path("state.ckpt")
    checkpoint.save(STATE, path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        checkpoint.save({"weight": torch.ones(values)}, path)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize(("values", "room"), [(10, 100), (100_000, 100_000)], ids=["small", "large"])
def test_a_full_disk_leaves_the_old_file_and_says_how_full(in_child, values, room):
    message = in_child(save_with_little_room, values, room)
    assert message is not None, "it was saved after all"
    found = re.fullmatch(
        r"cannot write state\.ckpt: File too large\. "
        r"It needs (\d+) bytes, (\d+) could be written; (\d+) bytes are free\. "
        r"The older file, if there is one, is untouched\.",
        message,
    )
    assert found is not None, message
    needed, written, free = map(int, found.groups())
    assert 4 * values < needed < 4 * values + 3000 and written <= room and free > 0
    assert_state(checkpoint.read(Path("state.ckpt")))
    assert files() == ["state.ckpt"]


@pytest.mark.parametrize("place", ["file/state.ckpt", "folder"])
def test_a_place_where_no_file_can_be(place):
    Path("file").write_text("in the way")
    Path("folder").mkdir()
    with pytest.raises(CheckpointError, match=f"cannot write {place}"):
        checkpoint.save(STATE, Path(place))
    assert files() == ["file"]


def test_a_second_name_is_the_same_file_and_outlives_the_first():
    last, best = Path("last.ckpt"), Path("best.ckpt")
    for value in (1, 2):
        checkpoint.save({"value": value}, last)
        checkpoint.link_durably(last, best)
    checkpoint.save({"value": 3}, last)
    assert checkpoint.read(best) == {"value": 2} and checkpoint.read(last) == {"value": 3}
    assert files() == ["best.ckpt", "last.ckpt"]


def test_a_second_name_given_twice_leaves_nothing_behind():
    checkpoint.save(STATE, Path("last.ckpt"))
    for _ in range(2):
        checkpoint.link_durably(Path("last.ckpt"), Path("best.ckpt"))
    assert files() == ["best.ckpt", "last.ckpt"]


def test_a_second_name_where_there_are_no_hard_links(monkeypatch):
    checkpoint.save(STATE, Path("last.ckpt"))

    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint.link_durably(Path("last.ckpt"), Path("best.ckpt"))
    assert_state(checkpoint.read(Path("best.ckpt")))
    assert files() == ["best.ckpt", "last.ckpt"]


def test_what_a_killed_process_left_is_no_way_into_a_finished_file():
    good, last, best = Path("good.ckpt"), Path("last.ckpt"), Path("best.ckpt")
    checkpoint.save(STATE, good)
    for target in (last, best):  # as a process with the same number, killed between link and rename, leaves them
        os.link(good, f".{target.name}.{os.getpid()}.tmp")
    checkpoint.save({"value": 1}, last)
    checkpoint.link_durably(last, best)
    assert_state(checkpoint.read(good))
    assert checkpoint.read(best) == {"value": 1}
    assert files() == ["best.ckpt", "good.ckpt", "last.ckpt"]


def test_copies_are_made_in_the_memory_of_the_last_ones():
    copies, weight = checkpoint.Copies(), torch.arange(6.0).reshape(2, 3)
    value = {"weight": weight, "again": weight, "turned": weight.T, "part": [weight[0], (1, "a")]}

    def places(copied):
        tensors = [copied["weight"], copied["turned"], copied["part"][0]]
        return {tensor.data_ptr() for tensor in tensors}

    first = copies.take(value)
    assert first["weight"] is first["again"]  # one in the file, as in memory
    assert first["part"][1] == (1, "a") and torch.equal(first["turned"], weight.T)
    held = places(first)
    assert len(held) == 3 and weight.data_ptr() not in held
    weight += 1
    second = copies.take(value)
    assert places(second) == held
    weight += 1
    assert torch.equal(second["weight"], weight - 1) and torch.equal(second["part"][0], weight[0] - 1)


# ---------------------------------------------------------------- damaged files


def saved():
    path = Path("state.ckpt")
    checkpoint.save(STATE, path)
    return path, path.read_bytes()


def test_a_flipped_bit_is_found_or_harmless():
    path, content = saved()
    chance = random.Random(0)
    found = 0
    for place in chance.sample(range(len(content)), 400):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert_state(checkpoint.read(path))  # a bit of the padding, say
        except CheckpointError as error:
            found += 1
            assert "state.ckpt" in str(error) and f"{len(content)} bytes" in str(error)
    assert found > 100


def test_every_flipped_byte_of_the_data_is_found():
    path, content = saved()
    with zipfile.ZipFile(path) as archive:
        entries = [name for name in archive.namelist() if "/data" in name]
    places = [content.index(b"\x00\x00\x80\x3f\x00\x00\x00\x40")]  # 1.0, 2.0
    places += [content.index(b"names"), content.index(b"weight")]
    assert len(entries) == 3
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged: it does not have the SHA-256"):
            checkpoint.read(path)


def test_every_flipped_byte_is_found():
    path, content = saved()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.read(path)


def test_a_flipped_byte_in_the_data_of_a_file_without_our_checksum_is_found():
    path, _ = saved()
    torch.save({"weight": torch.tensor([1.0, 2.0])}, path)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"\x00\x00\x80\x3f\x00\x00\x00\x40")] ^= 0x04
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is damaged: the checksum of '.*/data"):
        checkpoint.read(path)


def test_an_entry_that_a_flipped_bit_makes_a_folder_is_found():
    path, content = saved()
    start = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    for header in (start, content.rindex(b"PK\x01\x02")):
        damaged = bytearray(content)
        damaged[header + 38] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.read(path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99, -1])
def test_truncated_files(kept):
    path, content = saved()
    size = len(content) - 1 if kept == -1 else int(len(content) * kept)
    path.write_bytes(content[:size])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    assert f"state.ckpt ({size} bytes)" in str(caught.value)
    assert ("it is empty" in str(caught.value)) == (size == 0)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [b"epoch,loss\n1,0.5\n", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000), b"PK\x03\x04 not really", b"\x80\x05."],
    ids=["text", "picture", "zeros", "nearly a zip", "nearly a pickle"],
)
def test_files_of_another_kind(content):
    Path("other.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"other\.pth \({len(content)} bytes\)"):
        checkpoint.read(Path("other.pth"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_bytes_whatever_raise_anything_else():
    chance = random.Random(0)
    for length in range(1, 300):
        alphabet = b"\x80\x02.(}q]Xcube\x85R\x00\x01\xffK" if length % 2 else bytes(range(256))
        Path("other.pth").write_bytes(bytes(chance.choices(alphabet, k=length)))
        with pytest.raises(CheckpointError, match=rf"other\.pth \({length} bytes\)"):
            checkpoint.read(Path("other.pth"))


def test_a_zip_of_another_kind():
    with zipfile.ZipFile("other.pth", "w") as archive:
        archive.writestr("read.me", "hello")
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        checkpoint.read(Path("other.pth"))


@pytest.mark.parametrize("value", [torch.ones(3), [1, 2], 5])
def test_a_file_that_holds_no_dict(value):
    torch.save(value, "other.pth")
    with pytest.raises(CheckpointError, match=f"holds a {type(value).__name__}, not a dict of weights"):
        checkpoint.read(Path("other.pth"))


def test_a_whole_module_is_not_unpickled():
    torch.save(nn.Linear(2, 2), "module.pth")
    with pytest.raises(CheckpointError, match="Nothing in it was run"):
        checkpoint.read(Path("module.pth"))


def test_an_old_file_without_an_archive_is_read():
    torch.save(STATE, "old.pth", _use_new_zipfile_serialization=False)
    assert_state(checkpoint.read(Path("old.pth")))


# ---------------------------------------------------------------- nothing in a file is run


class Malicious:
    def __reduce__(self):
        return os.system, ("touch marker",)


def write_malicious():
    torch.save({"weight": torch.ones(3), "evil": Malicious()}, "new.pth")
    torch.save({"evil": Malicious()}, "old.pth", _use_new_zipfile_serialization=False)
    Path("pickle.pth").write_bytes(pickle.dumps(Malicious()))
    with zipfile.ZipFile("archive.pth", "w") as archive:  # PyTorch's layout, made by hand
        archive.writestr("archive/data.pkl", pickle.dumps({"evil": Malicious()}, 2))
        archive.writestr("archive/version", "3\n")
    return ["new.pth", "old.pth", "pickle.pth", "archive.pth"]


def test_the_malicious_files_would_run_if_unpickled():
    write_malicious()
    torch.load("new.pth", weights_only=False)
    assert Path("marker").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["new.pth", "old.pth", "pickle.pth", "archive.pth"])
def test_a_malicious_file_runs_nothing(name):
    assert name in write_malicious()
    for read in (checkpoint.read, Tiny().load_model):
        with pytest.raises(CheckpointError, match=name):
            read(Path(name))
    assert not Path("marker").exists()


def test_a_malicious_file_runs_nothing_where_pytorch_is_told_to_trust_all(python):
    names = write_malicious()
    script = """
import os, sys, pathlib, torch
from farabio_like import CheckpointError, checkpoint
for name in sys.argv[1:]:
    try:
        checkpoint.read(pathlib.Path(name))
    except CheckpointError as error:
        print(name, "refused")
print("marker" if os.path.exists("marker") else "no marker")
torch.load("new.pth")
print("marker" if os.path.exists("marker") else "no marker")
"""
    said = python(script, *names, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1").splitlines()
    assert said == [*(f"{name} refused" for name in names), "no marker", "marker"]


# ---------------------------------------------------------------- missing files, other formats


def test_a_missing_file_lists_those_that_are_there():
    for name in ("last.ckpt", "best.ckpt", "model.pth", "notes.txt"):
        Path(name).write_text("")
    with pytest.raises(FileNotFoundError) as caught:
        checkpoint.read(Path("epoch-0005.ckpt"))
    assert "epoch-0005.ckpt" in str(caught.value)
    assert "best.ckpt, last.ckpt, model.pth" in str(caught.value) and "notes" not in str(caught.value)


def test_a_missing_file_in_an_empty_or_missing_folder():
    for place in ("x.ckpt", "nowhere/x.ckpt"):
        with pytest.raises(FileNotFoundError, match="holds: none"):
            checkpoint.read(Path(place))


def test_load_model_reads_the_weights_in_a_folder_or_says_what_it_holds():
    saving, loading = Tiny(), Tiny()
    nn.init.ones_(saving.model.weight)
    saving.save_model("folder/model.pth")
    loading.load_model("folder")
    assert torch.equal(loading.model.weight, torch.ones(1, 3))
    os.rename("folder/model.pth", "folder/other.pth")
    with pytest.raises(FileNotFoundError, match="other.pth"):
        loading.load_model("folder")


def test_a_newer_format_is_refused():
    for version, fine in ((checkpoint.FORMAT, True), (checkpoint.FORMAT + 1, False)):
        checkpoint.save({"format": version, "model": nn.Linear(1, 1).state_dict()}, Path("state.ckpt"))
        if fine:
            assert set(checkpoint.weights_of(checkpoint.read(Path("state.ckpt")))) == {"weight", "bias"}
        else:
            with pytest.raises(CheckpointError, match=f"has the format {version}; .* up to {checkpoint.FORMAT}"):
                checkpoint.read(Path("state.ckpt"))


# ---------------------------------------------------------------- the files of a run


def test_a_run_writes_its_last_and_best_and_test_reads_the_best():
    class Worsening(Tiny):
        def on_train_epoch_start(self):
            nn.init.constant_(self.model.weight, float(self._epoch))
            nn.init.zeros_(self.model.bias)
            self.optimizer.param_groups[0]["lr"] = 0.0

        def evaluate_batch(self, item):
            self.loss = torch.tensor([9.0, 4.0, 1.0, 2.0][self._epoch])

    trainer = Worsening({"_num_epochs": 3, "_logdir": "runs", "_verbose": True})
    trainer.train()
    folder = trainer.run_dir / "checkpoints"
    best, last = checkpoint.read(folder / "best.ckpt"), checkpoint.read(folder / "last.ckpt")
    assert [best["epoch"], last["epoch"]] == [2, 3]
    assert last["class"] == Worsening.__qualname__ and last["format"] == checkpoint.FORMAT and last["step"] == 9
    assert best["model"]["weight"].tolist() == [[2.0] * 3] and last["model"]["weight"].tolist() == [[3.0] * 3]
    assert best["metrics"]["valid"] == {"loss": 1.0}
    trainer.test()
    assert trainer.model.weight.tolist() == [[2.0] * 3]
    fresh = Worsening({"_logdir": "runs"})
    fresh.test()
    assert fresh.model.weight.tolist() == [[2.0] * 3]
    tested = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()][-1]
    assert tested["weights"].endswith("best.ckpt, epoch 2")


def test_weights_of_another_class_and_architecture_say_whose_they_are():
    class Wider(Tiny):
        def build_model(self):
            super().build_model()
            self.model = nn.Linear(4, 1)

    trainer = Tiny({"_num_epochs": 1, "_logdir": "runs"})
    trainer.train()
    with pytest.raises(CheckpointError) as caught:
        Wider().load_model(trainer.run_dir / "checkpoints" / "best.ckpt")
    message = str(caught.value)
    assert "best.ckpt" in message and "1 mismatched: weight: (1, 3) in the file, (1, 4) in the model" in message
    assert "Written by Tiny, read by Wider." in message


def test_saving_without_a_place_names_one():
    with pytest.raises(ConfigError, match=r"save_model\('model\.pth'\)"):
        Tiny().save_model()


def train_with_little_room():
    trainer = Tiny({"_num_epochs": 5, "_logdir": "runs", "_save_epoch": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        if trainer.epoch == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, limit[1]))

    trainer.on_epoch_end = fill
    try:
        trainer.train()
    except CheckpointError as error:
        return str(error), trainer.epoch
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_disk_that_fills_up_ends_the_run_with_its_older_checkpoint_intact(in_child):
    message, epoch = in_child(train_with_little_room)
    assert epoch == 3 and "last.ckpt" in message
    folder = Path("runs/Tiny/1/checkpoints")
    assert checkpoint.read(folder / "last.ckpt")["epoch"] == 2
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
