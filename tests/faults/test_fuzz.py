"""Thousands of damaged and hostile files of every kind: an error of ours that names the file, or a good load.

Each is made by a seeded mutation of a file that a run has written; checksums are made right again, as a stranger would.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import multiprocessing
import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp

from farabio_like import CheckpointError, checkpoint, compare, report
from farabio_like.callbacks import EMA, Checkpoint, EarlyStopping
from farabio_like.errors import FarabioError
from farabio_like.metrics.direction import Best
from farabio_like.resume import find
from farabio_like.rundir import RunDir, config_file, index, reader

from ..trainers import Still, Tiny
from . import mutations

ODD_STATE = [*mutations.ODD, b"x", 3 + 4j, 10**400, *mutations.odd_tensors()]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=[250, pytest.param(3000, marks=pytest.mark.slow)])
def count(request):
    """How many files a test makes: some hundreds each time, thousands among the slow tests."""
    return request.param


class Full(Tiny):
    """Has a part of every kind that a checkpoint holds."""

    def build_model(self):
        super().build_model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1)
        self.callbacks = [EMA(0.9), EarlyStopping("loss", patience=9)]
        if self._logdir is not None:
            self.callbacks.append(Checkpoint("loss", top_k=2))
        self._accumulation_steps = 2
        self.generator, self.seen, self.record = torch.Generator(), {"n": [0]}, nn.Module

    def on_train_start(self):
        self.buffer, self.names = [torch.zeros(2), {"a": 1}], {"x", "y"}

    def on_end_training_batch(self):
        self.seen["n"].append(self.step)
        self.batch_metrics["more"] = 1.0


def written(folder="runs", **settings):
    """Return the folder of a run that was saved amid its second epoch."""
    trainer = Full({"_logdir": folder, "_save_steps": 1, "_num_epochs": 2, **settings})
    trainer.on_epoch_end = lambda: trainer.save_checkpoint("between.ckpt")
    trainer.on_end_training_batch = lambda: trainer.step == 5 and trainer.save_checkpoint("amid.ckpt")
    trainer.train()
    trainer.test()
    return trainer.run_dir


def sealed(content):
    """Return the bytes of an archive with the checksum that ours have."""
    mark = b"\nsha256:"
    content = content[: content.rindex(mark)] if mark in content[-100:] else content
    return content + mark + hashlib.sha256(content).hexdigest().encode()


@contextlib.contextmanager
def counted(least):
    """Count what is tried: fine, and refused; both have to occur, and so often together."""
    counts = {"fine": 0, "refused": 0}
    yield counts
    print(counts)
    assert sum(counts.values()) >= least and all(counts.values()), counts


def refused(function, *arguments, names=""):
    """Return whether a function raises an error of ours, which names the file and can be shown."""
    try:
        function(*arguments)
    except FarabioError as error:
        said = str(error)
        assert names in said and len(said) < 20_000
        assert not any(ord(c) < 32 and c not in "\n\t" for c in said), said
        return True
    return False


@pytest.mark.parametrize("kind", ["bytes", "sealed bytes", "archive"])
def test_bytes_of_checkpoints(kind, count):
    written()
    content, chance = Path("amid.ckpt").read_bytes(), random.Random(1)
    with counted(count) as counts:
        for number in range(count):
            new = mutations.of_archive(chance, content) if kind == "archive" else mutations.of_bytes(chance, content)
            Path("new.ckpt").write_bytes(sealed(new) if kind == "sealed bytes" or number % 2 else new)
            counts["refused" if refused(find._read, Path("new.ckpt"), names="new.ckpt") else "fine"] += 1


@pytest.mark.parametrize("name", ["amid.ckpt", "between.ckpt"])
def test_fields_of_checkpoints(name, count):
    written()
    state, chance = torch.load(name, weights_only=True), random.Random(2)
    with counted(count) as counts:
        for _ in range(count):
            torch.save(mutations.of_data(chance, state, ODD_STATE), "new.ckpt")
            counts["refused" if refused(find._read, Path("new.ckpt"), names="new.ckpt") else "fine"] += 1


@pytest.mark.parametrize("name", ["amid.ckpt", "between.ckpt"])
def test_runs_go_on_from_mutated_fields_or_say_which(name, count):
    # In a process of its own: one that has trained on a device that a mutation named can never fork again.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        pool.submit(go_on_from_mutated_fields, name, count).result()


def go_on_from_mutated_fields(name, count):
    written()
    state, chance = torch.load(name, weights_only=True), random.Random(3)
    count //= 3  # each is a run
    with counted(count) as counts:
        for _ in range(count):
            torch.save(mutations.of_data(chance, state, ODD_STATE), "new.ckpt")
            counts["refused" if refused(Full({"_num_epochs": 2}).train, "new.ckpt") else "fine"] += 1


def test_weights(count):
    trainer = Tiny()
    trainer.save_model("model.pth")
    content, chance = Path("model.pth").read_bytes(), random.Random(5)
    state = torch.load("model.pth", weights_only=True)
    before = trainer.model.weight.detach().clone()
    with counted(count) as counts:
        for number in range(count):
            if number % 2:
                torch.save(mutations.of_data(chance, dict(state), ODD_STATE), "new.pth")
            else:
                Path("new.pth").write_bytes(sealed(mutations.of_archive(chance, content)))
            how = "refused" if refused(trainer.load_model, "new.pth", names="new.pth") else "fine"
            counts[how] += 1
            if how == "refused":
                assert torch.equal(trainer.model.weight, before)
            else:
                trainer.load_model("model.pth")


def test_indexes_of_shards(count):
    dcp.save({"/model/weight": torch.ones(1, 3)}, storage_writer=dcp.FileSystemWriter("a.shards"), no_dist=True)
    contents, chance = {path.name: path.read_bytes() for path in Path("a.shards").iterdir()}, random.Random(6)
    saved = {"format": 2, "class": "Still", "epoch": 1, "step": 1, "averages": {}, "run": {}}
    weight = {"in shards": "/model/weight", "shape": [1, 3], "dtype": torch.float32, "dim": 0}
    saved["model"] = {"weight": weight, "bias": torch.zeros(1)}
    trainer = Still()
    with counted(count) as counts:
        for number in range(count):
            name = ".metadata" if number % 3 else chance.choice(list(contents))
            new = {**contents, name: mutations.of_bytes(chance, contents[name])} if number else contents
            files = {name: [len(part), hashlib.sha256(part).hexdigest()] for name, part in new.items()}
            shards = {"folder": "a.shards", "files": files, "same": {}}
            for part in new:
                Path("a.shards", part).write_bytes(new[part])
            state = {**saved, "shards": shards}
            torch.save(mutations.of_data(chance, state, ODD_STATE) if number % 4 == 1 else state, "new.ckpt")
            counts["refused" if refused(trainer.load_model, "new.ckpt", names="new.ckpt") else "fine"] += 1


def read_all(folder):
    """Read a run folder as the commands do; return the problems that are named."""
    with contextlib.redirect_stdout(io.StringIO()) as out, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = reader.read(folder)
        report.contents(run)
        print(compare.compare([folder]))
    shown = out.getvalue() + "".join(str(warning.message) for warning in said)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown), shown
    return run.problems


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.jsonl"])
def test_files_that_are_shown(name, count):
    folder = written()
    path, chance = folder / name, random.Random(7)
    content = path.read_bytes()
    values = {"class": "A", "config": {"a": [1, {"b": None}], "token": "x"}, "settings": {"_monitor": "loss", "n": 1}}
    with counted(count) as counts:
        for number in range(count):
            if name != "config.yaml":
                path.write_bytes(mutations.of_json(chance, content))
            elif number % 2:
                new = mutations.of_data(chance, values)
                path.write_text(config_file.to_yaml(new if isinstance(new, dict) else {"x": new}), errors="replace")
            else:
                path.write_bytes(mutations.of_bytes(chance, content))
            counts["refused" if read_all(folder) else "fine"] += 1
            if number % 100 == 0:
                with contextlib.redirect_stdout(io.StringIO()):
                    report.main([str(folder)])
                    compare.main([str(folder), str(folder / ".." / "1" / ".")][:1])
                page = (folder / "report.html").read_text()
                assert not any(ord(c) < 32 and c not in "\n\t" for c in page)


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json", "checkpoints/index.json"])
def test_files_that_a_run_goes_on_with(name, count):
    folder = written()
    path, chance = folder / name, random.Random(8)
    content = path.read_bytes()
    for extra in (folder / "checkpoints").glob("epoch-*"):
        extra.unlink()
    trainer = Full({"_logdir": "runs"})
    history = torch.load("between.ckpt", weights_only=True)["run"]["history"]
    for number in range(count):
        path.write_bytes(mutations.of_json(chance, content))
        found = index.checkpoints(folder)
        assert len(found) == 2 and index.is_finished(folder) in (True, False)
        index.sweep_unfinished(folder)
        assert find.of_this_job(trainer) is None
        RunDir.at(folder, Full).rewind(history, 6, Best("valid", "loss", 0.5, 2))
        if number % 50 == 0:
            assert len(Full({"_logdir": "runs", "_num_epochs": 3}).train(resume=folder)) == 3
            path.write_bytes(content)
            for extra in (folder / "checkpoints").glob("epoch-*"):
                extra.unlink()


def test_locks(count):
    folder = written()
    chance, content = random.Random(9), b"number 123 on host"
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        holder = RunDir.at(folder, Full)
        holder.hold()
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        for _ in range(count):
            with open(folder / ".lock", "r+b") as file:
                file.truncate(0)
                file.write(mutations.of_bytes(chance, content) * chance.choice([1, 1000]))
            assert refused(RunDir.at(folder, Full).hold, names="is being trained by another process")
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        for descriptor in (*ready, *done):
            os.close(descriptor)
    RunDir.at(folder, Full).release()


def test_an_error_names_the_field():
    written()
    state = torch.load("amid.ckpt", weights_only=True)
    for place, value in {
        ("run", "history", 0, "seconds"): "x",
        ("run", "best"): [1],
        ("run", "rng", "numpy"): [],
    }.items():
        new = torch.load("amid.ckpt", weights_only=True)
        holder = new
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        torch.save(new, "new.ckpt")
        with pytest.raises(CheckpointError, match=f"new.ckpt .* field {'/'.join(map(str, place))} is "):
            find._read(Path("new.ckpt"))
    torch.save({**state, "run": {}}, "new.ckpt")
    with pytest.raises(CheckpointError, match="it has no field run/num_epochs"):
        find._read(Path("new.ckpt"))
    assert checkpoint.read(Path("amid.ckpt")).keys() == state.keys()
