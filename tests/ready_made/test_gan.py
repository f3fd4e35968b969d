"""`GanTrainer`: what each side learns and leaves alone, counts of steps, averages, pictures, warnings, going on."""

import copy
import signal
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.callbacks import EMA, Logger
from farabio_like.errors import ConfigError, HookError, NonFiniteError
from farabio_like.losses import AdversarialLoss
from farabio_like.models import spectral_norm
from farabio_like.trainers import GanTrainer
from farabio_like.trainers.gan_sides import is_discriminator

from .gans import LATENT, QUIET, Cycle, Gan, by_hand, discriminator, generator, images, networks, pairs, same, states

# A step is that of each loss alone, bit for bit


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"_loss": "hinge"},
        {"_loss": "relativistic"},
        {"_loss": "least_squares", "_smoothing": 0.1},
        {"_loss": "wasserstein", "_gradient_penalty": "wgan-gp", "norm": False},
        {"_gradient_penalty": "r1", "norm": False, "_accumulation_steps": 2},
        {"_gradient_penalty": "r1", "norm": False, "_precision": "bf16"},
        {"_d_statistics": True, "_g_steps": 2},
        {"_d_steps": 3, "_accumulation_steps": 4},
        {"_d_steps": 2, "_g_steps": 3, "_accumulation_steps": 3, "_clip_norm": 0.1},
        *pairs(),
    ],
    ids=lambda settings: "-".join(f"{key.strip('_')}={value}" for key, value in settings.items()) or "default",
)
def test_a_run_is_the_one_by_hand_in_which_each_side_has_its_own_loss_alone(settings):
    trainer = Gan(settings)
    before, steps = copy.deepcopy(states(trainer.model)), count_steps(trainer)
    torch.manual_seed(7)
    expected, counts = by_hand(trainer)
    torch.manual_seed(7)
    trainer.train()
    assert same(trainer.model, expected) == []
    assert steps == counts
    assert {name.partition(".")[0] for name in same(before, expected)} == set(counts)  # both have moved


def count_steps(trainer):
    """Return the number of steps of every optimizer, counted from now on."""
    counts = dict.fromkeys(trainer.optimizer, 0)

    def count(name):
        counts[name] += 1

    for name, optimizer in trainer.optimizer.items():
        optimizer.register_step_post_hook(lambda *_, name=name: count(name))
    return counts


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (4, 4)),
        ({"_d_steps": 3}, (12, 4)),
        ({"_g_steps": 2}, (4, 8)),
        ({"_accumulation_steps": 2}, (2, 2)),
        ({"_accumulation_steps": 3}, (2, 2)),
        ({"_accumulation_steps": 2, "_d_steps": 2}, (4, 2)),
        ({"_accumulation_steps": 3, "_d_steps": 2}, (3, 2)),
        ({"_accumulation_steps": 9, "_d_steps": 2}, (1, 1)),
    ],
)
@pytest.mark.parametrize("length", [True, False])
def test_how_many_steps_each_side_makes(settings, expected, length):
    class Unknown(Gan):
        def on_train_epoch_start(self):
            if not length:
                self.train_epoch_iter = iter(list(self.train_epoch_iter))

    trainer = Unknown({"_num_epochs": 1, **settings})
    steps = count_steps(trainer)
    trainer.train()
    assert (steps["discriminator"], steps["generator"]) == expected
    assert trainer.step == 4


def snapshot(network):
    gradients = {name: p.grad if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}
    return copy.deepcopy(network.state_dict()), gradients


def assert_same(one, other):
    for before, after in zip(one, other, strict=True):
        assert before.keys() == after.keys()
        assert all(a is b or torch.equal(a, b) for a, b in zip(before.values(), after.values(), strict=True))


