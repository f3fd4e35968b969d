"""Ignite: bare engines with sums kept by hand, else its quickstart's trainer, metrics and handlers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import ModelCheckpoint, global_step_from_engine
from ignite.metrics import Accuracy, Loss

from .jobs import Job


def prepare(job: Job) -> Callable[[], object]:
    trainer = bare(job) if job.bare else quickstart(job)
    return lambda: trainer.run(job.train, max_epochs=job.epochs)


def do_nothing(engine, batch):
    pass


def bare(job: Job) -> Engine:
    if job.kind == "empty":
        return Engine(do_nothing)
    model, criterion, optimizer = job.model, job.criterion, job.optimizer()

    def train_step(engine, batch):
        inputs, targets = batch
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        state, samples = engine.state, targets.size(0)
        state.total += loss.detach() * samples
        state.seen += samples

    def valid_step(engine, batch):
        inputs, targets = batch
        outputs = model(inputs)
        state, samples = engine.state, targets.size(0)
        state.total += criterion(outputs, targets) * samples
        state.correct += (outputs.argmax(1) == targets).sum()
        state.seen += samples

    trainer, evaluator = Engine(train_step), Engine(valid_step)

    @trainer.on(Events.EPOCH_STARTED)
    def start(engine):
        model.train()
        engine.state.total, engine.state.seen = torch.zeros(()), 0

    @evaluator.on(Events.EPOCH_STARTED)
    def start_validation(engine):
        model.eval()
        engine.state.total, engine.state.correct, engine.state.seen = torch.zeros(()), torch.zeros(()), 0

    @trainer.on(Events.EPOCH_COMPLETED)
    def finish(engine):
        engine.state.metrics["train_loss"] = engine.state.total.item() / engine.state.seen
        if job.valid is not None:
            with torch.no_grad():
                state = evaluator.run(job.valid)
            state.metrics["loss"] = state.total.item() / state.seen
            state.metrics["accuracy"] = state.correct.item() / state.seen

    return trainer


def quickstart(job: Job) -> Engine:
    """Return a trainer with the quickstart's handlers, less TensorBoard, which needs a package of its own."""
    model, criterion = job.model, job.criterion
    if job.kind == "empty":
        trainer = Engine(do_nothing)
    else:
        trainer = create_supervised_trainer(model, job.optimizer(), criterion)

        @trainer.on(Events.ITERATION_COMPLETED(every=100))
        def print_loss(engine):
            state = engine.state
            print(f"Epoch[{state.epoch}], Iter[{state.iteration}] Loss: {state.output:.2f}")

    if job.valid is None:
        checkpoint = ModelCheckpoint(job.folder, n_saved=2, filename_prefix="last", require_empty=False)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint, {"model": model})
        return trainer

    evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy(), "loss": Loss(criterion)})

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        metrics = evaluator.run(job.valid).metrics
        print(f"Epoch[{engine.state.epoch}] accuracy: {metrics['accuracy']:.2f} loss: {metrics['loss']:.2f}")

    checkpoint = ModelCheckpoint(
        job.folder,
        n_saved=2,
        filename_prefix="best",
        score_function=lambda engine: engine.state.metrics["accuracy"],
        score_name="accuracy",
        global_step_transform=global_step_from_engine(trainer),
        require_empty=False,
    )
    evaluator.add_event_handler(Events.COMPLETED, checkpoint, {"model": model})
    return trainer
