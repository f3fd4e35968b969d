"""``config.yaml``: what is written, and what is read again of one of any version, damaged or hostile."""

import contextlib
import math
import re
from collections import OrderedDict
from enum import Enum, IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from farabio_like import rundir
from farabio_like.rundir import config_file, reader
from farabio_like.rundir.config_file import to_yaml

from ..trainers import Tiny

OLDER = Path(__file__).parents[1] / "older" / "Older" / "1"
EPOCH = '{"epoch": 1, "train": {"loss": 1.0}}'


class Owner:
    pass


def folder(tmp_path, config, lines=(EPOCH,)):
    """Make a run folder with this ``config.yaml``."""
    run = tmp_path / "runs" / "Odd" / "1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_bytes(config if isinstance(config, bytes) else config.encode())
    (run / "metrics.jsonl").write_text("\n".join(lines))
    return run


class Mode(str, Enum):
    FAST = "fast"


class Level(IntEnum):
    HIGH = 3


ODD = [
    "",
    " ",
    "yes",
    "No",
    "null",
    "~",
    "1",
    "1e-3",
    "-",
    "a: b",
    "# no comment",
    "a #b",
    "'",
    '"',
    "\\",
    "a\nb",
    "\t",
]
ODD += [
    "{x}",
    "[x",
    "*x",
    "&x",
    "!x",
    "%x",
    "@x",
    "`x",
    "|",
    ">",
    "? x",
    "- x",
    "nan",
    ".nan",
    "0x1F",
    "1_000",
    "12:30",
]
ODD += [
    "naïve",
    "日本語",
    "😀",
    "\x00",
    "\x7f",
    "\x85",
    "\xa0",
    "\u2028",
    "\ufeff",
    "\x1b[31m",
    "a" * 300,
    "on",
    "=",
    "<<",
]

CONFIG = {
    "lr": 1e-05,
    "large": 1e16,
    "tiny": 5e-324,
    "third": 1 / 3,
    "exact": 0.1,
    "negative": -2.5e-07,
    "zero": -0.0,
    "infinite": [math.inf, -math.inf],
    "epochs": 10,
    "huge": 10**30,
    "flag": True,
    "nothing": None,
    "name": "resnet",
    "odd": ODD,
    "keys": {text: number for number, text in enumerate(ODD)},
    "nested": {"a": {"b": {"c": [1, [2, [3, {"d": []}]], {"e": {}}]}}},
    "empty": {"list": [], "dict": {}, "text": ""},
    "list of dicts": [{"a": 1, "b": [2]}, {}, [], None],
}


def written(config):
    run = rundir.RunDir("runs", Owner)
    run.describe(config, {"_num_epochs": 3, "_logdir": None})
    return yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))


def test_config_yaml_is_read_back_as_the_same_values():
    found = written(CONFIG)
    assert found["config"] == CONFIG
    assert [type(found["config"][key]) for key in CONFIG] == [type(value) for value in CONFIG.values()]
    assert math.copysign(1, found["config"]["zero"]) == -1
    assert found["class"] == "Owner"
    assert found["settings"] == {"_num_epochs": 3, "_logdir": None}


def test_values_that_yaml_does_not_have():
    config = {
        "nan": math.nan,
        "tuple": (1, (2, "x")),
        "float64": np.float64(1e-05),
        "float32": np.float32(0.5),
        "int64": np.int64(4),
        "bool": np.bool_(True),
        "ordered": OrderedDict(b=1, a=2),
        "mode": Mode.FAST,
        "level": Level.HIGH,
        "path": Path("data"),
        "array": np.arange(3),
        "tensor": torch.arange(3),
        "weights": [torch.tensor([0.5, 0.5])],
        "type": int,
        "set": {1},
        3: "number as a key",
    }
    found = written(config)["config"]
    assert math.isnan(found.pop("nan"))
    assert found == {
        "tuple": [1, [2, "x"]],
        "float64": 1e-05,
        "float32": 0.5,
        "int64": 4,
        "bool": True,
        "ordered": {"b": 1, "a": 2},
        "mode": "fast",
        "level": 3,
        "path": repr(Path("data")),
        "array": "array([0, 1, 2])",
        "tensor": "tensor([0, 1, 2])",
        "weights": ["tensor([0.5000, 0.5000])"],
        "type": "<class 'int'>",
        "set": "{1}",
        "3": "number as a key",
    }


