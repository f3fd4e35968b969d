"""Models in shards: what `workers.py` and `sharded.py` train, save and load, compared with one process."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farabio_like import checkpoint
from farabio_like.checkpoint import sharded
from farabio_like.errors import CheckpointError

from .test_torchrun import ENVIRONMENT, ROOT, WORKERS, same, torchrun

SHARDED = Path(__file__).with_name("sharded.py")
pytestmark = [pytest.mark.slow, pytest.mark.integration]


def run(ranks, script, folder, *jobs, strategy="fsdp", **further):
    """Run jobs and return what each rank found."""
    torchrun(ranks, script, folder, *jobs, folder=folder, STRATEGY=strategy, **further)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = {}
    for ranks in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        found[ranks] = run(ranks, WORKERS, folder, "parity", "uneven", "evaluation", "stopping", "files")
    return found


def of_several(results, job):
    return [(ranks, rank[job]) for ranks in (2, 3) for rank in results[ranks]]


def test_the_weights_are_those_of_one_process(results):
    alone = results[1][0]["parity"]
    for ranks, found in of_several(results, "parity"):
        for name in found:
            assert same(found[name], alone[name]), (ranks, name)


def test_metrics_of_1_to_20_samples_are_those_of_one_process(results):
    alone = results[1][0]["evaluation"]
    for ranks, found in of_several(results, "evaluation"):
        for number in alone:
            assert same(found[number], alone[number], 1e-6), (ranks, number, found[number], alone[number])


def test_ranks_with_other_numbers_of_batches_finish_together(results):
    for ranks in (2, 3):
        found = [rank["uneven"] for rank in results[ranks]]
        assert all(rank["own"] == found[0]["own"] for rank in found)
        assert all(rank["turns"]["history"] == found[0]["turns"]["history"] for rank in found)


def test_what_one_rank_asks_for_all_ranks_do(results):
    alone = results[1][0]["stopping"]
    for _, found in of_several(results, "stopping"):
        assert all(same(found[when], alone[when]) for when in ("pass", "epoch", "everywhere"))
        assert found["batch"][:2] == [3, 1]


def test_the_result_of_a_run_is_that_of_one_process(results):
    alone = results[1][0]["files"]
    assert all(same(found, alone) for _, found in of_several(results, "files"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a run on two ranks, which has saved amid an epoch, and its result."""
    folder = tmp_path_factory.mktemp("saved")
    one, other = run(2, SHARDED, folder, "saving", "loading")
    assert same(one, other, 0)
    return folder, one


def test_a_checkpoint_goes_on_with_any_number_of_ranks(saved):
    folder, then = saved
    for ranks in (1, 2, 3):
        for found in run(ranks, SHARDED, folder, "resuming"):
            for name in then["saving"]:
                assert same(found["resuming"][name], then["saving"][name]), (ranks, name)


def test_exported_and_sharded_weights_are_the_same_in_one_process(saved, python):
    folder, then = saved
    exported, last, test = then["loading"]
    assert exported == last == then["saving"]["weights"]
    code = f"""
import os, sys, json
sys.path.insert(0, {str(SHARDED.parent)!r})
os.chdir({str(folder)!r})
import sharded, torch
print(all(type(x) is torch.Tensor for x in torch.load("whole.pth", weights_only=True).values()))
print(json.dumps(sharded.loading()))
"""
    plain, found = python(code).splitlines()
    assert plain == "True"
    assert same(json.loads(found), [exported, last, test])


def test_a_checkpoint_of_one_process_goes_on_in_shards(tmp_path):
    (then,) = run(1, SHARDED, tmp_path, "saving", strategy="")
    assert not list(tmp_path.rglob("*.shards"))
    for found in run(2, SHARDED, tmp_path, "resuming", "loading"):
        assert same(found["resuming"], then["saving"])
        assert found["loading"][0] == found["loading"][1] == then["saving"]["weights"]


