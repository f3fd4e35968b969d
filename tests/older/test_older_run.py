"""A run that an older version wrote, and a kill broke off: read, resumed and reported on, bit for bit."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from farabio_like import checkpoint, report
from farabio_like.rng import set_state

from .older import BATCHES, CONFIG, Older

RUN = Path(__file__).parent / "Older" / "1"
EPOCH, STEPS_OF_EPOCH = 3, 4  # where it was saved last


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "Older" / "1"))


def resumed(folder, epochs=4, **settings):
    trainer = Older(CONFIG)
    trainer._num_epochs = epochs
    vars(trainer).update({"_logdir": folder.parents[1], **settings})
    trainer.train(resume=True)
    return trainer


def by_hand(saved, epochs):
    """Go on from the file as a loop written by hand does, and return the weights, averages and records."""
    fresh = Older(CONFIG)
    model = nn.Sequential(*fresh.model)
    model.load_state_dict(saved["model"])
    state, position = saved["run"], saved["run"]["epoch"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer.load_state_dict(state["components"]["optimizer"]["state"])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.75)
    scheduler.load_state_dict(state["components"]["scheduler"]["state"])
    average = {name: tensor.clone() for name, tensor in next(iter(saved["averages"].values())).items()}
    draws, seen = random.Random(), list(state["attributes"]["seen"])
    version, words, gauss = state["objects"]["draws"]["random"]
    draws.setstate((version, tuple(words), gauss))
    loader = fresh.train_loader
    set_state(position["rng"], loader)
    for epoch in range(EPOCH, epochs + 1):
        torch.empty((), dtype=torch.int64).random_()  # the seed that the loader's iterator draws
        order = list(loader.batch_sampler)
        if epoch == EPOCH:
            order = order[position["batches"] :]
            set_state(state["rng"], loader)
        model.train()
        for indices in order:
            inputs, targets = loader.dataset[indices]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            for name, parameter in model.named_parameters():
                average[name].lerp_(parameter.detach(), 0.25)
            seen.append(len(seen) + draws.randrange(3))
        scheduler.step()
    return model.state_dict(), average, seen


def test_its_state_is_taken_as_it_was_written(run):
    saved = checkpoint.read(run / "checkpoints" / "last.ckpt")

    class Looks(Older):
        def on_start_training_batch(self, item):
            found.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
            found.append(self.optimizer.state_dict()["state"][0]["exp_avg"].clone())
            found.append((self.epoch, self.step, item[0], self.seen[:], self.total.clone(), self.get_lr()))
            self.exit_trainer()
            super().on_start_training_batch(item)

    found = []
    trainer = Looks(CONFIG)
    trainer._logdir = run.parents[1]
    trainer.train(resume=run)
    weights, moment, place = found
    assert weights.keys() == saved["model"].keys()
    assert all(torch.equal(weights[name], saved["model"][name]) for name in weights)
    assert torch.equal(moment, saved["run"]["components"]["optimizer"]["state"]["state"][0]["exp_avg"])
    assert place[:4] == (EPOCH, 21, STEPS_OF_EPOCH, saved["run"]["attributes"]["seen"])
    assert torch.equal(place[4], saved["run"]["objects"]["total"]["tensor"])
    assert place[5] == saved["run"]["components"]["optimizer"]["state"]["param_groups"][0]["lr"]


def test_it_goes_on_as_by_hand_bit_for_bit(run):
    saved = checkpoint.read(run / "checkpoints" / "last.ckpt")
    weights, average, seen = by_hand(saved, 4)
    trainer = resumed(run)
    assert trainer.step == 4 * BATCHES and [entry["epoch"] for entry in trainer.history] == [1, 2, 3, 4]
    own = trainer.model.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights)
    averages = trainer.callbacks[0].model_state(trainer)
    for name, _ in trainer.model.named_parameters():  # torch's _foreach_lerp_ rounds otherwise than lerp_
        torch.testing.assert_close(averages[name], average[name], rtol=1e-6, atol=1e-7)
    assert trainer.seen == seen
    # The epochs before are what they were.
    kept = saved["run"]["history"]
    assert [entry["train"] for entry in trainer.history[:2]] == [entry["train"] for entry in kept]


def test_it_is_reported_on(run):
    path = report.write(run)
    text = path.read_text(encoding="utf-8")
    assert "Older" in text and "0.625" in text and "2026-11-29" in text
