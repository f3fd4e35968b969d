"""Run folders of strangers: links, pipes, devices, sizes that are not there, and words that a terminal would obey."""

import json
import os
import re
import resource
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler

from farabio_like import CheckpointError, ConfigError, checkpoint, compare, report
from farabio_like.callbacks import LearningRateMonitor
from farabio_like.checkpoint import access, bounds
from farabio_like.rundir import reader

from ..trainers import Tiny

ESCAPE = "\x1b[2J\x1b]0;x\x07"


def run(**settings):
    """Return the folder of a run of two epochs."""
    trainer = Tiny({"_logdir": "runs", "_save_epoch": 1, **settings})
    trainer.train()
    return trainer.run_dir


def on(**settings):
    return Tiny({"_logdir": "runs", "_num_epochs": 3, **settings})


def outside(name, content=b"precious"):
    """Return a file outside of every run folder."""
    path = Path("outside", name).absolute()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def replace(path, make):
    path.unlink(missing_ok=True)
    make(path)


# ---------------------------------------------------------------- what is no regular file

ODD_FILES = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": os.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: path.symlink_to("not-there"),
    "link": lambda path: path.symlink_to(outside("secret.txt", b'{"epoch": 9, "train": {"stolen": 1}}\n')),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("odd", ODD_FILES)
@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.jsonl"])
def test_commands_name_what_is_no_file_of_the_folder(name, odd, capsys):
    folder = run()
    replace(folder / name, ODD_FILES[odd])
    found = "link" if odd in ("device", "link") else "" if odd == "nothing" else name
    with pytest.warns(UserWarning, match=f"{name}: ") if odd != "nothing" else __import__("contextlib").nullcontext():
        report.main([str(folder)])
        compare.main([str(folder)])
    page = (folder / "report.html").read_text()
    assert found in page and "stolen" not in page + "".join(capsys.readouterr())
    assert odd == "nothing" or "Not all of this run could be read" in page


@pytest.mark.timeout(60)
@pytest.mark.parametrize("odd", ODD_FILES)
def test_a_run_goes_on_with_the_next_checkpoint(odd, capsys):
    folder = run()
    last = folder / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    outside("secret.txt", content)
    make = (lambda path: path.symlink_to(Path("outside/secret.txt").absolute())) if odd == "link" else ODD_FILES[odd]
    replace(last, make)
    if odd == "folder":
        with pytest.raises(ConfigError, match="cannot be gone on with: last.ckpt is no regular file"):
            on(_verbose=True).train(resume=True)
        os.rmdir(last)
    assert len(on(_verbose=True).train(resume=True)) == 3
    assert re.search("passed over: .*last.ckpt cannot be read: (it is |Too many levels)", capsys.readouterr().out)
    assert last.is_file() and not last.is_symlink() and len(on().train(resume=folder)) == 3
    assert Path("outside/secret.txt").read_bytes() == content


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name", ["checkpoints/index.json", ".lock", "metrics.jsonl", "checkpoints", "plots", "lr.jsonl"]
)
@pytest.mark.parametrize("odd", ["pipe", "link"])
def test_a_run_never_writes_through_a_link(name, odd):
    folder = run()
    target = outside("target", b"precious")
    path = folder / name
    if path.is_dir():
        path.rename(folder / "moved")
        if odd == "pipe":
            return
        target = Path("outside/folder").absolute()
        target.mkdir()
        (target / ".x.1.tmp").write_text("precious")
        path.symlink_to(target)
    else:
        replace(path, os.mkfifo if odd == "pipe" else lambda path: path.symlink_to(target))
    trainer = on()
    trainer.callbacks = [LearningRateMonitor()]
    if name == "checkpoints" and odd == "link":
        assert len(trainer.train(resume=True)) == 3 and trainer.run_dir != folder, "a new run: there is nothing in it"
    elif name == "checkpoints/index.json":  # written anew, under another name first
        assert len(trainer.train(resume=True)) == 3 and path.is_file() and not path.is_symlink()
    else:
        with pytest.raises(ConfigError, match=f"cannot be (gone on with|written): .*{Path(name).name}"):
            trainer.train(resume=True)
    inside = [path.name for path in target.iterdir()] if target.is_dir() else target.read_bytes()
    assert inside == ([".x.1.tmp"] if target.is_dir() else b"precious")


