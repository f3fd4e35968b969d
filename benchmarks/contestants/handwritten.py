"""The loop that a researcher writes by hand; every other contestant is measured against it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .jobs import Job


def prepare(job: Job) -> Callable[[], object]:
    if job.kind == "empty":
        return lambda: train_empty(job)
    optimizer = job.optimizer()
    if job.valid is None:
        return lambda: train_epoch(job, optimizer)
    return lambda: train_and_validate(job, optimizer)


def train_empty(job: Job) -> None:
    def step(batch):
        pass

    for batch in job.train:
        step(batch)


def train_epoch(job: Job, optimizer: torch.optim.Optimizer) -> float:
    """Train one epoch and return its mean loss; the running sum stays a tensor, one ``item`` at the end."""
    model, criterion = job.model, job.criterion
    model.train()
    total, seen = torch.zeros(()), 0
    for inputs, targets in job.train:
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        samples = targets.size(0)
        total += loss.detach() * samples
        seen += samples
    return total.item() / seen


@torch.no_grad()
def validate(job: Job) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    model, criterion = job.model, job.criterion
    model.eval()
    total, correct, seen = torch.zeros(()), torch.zeros(()), 0
    for inputs, targets in job.valid:
        outputs = model(inputs)
        samples = targets.size(0)
        total += criterion(outputs, targets) * samples
        correct += (outputs.argmax(1) == targets).sum()
        seen += samples
    return total.item() / seen, correct.item() / seen


def train_and_validate(job: Job, optimizer: torch.optim.Optimizer) -> list[tuple[float, ...]]:
    history = []
    for _ in range(job.epochs):
        loss = train_epoch(job, optimizer)
        history.append((loss, *validate(job)))
    return history
