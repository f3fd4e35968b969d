"""Several ranks, started by ``torchrun``: what `workers.py` trains and measures, compared with one process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from . import workers

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).with_name("workers.py")
pytestmark = [pytest.mark.slow, pytest.mark.integration]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(ranks, *command, folder, options=(), good=True, **environment):
    """Run a script on so many ranks and return what it printed, output and errors."""
    done = subprocess.run(
        [*TORCHRUN, "--standalone", f"--nproc-per-node={ranks}", *options, *map(str, command)],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return what each rank of 1, 2 and 3 found, and what they printed."""
    found = {}
    for ranks in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        jobs = [
            "parity",
            "uneven",
            "evaluation",
            "stopping",
            "files",
            "missing",
            "window",
            "again",
            "averaged",
            "measured",
        ]
        jobs += ["rates", "drifting"]  # the last one, for it fails
        printed, _ = torchrun(ranks, WORKERS, folder, *jobs, folder=folder)
        found[ranks] = {
            "ranks": [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)],
            "printed": printed,
            "folder": folder,
        }
    return found


def of_several(results, job):
    for ranks in (2, 3):
        for rank in results[ranks]["ranks"]:
            yield ranks, rank[job]


def same(one, other, tolerance=1e-9):
    """Return whether plain data is equal, numbers up to the tolerance, NaN to NaN."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return abs(one - other) <= tolerance or (one != one and other != other)
    return one == other


def test_the_number_of_ranks_changes_neither_weights_nor_history(results):
    alone = results[1]["ranks"][0]["parity"]
    for ranks, found in of_several(results, "parity"):
        for name in alone:
            assert same(found[name], alone[name]), (ranks, name)


def test_metrics_of_1_to_20_samples_are_those_of_one_process(results):
    alone = results[1]["ranks"][0]["evaluation"]
    for ranks, found in of_several(results, "evaluation"):
        for number in alone:
            assert same(found[number], alone[number], 1e-6), (ranks, number, found[number], alone[number])


def test_ranks_with_5_3_and_0_batches_finish_with_the_same_weights(results):
    ranks = [rank["uneven"] for rank in results[3]["ranks"]]
    assert [rank["seen"] for rank in ranks] == [10, 10, 10]
    assert all(rank["own"] == ranks[0]["own"] for rank in ranks)


def test_a_stream_is_taken_in_turns(results):
    assert [results[n]["ranks"][0]["uneven"]["turns"]["steps"] for n in (1, 2, 3)] == [10, 6, 4]
    for _, found in of_several(results, "uneven"):
        assert found["turns"]["history"][0]["valid"].keys() == {"loss", "accuracy"}


def test_what_one_rank_asks_for_all_ranks_do(results):
    alone = results[1]["ranks"][0]["stopping"]
    assert alone["batch"][:2] == [2, 1]
    for _, found in of_several(results, "stopping"):
        for when in ("pass", "epoch", "everywhere"):
            assert same(found[when], alone[when])
        assert found["batch"][:2] == [3, 1]  # the other ranks were in the next step
        assert found["batch"] == results[2]["ranks"][0]["stopping"]["batch"] or same(
            found["batch"], results[2]["ranks"][0]["stopping"]["batch"]
        )


def test_one_rank_prints_and_writes(results):
    files = {}
    for ranks in (1, 2, 3):
        assert results[ranks]["printed"].count("best (*)") == 1
        assert results[ranks]["printed"].count("the script's own line") == 1
        runs = results[ranks]["folder"] / "runs"
        files[ranks] = sorted(str(path.relative_to(runs)) for path in runs.rglob("*") if "code" not in path.parts)
        assert len((runs / "Base" / "1" / "metrics.jsonl").read_text().splitlines()) == 3
    assert files[1] == files[2] == files[3]
    alone = results[1]["ranks"][0]["files"]
    assert all(same(found, alone) for _, found in of_several(results, "files"))


def test_predictions_are_written_once_in_the_order_of_the_samples(results):
    found = {}
    for ranks in (1, 2, 3):
        folder = results[ranks]["folder"] / "runs" / "Base" / "1"
        found[ranks] = {name: torch.load(folder / "predictions" / f"{name}.pt") for name in ("valid", "test")}
        assert len((folder / "lr.jsonl").read_text().splitlines()) == 6
    assert found[1]["valid"]["targets"].tolist() == workers.samples(9).tensors[1].tolist()
    for ranks in (2, 3):
        for name in ("valid", "test"):
            assert found[ranks][name]["targets"].tolist() == found[1][name]["targets"].tolist()
            assert torch.allclose(found[ranks][name]["predictions"], found[1][name]["predictions"], atol=1e-9)


def test_a_run_goes_on_from_amid_a_window_on_any_number_of_ranks(results, tmp_path, python):
    alone = results[1]["ranks"][0]["window"]["whole"]
    for ranks in (1, 2, 3):
        for rank in results[ranks]["ranks"]:
            assert same(rank["window"]["whole"], alone)
            # Of more than two ranks the order in which a sum is made depends on the buckets of the wrapper, which
            # are built anew.
            tolerance = 0 if ranks < 3 else 1e-12
            assert same(rank["window"]["resumed"], rank["window"]["whole"], tolerance)
    kept = results[3]["folder"] / "window.ckpt"
    script = f"""