def test_weights_of_a_link_are_not_taken_by_themselves():
    folder = run()
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.unlink()
    weights = outside("weights.pth", (folder / "model.pth").read_bytes())
    replace(folder / "model.pth", lambda path: path.symlink_to(weights))
    fresh = Tiny({"_logdir": "runs"})
    before = fresh.model.weight.detach().clone()
    fresh.load_model()
    assert torch.equal(fresh.model.weight, before)
    fresh.load_model(folder / "model.pth")  # asked for by its name
    assert not torch.equal(fresh.model.weight, before)


def test_pictures_of_a_report_are_those_of_the_folder(tmp_path):
    folder = run()
    key = outside("id_rsa", b"precious key")
    (folder / "plots" / "a.png").symlink_to(key)
    os.mkfifo(folder / "plots" / "b.png")
    (folder / "plots" / "c.png").mkdir()
    report.main([str(folder)])
    page = (folder / "report.html").read_text()
    assert all(f"plots/{name}.png: " in page for name in "abc") and page.count("<img") == 1
    (folder / "plots").rename(tmp_path / "elsewhere")
    (folder / "plots").symlink_to(tmp_path / "elsewhere")
    before = {path.name: path.lstat().st_mtime_ns for path in (tmp_path / "elsewhere").iterdir()}
    report.main([str(folder)])
    assert "<img" not in (folder / "report.html").read_text()
    assert {path.name: path.lstat().st_mtime_ns for path in (tmp_path / "elsewhere").iterdir()} == before


def test_temporary_names_are_no_way_out():
    folder = run()
    target = outside("target")
    for name in (
        f".report.html.{os.getpid()}",
        f"plots/.curves.png.{os.getpid()}",
        f".metrics.jsonl.{os.getpid()}.tmp",
    ):
        (folder / name).symlink_to(target)
    report.main([str(folder)])
    assert len(on().train(resume=True)) == 3
    assert target.read_bytes() == b"precious"


def test_a_run_folder_may_itself_be_a_link_and_have_links_within():
    folder = run()
    Path("latest").symlink_to(folder)
    best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"
    replace(best, lambda path: path.symlink_to("last.ckpt"))
    report.main(["latest"])
    assert len(on().train(resume="latest")) == 3 and last.is_file()


# ---------------------------------------------------------------- sizes


