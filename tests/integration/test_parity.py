"""A run gives bit for bit the weights of the loop that one would write by hand."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer

EPOCHS = 3


def network():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))


def loaders(workers=0):
    generator = torch.Generator().manual_seed(7)
    data = TensorDataset(torch.randn(50, 6, generator=generator), torch.randint(0, 4, (50,), generator=generator))
    return DataLoader(data, batch_size=8, shuffle=True, num_workers=workers), DataLoader(data, batch_size=9)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
}


def by_hand(optimizer, workers):
    torch.manual_seed(3)
    train, valid = loaders(workers)
    model, criterion = network(), nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    history = []
    for _ in range(EPOCHS):
        means = []
        for loader in (train, valid):
            model.train(loader is train)
            total, count = 0.0, 0
            for x, y in loader:
                with torch.set_grad_enabled(loader is train):
                    loss = criterion(model(x), y)
                if loader is train:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                total, count = total + loss.item() * len(x), count + len(x)
            means.append(total / count)
        history.append(means)
    return model.state_dict(), history, torch.get_rng_state()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("parallel", [None, True])
def test_parity_with_a_loop_by_hand(optimizer, workers, parallel):
    class Trainer(ConvnetTrainer):
        def define_train_attr(self):
            self._num_epochs = EPOCHS
            self._logdir, self._verbose, self._data_parallel, self._device = None, False, parallel, "cpu"

        def get_trainloader(self):
            self.train_loader, self.valid_loader = loaders(workers)

        def build_model(self):
            self.model, self.criterion = network(), nn.CrossEntropyLoss()
            self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())

    weights, history, random_state = by_hand(optimizer, workers)
    torch.manual_seed(3)
    trainer = Trainer()
    ours = trainer.train()
    own = getattr(trainer.model, "module", trainer.model).state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in weights)
    assert torch.equal(torch.get_rng_state(), random_state)
    for entry, (train, valid) in zip(ours, history, strict=True):
        assert entry["train"]["loss"] == pytest.approx(train, rel=1e-9)
        assert entry["valid"]["loss"] == pytest.approx(valid, rel=1e-9)