def text_of(config):
    run = rundir.RunDir("runs", Owner)
    run.describe(config, {})
    return (run.path / "config.yaml").read_text(encoding="utf-8")


def test_config_yaml_is_written_as_one_reads_it():
    shared = [1, 2]
    config = {"z": "é – 中 😀", "a": shared, "b": shared, "long": "word " * 100 + ".", "lines": "two\nlines"}
    config |= {"words": ["yes", "on", "012", "1:30", "2026-11-29", "1e-3", "0o17", "null"], "path": Path("data")}
    long = "word " * 100 + "."
    assert text_of(config) == (
        "class: Owner\nconfig:\n  z: é – 中 😀\n  a:\n  - 1\n  - 2\n  b:\n  - 1\n  - 2\n"  # in their order, no anchors
        f'  long: {long}\n  lines: "two\\nlines"\n'
        "  words:\n  - 'yes'\n  - 'on'\n  - '012'\n  - '1:30'\n  - '2026-11-29'\n  - '1e-3'\n  - '0o17'\n  - 'null'\n"
        f"  path: {Path('data')!r}\nsettings: {{}}\n"
    )


def test_a_string_of_any_character_is_read_back():
    text = "".join(map(chr, [*range(0x100), 0x200D, 0x2028, 0xFEFF, 0xFFFF, 0x1F600, 0x10FFFF]))
    assert written({"text": text, text: 1})["config"] == {"text": text, text: 1}
    assert written({"file": "a\udcff"})["config"] == {"file": repr("a\udcff")}  # no text: YAML has no such character


def test_a_run_writes_its_configuration_and_every_setting():
    config = {"_num_epochs": 1, "_logdir": "runs", "model": {"width": 1e-05}}
    trainer = Tiny(config)
    trainer.train()
    found = yaml.safe_load((trainer.run_dir / "config.yaml").read_text())
    assert found["class"] == "Tiny" and found["config"] == config
    assert found["settings"]["_num_epochs"] == 1 and found["settings"]["_eval_interval"] == 1
    assert found["settings"]["_monitor"] is None


def test_settings_are_read_as_they_were_written(tmp_path):
    body = {
        "class": "A",
        "config": {"data": {"size": 64, "w: x": "a: b", "l": [1, [2, 3], {"k": 5}], "e": {}}, "é": None},
    }
    found = reader.read(folder(tmp_path, to_yaml({**body, "settings": {"_monitor": None, "lr": 1e-5, "s": 'q"'}})))
    assert found.owner == "A" and found.settings == {"_monitor": "null", "lr": "1.0e-05", "s": 'q"'}
    lists = {"data.l.0": "1", "data.l.1.0": "2", "data.l.1.1": "3", "data.l.2.k": "5"}
    assert found.config == {"data.size": "64", "data.w: x": "a: b", **lists, "data.e": "{}", "é": "null"}


def test_values_that_an_older_version_wrote_are_shown_as_then():
    found = reader.read(OLDER)
    assert found.owner == "Older" and len(found.config) == 19 and len(found.settings) == 40
    words = ["on", "012", "1:30", "2026-11-29", "é – 中", "two\\U0000000Alines", ""]
    assert found.config == {
        "lr": "1.0e-05",
        **{f"widths.{index}": width for index, width in enumerate(["6", "16", "3"])},
        **{"nested.name": "yes", "nested.empty": "{}", "nested.list": "[]", "nested.none": "null"},
        "nested.quoted": 'a "b" \\ c: # d',
        **{f"words.{index}": word for index, word in enumerate(words)},
        **{"flags.0": "true", "flags.1": "false", "huge": ".inf"},
    }
    expected = {"_seed": "3", "_logdir": "PosixPath('tests/data/older_run')", "_monitor_mode": "null"}
    assert expected.items() <= found.settings.items()


def test_values_are_shown_alike_whichever_version_wrote_them(tmp_path):
    was = reader.read(OLDER)
    values = yaml.safe_load((OLDER / "config.yaml").read_text(encoding="utf-8"))
    now = reader.read(folder(tmp_path, to_yaml(values)))
    assert (now.owner, now.config, now.settings) == (was.owner, was.config, was.settings)