def limited(function, *arguments):
    """Call a function with half a gigabyte of memory more than there is; return what it says."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + (1 << 29)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    started = time.monotonic()
    try:
        function(*arguments)
        said = "fine"
    except CheckpointError as error:
        said = str(error)
    return said, time.monotonic() - started


def load(path):
    Tiny().load_model(path)


def sparse(path, size, end=b""):
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)


@pytest.mark.parametrize("end", [b"", b"\nsha256:" + b"0" * 64], ids=["no end", "with a checksum"])
def test_a_sparse_checkpoint_takes_no_time(end):
    sparse("big.ckpt", 1 << 42, end)
    with pytest.raises(CheckpointError, match="bytes of memory are free"):
        checkpoint.read(Path("big.ckpt"))
    assert bounds.free_memory() > 1 << 20


def test_compressed_archives_are_refused():
    torch.save({"weight": torch.zeros(1 << 20)}, "plain.pth")
    with zipfile.ZipFile("plain.pth") as archive, zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))
    with pytest.raises(CheckpointError, match="entry .* is compressed"):
        checkpoint.read(Path("bomb.pth"))


def test_sizes_that_a_file_only_promises(in_child):
    billion = [1]
    for _ in range(40):
        billion = [billion, billion]
    itself = []
    itself.append(itself)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for name, value in {
        "view": torch.zeros(1).expand(1 << 40),
        "views": [torch.zeros(1).expand(1 << 27) for _ in range(9)],
        "laughs": billion,
        "itself": itself,
    }.items():
        torch.save({"x": value}, f"{name}.pth")
        said, passed = in_child(limited, checkpoint.read, Path(f"{name}.pth"))
        assert f"{name}.pth is damaged: " in said and passed < 20, said
    torch.save({"x": torch.zeros(1).expand(1 << 20)}, "mask.pth")
    assert checkpoint.read(Path("mask.pth"))["x"].shape == (1 << 20,)


def test_shards_that_promise_more_than_their_files(in_child):
    Path("a.shards").mkdir()
    saved = {"format": 2, "class": "Still", "epoch": 1, "step": 1, "model": {}, "averages": {}, "run": {}}
    for shape in ([1 << 60], [1 << 34], [-1], ["x"], 5):
        weight = {"in shards": "/w", "shape": shape, "dtype": torch.float32, "dim": 0}
        torch.save(
            {**saved, "model": {"weight": weight}, "shards": {"folder": "a.shards", "files": {}, "same": {}}}, "a.ckpt"
        )
        said, _ = in_child(limited, load, "a.ckpt")
        assert "cannot be read from a.shards" in said, said


def test_a_line_that_is_too_long_is_passed_over():
    folder = run()
    path = folder / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)[:2]
    with open(path, "wb") as file:
        file.write(first)
        file.seek(1 << 27, os.SEEK_CUR)  # a hole
        file.write(b"\n" + second)
    with pytest.warns(UserWarning, match="metrics.jsonl: line 2: it has more than"):
        found = reader.read(folder)
    assert [entry["epoch"] for entry in found.history] == [1, 2]
    assert len(on().train(resume=True)) == 3


def test_lines_end_where_nobody_reads_on(monkeypatch):
    monkeypatch.setattr(access, "MOST_READ", 1000)
    monkeypatch.setattr(reader, "MOST_EPOCHS", 5)
    Path("run").mkdir()
    entry = {"epoch": 1, "train": {"loss": 1.0}}
    for count, said in ((6, "from line 6 on: it has more epochs than are read"), (100, "more than 1000 bytes")):
        monkeypatch.setattr(reader, "MOST_EPOCHS", 5 if count == 6 else 1000)
        Path("run/metrics.jsonl").write_text("".join(json.dumps({**entry, "epoch": n}) + "\n" for n in range(count)))
        with pytest.warns(UserWarning, match=said):
            assert 5 <= len(reader.read("run").history) < 30


# ---------------------------------------------------------------- odd lines, and words for a terminal

EPOCH = {"epoch": 1, "train": {"loss": 1.0}, "valid": {"loss": 2.0}, "lr": 0.1, "seconds": 1.0, "best": True}
ODD_LINES = {
    "seconds null": ({**EPOCH, "seconds": None}, "'seconds' is None"),
    "seconds NaN": ({**EPOCH, "seconds": "NaN"}, "'seconds' is nan"),
    "seconds negative": ({**EPOCH, "seconds": -1}, "'seconds' is -1"),
    "seconds huge": ({**EPOCH, "seconds": 1e300}, "'seconds' is 1e"),
    "train a number": ({**EPOCH, "train": 5}, "'train' is 5"),
    "valid a list": ({**EPOCH, "valid": [1]}, r"'valid' is \[1\]"),
    "lr text": ({**EPOCH, "lr": "x"}, "'lr' is 'x'"),
    "lr deep": ({**EPOCH, "lr": {"a": [{"b": "x"}]}}, "'lr' is "),
    "epoch huge": ({**EPOCH, "epoch": 10**30}, "'epoch' is 1e"),
    "epoch negative": ({**EPOCH, "epoch": -1}, "'epoch' is -1"),
    "epoch text": ({**EPOCH, "epoch": "1"}, "'epoch' is '1'"),
    "epoch true": ({**EPOCH, "epoch": True}, "'epoch' is True"),
    "no epoch": ({"train": {"loss": 1.0}}, "'epoch' is None"),
    "test a number": ({"test": 5}, "'test' is 5"),
    "many metrics": ({**EPOCH, "train": {str(n): 1.0 for n in range(300)}}, "'train' has 300 metrics; 200 are read"),
    "a list": ([1, 2], "it is a list, not an object"),
    "deep": ("[" * 100_000, "it is nested too deeply"),
    "deep inside": (
        '{"train": ' + "[" * 900 + "]" * 900 + "}",
        "(it is nested too deeply|'epoch' is None|'train' is )",
    ),
    "no JSON": ("{'epoch': 1}", "it is no JSON"),
    "a long number": ('{"epoch": ' + "1" * 10_000 + "}", "it is no JSON: it has a number or a character that is none"),
    "loss 1e308": ({**EPOCH, "train": {"loss": 1e308}, "valid": {"loss": -1e308}}, None),
    "loss 10**400": ({**EPOCH, "train": {"loss": 10**400}}, None),
    "a metric of mathematics": ({**EPOCH, "train": {"$\\frac{$": 1.0, "$x$": 2.0}}, None),
    "metrics of other kinds": ({**EPOCH, "train": {"a": "x", "b": None, "c": [1, "x"], "d": {"e": 1}}}, None),
    "many classes": ({**EPOCH, "train": {"c": [1.0] * 50_000}}, None),
    "huge classes": ({**EPOCH, "train": {"c": [1e308, -1e308, 0.5]}}, None),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("line", "said"), ODD_LINES.values(), ids=ODD_LINES)
def test_odd_lines_are_named_and_the_others_shown(line, said, capsys):
    folder = Path("runs/A/1")
    folder.mkdir(parents=True)
    good = {**EPOCH, "epoch": 2, "train": {"loss": 0.25}}
    (folder / "metrics.jsonl").write_text(
        (line if isinstance(line, str) else json.dumps(line)) + "\n" + json.dumps(good)
    )
    if said is None:
        report.main([str(folder)])
        compare.main([str(folder)])
    else:
        with pytest.warns(UserWarning, match=f"metrics.jsonl: line 1: {said}"):
            report.main([str(folder)])
            compare.main([str(folder)])
        assert "metrics.jsonl: line 1: " in (folder / "report.html").read_text()
    assert "0.2500" in (folder / "report.html").read_text() and Path("compare.png").is_file()


def test_no_word_of_a_file_reaches_a_terminal(capsys):
    folder = Path("runs") / f"A{ESCAPE}"
    folder.mkdir(parents=True)
    line = {
        **EPOCH,
        "train": {f"loss{ESCAPE}": 1.0},
        "test": {ESCAPE: 1.0},
        "lr": ESCAPE,
        "error": f"E: {ESCAPE}",
        "step": 1,
    }
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({"step": 2, "error": f"F: {ESCAPE}"}))
    (folder / "environment.json").write_text(json.dumps({ESCAPE: ESCAPE, "time": ESCAPE, "packages": {ESCAPE: ESCAPE}}))
    (folder / "config.yaml").write_text(
        json.dumps({"class": ESCAPE, "config": {ESCAPE: ESCAPE}, "settings": {"_monitor": ESCAPE}})
    )
    with pytest.warns(UserWarning) as warned:
        report.main([str(folder)])
        compare.main([str(folder)])
        with pytest.raises(SystemExit):
            compare.main([str(folder), "--metric", ESCAPE])
        with pytest.raises(SystemExit):
            report.main([f"{folder}{ESCAPE}"])
    texts = ["".join(capsys.readouterr()), *(str(warning.message) for warning in warned)]
    texts.append((folder / "report.html").read_text())
    assert not any(re.search("[\x00-\x08\x0b-\x1f\x7f]", text) for text in texts)


def test_no_word_of_a_checkpoint_reaches_a_terminal(capsys):
    folder = run()
    path = folder / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    state["class"] = f"A{ESCAPE}"
    state["run"]["made_with"][f"torch{ESCAPE}"] = ESCAPE
    state["run"]["made_with"]["torch"] = ESCAPE
    state["run"]["components"][f"x{ESCAPE}"] = {"class": ESCAPE, "state": {}}
    torch.save(state, "stranger.ckpt")
    Path(folder / "checkpoints" / f"{ESCAPE}.ckpt").write_bytes(b"damaged")
    on(_verbose=True).train(resume="stranger.ckpt")
    on(_verbose=True).train(resume=folder)
    state["model"][f"weight{ESCAPE}"] = state["model"].pop("weight")
    torch.save(state, "stranger.ckpt")
    with pytest.raises(CheckpointError) as caught:
        Tiny().load_model("stranger.ckpt")
    with pytest.raises(FileNotFoundError) as missing:
        Tiny().load_model(folder / "checkpoints" / "x.ckpt")
    shown = "".join(capsys.readouterr()) + str(caught.value) + str(missing.value)
    assert "\\U0000001B[2J" in shown and not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", shown)


# ---------------------------------------------------------------- what a file may set


@pytest.mark.parametrize(
    "name",
    ["_logdir", "_num_epochs", "run_dir", "training_step", "config", "callbacks", "_run_state", "save_model"],
)
@pytest.mark.parametrize("field", ["attributes", "objects"])
def test_a_checkpoint_sets_no_setting_and_hides_no_method(name, field):
    folder = run()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state["run"][field][name] = "x" if field == "attributes" else {"tensor": torch.zeros(1), "device": "cpu"}
    torch.save(state, "stranger.ckpt")
    with pytest.raises(CheckpointError, match=f"stranger.ckpt: its field run/attributes or run/objects has '{name}'"):
        on().train(resume="stranger.ckpt")


def test_positions_at_which_numpy_would_read_beyond_its_memory():
    folder = run()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for position in (625, 10**6, -1):
        state["run"]["rng"]["numpy"][2] = position
        torch.save(state, "stranger.ckpt")
        with pytest.raises(CheckpointError, match="field run/rng/numpy"):
            on().train(resume="stranger.ckpt")


def test_tables_and_rates_of_a_stranger_end_no_run():
    folder = run(_loggers="csv")
    (folder / "lr.jsonl").write_text(
        '[1]\n{"step": "x", "lr": {"a": "b"}}\nnull\n' + "[" * 10_000 + '\n{"step": 1, "lr": 0.5}\n'
    )
    (folder / "metrics.csv").write_bytes(b"step,epoch\n\xff\xfe,x\n" + b'"' * 200_000)
    trainer = on(_loggers="csv")
    trainer.callbacks = [LearningRateMonitor()]
    with pytest.warns(UserWarning):
        assert len(trainer.train(resume=True)) == 3
    assert (folder / "plots" / "learning_rate.png").is_file()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda optimizer: lr_scheduler.StepLR(optimizer, 1), "last_epoch"),
        (lambda optimizer: lr_scheduler.StepLR(optimizer, 1), "gamma"),
        (lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9), "T_max"),
        (lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer), "num_bad_epochs"),
        (lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9), "total_steps"),
    ],
)
def test_numbers_of_a_schedule_are_numbers(make, field):
    class Falling(Tiny):
        def build_model(self):
            super().build_model()
            self.scheduler = make(self.optimizer)

    trainer = Falling({"_logdir": "runs", "_save_epoch": 1})
    trainer.train()
    state = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    for odd in (None, "x", [], {}):
        state["run"]["components"]["scheduler"]["state"][field] = odd
        torch.save(state, "stranger.ckpt")
        with pytest.raises(CheckpointError, match=rf"stranger\.ckpt: self\.scheduler .*it/{field} is .*a number"):
            Falling({"_logdir": "runs", "_num_epochs": 3}).train(resume="stranger.ckpt")