class Watched(Gan):
    """Has spectral norm too, and looks at the other side around every step."""

    norm, kept = True, 0

    def build_model(self):
        super().build_model()
        spectral_norm(self.model["discriminator"])
        self.optimizer["discriminator"] = torch.optim.SGD(self.model["discriminator"].parameters(), lr=0.1)

    def discriminator_step(self):
        before = {name: p.grad for name, p in self.model["generator"].named_parameters()}
        super().discriminator_step()
        after = {name: p.grad for name, p in self.model["generator"].named_parameters()}
        assert all(after[name] is gradient for name, gradient in before.items())

    def generator_step(self):
        before = snapshot(self.model["discriminator"])
        flags = [p.requires_grad for p in self.model["discriminator"].parameters()]
        super().generator_step()
        assert [p.requires_grad for p in self.model["discriminator"].parameters()] == flags
        if not self._d_statistics:
            assert_same(before, snapshot(self.model["discriminator"]))
            self.kept += 1
        else:
            moved = [k for k, v in before[0].items() if not torch.equal(v, self.model["discriminator"].state_dict()[k])]
            assert {name.split(".")[-1] for name in moved} >= {"running_mean", "running_var", "_u", "_v"}
            assert not [name for name in moved if name.endswith(("bias", "original"))]


@pytest.mark.parametrize(
    "settings", [{}, {"_accumulation_steps": 3}, {"_precision": "bf16"}, {"_loss": "relativistic"}]
)
def test_a_step_of_the_generator_leaves_the_discriminator_alone(settings):
    trainer = Watched(settings)
    trainer.train()
    assert trainer.kept == 8


def test_statistics_of_the_discriminator_move_where_they_are_asked_to():
    Watched({"_d_statistics": True, "_num_epochs": 1}).train()


class Leaking(Gan):
    """Lets its discriminator's loss reach the generator, and goes on with the same images in the generator's."""

    def discriminator_loss(self):
        self.fake = self.generate()
        judged = [self.discriminate(images) for images in (self.real_images(), self.fake)]
        return self.criterion.discriminator(*judged)

    def generator_loss(self):
        self.outputs = self.fake
        return self.criterion.generator(self.discriminate(self.fake))

    def discriminator_backward(self):
        self.loss.backward(retain_graph=True)


class Detached(Leaking):
    def discriminator_loss(self):
        self.fake = self.generate()
        judged = [self.discriminate(images) for images in (self.real_images(), self.fake.detach())]
        return self.criterion.discriminator(*judged)

    discriminator_backward = Gan.discriminator_backward


@pytest.mark.filterwarnings("ignore:.*the training step ignores")
@pytest.mark.parametrize("steps", [1, 2])
def test_what_reaches_the_generator_from_the_other_loss_is_dropped(steps):
    trainers = []
    for kind in (Leaking, Detached):
        torch.manual_seed(1)
        trainers.append(kind({"_accumulation_steps": steps}))
        trainers[-1].train_loader = DataLoader(TensorDataset(images(18)), batch_size=6)
        trainers[-1].train()
    assert same(trainers[0].model, trainers[1].model) == []


@pytest.mark.parametrize("settings", [{}, {"_accumulation_steps": 2}, {"_clip_norm": 0.1}])
@pytest.mark.parametrize("joint", [False, True])
def test_two_generators_and_two_discriminators(settings, joint):
    """Each of the four learns by the gradient of its own side's loss alone."""
    trainer = Cycle({**settings, "joint": joint})
    expected = trainer.by_hand()
    trainer.train()
    assert same(trainer.model, expected) == []
    assert trainer.history[-1]["train"].keys() == {"loss_d", "loss_g"}


def test_each_optimizer_has_a_scaler_of_its_own_in_fp16():
    trainers = [Gan({"_precision": precision, "norm": False}) for precision in ("fp32", "fp16")]
    for trainer in trainers:
        torch.manual_seed(0)
        trainer.train()
    assert set(trainers[1]._run_state.stepping.scalers) == {"generator", "discriminator"}
    for one, other in zip(*(states(trainer.model).values() for trainer in trainers), strict=True):
        torch.testing.assert_close(one, other, atol=0.1, rtol=0)


# Subclasses of another style


