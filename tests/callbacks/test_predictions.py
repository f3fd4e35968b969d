import itertools

import pytest
import torch

from farabio_like.callbacks.evaluation import PeriodicEvaluation
from farabio_like.callbacks.predictions import SavePredictions, _join
from farabio_like.errors import ConfigError
from tests.trainers import INPUTS, TARGETS, Tiny


class Doubled(Tiny):
    def prediction_transform(self, outputs):
        return {"value": outputs, "doubled": outputs * 2}


def run(kind, *callbacks, **settings):
    trainer = kind(settings)
    trainer.callbacks = list(callbacks)
    trainer.train()
    return trainer


def read(path):
    return torch.load(path, weights_only=True)


def test_predictions_of_the_test_loader():
    trainer = run(Tiny, SavePredictions(), _logdir="runs")
    assert not (trainer.run_dir / "predictions").exists()
    trainer.test()
    assert [path.name for path in (trainer.run_dir / "predictions").iterdir()] == ["test.pt"]
    state = read(trainer.run_dir / "predictions" / "test.pt")
    assert torch.equal(state["targets"], TARGETS) and state["loader"] == "test"
    assert torch.allclose(state["predictions"], torch.cat(list(trainer.predict(trainer.test_loader))))


def test_predictions_of_the_last_evaluation_are_transformed():
    trainer = run(Doubled, SavePredictions(("valid", "test"), "elsewhere"), _num_epochs=3)
    state = read("elsewhere/valid.pt")
    with torch.no_grad():
        expected = trainer.model(INPUTS)
    assert state["epoch"] == 3
    assert torch.allclose(state["predictions"]["doubled"], 2 * expected)
    assert torch.allclose(state["predictions"]["value"], expected)
    trainer.test()
    assert read("elsewhere/test.pt")["targets"].shape == (10, 1)


def test_a_buffer_that_the_loader_fills_again_is_copied():
    class Buffer(Tiny):
        def get_testloader(self):
            def batches():
                inputs, targets = torch.zeros(5, 3), torch.zeros(5, 1)
                for half in (slice(0, 5), slice(5, 10)):
                    yield inputs.copy_(INPUTS[half]), targets.copy_(TARGETS[half])

            self.test_loader = batches()

    run(Buffer, SavePredictions(path="here")).test()
    assert torch.equal(read("here/test.pt")["targets"], TARGETS)


def test_items_come_in_the_order_of_the_loader_whatever_their_numbers():
    class Chained(Tiny):
        def on_test_start(self):
            halves = [
                enumerate([(INPUTS[:2], TARGETS[:2]), (INPUTS[2:5], TARGETS[2:5])]),
                [(0, (INPUTS[5:], TARGETS[5:]))],
            ]
            self.test_loop_iter = itertools.chain(*halves)

    run(Chained, SavePredictions(path="here")).test()
    assert torch.equal(read("here/test.pt")["targets"], TARGETS)


def test_an_error_leaves_the_old_file_and_nothing_of_the_loader():
    class Fails(Tiny):
        def on_evaluate_batch_end(self):
            if self.epoch == 2:
                raise ValueError("mine")

    callback = SavePredictions(("valid",), "here")
    trainer = Fails()
    trainer.callbacks = [callback]
    with pytest.raises(ValueError, match="mine"):
        trainer.train()
    assert read("here/valid.pt")["epoch"] == 1 and callback._kept == []


def test_batches_that_do_not_fit_stay_a_list():
    narrow, wide = torch.zeros(2, 3), torch.zeros(2, 4)
    assert [part.shape for part in _join([narrow, wide])] == [narrow.shape, wide.shape]
    joined = _join([(narrow, None), (narrow, None)])
    assert joined[0].shape == (4, 3) and joined[1] == [None, None]
    assert len(_join([torch.tensor(1.0), torch.tensor(2.0)])) == 2
    assert _join([]) == []


def test_no_place_to_write_to():
    with pytest.raises(ConfigError, match=r"write SavePredictions\(\('valid',\), path='predictions'\)"):
        run(Tiny, SavePredictions(("valid",)))
    trainer = run(Tiny, SavePredictions())
    with pytest.raises(ConfigError, match="no run folder"):
        trainer.test()


def test_the_train_loader_is_not_among_them():
    with pytest.raises(ConfigError, match="no loader 'train' for it. There are: test, valid"):
        SavePredictions(("train",))


def test_a_further_loader_is_not_taken_for_the_valid_one():
    further = [(INPUTS[:2] + 5, TARGETS[:2])]
    trainer = run(Tiny, SavePredictions(("valid",), "elsewhere"), PeriodicEvaluation(further, "far"))
    assert torch.equal(read("elsewhere/valid.pt")["targets"], TARGETS)
    trainer.evaluate_loader(further)
    assert torch.equal(read("elsewhere/valid.pt")["targets"], TARGETS)
    trainer.evaluate_epoch()
    assert torch.equal(read("elsewhere/valid.pt")["targets"], TARGETS)
