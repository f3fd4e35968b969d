"""Secrets of a run: it works with them, none of its files shows them; one that goes on takes those of its process."""

import json
import os
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

from farabio_like import ConfigError, Logger, compare, report
from farabio_like.config.secrets import MASKED

from ..trainers import Tiny


class Run(Tiny):
    """Writes a run folder, with the settings among its configuration."""

    def define_misc_attr(self):
        self._device, self._verbose, self._num_epochs, self._save_epoch = "cpu", False, 1, 1
        for name, value in self.config.items():
            if name.startswith("_"):
                setattr(self, name, value)


def secrets_in(folder):
    """Return the files of a run in which one of the words is, the copy of the code aside."""
    files = [path for path in folder.rglob("*") if path.is_file() and "code" not in path.relative_to(folder).parts]
    assert len(files) >= 6
    return [path.name for path in files if b"SECRET" in path.read_bytes()]


def config(number=0):
    return {
        "api_token": f"SECRET000{number}",
        "wandb": {"api_key": f"SECRET{number}a", "project": "digits"},
        "stores": [{"password": f"SECRET{number}b"}, f"s3://user:SECRET{number}c@host/bucket"],
        "data": f"https://host/set.zip?token=SECRET{number}d&part=3",
        "headers": {"Authorization": f"Bearer SECRET{number}e"},
        "client": SimpleNamespace(secret=f"SECRET{number}f", user="bob"),
        "clients": [SimpleNamespace(secret=f"SECRET{number}g")],
        "tokens": 512,
    }


def test_no_file_of_a_run_has_a_secret(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["train.py", "--api-key", "SECRET1", "--hf-token=SECRET2", "-k", "SECRET0000", "--n", "3"]
    )

    class Seeing(Run):
        def on_train_start(self):
            self.seen = self.config.api_token, self.config.wandb.api_key, self.config.stores[0]["password"]
            self.token_of_hook, self.login = "SECRET3", {"password": "SECRET4", "user": "bob"}
            self.client = SimpleNamespace(api_key="SECRET5", calls=0, more={"secret": "SECRET6", "n": 1})

        def on_end_training_batch(self):
            self.client.calls += 1

    trainer = Seeing(config() | {"_verbose": True, "_logdir": "runs"})
    trainer.train()
    trainer.test()
    print(trainer.config)
    report.main([str(trainer.run_dir)])
    compare.main([str(trainer.run_dir)])
    assert trainer.seen == ("SECRET0000", "SECRET0a", "SECRET0b") and trainer.config.api_token == "SECRET0000"
    assert secrets_in(trainer.run_dir) == []
    out, err = capsys.readouterr()
    assert "SECRET" not in out + err
    command = json.loads((trainer.run_dir / "environment.json").read_text())["command"][1:]
    assert command == ["train.py", "--api-key", MASKED, f"--hf-token={MASKED}", "-k", MASKED, "--n", "3"]
    text = (trainer.run_dir / "config.yaml").read_text()
    assert f"https://host/set.zip?token={MASKED}&part=3" in text and "tokens: 512" in text and "user: bob" in text


def test_what_a_hook_puts_into_parts_is_taken_from_the_process_that_goes_on():
    """Into a module, a record of one, and a data set: the file has none of them, the run that goes on all."""

    class Reading(Run):
        begins_with = "SECRET9"

        def get_trainloader(self):
            super().get_trainloader()
            self.train_loader.dataset.api_key = self.begins_with

        def build_model(self):
            super().build_model()
            self.model.token, self.model.store = self.begins_with, SimpleNamespace(password=self.begins_with, user="a")

        def on_train_epoch_start(self):
            if not self._resumes:
                self.model.token, self.model.calls = "SECRET7", 3
                self.model.store.password, self.model.store.user = "SECRET8", "bob"
                self.train_loader.dataset.api_key = "SECRET8"

    Reading._resumes = False
    first = Reading({"_logdir": "runs"})
    first.train()
    assert secrets_in(first.run_dir) == []
    Reading._resumes = True
    second = Reading({"_logdir": "runs", "_num_epochs": 2})
    second.train(resume=first.run_dir)
    assert (second.model.calls, second.model.store.user) == (3, "bob")
    assert second.model.token == second.model.store.password == second.train_loader.dataset.api_key == "SECRET9"
    assert secrets_in(second.run_dir) == []


