"""The thread between a run and a logger: bounded, forgiving, gone afterwards."""

import threading
import time
import warnings

import pytest
import torch

from farabio_like import Logger
from farabio_like.loggers import worker as workers
from farabio_like.loggers.run import Loggers
from farabio_like.loggers.worker import MOST_NUMBERS, MOST_PICTURES, Worker


class Kept(Logger):
    """Keeps what it gets; fails as long as `trouble` is set."""

    def __init__(self):
        self.got, self.trouble, self.threads = [], None, set()

    def _note(self, *record):
        self.threads.add(threading.current_thread())
        if self.trouble is not None:
            raise self.trouble
        self.got.append(record)

    def start(self, config, run_dir):
        self._note("start", config, run_dir)

    def scalars(self, values, step):
        self._note("scalars", values, step)

    def images(self, name, images, step):
        self._note("images", name, images, step)

    def text(self, name, text, step):
        self._note("text", name, text, step)

    def finish(self, status):
        self._note("finish", status)

    def scalar_records(self):
        return [record for record in self.got if record[0] == "scalars"]

    def steps(self):
        return [step for *_, step in self.scalar_records()]


class Stuck(Kept):
    """Hangs in its first record until it is let go."""

    close_seconds = 0.5

    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def scalars(self, values, step):
        self.released.wait(30)


def started(logger):
    worker = Worker(logger, {"lr": 0.1}, None)
    worker.thread.start()
    return worker, Loggers([worker], 0)


def ended(worker, status="finished"):
    worker.end(status)
    worker.thread.join(30)
    assert not worker.thread.is_alive()


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_records_come_in_their_order_on_another_thread():
    worker, loggers = started(logger := Kept())
    loggers.scalars({"loss": torch.tensor(0.5), "n": 3}, step=1)
    loggers.text("note", "hello", step=1)
    loggers.scalars({"loss": 0.25}, step=2)
    ended(worker, "failed")
    assert logger.got == [
        ("start", {"lr": 0.1}, None),
        ("scalars", {"loss": 0.5, "n": 3.0}, 1),
        ("text", "note", "hello", 1),
        ("scalars", {"loss": 0.25}, 2),
        ("finish", "failed"),
    ]
    assert logger.threads == {worker.thread}


def test_what_cannot_be_written_is_kept_and_given_again_with_two_warnings(monkeypatch):
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.05)
    worker, loggers = started(logger := Kept())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loggers.scalars({"a": 0}, 0)
        wait_for(lambda: logger.steps() == [0])
        logger.trouble = ConnectionRefusedError("nobody there")
        for step in range(1, 50):
            loggers.scalars({"a": step}, step)
        wait_for(lambda: worker.down)
        logger.trouble = None
        wait_for(lambda: not worker.down)
        ended(worker)
    assert logger.steps() == list(range(50))
    first, second = (str(warning.message) for warning in caught)
    assert "cannot write (ConnectionRefusedError: nobody there)" in first
    assert "writes again; nothing is lost" in second


def test_start_that_fails_is_tried_again(monkeypatch):
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.05)
    logger = Kept()
    logger.trouble = TimeoutError("no answer")
    with pytest.warns(UserWarning, match="no answer"):
        worker, loggers = started(logger)
        loggers.scalars({"a": 1}, 7)
        wait_for(lambda: worker.down)
        logger.trouble = None
        ended(worker)
    assert [record[0] for record in logger.got] == ["start", "scalars", "finish"]


def test_record_that_a_logger_refuses_is_left_out_and_said_once():
    worker, loggers = started(logger := Kept())
    with pytest.warns(UserWarning, match="could not convert") as caught:
        for step in range(5):
            loggers.scalars({"a": "no number" if step in (1, 2) else 1.0}, step)
        ended(worker)
    assert logger.steps() == [0, 3, 4]
    assert len(caught) == 1


def test_logger_that_cannot_start_by_a_mistake_of_its_own_is_switched_off():
    logger = Kept()
    logger.trouble = ValueError("a bug")
    with pytest.warns(UserWarning, match="ValueError: a bug.*switched off"):
        worker, loggers = started(logger)
        loggers.scalars({"a": 1}, 1)
        wait_for(lambda: worker.off)
        logger.trouble = None
        ended(worker)
    assert logger.got == []


def test_queue_is_bounded_and_the_end_too():
    worker, loggers = started(logger := Stuck())
    for step in range(MOST_NUMBERS + 100):
        loggers.scalars({"a": step}, step)
    for step in range(MOST_PICTURES + 10):
        loggers.images("x", torch.zeros(1, 2, 2), step)
    assert worker.waiting <= MOST_NUMBERS + MOST_PICTURES + 1
    before = time.monotonic()
    worker.end("finished")
    worker.thread.join(logger.close_seconds)
    assert time.monotonic() - before < 10  # not as long as it hangs
    logger.released.set()
    worker.thread.join(30)
    assert not worker.thread.is_alive()


def test_images_that_change_after_they_were_handed_over_are_left_out():
    worker = Worker(logger := Kept(), {}, None)
    loggers = Loggers([worker], 0)
    first, second = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    loggers.images("first", first)
    loggers.images("second", second)
    first.fill_(1)
    with pytest.warns(UserWarning, match="hand over a clone"):
        worker.thread.start()
        ended(worker)
    assert [record[1] for record in logger.got if record[0] == "images"] == ["second"]


def test_images_that_are_given_again_are_the_copy(monkeypatch):
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.05)
    worker, loggers = started(logger := Kept())
    wait_for(lambda: worker.started)
    logger.trouble = OSError("away")
    images = torch.zeros(1, 2, 2)
    loggers.images("x", images)
    with pytest.warns(UserWarning, match="away"):
        wait_for(lambda: worker.down)
        images.fill_(1)
        logger.trouble = None
        ended(worker)
    assert torch.equal(logger.got[1][2], torch.zeros(1, 2, 2))


def test_warnings_that_are_errors_do_not_end_the_thread(monkeypatch, capsys):
    monkeypatch.setattr(workers, "LONGEST_PAUSE", 0.05)
    logger = Kept()
    logger.trouble = OSError("away")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        worker, loggers = started(logger)
        loggers.scalars({"a": 1}, 1)
        wait_for(lambda: worker.down)
        logger.trouble = None
        ended(worker)
    assert logger.steps() == [1]
    assert "away" in capsys.readouterr().err