class Farabio(GanTrainer):
    """Networks and optimizers under names of its own, a method for everything, images made once for both sides."""

    def define_train_attr(self):
        self._num_epochs, self._logdir, self._verbose, self._device = 2, None, False, "cpu"
        self.order = []

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(images()), batch_size=6)

    def build_model(self):
        torch.manual_seed(0)
        self.netG, self.netD = networks().values()
        self.optim_g, self.optim_d = (torch.optim.SGD(n.parameters(), lr=0.1) for n in (self.netG, self.netD))
        self.bce = nn.BCEWithLogitsLoss()

    def discriminator_zero_grad(self):
        self.order.append("discriminator_zero_grad")
        self.optim_d.zero_grad()

    def discriminator_loss(self):
        self.order.append("discriminator_loss")
        self.fake = self.netG(torch.randn(len(self.inputs), LATENT))
        real, fake = self.netD(self.inputs), self.netD(self.fake.detach())
        self.d_loss = self.bce(real, torch.ones_like(real)) + self.bce(fake, torch.zeros_like(fake))

    def discriminator_backward(self):
        self.order.append("discriminator_backward")
        self.d_loss.backward()

    def discriminator_optim_step(self):
        self.order.append("discriminator_optim_step")
        self.optim_d.step()

    def generator_zero_grad(self):
        self.order.append("generator_zero_grad")
        self.optim_g.zero_grad()

    def generator_loss(self):
        self.order.append("generator_loss")
        self.before = copy.deepcopy(self.netD.state_dict())
        fake = self.netD(self.fake)
        self.g_loss = self.bce(fake, torch.ones_like(fake))

    def generator_backward(self):
        self.order.append("generator_backward")
        self.g_loss.backward()

    def generator_optim_step(self):
        self.order.append("generator_optim_step")
        self.optim_g.step()

    def on_end_training_batch(self):
        self.batch_metrics["d_loss"], self.batch_metrics["g_loss"] = self.d_loss, self.g_loss
        assert all(torch.equal(value, self.before[key]) for key, value in self.netD.state_dict().items())


def test_a_subclass_with_networks_optimizers_and_methods_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = Farabio()
        before = copy.deepcopy([trainer.netG.state_dict(), trainer.netD.state_dict()])
        trainer.train()
    parts = ("zero_grad", "loss", "backward", "optim_step")
    assert trainer.order == [f"{side}_{part}" for side in ("discriminator", "generator") for part in parts] * 8
    assert trainer.history[-1]["train"].keys() == {"d_loss", "g_loss"}
    for state, network in zip(before, (trainer.netG, trainer.netD), strict=True):
        assert sum(not torch.equal(value, network.state_dict()[key]) for key, value in state.items()) >= 6


def test_pictures_of_a_subclass_without_generate_are_left_out(capsys):
    class Shown(Farabio):
        def define_log_attr(self):
            self._logdir = "runs"

    trainer = Shown(verbose=True)
    trainer._verbose = True
    trainer.train()
    assert capsys.readouterr().out.count("no pictures of samples: override generate(self)") == 1
    assert not (trainer.run_dir / "samples").exists()


# Parts as arguments


def ready(**options):
    return GanTrainer(
        **{
            "model": networks,
            "train": TensorDataset(images()),
            "latent_size": LATENT,
            "batch_size": 6,
            **QUIET,
            **options,
        }
    )


def test_parts_as_arguments():
    trainer = ready(
        model={"generator": generator, "discriminator": discriminator()},
        lr={"generator": 1e-3, "discriminator": 4e-3},
        scheduler={"discriminator": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5)},
        loss="hinge",
        num_epochs=2,
    )
    assert [entry["lr"] for entry in trainer.train()] == [
        {"generator": 1e-3, "discriminator": 4e-3},
        {"generator": 1e-3, "discriminator": 2e-3},
    ]
    assert trainer.criterion.kind == "hinge"
    assert trainer.optimizer["generator"].defaults["betas"] == (0.5, 0.999)
    assert trainer._run_state.best is None  # a loss of a GAN does not tell which epoch is best
    makes = {"generator": torch.optim.SGD, "discriminator": torch.optim.AdamW}
    trainer = ready(optimizer={name: lambda p, kind=kind: kind(p, lr=0.1) for name, kind in makes.items()})
    assert {name: type(optimizer) for name, optimizer in trainer.optimizer.items()} == makes
    trainer = GanTrainer({"d_steps": 2, "loss": "wasserstein"}, model=networks, **QUIET)
    assert (trainer._d_steps, trainer.criterion.kind) == (2, "wasserstein")
    own = AdversarialLoss("least_squares")
    assert ready(loss=own).criterion is own