def test_an_error_is_written_down_without(capfd):
    class Failing(Run):
        def on_epoch_end(self):
            raise RuntimeError(f"no answer from https://bob:SECRET1@host/ with {self.config.api_token}")

    trainer = Failing({"api_token": "SECRET234", "_logdir": "runs", "_verbose": True})
    with pytest.raises(RuntimeError, match="SECRET1@host/ with SECRET234"):  # the exception itself is unchanged
        trainer.train()
    assert secrets_in(trainer.run_dir) == []
    line = json.loads((trainer.run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["error"] == f"RuntimeError: no answer from https://{MASKED}@host/ with {MASKED}"


class Client:
    """Part of a trainer that has a state."""

    def __init__(self, token):
        self.token, self.calls = token, 0

    def state_dict(self):
        return {"token": self.token, "calls": self.calls}

    def load_state_dict(self, state):
        self.token, self.calls = state["token"], state["calls"]


class Holding(Run):
    """Keeps secrets in all the ways in which a checkpoint keeps what a run has changed."""

    def __init__(self, given):
        self.word = given["api_token"]
        self.part = Client(self.word)
        super().__init__(given)

    def on_train_start(self):
        self.token, self.login = self.word, {"password": self.word, "user": "bob", "urls": [f"https://{self.word}@h"]}
        self.record = SimpleNamespace(api_key=self.word, calls=0, more={"secret": self.word, "n": 1})
        self.ordered = OrderedDict(auth_token=self.word, n=1)
        self.mixed = {"secret": self.word, "tensor": torch.zeros(1), "record": SimpleNamespace(password=self.word)}
        self.queue = [SimpleNamespace(token=self.word), torch.zeros(1)]

    def on_end_training_batch(self):
        self.login["n"] = self.record.calls = self.record.more["n"] = self.ordered["n"] = self.part.calls = self.step
        self.mixed["tensor"] += 1

    def held(self):
        return (
            (self.token, self.login["password"], self.login["urls"], self.record.api_key, self.record.more["secret"])
            + (self.ordered["auth_token"], self.mixed["secret"], self.mixed["record"].password, self.part.token)
            + (self.queue[0].token,)
        )

    def counts(self):
        return (
            (self.login["n"], self.record.calls, self.record.more["n"], self.ordered["n"], self.part.calls)
            + (self.mixed["tensor"].item(), self.login["user"])
        )  # fmt: skip


@pytest.mark.parametrize("steps", [None, 2])
def test_a_run_that_goes_on_takes_the_secrets_of_its_process_and_says_so(capsys, steps):
    first = Holding({"api_token": "SECRET1", "_logdir": "runs", "_save_steps": steps, "_num_epochs": 1})
    first.train()
    path = first.run_dir / "checkpoints" / "last.ckpt"
    assert secrets_in(first.run_dir) == []
    again = Holding({"api_token": "SECRET2", "_logdir": "runs", "_num_epochs": 2, "_verbose": True})
    seen = []
    again.on_train_epoch_start = lambda: seen.append((again.held(), again.counts()))
    again.train(resume=path)
    words, counts = seen[0]
    assert words[2] == ["https://SECRET2@h"] and set(words[:2] + words[3:]) == {"SECRET2"}
    assert counts == (3, 3, 3, 3, 3, 3.0, "bob") and again.counts() == (6, 6, 6, 6, 6, 6.0, "bob")
    out = capsys.readouterr().out
    assert "secrets are in no checkpoint: those of " in out and "self.token" in out and "SECRET" not in out
    assert secrets_in(again.run_dir) == []


def test_a_logger_of_the_users_gets_the_real_ones_and_what_loggers_show_has_none():
    class Own(Logger):
        def __init__(self):
            self.texts = []

        def start(self, config, run_dir):
            self.config = config

        def text(self, name, text, step):
            self.texts.append(text)

    logger = Own()
    Run({"api_key": "SECRET1", "url": "http://u:SECRET2@h", "_loggers": [logger], "_logdir": "runs"}).train()
    assert logger.config["api_key"] == "SECRET1"
    assert logger.texts and not any("SECRET" in text for text in logger.texts)


def test_event_files_have_none():
    pytest.importorskip("tensorboard")
    trainer = Run({"api_key": "SECRET1", "_loggers": "tensorboard", "_logdir": "runs"})
    trainer.train()
    assert any("tfevents" in path.name for path in trainer.run_dir.rglob("*")) and secrets_in(trainer.run_dir) == []


def test_an_error_about_a_setting_has_none():
    with pytest.raises(ConfigError) as caught:
        Run({"_logdir": {"password": "SECRET1", "at": "http://u:SECRET2@h"}}).train()
    assert "_logdir is" in str(caught.value) and "SECRET" not in str(caught.value)


def test_an_older_run_folder_is_shown_without(tmp_path, capsys):
    for number in "12":
        run = tmp_path / number
        os.mkdir(run)
        (run / "config.yaml").write_text(
            f"class: A\nconfig:\n  a:\n    token: SECRET{number}\n  u: http://u:SECRET@h\n  lr: {number}\n"
        )
        (run / "environment.json").write_text(
            json.dumps({"command": ["p", "--api-key", "SECRET3"], "u": "http://u:SECRET@h"})
        )
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "error": "E: token=SECRET4"}))
        report.main([str(run)])
        assert "SECRET" not in (run / "report.html").read_text() and MASKED[1:-1] in (run / "report.html").read_text()
    compare.main([str(tmp_path / number) for number in "12"])
    assert "SECRET" not in "".join(capsys.readouterr())