@pytest.mark.parametrize(("then", "now"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_shards_and_replicas_go_on_as_each_other(tmp_path, then, now):
    (before, _) = run(2, SHARDED, tmp_path, "saving", strategy=then, WINDOW="1")
    for found in run(2, SHARDED, tmp_path, "resuming", strategy=now, WINDOW="1"):
        assert same(found["resuming"], before["saving"])


@pytest.mark.parametrize("victim", ["rank 0", "rank 1"])
def test_a_rank_killed_while_it_saves_changes_nothing(saved, tmp_path, victim):
    _, then = saved
    torchrun(
        2, SHARDED, tmp_path, "killed", folder=tmp_path, options=["--max-restarts=1"], STRATEGY="fsdp", KILL=victim
    )
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())["killed"]
        assert found.pop("restarts") == 1
        assert same(found, then["saving"])
    (folder,) = (tmp_path / "runs" / "Rich").glob("*/checkpoints")
    used = {checkpoint.read(path)["shards"]["folder"] for path in folder.glob("*.ckpt")}
    assert {path.name for path in folder.glob("*.shards")} == used


def test_the_other_steps_and_refusals(tmp_path):
    alone = run(1, SHARDED, tmp_path, "skipping", "mixed", "refused")[0]
    for found in run(2, SHARDED, tmp_path, "skipping", "mixed", "refused", "full"):
        assert same(found["skipping"], alone["skipping"])
        assert same(found["mixed"], alone["mixed"], 1e-3)
        scalar, kinds, vector, replaced = found["refused"]
        assert "2 of its parameters have been replaced since, the first is 2.weight" in replaced
        assert "self.model has the parameter scale without a dimension" in scalar
        assert "parameters of torch.float32 and torch.float64" in kinds
        assert "LBFGS and _strategy = 'fsdp' do not go together" in vector
        message, left = found["full"]
        assert "rank 1" in message and "No space left on device" in message
        assert not [name for name in left if name.startswith("step-") or name == "full.ckpt"]


def test_what_is_damaged_is_passed_over(saved, tmp_path, python):
    """The newest checkpoint of a run is damaged; the run goes on from the one before."""
    folder, _ = saved
    inner = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "runs" / "Rich" / "1" / "checkpoints", inner)
    (inner / "best.ckpt").unlink()
    half = checkpoint.read(folder / "half.ckpt")["shards"]["folder"]
    shutil.copytree(folder / half, inner / half)
    shutil.copyfile(folder / "half.ckpt", inner / "half.ckpt")
    os.utime(inner / "half.ckpt", (1, 1))
    last = inner / checkpoint.read(inner / "last.ckpt")["shards"]["folder"]
    code = f"""
import sys
sys.path.insert(0, {str(SHARDED.parent)!r})
import sharded
trainer = sharded.Rich({{"_num_epochs": 3, "_verbose": True}})
trainer.train(resume={str(tmp_path / "run")!r})
"""
    part = last / "__1_0.distcp"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    printed = python(code)
    assert f"its part {part} is damaged" in printed and "half.ckpt: after batch 1 of epoch 2, step 4" in printed
    part.unlink()
    assert f"its part {part} is missing" in python(code)
    shutil.rmtree(last)
    assert f"needs the folder {last}, which is not there" in python(code)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_nothing_in_the_index_of_a_folder_is_run(saved, tmp_path, monkeypatch):
    folder, _ = saved
    monkeypatch.chdir(tmp_path)
    state = checkpoint.read(folder / "half.ckpt")
    shutil.copytree(folder / state["shards"]["folder"], tmp_path / state["shards"]["folder"])
    (tmp_path / state["shards"]["folder"] / ".metadata").write_bytes(pickle.dumps(Evil()))

    with pytest.raises(CheckpointError, match=r"it holds a posix.mkdir, which no checkpoint does"):
        sharded.read_shards(state, tmp_path / "half.ckpt", None)
    assert not (tmp_path / "hacked").exists()


def test_the_example_ends_with_the_same_predictions(tmp_path):
    script = [sys.executable, ROOT / "examples" / "fsdp.py"]
    done = subprocess.run(script, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("the same predictions for 1797 of 1797")
