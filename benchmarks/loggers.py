"""What a record costs the training thread, for each logger, with its server up, killed, hung and absent.

    python benchmarks/loggers.py

Between two records the training thread does a real step of some hundred microseconds, so that the loggers' threads
run beside it as they do in a run. Ends with status 1 if a record takes more than 5 microseconds: in the mean of the
processor's time of the training thread, or in the median of the time that passes. The mean of the latter is shown,
but does not decide: it is that of whatever else the machine does.

The last lines are the running loss, taken and recorded every so many steps of a real training (`_log_interval`). Their
median has a bound of its own: what runs once in a while finds nothing in the processor's caches, and takes three
times as long as what runs in every step.
"""

import argparse
import gc
import importlib.util
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from urllib import request

import torch

from farabio_like import ConvnetTrainer, Logger
from farabio_like.loggers import run
from farabio_like.loggers.intervals import Intervals
from farabio_like.loggers.visdom import VisdomLogger
from farabio_like.loggers.worker import Worker

BOUND = 5.0  # microseconds
BOUND_RUNNING = 50.0  # of a running loss
ROOT = Path(__file__).parents[1]


class Server:
    """A visdom server on a port of its own."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "farabio_like.loggers.visdom", "--port", str(self.port)]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [*command, "--environments", f"{folder}/environments"],
            env={**os.environ, "HOME": str(folder), "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        opener = request.build_opener(request.ProxyHandler({}))
        for _ in range(600):
            try:
                opener.open(f"http://127.0.0.1:{self.port}/", timeout=1).read()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the visdom server does not answer")

    def kill(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)


def clocks():
    """Return the microseconds of the processor that reading the clocks takes."""
    spent = []
    for _ in range(10_000):
        processor, _ = time.thread_time_ns(), time.perf_counter_ns()
        time.perf_counter_ns()
        spent.append((time.thread_time_ns() - processor) / 1000)
    return statistics.median(spent)


def measure(logger, folder, records, break_server=None):
    """Return the microseconds of each record on this thread: of the processor, and those that passed."""
    worker = Worker(logger, {"lr": 0.1}, folder)
    weight, spent = torch.randn(128, 128), ([], [])
    worker.thread.start()
    while not worker.started:
        time.sleep(0.1)
    empty = clocks()
    gc.collect()
    gc.freeze()  # or the mean is that of looking through all that torch and the logger's package have imported
    for step in range(records):
        if break_server is not None and step == records // 10:
            time.sleep(1.5)  # the first curves are there
            break_server()
        weight = torch.tanh(weight @ weight.T)  # some hundred microseconds without the interpreter
        loss = weight.mean()
        processor, started = time.thread_time_ns(), time.perf_counter_ns()
        run.Loggers([worker], step).scalars({"running/loss": loss, "running/lr": 0.1})
        passed = time.perf_counter_ns() - started
        spent[0].append((time.thread_time_ns() - processor) / 1000 - empty)
        spent[1].append(passed / 1000)
    worker.end("finished")
    worker.thread.join(60)
    return spent


class Line(ConvnetTrainer):
    """Trains a small layer for so many steps."""

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 1
        self._loggers, self._log_interval = Logger(), self.config["every"]

    def get_trainloader(self):
        self.train_loader = [(torch.randn(32, 128), torch.randn(32, 1))] * self.config["steps"]

    def build_model(self):
        self.model = torch.nn.Linear(128, 1)
        self.criterion = torch.nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)


def measure_running(every, records):
    """Return the microseconds of each running loss on the training thread: of the processor, and those that passed."""
    spent, empty, record = ([], []), clocks(), Intervals.record

    def timed(intervals, trainer, step):
        processor, started = time.thread_time_ns(), time.perf_counter_ns()
        record(intervals, trainer, step)
        passed = time.perf_counter_ns() - started
        spent[0].append((time.thread_time_ns() - processor) / 1000 - empty)
        spent[1].append(passed / 1000)

    Intervals.record = timed
    try:
        Line({"every": every, "steps": every * records + 1}).train()
    finally:
        Intervals.record = record
    return spent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    records = parser.parse_args().records
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()
    print(f"{records} records of two numbers; microseconds per record on the training thread\n")
    print(f"{'':21} {'processor':>10} {'passed':>8}")
    print(f"{'logger':<12} {'server':<8} {'mean':>10} {'median':>8} {'mean':>8} {'99 %':>8} {'most':>9}")

    def show(name, state, spent):
        processor, passed = spent
        mean, median = statistics.fmean(processor), statistics.median(passed)
        high = sorted(passed)[len(passed) * 99 // 100]
        columns = f"{mean:10.2f} {median:8.2f} {statistics.fmean(passed):8.2f} {high:8.2f} {max(passed):9.1f}"
        print(f"{name:<12} {state:<8} {columns}", flush=True)
        return mean, median

    highest = []

    for name in run.NAMES:
        package = run.NAMES[name][3]
        if name == "visdom" or (package is not None and importlib.util.find_spec(package) is None):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            inside = Path(folder) / "Bench" / "1"
            inside.mkdir(parents=True)
            if name == "wandb":
                logger = type(run.make(name))(mode="offline")
            elif name == "mlflow":
                logger = type(run.make(name))(f"sqlite:///{folder}/mlflow.db")
            else:
                logger = run.make(name)
            highest += show(name, "-", measure(logger, inside, records))
            os.chdir(ROOT)
    for state in ("up", "killed", "hung", "absent"):
        with tempfile.TemporaryDirectory() as folder:
            server = Server(folder)
            if state == "absent":
                server.kill()
            breaks = {"killed": server.kill, "hung": server.hang}.get(state)
            try:
                logger = VisdomLogger(port=server.port)
                highest += show("visdom", state, measure(logger, Path(folder), records, breaks))
            finally:
                if server.process.poll() is None:
                    server.kill()
    running = [show("running loss", f"/ {every}", measure_running(every, 500))[1] for every in (1, 10, 50)]
    print(f"\nhighest of the first two columns {max(highest):.2f}, bound {BOUND}")
    print(f"highest median of the running loss {max(running):.2f}, bound {BOUND_RUNNING}")
    sys.exit(1 if max(highest) > BOUND or max(running) > BOUND_RUNNING else 0)


if __name__ == "__main__":
    main()