import json, sys
sys.path.insert(0, {str(WORKERS.parent)!r})
import workers
trainer = workers.Accumulated()
trainer.train(resume={str(kept)!r})
print(json.dumps(workers.weights(trainer)))
"""
    assert same(json.loads(python(script).splitlines()[-1]), alone)


def test_a_run_of_one_process_goes_on_amid_an_epoch_on_two_ranks_that_save(results, tmp_path):
    shutil.copy(results[1]["folder"] / "window.ckpt", tmp_path)
    torchrun(2, WORKERS, tmp_path, "onward", folder=tmp_path)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())["onward"]
        assert same(found, results[1]["ranks"][0]["window"]["whole"])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 2)])
def test_metrics_of_an_epoch_that_goes_on_with_more_ranks_are_whole(results, tmp_path, before, after):
    shutil.copy(results[before]["folder"] / "measured.ckpt", tmp_path)
    printed, _ = torchrun(after, WORKERS, tmp_path, "measured_on", folder=tmp_path)
    found = json.loads((tmp_path / "rank0.json").read_text())["measured_on"]
    alone = results[1]["ranks"][0]["measured"][-1]["train"]
    left_out = {"torchmetrics", "all_accuracy"} if before > after else set()
    for name in alone.keys() - left_out:
        assert same(found[name], alone[name], 1e-6), name
    assert len(alone) >= 4
    said = "there were more processes: Accuracy, torchmetrics of epoch 2 leave out what those had trained"
    assert (said in " ".join(printed.split())) is bool(left_out)


def test_evaluations_within_an_epoch_are_those_of_one_process(tmp_path):
    found = []
    for ranks in (1, 2, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        torchrun(ranks, WORKERS, folder, "nested", folder=folder)
        found += [json.loads((folder / f"rank{rank}.json").read_text())["nested"] for rank in range(ranks)]
    assert [len(entry["evaluations"]) for entry in found[0]["history"]] == [3, 3]
    for other in found[1:]:
        assert same(other, found[0], 1e-6), other


def test_a_learning_rate_test_is_the_same_on_all_ranks(results):
    alone = results[1]["ranks"][0]["rates"]
    assert 3 < len(alone["losses"]) < 30  # it was left early
    assert len(set(alone["gathered"])) > 6  # the windows of accumulated batches have moved the weights
    for _, found in of_several(results, "rates"):
        assert same(found, alone, 1e-6)


def test_a_trainer_is_used_again_on_several_ranks(results):
    alone = results[1]["ranks"][0]["again"]
    assert alone["history"] == 2 and same(alone["evaluated"], alone["by hand"])
    for _, found in of_several(results, "again"):
        assert found["history"] == 2 and same(found["evaluated"], found["by hand"])
    for ranks in (2, 3):
        first, *others = [rank["again"] for rank in results[ranks]["ranks"]]
        assert all(other == first for other in others)


def test_all_ranks_end_with_the_same_statistics_of_averaged_weights(results):
    for ranks in (2, 3):
        first, *others = [rank["averaged"] for rank in results[ranks]["ranks"]]
        assert all(other == first for other in others)


def test_weights_that_drift_apart_are_an_error(results):
    assert results[1]["ranks"][0]["drifting"] is None
    for _, found in of_several(results, "drifting"):
        assert "after epoch 1 the ranks have different weights, first in encoder.weight" in found


def test_a_file_that_is_missing_is_missed_on_every_rank(results):
    assert all("there is no file of weights nowhere.pth" in found for _, found in of_several(results, "missing"))


def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(results, tmp_path, python):
    folder = results[2]["folder"] / "runs" / "Base" / "1"
    script = f"""