def test_a_schedule_for_each_optimizer_that_moves_per_step():
    trainer = ready(
        scheduler=lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
        scheduler_step="step",
        d_steps=2,
        num_epochs=1,
        lr=1.0,
    )
    trainer.train()
    assert trainer.get_lr() == {"generator": 0.5**4, "discriminator": 0.5**8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_steps": 0}, "d_steps is 0; expected a whole number of steps, 1 or more"),
        ({"g_steps": 1.5}, "g_steps is 1.5"),
        ({"d_steps": True}, "d_steps is True"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; expected None, or a number from 0 to below 1"),
        ({"gradient_penalty": "gp"}, "gradient_penalty is 'gp'; expected one of"),
        ({"loss": "bce"}, "kind='bce', expected one of"),
        ({"loss": "hinge", "smoothing": 0.1}, "the loss 'hinge' has no labels"),
        ({"lr": {"generator": 0}}, "lr is {'generator': 0}"),
        ({"lr": {"generator": 0.1}}, r"lr has the keys \['generator'\], and the networks are"),
        ({"scheduler": {"critic": len}}, r"scheduler has the keys \['critic'\]"),
        ({"latent_size": 0}, "latent_size is 0"),
        ({"image_noise": -1}, "image_noise is -1"),
        ({"samples": -1}, "samples is -1"),
        ({"classes": 3}, "got classes=, which is no option"),
        ({"mode": "binary"}, "got mode=, which is no option"),
        ({"dsteps": 2}, "got dsteps=, which is no option. Did you mean 'd_steps'"),
        ({"model": nn.Linear(1, 1)}, "no dict of networks"),
        ({"model": {"generator": generator}}, r"self.model has no discriminator among its keys \['generator'\]"),
        ({"model": {"discriminator": discriminator}}, "self.model has no generator"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises((ConfigError, HookError), match=message):
        ready(**options)


def test_settings_of_a_subclass_that_cannot_be():
    for name, value in (("_d_steps", 0), ("_conditional", "yes"), ("_penalty_weight", float("nan"))):
        with pytest.raises(ConfigError, match=rf"Gan: {name} is "):
            Gan({name: value})

    class One(Gan):
        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.SGD(self.model["generator"].parameters(), lr=0.1)

    with pytest.raises(ConfigError, match="self.optimizer is a SGD; expected a dict"):
        One()

    class Plain(Gan):
        def build_model(self):
            super().build_model()
            self.criterion = nn.BCEWithLogitsLoss()

    with pytest.raises(ConfigError, match="self.criterion is a BCEWithLogitsLoss, which gives no loss for each side"):
        Plain()

    class Named(Gan):
        def build_model(self):
            super().build_model()
            self.model = {"g": self.model["generator"], "netD": self.model["discriminator"]}

    with pytest.raises(HookError, match=r"takes self.model\['generator'\], but self.model is \['g', 'netD'\]"):
        Named().train()


def test_a_penalty_and_batch_norm_do_not_go_together():
    with pytest.warns(UserWarning, match="batch norm in a discriminator, which mixes"):
        ready(gradient_penalty="r1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(gradient_penalty="r1", model={"generator": generator, "discriminator": lambda: discriminator(norm=False)})


# Other generators and discriminators


def test_labels_go_to_both_networks():
    class Labelled(nn.Module):
        def __init__(self, network, size):
            super().__init__()
            self.embed, self.network, self.seen = nn.Embedding(3, size), network, []

        def forward(self, x, labels):
            self.seen.append(labels)
            return self.network(torch.cat([x.flatten(1), self.embed(labels)], 1))

    labels = torch.arange(20) % 3
    judge = nn.Sequential(nn.Linear(18, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    model = {"generator": Labelled(generator(LATENT + 2), 2), "discriminator": Labelled(judge, 2)}
    data = TensorDataset(images(), labels)
    trainer = ready(model=model, train=data, valid=data, conditional=True, num_epochs=1, logdir="runs", samples=8)
    trainer.train()
    assert all(len(seen) in (2, 6) and seen.max() <= 2 for seen in model["generator"].seen)
    assert next(trainer.predict((torch.randn(5, LATENT), torch.tensor([0, 1, 2, 0, 1])))).shape == (5, 1, 4, 4)
    assert trainer.history[0]["valid"].keys() == {"loss_d", "loss_g"}
    assert (trainer.run_dir / "samples" / "epoch-0001.png").is_file()


class Several(nn.Module):
    """Gives its outputs at two scales, or an image and something else."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return [self.first(x), self.second(x)]


def test_several_outputs_of_a_generator_and_of_a_discriminator():
    pooled = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 1))
    model = {
        "generator": Several(generator(), nn.Linear(LATENT, 2)),
        "discriminator": Several(discriminator(norm=False), pooled),
    }
    for penalty in (None, "wgan-gp", "r1"):
        trainer = ready(model=model, gradient_penalty=penalty, num_epochs=1)
        found = trainer.train()[0]["train"]
        assert all(value == value for value in found.values())
        assert ("penalty" in found) == (penalty is not None)
        assert next(trainer.predict(torch.randn(5, LATENT))).shape == (5, 1, 4, 4)


def test_noise_is_on_what_the_discriminator_sees():
    seen = []

    class Judge(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            seen.append(x.detach())
            return self.layer(x.mean((1, 2, 3))[:, None])

    data = TensorDataset(torch.zeros(600, 1, 4, 4))
    ready(
        model={"generator": generator, "discriminator": Judge},
        train=data,
        image_noise=0.5,
        batch_size=600,
        num_epochs=1,
    ).train()
    assert seen[0].std().item() == pytest.approx(0.5, rel=0.05) and seen[0].mean().abs() < 0.05


def test_a_latent_with_a_shape():
    model = {"generator": nn.ConvTranspose2d(LATENT, 1, 4), "discriminator": discriminator}
    ready(model=model, latent_size=(LATENT, 1, 1), num_epochs=1).train()


def test_data_parallel(capsys):
    trainer = ready(data_parallel=True, num_epochs=1, ema_decay=0.5, logdir="runs")
    trainer.train()
    assert all(isinstance(network, nn.DataParallel) for network in trainer.model.values())
    saved = torch.load(trainer.run_dir / "model.pth", weights_only=True)
    assert saved["generator"].keys() == generator().state_dict().keys()


# Evaluation, single steps


def test_evaluation_and_test_measure_both_sides_and_move_nothing():
    data = TensorDataset(images(10, seed=1))
    trainer = ready(valid=data, test=data, num_epochs=2, gradient_penalty=None)
    trainer.train()
    before = copy.deepcopy(states(trainer.model))
    assert trainer.history[-1]["valid"].keys() == {"loss_d", "loss_g"}
    assert trainer.test().keys() == {"loss_d", "loss_g"}
    assert trainer.evaluate_epoch().keys() == {"loss_d", "loss_g"}
    assert same(trainer.model, before) == []
    assert trainer.val_step([images(4)])["prediction"].shape == (4, 1, 4, 4)
    assert same(trainer.model, before) == []
    assert trainer.train_step([images(4)])["prediction"].shape == (4, 1, 4, 4)
    assert same(trainer.model, before) != []


def test_the_losses_of_an_evaluation_are_those_of_the_networks_in_eval_mode():
    trainer = Gan({"_num_epochs": 1})
    trainer.train()
    trainer.valid_loader = [images(8, seed=2)]
    torch.manual_seed(3)
    found = trainer.evaluate_epoch()
    model = {name: copy.deepcopy(network).eval() for name, network in trainer.model.items()}
    torch.manual_seed(3)
    loss = AdversarialLoss()
    with torch.no_grad():
        first, second = (model["discriminator"](model["generator"](torch.randn(8, LATENT))) for _ in range(2))
        of_discriminator = loss.discriminator(model["discriminator"](images(8, seed=2)), first)
    assert found == pytest.approx({"loss_d": of_discriminator.item(), "loss_g": loss.generator(second).item()})


# Averages of the generator


class Averaged(Gan):
    """Averages its generator by hand as well, after every step that it makes."""

    def define_log_attr(self):
        self._logdir, self._ema_decay = "runs", 0.8
        self.mean, self.evaluated = None, []

    def define_misc_attr(self):
        super().define_misc_attr()
        self._logdir = "runs"

    def generator_optim_step(self):
        network = self.model["generator"]
        before = network[1].weight.detach().clone()
        super().generator_optim_step()
        if not torch.equal(before, network[1].weight):
            now = {name: p.detach().clone() for name, p in network.named_parameters()}
            self.mean = now if self.mean is None else {k: 0.8 * m + 0.2 * now[k] for k, m in self.mean.items()}

    def on_evaluate_epoch_end(self):
        self.evaluated.append(self.model["generator"][1].weight.detach().clone())


@pytest.mark.parametrize("settings", [{}, {"_accumulation_steps": 2, "_d_steps": 2}, {"_accumulation_steps": 3}])
def test_the_average_is_that_by_hand_and_is_evaluated_drawn_predicted_with_and_saved(settings):
    trainer = Averaged(settings)
    trainer.valid_loader = [images(8)]
    trainer.train()
    raw = {name: p.detach().clone() for name, p in trainer.model["generator"].named_parameters()}
    saved = torch.load(trainer.run_dir / "model.pth", weights_only=True)
    for name, mean in trainer.mean.items():
        torch.testing.assert_close(saved["generator"][name], mean)
        assert not torch.equal(saved["generator"][name], raw[name])
    assert same({"d": trainer.model["discriminator"]}, {f"d.{k}": v for k, v in saved["discriminator"].items()}) == []
    torch.testing.assert_close(trainer.evaluated[-1], trainer.mean["1.weight"])
    averaged = copy.deepcopy(trainer.model["generator"]).eval()
    averaged.load_state_dict(saved["generator"])
    noise = torch.randn(3, LATENT)
    torch.testing.assert_close(next(trainer.predict(noise)), averaged(noise).detach())
    path = trainer.save_model("weights.pth")
    again = torch.load(path, weights_only=True)["generator"]
    assert all(torch.equal(value, again[key]) for key, value in saved["generator"].items())


def test_raw_weights_are_saved_once_others_were_loaded():
    trainer = Averaged()
    trainer.train()
    other = Gan({"_num_epochs": 1})
    other.train()
    path = other.save_model("other.pth")
    trainer.load_model(path)
    saved = torch.load(trainer.save_model("again.pth"), weights_only=True)
    assert same(other.model, {f"{k}.{name}": v for k, state in saved.items() for name, v in state.items()}) == []


def test_an_average_of_models_that_are_not_there():
    trainer = Gan({"_num_epochs": 1})
    trainer.callbacks.append(EMA(0.5, models=["generater"]))
    with pytest.raises(ConfigError, match="EMA: there is no model 'generater'; self.model is"):
        trainer.train()


# Pictures


def pictures(trainer):
    return [path.read_bytes() for path in sorted((trainer.run_dir / "samples").iterdir())]


class Seen(Logger):
    def __init__(self):
        self.shapes = []

    def images(self, name, images, step):
        self.shapes.append((name, tuple(images.shape), images.min() >= 0 and images.max() <= 1))


def test_pictures_are_of_the_same_noise_in_every_epoch():
    logger = Seen()
    trainer = ready(logdir="runs", num_epochs=3, loggers=logger, samples=5)
    trainer.on_train_epoch_end = lambda: [network.load_state_dict(kept[key]) for key, network in trainer.model.items()]
    kept = {key: copy.deepcopy(network.state_dict()) for key, network in trainer.model.items()}
    trainer.train()
    assert sorted(path.name for path in (trainer.run_dir / "samples").iterdir()) == [
        f"epoch-000{number}.png" for number in (1, 2, 3)
    ]
    assert len(set(pictures(trainer))) == 1  # of the same weights
    assert logger.shapes == [("samples", (5, 1, 4, 4), True)] * 3
    trainer = ready(logdir="runs", num_epochs=3)
    trainer.train()
    assert len(set(pictures(trainer))) == 3


def test_pictures_change_nothing_of_the_run():
    trainers = [Gan({"_samples": number, "_logdir": "runs"}) for number in (0, 64)]
    for trainer in trainers:
        torch.manual_seed(0)
        trainer.train()
    assert same(trainers[0].model, trainers[1].model) == []
    assert not (trainers[0].run_dir / "samples").exists() and len(pictures(trainers[1])) == 2


def test_points_are_no_pictures(capsys):
    model = {"generator": nn.Linear(LATENT, 2), "discriminator": nn.Linear(2, 1)}
    trainer = ready(model=model, train=TensorDataset(torch.randn(20, 2)), num_epochs=2, logdir="runs", verbose=True)
    trainer.train()
    assert capsys.readouterr().out.count("what the generator makes are no images") == 1


# When one side has won


class Won(Gan):
    value = 0.0

    def discriminator_loss(self):
        return super().discriminator_loss() * 0 + self.value

    def generator_loss(self):
        return super().generator_loss() * 0 + 1 - self.value


def test_a_warning_when_one_side_has_won():
    for value, side in ((0.0, "discriminator"), (1.0, "generator")):
        with pytest.warns(UserWarning, match=f"the {side} has won: its loss was 0 over epoch 1") as found:
            Won({"value": value}).train()
        assert len([1 for each in found if "has won" in str(each.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Won({"value": 0.5}).train()
        Won({"value": -5.0, "_loss": "wasserstein"}).train()
    with pytest.warns(UserWarning, match="the discriminator has won"):
        Won({"value": 0.163, "_smoothing": 0.1}).train()  # of the label 0.9 no loss is less


# What is not finite


class Broken(Gan):
    side = "discriminator"

    def discriminator_loss(self):
        return super().discriminator_loss() * (float("nan") if self.is_broken("discriminator") else 1)

    def generator_loss(self):
        return super().generator_loss() * (float("nan") if self.is_broken("generator") else 1)

    def is_broken(self, side):
        return side == self.side and self.step == 2


@pytest.mark.parametrize("side", ["discriminator", "generator"])
def test_a_loss_that_is_not_finite(side):
    with pytest.raises(NonFiniteError, match="Lower the learning rate"):
        Broken({"side": side}).train()
    trainer = Broken({"side": side, "_on_nonfinite": "skip"})
    steps = count_steps(trainer)
    trainer.train()
    assert steps == {"generator": 8 - (side == "generator"), "discriminator": 8 - (side == "discriminator")}
    assert all(value.isfinite().all() for value in states(trainer.model).values())


# Going on


class Stopped(Gan):
    stop = None

    def define_misc_attr(self):
        self._save_steps = 1
        super().define_misc_attr()

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(images()), batch_size=6, shuffle=True)

    def on_end_training_batch(self):
        if self.step == self.stop:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        ({"_d_steps": 2, "_accumulation_steps": 2, "_ema_decay": 0.8}, (5,)),
        pytest.param({"_d_steps": 2}, (2, 5, 9), marks=pytest.mark.slow),
        pytest.param({"_d_steps": 2, "_accumulation_steps": 2, "_ema_decay": 0.8}, (2, 6, 9), marks=pytest.mark.slow),
        pytest.param(
            {"_d_steps": 2, "_accumulation_steps": 3, "_precision": "bf16", "dropout": True},
            (2, 5, 9),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_was_stopped_in_the_middle_of_an_epoch_goes_on_as_if_it_had_not_been(settings, stops):
    settings = {"_num_epochs": 3, **settings}
    whole = Stopped({**settings, "_logdir": "whole"})
    torch.manual_seed(5)
    whole.train()
    for stop in stops:
        torch.manual_seed(5)
        trainer = Stopped({**settings, "_logdir": f"stopped{stop}", "stop": stop})
        torch.manual_seed(5)
        with pytest.raises(SystemExit):
            trainer.train()
        torch.manual_seed(99)
        again = Stopped({**settings, "_logdir": f"stopped{stop}"})
        again.train(resume=True)
        assert same(whole.model, again.model) == []
        for name in whole.optimizer:
            states_of = [each.optimizer[name].state_dict()["state"] for each in (whole, again)]
            for one, other in zip(*(state.values() for state in states_of), strict=True):
                assert all(torch.equal(one[key], other[key]) for key in one)
        assert [entry["train"] for entry in whole.history] == [entry["train"] for entry in again.history]
        assert pictures(whole) == pictures(again)
        weights = [torch.load(each.run_dir / "model.pth", weights_only=True)["generator"] for each in (whole, again)]
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_keys_say_which_side_a_network_is_on():
    judges = (
        "discriminator",
        "discriminator_a",
        "D",
        "d_ab",
        "D_A",
        "netD",
        "netD_B",
        "critic",
        "disc1",
        "patch_critic",
    )
    assert all(map(is_discriminator, judges))
    makers = ("generator", "generator_ab", "G", "netG", "g_b", "decoder", "encoder", "G_BA")
    assert not any(map(is_discriminator, makers))
