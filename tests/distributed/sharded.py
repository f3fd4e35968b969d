"""What a rank does in the tests of `_strategy = "fsdp"`; run by ``torchrun`` as `workers.py` is, or in one process."""

import json
import os
import sys
from pathlib import Path

import torch
import workers
from torch import nn

from farabio_like import distributed, shards


class Deep(workers.Base):
    """Blocks that are units of their own, and a rest; with the optimizer made before all of that."""

    def define_compute_attr(self):
        self._strategy = "fsdp"

    def build_model(self):
        block = nn.Sequential(nn.Linear(12, 12), nn.Tanh())
        self.model = nn.Sequential(
            nn.Linear(4, 12), nn.ModuleList([block])[0], nn.Sequential(nn.Linear(12, 12), nn.Tanh()), nn.Linear(12, 2)
        ).double()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)


VARIANTS = (Deep,)


def whole_weights(trainer):
    from farabio_like import components
    state = components.model_state(components.model_of(trainer))
    return [x for t in state.values() for x in shards.whole(t.detach()).double().flatten().tolist()]


def parity():
    shards.SMALLEST_UNIT = 100
    found = {}
    for cls in VARIANTS:
        torch.manual_seed(0)
        trainer = cls({})
        history = trainer.train()
        for e in history: e.pop("seconds")
        found[cls.__name__] = {"weights": whole_weights(trainer), "history": history}
    return found

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {name: globals()[name]() for name in sys.argv[2:]}
    (folder / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))