import sys
sys.path.insert(0, {str(WORKERS.parent)!r})
import workers
trainer = workers.Base({{"_num_epochs": 3}})
trainer.train(resume={str(folder)!r})
print(len(trainer.history), trainer.step)
"""
    assert python(script).split() == ["3", "9"]


def test_a_failure_of_one_rank_ends_all_with_the_first_traceback(tmp_path):
    _, errors = torchrun(2, WORKERS, tmp_path, "failing", folder=tmp_path, good=False)
    assert "ValueError: the second rank's own mistake" in errors
    assert "rank 0 ends, because of the first failure, of rank 1: ValueError" in errors
    assert not list(tmp_path.glob("rank*.json"))
    steps = steps_in(tmp_path)
    assert (steps["best.ckpt"], steps["last.ckpt"], steps["crash.ckpt"]) == (3, 3, 5)
    torchrun(2, WORKERS, tmp_path, "recovered", folder=tmp_path)
    found = [json.loads(path.read_text())["recovered"] for path in tmp_path.glob("rank*.json")]
    assert found[0] == found[1] and (found[0]["epochs"], found[0]["steps"]) == (4, 12)


def test_a_loss_that_is_nan_on_one_rank_ends_all(tmp_path):
    _, errors = torchrun(2, WORKERS, tmp_path, "poisoned", folder=tmp_path, good=False)
    assert "the training loss in epoch 1, at step 3, is nan" in errors
    assert not (only_run(tmp_path) / "checkpoints").exists()


@pytest.mark.parametrize("job", ["terminated", "preempted", "surprised", "surprised_main"])
def test_all_ranks_obey_sigterm_with_a_common_save(tmp_path, job):
    torchrun(2, WORKERS, tmp_path, job, folder=tmp_path, good=False)
    steps = steps_in(tmp_path)
    assert "crash.ckpt" not in steps and steps["last.ckpt"] >= 5
    last = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt")
    assert len(last["run"]["ranks"]) == 2


def only_run(folder):
    (run,) = (folder / "runs").glob("*/*")
    return run


def steps_in(folder):
    return {path.name: torch.load(path)["step"] for path in (only_run(folder) / "checkpoints").glob("*.ckpt")}


def test_digits_is_as_good_on_two_ranks(tmp_path):
    accuracies = []
    for ranks in (1, 2, 3):
        printed, _ = torchrun(ranks, ROOT / "examples" / "digits.py", folder=tmp_path)
        (accuracy,) = re.findall(r"^test accuracy (\d\.\d+)", printed, re.MULTILINE)
        accuracies.append(float(accuracy))
    assert min(accuracies) > 0.97, accuracies
    assert max(accuracies) - min(accuracies) <= 0.0051, accuracies
    assert len(list((tmp_path / "runs" / "Digits").iterdir())) == 3


@pytest.mark.parametrize("step", [7, 29, 40, 58, 60, 71, 84, 86, 15, 33])
def test_a_killed_process_changes_nothing(tmp_path, step, never_killed):
    script = ROOT / "examples" / "elastic.py"
    printed, _ = torchrun(2, script, "--kill-at", step, folder=tmp_path, options=["--max-restarts=3"])
    assert printed.splitlines()[-1] == never_killed


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    printed, _ = torchrun(2, ROOT / "examples" / "elastic.py", folder=tmp_path_factory.mktemp("never"))
    return printed.splitlines()[-1]


def test_two_agents_meet_as_two_machines_do(tmp_path):
    port = 29400 + os.getpid() % 500
    agents = [
        subprocess.Popen(
            [
                *[*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=two", "--rdzv-backend=c10d"],
                *[f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-conf=is_host={int(node == 0)}"],
                *["--local-addr=127.0.0.1", str(WORKERS), str(tmp_path), "files"],
            ],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    printed = [agent.communicate(timeout=200)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], printed
    assert "".join(printed).count("best (*)") == 1
    assert [path.name for path in (tmp_path / "runs" / "Base").iterdir()] == ["1"]


@pytest.fixture
def two_machines():
    """Yield the names of two network namespaces with one cable between them."""
    names = [f"farabio-{os.getpid()}-{node}" for node in range(2)]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}",
        *(f"ip -n {name} addr add 10.117.0.{node + 1}/24 dev eth0" for node, name in enumerate(names)),
        *(f"ip -n {name} link set {device} up" for name in names for device in ("lo", "eth0")),
    ]
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespaces here: {error}")
        yield names
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_machines_train_as_one_without_a_common_disk(tmp_path, results, two_machines):
    agents = []
    for node, name in enumerate(two_machines):
        folder = tmp_path / name
        folder.mkdir()
        command = [
            *["ip", "netns", "exec", name, *TORCHRUN, "--nnodes=2", "--nproc-per-node=2", "--rdzv-id=job42"],
            *["--rdzv-backend=c10d", "--rdzv-endpoint=10.117.0.1:29400", f"--local-addr=10.117.0.{node + 1}"],
            # Both have the same name, so they cannot know by the endpoint whose it is.
            *[f"--rdzv-conf=is_host={int(node == 0)}", str(WORKERS), str(folder), "files"],
        ]
        environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "eth0"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        agents.append(subprocess.Popen(command, cwd=folder, env=environment, **pipes))
    try:
        printed = [agent.communicate(timeout=200)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], printed
    assert "".join(printed).count("best (*)") == 1
    wrote = [(tmp_path / name / "runs").exists() for name in two_machines]
    assert sorted(wrote) == [False, True]
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("rank*.json")]
    assert len(found) == 4 and all(same(rank["files"], results[1]["ranks"][0]["files"]) for rank in found)
