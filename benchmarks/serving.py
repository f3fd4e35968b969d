"""Requests per second and latencies of a small network behind three servers, on this machine, in one run.

    python benchmarks/serving.py            # some minutes; exits with 1 where a bound is not held
    python benchmarks/serving.py --quick    # half a minute; rates are printed and not held to bounds

Ours, LitServe alone and FastAPI alone answer the same requests of the same clients, in turns. Ours and LitServe have
the same settings: one worker, batches of 8, 20 ms to fill one. FastAPI calls the network for each request. The second
network takes 5 ms for a batch of any size, one batch at a time, as a busy GPU does.

Then 10,000 requests during which the worker is killed, and the memory after 5,000 and 50,000 requests.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import litserve
import numpy as np
import torch

from farabio_like.serving import Predictor

ROOT = Path(__file__).resolve().parents[1]
MAX_BATCH, TIMEOUT = 8, 0.02
CLIENTS = (1, 8, 64)
SERVERS = ("ours", "LitServe", "FastAPI")
LEAST = 0.95  # of LitServe's requests per second
MOST_MEMORY = 1.05


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 10),
    ).eval()


class Digits:
    """The network with what it takes for a batch."""

    def __init__(self, milliseconds):
        torch.set_num_threads(1)
        self.model, self.seconds, self.lock = network(), milliseconds / 1000, threading.Lock()

    def __call__(self, rows):
        with torch.inference_mode():
            probabilities = self.model(torch.tensor(rows, dtype=torch.float32)).softmax(1)
        if self.seconds:
            with self.lock:
                time.sleep(self.seconds)
        best = probabilities.max(1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"class": index, "probability": value, "process": os.getpid()} for index, value in pairs]


class Ours(Predictor):
    milliseconds = 0

    def setup(self):
        self.network = Digits(self.milliseconds)

    def predict(self, inputs):
        return self.network(inputs)


class OursSlow(Ours):
    milliseconds = 5


def serve_ours(port, milliseconds):
    from farabio_like.serving import Server, ServeSettings

    settings = ServeSettings(port=port, max_batch=MAX_BATCH, timeout=TIMEOUT, threads=1, max_waiting=4096)
    Server(OursSlow if milliseconds else Ours, settings).run()


class API(litserve.LitAPI):
    def __init__(self, milliseconds):
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=TIMEOUT)
        self.milliseconds = milliseconds

    def setup(self, device):
        self.network = Digits(self.milliseconds)

    def decode_request(self, request):
        return request["inputs"][0]

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        return self.network(inputs)

    def unbatch(self, outputs):
        return outputs

    def encode_response(self, output):
        return {"outputs": [output]}


def serve_litserve(port, milliseconds):
    server = litserve.LitServer(API(milliseconds), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


def serve_fastapi(port, milliseconds):
    import fastapi
    import uvicorn

    app, digits = fastapi.FastAPI(), Digits(milliseconds)

    @app.post("/predict")
    def predict(body: dict):
        return {"outputs": digits(body["inputs"])}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


STARTS = {"ours": serve_ours, "LitServe": serve_litserve, "FastAPI": serve_fastapi}


class Process:
    """A server in a process of its own."""

    def __init__(self, name, milliseconds=0):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve", name, "--port", str(self.port), "--ms", str(milliseconds)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 120
        while True:
            try:
                if asyncio.run(load(self.port, 1, [0]))[0][0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise SystemExit(f"{name} has not started")
            time.sleep(0.1)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def memory(self):
        """Return the bytes that the server and its processes hold for themselves."""
        total = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:  # the session
                    rollup = (status.parent / "smaps_rollup").read_text()
                    total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
            except (OSError, ProcessLookupError):
                pass
        return total


IMAGES = np.random.default_rng(0).integers(0, 17, (256, 64)).tolist()
BODIES = [json.dumps({"inputs": [image]}).encode() for image in IMAGES]
REQUESTS = [
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    + body
    for body in BODIES
]


async def load(port, clients, numbers, on_answer=None):
    """Send requests by so many clients, and return status, body, seconds and number of each, None where it was lost."""
    numbers, answers = iter(numbers), []

    async def client():
        reader = writer = None
        for number in numbers:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.perf_counter()
            try:
                writer.write(REQUESTS[number % len(REQUESTS)])
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                body = await reader.readexactly(length)
                answers.append((int(head.split(b" ", 2)[1]), body, time.perf_counter() - began, number))
            except (OSError, asyncio.IncompleteReadError):
                answers.append((None, b"", 0.0, number))
                writer = None
            if on_answer:
                on_answer(len(answers), answers[-1])
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def for_seconds(seconds):
    number, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield number
        number += 1


def measured(server, clients, seconds):
    """Return requests per second, p50 and p99 in milliseconds."""
    asyncio.run(load(server.port, clients, range(clients * 4)))
    began = time.perf_counter()
    answers = asyncio.run(load(server.port, clients, for_seconds(seconds)))
    rate = len(answers) / (time.perf_counter() - began)
    assert all(status == 200 for status, *_ in answers)
    times = sorted(1000 * each[2] for each in answers)
    return rate, times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]


def compare(milliseconds, rounds, seconds):
    """Print a table, and return the median rate of each server for each number of clients."""
    servers = {}
    found = {(name, clients): [] for clients in CLIENTS for name in SERVERS}
    try:
        for name in SERVERS:
            servers[name] = Process(name, milliseconds)
        for number in range(rounds):
            for clients in CLIENTS:
                for name in SERVERS[number % 3 :] + SERVERS[: number % 3]:
                    found[name, clients].append(measured(servers[name], clients, seconds))
    finally:
        for server in servers.values():
            server.close()
    print(f"\nnetwork of digits, {milliseconds} ms more for a batch" if milliseconds else "\nnetwork of digits")
    print(f"{'clients':>8} {'server':10} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8}")
    rates = {}
    for (name, clients), values in found.items():
        rate, half, most = (statistics.median(column) for column in zip(*values, strict=True))
        rates[name, clients] = rate
        print(f"{clients:>8} {name:10} {rate:>11.0f} {half:>8.2f} {most:>8.2f}", flush=True)
    return rates


def killed(number):
    """Send requests, kill the worker in the middle; return how many were answered, refused, wrong and lost."""
    with torch.inference_mode():
        expected = network()(torch.tensor(IMAGES, dtype=torch.float32)).softmax(1).max(1)
    server, done = Process("ours"), []

    def kill(count, answer):
        if count >= number // 2 and not done and answer[0] == 200:
            os.kill(json.loads(answer[1])["outputs"][0]["process"], signal.SIGKILL)
            done.append(count)

    try:
        answers = asyncio.run(load(server.port, 64, range(number), kill))
    finally:
        server.close()
    answered = [(json.loads(body)["outputs"][0], n % len(IMAGES)) for status, body, _, n in answers if status == 200]
    wrong = sum(
        one["class"] != int(expected.indices[n]) or abs(one["probability"] - float(expected.values[n])) > 1e-5
        for one, n in answered
    )
    lost = sum(status is None for status, *_ in answers) + number - len(answers)
    refused = len(answers) - len(answered) - sum(status is None for status, *_ in answers)
    print(f"\n{number} requests, the worker killed at {done[0]}: answered {len(answered)}, refused {refused}, "
          f"wrong {wrong}, lost {lost}")  # fmt: skip
    return wrong == 0 and lost == 0


def memory(first, last):
    """Return the memory after `last` requests over that after `first`."""
    server = Process("ours")
    try:
        asyncio.run(load(server.port, 64, range(first)))
        before = server.memory()
        asyncio.run(load(server.port, 64, range(first, last)))
        after = server.memory()
    finally:
        server.close()
    print(f"memory after {first} requests {before / 2**20:.1f} MiB, after {last} {after / 2**20:.1f} MiB: "
          f"{after / before:.3f}")  # fmt: skip
    return after / before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ms", type=float, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        STARTS[arguments.serve](arguments.port, arguments.ms)
        return 0
    rounds, seconds = (1, 1.0) if arguments.quick else (3, 4.0)
    failed = []
    rates = compare(0, rounds, seconds)
    for clients in CLIENTS:
        ratio = rates["ours", clients] / rates["LitServe", clients]
        print(f"ours / LitServe at {clients} clients: {ratio:.2f}")
        if ratio < LEAST and not arguments.quick:
            failed.append(f"{ratio:.2f} of LitServe at {clients} clients, less than {LEAST}")
    slow = compare(5, rounds, seconds)
    print(f"ours / FastAPI at 64 clients: {slow['ours', 64] / slow['FastAPI', 64]:.2f}")
    if slow["ours", 64] <= slow["FastAPI", 64] and not arguments.quick:
        failed.append("not more than FastAPI at 64 clients with 5 ms a batch")
    if not killed(2_000 if arguments.quick else 10_000):
        failed.append("requests were lost or wrong when the worker was killed")
    grown = memory(*((1_000, 5_000) if arguments.quick else (5_000, 50_000)))
    if grown > MOST_MEMORY and not arguments.quick:
        failed.append(f"memory has grown to {grown:.3f} of what it was")
    for line in failed:
        print(f"FAILED: {line}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
