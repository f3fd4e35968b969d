"""`SuperResolutionTrainer`: two stages in one run, what each learns by, whole images, pictures, going on."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from farabio_like import ConfigError, HookError, Stage
from farabio_like.callbacks import PSNR
from farabio_like.data import PairedImages
from farabio_like.losses import ContentLoss, PerceptualLoss
from farabio_like.metrics import psnr
from farabio_like.models.superresolution import SRResNet, VGGDiscriminator
from farabio_like.trainers import SuperResolutionTrainer
from farabio_like.trainers.comparison import bicubic

pytestmark = pytest.mark.filterwarnings("ignore:.*has won")


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.layer(images)


def networks():
    return {
        "generator": SRResNet(2, blocks=1, features=8),
        "discriminator": VGGDiscriminator(features=4, hidden=8, norm=None),
    }


@pytest.fixture
def photos(tmp_path):
    for number in range(5):
        array = np.random.default_rng(number).integers(0, 256, (13, 12, 3), dtype=np.uint8)
        image = Image.fromarray(array).resize((36 + number, 40), Image.Resampling.BICUBIC)
        (tmp_path / "photos").mkdir(exist_ok=True)
        image.save(tmp_path / "photos" / f"{number}.png")
    return PairedImages(tmp_path / "photos", scale=2, patch=16, patches=2)


def trainer_of(photos, kind=SuperResolutionTrainer, **options):
    train, valid = photos.split(0.6, 0.4)
    given = {
        "model": networks,
        "train": train,
        "valid": valid.changed(patch=None),
        "perceptual": PerceptualLoss(Features(), {"layer": 1.0}),
        "pretrain_epochs": 1,
        "gan_epochs": 1,
        "batch_size": 2,
        "device": "cpu",
        "verbose": False,
        "logdir": None,
    }
    return kind(**{**given, **options})


def weights_of(trainer):
    return {f"{k}.{n}": v.clone() for k, m in trainer.model.items() for n, v in m.state_dict().items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


class Noted(SuperResolutionTrainer):
    def on_stage_end(self):
        self.ends = {**getattr(self, "ends", {}), self.stage.name: weights_of(self)}


def test_two_stages_in_one_run(photos):
    trainer = trainer_of(photos, Noted, pretrain_epochs=2, gan_epochs=1)
    before = weights_of(trainer)
    history = trainer.train()
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    pretrained, after = trainer.ends["pretrain"], trainer.ends["gan"]
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], pretrained[name])}
    assert moved == {"generator"}
    moved = {name.partition(".")[0] for name in before if not torch.equal(pretrained[name], after[name])}
    assert moved == {"generator", "discriminator"}
    assert "loss_d" not in history[0]["train"] and "loss_perceptual" not in history[1]["train"]
    assert {"loss_d", "loss_g", "loss_content", "loss_perceptual", "loss_adversarial"} <= history[2]["train"].keys()
    total = sum(history[2]["train"][f"loss_{name}"] for name in ("content", "perceptual", "adversarial"))
    assert history[2]["train"]["loss_g"] == pytest.approx(total, rel=1e-5)
    assert {"psnr", "ssim", "psnr_y", "ssim_y", "loss_content"} <= history[2]["valid"].keys()


def test_the_losses_are_those_that_it_says(photos):
    trainer = trainer_of(photos)
    assert trainer.criterion.weights == {"content": 0.01, "perceptual": 1.0, "adversarial": 0.005}
    low, high = next(iter(trainer.train_loader))
    trainer.inputs, trainer.targets = low, high
    fake = trainer.model["generator"](low)
    judge = trainer.model["discriminator"]
    logits, real = judge(fake), judge(high)
    relativistic = nn.functional.softplus(real - logits.mean()).mean()
    relativistic = (relativistic + nn.functional.softplus(real.mean() - logits).mean()) / 2
    expected = 0.01 * (fake - high).abs().mean() + trainer.criterion.perceptual(fake, high) + 0.005 * relativistic
    assert trainer.generator_loss().item() == pytest.approx(expected.item(), rel=1e-5)


def test_pretraining_is_that_of_a_loop_by_hand(photos):
    trainer = trainer_of(photos, gan_epochs=0, lr=1e-3)
    assert list(trainer.model) == ["generator", "discriminator"]
    seen = []
    trainer.callbacks = [*trainer.callbacks, Keep(seen)]
    torch.manual_seed(0)
    network = networks()["generator"]
    network.load_state_dict(trainer.model["generator"].state_dict())
    trainer.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.999))
    for low, high in seen:
        optimizer.zero_grad()
        (network(low) - high).abs().mean().backward()
        optimizer.step()
    assert len(seen) == 3
    assert_equal(trainer.model["generator"].state_dict(), network.state_dict())


class Keep(PSNR):
    def __init__(self, seen):
        super().__init__(prefix="kept_", loaders=("train",))
        self.seen = seen

    def on_end_training_batch(self, trainer):
        self.seen.append((trainer.inputs.clone(), trainer.targets.clone()))
        super().on_end_training_batch(trainer)


def test_whole_images_are_measured_and_the_best_is_by_psnr(photos, tmp_path):
    trainer = trainer_of(photos, gan_epochs=0, pretrain_epochs=2, logdir=tmp_path / "runs", tile=8, overlap=8)
    history = trainer.train()
    each = []
    _, valid = photos.split(0.6, 0.4)
    for low, high in valid.changed(patch=None):
        with torch.no_grad():
            each.append([psnr(trainer.model["generator"](low[None]).clamp(0, 1), high[None])])
            each[-1].append(psnr(trainer.model["generator"](low[None]).clamp(0, 1), high[None], 1, "y", 2))
    expected = torch.tensor(each).mean(0).tolist()
    assert history[-1]["valid"]["psnr"] == pytest.approx(expected[0], abs=1e-3)
    assert history[-1]["valid"]["psnr_y"] == pytest.approx(expected[1], abs=1e-3)
    assert trainer._monitor == "psnr" and (trainer.run_dir / "checkpoints" / "best.ckpt").is_file()


def test_a_picture_of_every_epoch(photos, tmp_path):
    trainer = trainer_of(photos, logdir=tmp_path / "runs", samples=1)
    trainer.train()
    files = sorted((trainer.run_dir / "samples").iterdir())
    assert [path.name for path in files] == ["epoch-0001.png", "epoch-0002.png"]
    _, valid = photos.split(0.6, 0.4)
    low, high = valid.changed(patch=None)[0]
    picture = np.asarray(Image.open(files[-1]))
    height, width = high.shape[1:]
    assert picture.shape == (16 + height, 4 * (width + 4) - 4, 3)
    shown = [picture[16:, k * (width + 4) :][:, :width] for k in range(4)]
    expected = [low.repeat_interleave(2, -1).repeat_interleave(2, -2), bicubic(low[None], 2)[0], None, high]
    for found, image in zip(shown, expected, strict=True):
        if image is not None:
            assert np.array_equal(found, (image * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("step", [2, 5])
def test_it_goes_on_in_both_stages_bit_for_bit(photos, step, tmp_path):
    class Stops(SuperResolutionTrainer):
        stop_at = None

        def on_end_training_batch(self):
            if self.step == self.stop_at:
                self.stop_train()

    whole = trainer_of(photos, Stops, ema_decay=0.9)
    whole.train()
    first = trainer_of(photos, Stops, ema_decay=0.9, logdir=tmp_path / "runs")
    first.stop_at = step
    first.train()
    assert first.step == step
    second = trainer_of(photos, Stops, ema_decay=0.9, logdir=tmp_path / "runs")
    second.train(resume=True)
    assert_equal(weights_of(second), weights_of(whole))
    assert [entry["valid"] for entry in second.history] == [entry["valid"] for entry in whole.history]


def test_a_generator_alone_is_enough(photos):
    trainer = trainer_of(photos, model=SRResNet(2, blocks=1, features=8), gan_epochs=0)
    assert list(trainer.model) == ["generator"]
    assert trainer.train()[0]["valid"]["psnr"] > 0


def test_a_generator_gets_a_discriminator(photos, monkeypatch):
    small = lambda channels: VGGDiscriminator(channels, features=4, hidden=8)  # noqa: E731
    monkeypatch.setattr("farabio_like.trainers.super_resolution.VGGDiscriminator", small)
    trainer = trainer_of(photos, model=SRResNet(2, blocks=1, features=8))
    assert list(trainer.model) == ["generator", "discriminator"]
    assert "loss_d" in trainer.train()[1]["train"]


def test_stages_of_ones_own(photos):
    class Own(SuperResolutionTrainer):
        def define_train_attr(self):
            self._stages = [Stage("pretrain by l1", 1), Stage("adversarial", 1), Stage("pretrained on", 1)]

    history = trainer_of(photos, Own).train()
    assert ["loss_d" in entry["train"] for entry in history] == [False, True, False]


def test_test_and_predict(photos):
    trainer = trainer_of(photos, gan_epochs=0, test=photos.changed(patch=None))
    trainer.train()
    assert math.isfinite(trainer.test()["psnr_y"])
    low, high = photos.changed(patch=None)[0]
    (outputs,) = trainer.predict([low[None]])
    assert outputs.shape == (1, *high.shape)


def test_what_is_not_allowed(photos):
    with pytest.raises(ConfigError, match="data have scale=2, the generator has scale=3"):
        trainer_of(photos, model=lambda: {**networks(), "generator": SRResNet(3, blocks=1, features=8)})
    with pytest.raises(ConfigError, match="Write pretrain_epochs=10, gan_epochs=10"):
        trainer_of(photos, num_epochs=3)
    with pytest.raises(ConfigError, match="has no epochs"):
        trainer_of(photos, pretrain_epochs=0, gan_epochs=0)
    with pytest.raises(ConfigError, match="content_weight"):
        trainer_of(photos, content_weight=-1)
    with pytest.raises(ConfigError, match="distance='l3'"):
        trainer_of(photos, content="l3")
    with pytest.raises(HookError, match="Is the scale of the data"):
        trainer_of(photos, train=[(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 24, 24))], gan_epochs=0).train()


def test_other_losses(photos):
    trainer = trainer_of(photos, content="charbonnier", perceptual=nn.MSELoss(), loss="hinge", perceptual_weight=2)
    assert isinstance(trainer.criterion.content, ContentLoss) and trainer.criterion.content.distance == "charbonnier"
    assert math.isfinite(trainer.train()[1]["train"]["loss_perceptual"])
    trainer = trainer_of(photos, perceptual=None, perceptual_weight=0)
    assert trainer.criterion.perceptual is None
    assert "loss_perceptual" not in trainer.train()[1]["train"]