BOMB = "config:\n  a0: &a0 [x, x]\n" + "".join(f"  a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
DAMAGED = {  # text, some of what is shown, and what is said; None: nothing is wrong
    "cut off": ('class: A\nconfig:\n  lr: 0.1\n  name: "resn', {"config.lr": "0.1"}, "line 4: .*(end|document)"),
    "tab": (
        "config:\n  lr: 0.1\n  n: 3\n\tx: 1\nsettings:\n  a: 2\n",
        {"config.lr": "0.1", "settings.a": "2"},
        "line 4: ",
    ),
    "both": ("config: [\nsettings:\n  a: 2\n  b: [\n", {"settings.a": "2"}, "line 5: "),
    "twice": ("class: A\nclass: B\nconfig:\n  lr: 1\n  lr: 2\n", {"class": "B", "config.lr": "2"}, None),
    "control": ('class: A\nconfig:\n  a: \x1b[31m\n  b: "\\e[31m"\n', {"config.b": "\\U0000001B[31m"}, None),
    "no character": ('class: A\nconfig: "\\UFFFFFFFF"\n', {"class": "A"}, "Unicode|Python int too large"),
    "bomb": (BOMB, {"config.a0.1": "x", "config.a59.1": "*a58"}, None),
    "itself": ("class: &c\n  in: *c\n", {"class.in": "*c"}, None),
    "merge": ("class: A\n<<: *other\n", {"class": "A", "<<": "*other"}, None),
    "object": ("class: !!python/object/apply:os.mkdir [made]\n", {"class.0": "made"}, None),
    "deep list": (
        "class: A\nconfig: " + "[" * 100_000,
        {"class": "A"},
        "line 2: .*(more than 100 lists|maximum nesting depth)",
    ),
    "deep items": ("class: A\nconfig:\n " + "- " * 50_000, {"class": "A"}, "line 3: more than 100 lists"),
    "deep keys": ("class: A\n" + "? " * 50_000, {"class": "A"}, "line 2: a list or dict as a key"),
    "deep flow": ("class: A\nconfig: " + "{a: " * 101 + "}" * 101, {"class": "A"}, "line 2: more than 100 lists"),
    "many": ("class: A\nconfig:\n" + "- x\n" * 5001, {"class": "A", "config.4900": "x"}, "more than 5000 parts"),
    "large": ("class: A\nconfig: " + "x" * 300_000, {"class": "A"}, "more than 200000 characters"),
    "long paths": (f"? {'k' * 50_000}\n:\n" + "- x\n" * 100, {"k" * 50_000 + ".9": "x"}, "too long to be shown"),
    "documents": ("class: A\n" + "---\n" * 1000 + "settings: {a: b}\n", {"class": "A", "settings.a": "b"}, None),
    "list": ("- 1\n- 2\n", {"1": "2"}, None),
    "no text": (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", {"": "\ufffdPNG \ufffd \ufffd\ufffd\ufffd\ufffd"}, None),
    "nothing": ("", {}, None),
}


@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(("text", "some", "message"), DAMAGED.values(), ids=DAMAGED)
def test_of_a_damaged_or_hostile_configuration_is_shown_what_can_be_read(
    tmp_path, monkeypatch, parser, text, some, message
):
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, parser, yaml.SafeLoader), raising=False)
    for name, limit in {"LARGEST": 200_000, "MOST_PARTS": 5_000, "MOST_SHOWN": 1_000_000}.items():
        monkeypatch.setattr(config_file, name, limit)
    run = folder(tmp_path, text)
    shown, problems = config_file.values((run / "config.yaml").read_text(encoding="utf-8", errors="replace"))
    assert re.search(message, "".join(problems)) if message else not problems
    for name, value in some.items():
        assert shown[name] == value
    with pytest.warns(UserWarning, match=message) if message else contextlib.nullcontext():
        found = reader.read(run)
    assert found.config == {name[7:]: shown[name] for name in shown if name.startswith("config.")}
    assert found.history and not Path("made").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "1" * 10_000])
def test_numbers_and_environments_that_nobody_can_read_are_passed_over(tmp_path, text):
    run = folder(tmp_path, "", [EPOCH, text, EPOCH.replace("1", "2", 1)])
    (run / "environment.json").write_text(text)
    found = reader.read(run)
    assert [entry["epoch"] for entry in found.history] == [1, 2] and found.environment == {}
