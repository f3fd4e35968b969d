import json

import pytest

from farabio_like.callbacks.base import Callback
from farabio_like.callbacks.profiler import Profiler
from farabio_like.errors import ConfigError
from tests.trainers import Tiny


class Long(Tiny):
    def get_trainloader(self):
        super().get_trainloader()
        self.train_loader = [batch for _ in range(4) for batch in self.train_loader]  # 12 steps


def run(kind, *callbacks, **settings):
    trainer = kind({"_logdir": "runs", "_num_epochs": 2, **settings})
    trainer.callbacks = list(callbacks)
    trainer.train()
    return trainer


class Listening(Callback):
    """How many callbacks listen at the end of a batch."""

    def __init__(self):
        self.numbers = []

    def on_start_training_batch(self, trainer):
        self.numbers.append(len(trainer._run_state.listeners.get("on_end_training_batch", ())))


def test_a_trace_and_a_table_of_the_active_steps():
    listening = Listening()
    trainer = run(Long, Profiler(wait=1, warmup=2, active=3), listening)
    folder = trainer.run_dir / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["operators.txt", "trace.json"]
    names = [event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]]
    assert {name for name in names if str(name).startswith("ProfilerStep")} == {f"ProfilerStep#{n}" for n in (3, 4, 5)}
    assert "aten::addmm" in names and "aten::addmm" in (folder / "operators.txt").read_text()
    assert listening.numbers == [1] * 6 + [0] * 18


def test_an_other_listener_of_the_batch_stays_and_misses_nothing():
    class Steps(Callback):
        def __init__(self):
            self.steps = []

        def on_end_training_batch(self, trainer):
            self.steps.append(trainer.step)

    steps = Steps()
    run(Long, Profiler(), steps)
    assert steps.steps == list(range(1, 25))


def test_a_second_run_is_profiled_again():
    trainer = run(Long, Profiler())
    trace = trainer.run_dir / "profile" / "trace.json"
    trace.unlink()
    trainer.train()
    assert trace.is_file()


def test_an_epoch_of_few_steps():
    trainer = run(Tiny, Profiler(wait=0, warmup=1, active=9))  # 3 steps
    assert (trainer.run_dir / "profile" / "trace.json").is_file()
    with pytest.warns(UserWarning, match="the epoch had 3 steps, and the first 3 are left out"):
        trainer = run(Tiny, Profiler(wait=2, warmup=1, active=9))
    assert not (trainer.run_dir / "profile").exists()


def test_an_error_stops_it_without_files():
    class Fails(Long):
        def on_end_training_batch(self):
            if self.step == 4:
                raise ValueError("mine")

    profiler = Profiler(wait=0, warmup=1, active=9)
    trainer = Fails({"_logdir": "runs"})
    trainer.callbacks = [profiler]
    with pytest.raises(ValueError, match="mine"):
        trainer.train()
    assert not (trainer.run_dir / "profile").exists()
    assert (run(Long, profiler).run_dir / "profile" / "trace.json").is_file()


def test_a_run_without_a_folder():
    with pytest.raises(ConfigError, match="no run folder to write to; set self._logdir = 'runs'"):
        run(Tiny, Profiler(), _logdir=None)


@pytest.mark.parametrize("arguments", [{"wait": -1}, {"warmup": 0.5}, {"active": 0}])
def test_arguments(arguments):
    with pytest.raises(ConfigError, match="expected a number of steps"):
        Profiler(**arguments)
