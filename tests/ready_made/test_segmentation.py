"""`SegmentationTrainer`: what it learns, measures and writes; exact resume; hooks, options and mistakes."""

import csv
import math
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from farabio_like import Callback, ConfigError, DataError, HookError
from farabio_like.callbacks import EMA, Dice
from farabio_like.inference import flips, sliding_window
from farabio_like.losses import DiceBCELoss, DiceCELoss, LovaszLoss, TverskyLoss, dice_loss, soft_bce_loss
from farabio_like.models.segmentation import Unet
from farabio_like.trainers import SegmentationTrainer
from farabio_like.trainers.segmentation import LOSSES

from .discs import QUIET, folders, small_unet, tensors

v2 = pytest.importorskip("torchvision.transforms.v2")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_unet_overfits_four_images():
    data = tensors(4)
    torch.manual_seed(0)
    trainer = SegmentationTrainer(
        model=lambda: Unet(in_channels=1, num_channels=8, num_blocks=2),
        **{**QUIET, "num_epochs": 120, "lr": 0.01, "eval_interval": 20, "logdir": None},
        train=data,
        valid=data,
    )
    trainer.train()
    assert trainer.history[-1]["valid"]["dice"] >= 0.98


def stopped_after(step):
    class Stops(Callback):
        def on_end_training_batch(self, trainer):
            if trainer.step == step:
                signal.raise_signal(signal.SIGTERM)

    return [Stops()]


def augmented(where):
    data = folders(where, number=7, size=40)
    change = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(25), v2.ColorJitter(0.3)])
    return data.changed(patch=32, patches=2, transform=change), data


@pytest.mark.parametrize("step", [2, 7])
def test_it_goes_on_bit_for_bit_with_two_workers_and_augmentation(step, tmp_path):
    train, valid = augmented(tmp_path)

    def trainer(**options):
        return SegmentationTrainer(
            model=small_unet, train=train, valid=valid, num_workers=2, save_steps=1, window=32, **QUIET, **options
        )

    whole = trainer(logdir="whole")
    whole.train()
    assert whole.step == 8
    with pytest.raises(SystemExit):
        trainer(logdir="stopped", callbacks=stopped_after(step)).train()
    resumed = trainer(logdir="stopped")
    resumed.train(resume=True)
    assert resumed.step == 8
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for first, second in zip(whole.history, resumed.history, strict=True):
        assert first["valid"] == second["valid"] and first["train"] == second["train"]


def test_patches_do_not_depend_on_the_number_of_workers(tmp_path):
    train, _ = augmented(tmp_path)
    weights = []
    for workers in (0, 2):
        trainer = SegmentationTrainer(model=small_unet, train=train, num_workers=workers, logdir=None, **QUIET)
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("window", [None, 24])
def test_a_test_leaves_masks_overlays_and_a_table(window, tmp_path):
    data = folders(tmp_path, size=30)
    trainer = SegmentationTrainer(model=small_unet, train=data, valid=data, test=data, window=window, **QUIET)
    trainer.train()
    metrics = trainer.test()
    where = trainer.run_dir / "test"
    rows = rows_of(where / "images.csv")
    assert [row["id"] for row in rows] == data.ids
    hits = sums = union = 0
    for number, row in enumerate(rows):
        image, mask = data[number]
        with torch.no_grad():
            whole = sliding_window(trainer.model, image[None], 24) if window else trainer.model.eval()(image[None])
        predicted = (whole[0, 0] > 0).long()
        written = torch.from_numpy(np.asarray(Image.open(where / "masks" / f"disc{number}.png")).copy())
        assert torch.equal(written.long(), predicted * 255)
        both, total = int((predicted * mask).sum()), int(predicted.sum() + mask.sum())
        assert float(row["dice"]) == pytest.approx(2 * both / total, abs=1e-5)
        assert float(row["iou"]) == pytest.approx(both / (total - both), abs=1e-5)
        hits, sums, union = hits + both, sums + total, union + total - both
        overlay = Image.open(where / "overlays" / f"disc{number}.png")
        assert overlay.width > 3 * overlay.height * 0.9  # image, truth and prediction beside each other
    assert metrics["dice"] == pytest.approx(2 * hits / sums) and metrics["iou"] == pytest.approx(hits / union)


def test_several_classes_and_one_that_is_absent(tmp_path):
    data = folders(tmp_path, classes=3)
    trainer = SegmentationTrainer(
        model=lambda: Constant([5.0, 0.0, 0.0, -5.0]),
        **QUIET,
        train=data,
        valid=data,
        test=data,
        classes=["ground", "dim", "bright", "none"],
        hausdorff=True,
    )
    trainer.train()
    metrics = trainer.test()
    background = sum(int((data[k][1] == 0).sum()) for k in range(len(data)))
    pixels = 32 * 32 * len(data)
    dice = 2 * background / (background + pixels)
    assert metrics["dice_per_class"][:3] == pytest.approx([dice, 0, 0]) and math.isnan(metrics["dice_per_class"][3])
    assert metrics["dice"] == pytest.approx(dice / 3)
    rows = rows_of(trainer.run_dir / "test" / "images.csv")
    assert {row["dice_none"] for row in rows} == {row["iou_none"] for row in rows} == {"absent"}
    assert {row["hausdorff95_none"] for row in rows} == {"absent"} and "hausdorff95_ground" not in rows[0]
    assert all(float(row["hausdorff95_dim"]) == pytest.approx(32 * math.sqrt(2), abs=1e-3) for row in rows)
    mask = Image.open(trainer.run_dir / "test" / "masks" / "disc0.png")
    assert mask.mode == "P" and set(np.unique(np.asarray(mask))) == {0}
    assert (trainer.run_dir / "plots" / "per_class.png").is_file()
    assert (trainer.run_dir / "plots" / "confusion_matrix.png").is_file()


class Constant(nn.Module):
    """Gives the same logits everywhere, and hardly learns."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images):
        return self.logits.reshape(1, -1, 1, 1) + 0 * images[:, :1]


def test_masks_that_overlap():
    images, masks = tensors(6).tensors
    both = torch.stack([masks, masks.roll(3, -1)], 1)
    data = torch.utils.data.TensorDataset(images, both)
    trainer = SegmentationTrainer(
        model=lambda: small_unet(2), train=data, valid=data, test=data, classes=["a", "b/c"], mode="multilabel", **QUIET
    )
    trainer.train()
    metrics = trainer.test()
    assert len(metrics["dice_per_class"]) == 2
    with torch.no_grad():
        predicted = trainer.model.eval()(images) > 0
    for number, name in enumerate(("a", "b_c")):
        found = np.asarray(Image.open(trainer.run_dir / "test" / "masks" / f"3-{name}.png"))
        assert (found == predicted[3, number].numpy() * 255).all()
    assert list(rows_of(trainer.run_dir / "test" / "images.csv")[0]) == ["id", "dice_a", "dice_b/c", "iou_a", "iou_b/c"]


def test_volumes():
    images, masks = tensors(4, size=16).tensors
    data = torch.utils.data.TensorDataset(
        images.unsqueeze(2).repeat(1, 1, 8, 1, 1), masks.unsqueeze(1).repeat(1, 8, 1, 1)
    )
    trainer = SegmentationTrainer(
        model=lambda: small_unet(dims=3), train=data, valid=data, test=data, window=(8, 12, 12), hausdorff=True, **QUIET
    )
    trainer.train()
    assert set(trainer.test()) == {"loss", "dice", "iou", "hausdorff95"}
    assert np.load(trainer.run_dir / "test" / "masks" / "0.npy").shape == (8, 16, 16)
    assert (trainer.run_dir / "test" / "overlays" / "0.png").is_file()


def test_ignored_pixels_count_nowhere(tmp_path):
    images, masks = tensors(4).tensors
    ignored = masks.clone()
    ignored[:, :10] = 255
    found = []
    for junk in (0, 1):
        seen = images.clone()
        data = torch.utils.data.TensorDataset(seen, ignored if junk else ignored.clone())
        trainer = SegmentationTrainer(model=small_unet, valid=data, train=data, ignore_index=255, logdir=None, **QUIET)
        trainer.train()
        found.append(trainer.history[-1]["valid"])
    assert found[0] == found[1] and math.isfinite(found[0]["dice"])
    model = trainer.model.eval()
    with torch.no_grad():
        predicted = model(images)[:, 0] > 0
    there = ignored != 255
    true = (ignored == 1) & there
    both, total = (predicted & true).sum(), (predicted & there).sum() + true.sum()
    assert found[0]["dice"] == pytest.approx(float(2 * both / total))


# ---------------------------------------------------------------- losses


def batch(trainer):
    trainer.take_batch((0, next(iter(trainer.train_loader))))
    trainer.model.eval()
    return trainer.compute_loss(), trainer.outputs, trainer.targets


def built(model=small_unet, data=None, **options):
    data = tensors(4) if data is None else data
    return SegmentationTrainer(**{**QUIET, "model": model, "train": data, "logdir": None, **options})


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("dice_ce", "soft_ce")])
def test_every_loss_of_masks_by_its_name(name):
    loss, outputs, targets = batch(built(loss=name))
    kind = LOSSES[name]
    assert torch.equal(loss, kind("binary")(outputs, targets))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("dice_bce", "soft_bce")])
def test_every_loss_of_classes_by_its_name(name):
    data = tensors(4, classes=3)
    loss, outputs, targets = batch(built(lambda: small_unet(3), data, loss=name, classes=3))
    kind = LOSSES[name]
    assert torch.equal(loss, (kind() if name in ("dice_ce", "soft_ce") else kind("multiclass"))(outputs, targets))


def test_losses_by_name_object_and_several():
    assert len(LOSSES) == 13
    assert type(built().criterion) is DiceBCELoss
    assert type(built(lambda: small_unet(3), classes=3).criterion) is DiceCELoss
    own = TverskyLoss("binary", alpha=0.3, beta=0.7)
    assert built(loss=own).criterion is own
    loss, outputs, targets = batch(
        built(loss={"dice": "dice", "own": soft_bce}, loss_weights={"dice": 2.0, "own": 0.5})
    )
    expected = 2 * dice_loss(outputs, targets, "binary") + 0.5 * soft_bce_loss(outputs, targets, "binary")
    assert loss.item() == pytest.approx(expected.item())
    weighted = built(lambda: small_unet(3), classes=3, class_weights=[0.0, 1.0, 2.0], ignore_index=7, smoothing=0.1)
    criterion = weighted.criterion
    assert criterion.ignore_index == 7 and criterion.smoothing == 0.1 and criterion.class_weights.tolist() == [0, 1, 2]
    assert type(built(loss="lovasz").criterion) is LovaszLoss


def soft_bce(outputs, targets):
    return soft_bce_loss(outputs, targets, "binary")


def test_a_loss_that_is_not_there():
    with pytest.raises(ConfigError, match=r"loss='dise'. Did you mean 'dice'"):
        built(loss="dise")
    with pytest.raises(ConfigError, match=r"the loss 'lovasz' has no smoothing"):
        built(loss="lovasz", smoothing=0.1)


def test_deep_supervision_weighs_further_outputs_by_halves():
    trainer = built(lambda: small_unet(deep_supervision=True), loss="dice")
    trainer.take_batch((0, next(iter(trainer.train_loader))))
    trainer.model.train()
    loss = trainer.compute_loss()
    torch.manual_seed(0)
    outputs = trainer.model(trainer.inputs)
    assert len(outputs) > 1 and torch.equal(outputs[0], trainer.outputs)
    losses = [dice_loss(output, trainer.targets, "binary") for output in outputs]
    weights = [0.5**k for k in range(len(losses))]
    expected = sum(w * one for w, one in zip(weights, losses, strict=True)) / sum(weights)
    assert loss.item() == pytest.approx(expected.item())
    data = tensors(4)
    whole = built(lambda: small_unet(deep_supervision=True), valid=data)
    whole.train()
    assert whole.history[-1]["valid"]["dice"] >= 0


# ---------------------------------------------------------------- evaluation


def test_windows_and_flips_in_evaluation(tmp_path):
    data = folders(tmp_path, size=30)
    trainer = built(data=data, test=data, window=16, overlap=0.5, flips=True, batch_size=3)
    trainer.model.eval()
    images = torch.stack([data[k][0] for k in range(2)])
    expected = sliding_window(lambda w: flips(trainer.model, w, (-2, -1)), images, 16, overlap=0.5)
    assert torch.equal(next(trainer.predict(images)), expected)
    plain = built(data=data, flips=True)
    assert torch.equal(next(plain.predict(images)), flips(plain.model.eval(), images, (-2, -1)))


def test_images_of_different_sizes(tmp_path):
    train = folders(tmp_path, size=40).changed(patch=32)
    for number, size in enumerate((30, 41, 33)):
        folders(tmp_path / "more" / str(number), number=1, size=size)
        for kind in ("images", "masks"):
            (tmp_path / "sizes" / kind).mkdir(parents=True, exist_ok=True)
            where = tmp_path / "more" / str(number) / kind / "disc0.png"
            where.rename(tmp_path / "sizes" / kind / f"{number}.png")
    sizes = type(train)(tmp_path / "sizes" / "images", tmp_path / "sizes" / "masks")
    trainer = built(data=train, valid=sizes, test=sizes, window=32)
    trainer.train()
    assert trainer.test()["dice"] >= 0
    with pytest.raises(DataError, match=r"images of different sizes in one batch: .*write window=256"):
        built(data=train, valid=sizes).train()


def test_predict_images_writes_masks(tmp_path):
    data = folders(tmp_path, size=30)
    trainer = built(data=data, window=16)
    written = trainer.predict_images(tmp_path / "images", folder=tmp_path / "out")
    assert [path.name for path in written] == [f"disc{k}.png" for k in range(6)]
    trainer.model.eval()
    logits = sliding_window(trainer.model, data[2][0][None], 16)
    assert (np.asarray(Image.open(written[2])) == (logits[0, 0] > 0).numpy() * 255).all()
    assert trainer.predict_images([tmp_path / "images" / "disc1.png"], folder=tmp_path / "one")[0].is_file()
    (tmp_path / "images" / "broken.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"broken\.png"):
        trainer.predict_images(tmp_path / "images", folder=tmp_path / "out")
    with pytest.raises(ConfigError, match="no run folder"):
        trainer.predict_images(tmp_path / "images")


def test_predict_images_reads_them_as_the_data_set_does(tmp_path):
    data = folders(tmp_path, size=30)
    trainer = built(data=data, window=16)
    written = trainer.predict_images(tmp_path / "images", folder=tmp_path / "grey")
    colours = []
    for k in range(2):
        colours.append(tmp_path / f"colour{k}.png")
        Image.open(tmp_path / "images" / f"disc{k}.png").convert("RGB").save(colours[k])
    of_colours = trainer.predict_images(colours, folder=tmp_path / "colours")
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(of_colours, written, strict=False))
    np.save(tmp_path / "five.npy", np.zeros((30, 30, 5), np.uint8))
    with pytest.raises(DataError, match=r"five\.npy has 5 channels; expected 1"):
        trainer.predict_images(tmp_path / "five.npy", folder=tmp_path / "five")


# ---------------------------------------------------------------- parts and hooks


def test_every_part_by_override():
    class Own(SegmentationTrainer):
        def define_train_attr(self):
            self._num_epochs, self._monitor = 1, "loss"

        def define_log_attr(self):
            self._logdir, self._verbose = None, False

        def get_trainloader(self):
            self.train_loader = DataLoader(tensors(4), batch_size=2)
            self.valid_loader = DataLoader(tensors(3), batch_size=3)

        def get_testloader(self):
            self.test_loader = [tensors(3)[:3]]

        def build_model(self):
            self.model = small_unet()
            self.criterion = nn.BCEWithLogitsLoss()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

        def compute_loss(self):
            self.outputs = self.model(self.inputs)
            return self.criterion(self.outputs, self.targets[:, None].float())

    trainer = Own()
    trainer.train()
    assert len(trainer.history) == 1 and "dice" in trainer.history[0]["valid"]
    assert "dice" in trainer.test()


HOOKS = (
    *("on_train_start", "on_train_epoch_start", "on_end_training_batch", "on_train_epoch_end", "on_epoch_end"),
    *("on_evaluate_epoch_start", "on_evaluate_batch_end", "on_evaluate_epoch_end", "on_train_end"),
    *("on_test_start", "on_start_test_batch", "on_end_test_batch", "on_test_end"),
)


def test_an_override_of_a_hook_needs_no_super(tmp_path):
    """All of them empty: what is trained, measured and written stays the same."""
    data = folders(tmp_path)
    nothing = {name: lambda self: None for name in HOOKS}
    defines = ("data", "model", "train", "test", "log", "compute", "misc")
    nothing.update({f"define_{name}_attr": lambda self: None for name in defines})
    found = []
    for kind in (SegmentationTrainer, type("Empty", (SegmentationTrainer,), nothing)):
        trainer = kind(model=small_unet, train=data, valid=data, test=data, **QUIET)
        trainer.train()
        found.append(
            (trainer.history[-1]["valid"], trainer.test(), (trainer.run_dir / "test" / "images.csv").read_text())
        )
    assert found[0] == found[1]


class Triples(Dataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return (*self.pairs[index], float(index))


def test_a_test_gets_the_batches_of_the_data_set_where_hooks_take_them(tmp_path):
    class OfTriples(SegmentationTrainer):
        def take(self):
            self.inputs, self.targets, self.weight = self.batch

        def on_start_training_batch(self, item):
            self.take()

        def on_start_test_batch(self):
            self.take()

    class OfPairs(SegmentationTrainer):
        def test_step(self, item):
            index, (self.inputs, self.targets) = item
            self.loss = self.compute_loss()

    found = []
    for cls, data in ((SegmentationTrainer, tensors(6)), (OfTriples, Triples(tensors(6))), (OfPairs, tensors(6))):
        given = {**QUIET, "num_epochs": 1, "logdir": None, "results": tmp_path / cls.__name__}
        trainer = cls(model=small_unet, train=data, test=data, **given)
        trainer.train()
        found.append(trainer.test())
        assert len(list((tmp_path / cls.__name__ / "masks").iterdir())) == 6
    assert found[0] == found[1] == found[2]


def test_options_in_the_configuration():
    config = {
        "lr": 0.5,
        "batch_size": 2,
        "window": 16,
        "num_epochs": 3,
        "mine": "x",
        "classes": ["a", "b"],
        "verbose": False,
    }
    trainer = SegmentationTrainer(config, model=lambda: small_unet(2), train=tensors(4), lr=0.25, logdir=None)
    assert (trainer._lr, trainer._batch_size, trainer._window, trainer._num_epochs) == (0.25, 2, 16, 3)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.25 and trainer.config.mine == "x"
    assert trainer.class_names == ["a", "b"] and trainer.task == "multiclass"
    assert trainer.train_loader.batch_size == 2
    assert config["lr"] == 0.5  # the user's own


def test_options_are_written_down_with_the_run():
    trainer = built(logdir="runs", window=16)
    trainer.train()
    text = (trainer.run_dir / "config.yaml").read_text()
    assert "window: 16" in text and "batch_size: 4" in text


def test_define_methods_come_after_options():
    class Own(SegmentationTrainer):
        def define_train_attr(self):
            self._num_epochs, self._lr, self._window = 7, 0.125, 8

    trainer = Own(model=small_unet, train=tensors(4), logdir=None, **QUIET)
    assert (trainer._num_epochs, trainer._lr, trainer._window) == (7, 0.125, 8)


def test_optimizer_scheduler_and_callbacks():
    average = EMA(0.5)
    trainer = built(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1),
        callbacks=[average, Dice(loaders=("valid",), per_image=True)],
        valid=tensors(4),
    )
    assert average in trainer.callbacks
    assert [type(c).__name__ for c in trainer.callbacks].count("Dice") == 1
    trainer.train()
    assert trainer.history[-1]["lr"] == pytest.approx(0.05) and trainer.history[-1]["valid"]["dice"] >= 0
    assert average in built(callbacks=average).callbacks  # a single one, too


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_epoch": 3}, ConfigError, "num_epoch=, which is no option. Did you mean 'num_epochs'"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"lr": -1.0}, ConfigError, "lr is -1.0"),
        ({"num_epochs": "3"}, ConfigError, "num_epochs is"),
        ({"classes": 0}, ConfigError, "classes=0"),
        ({"classes": 3, "mode": "binary"}, ConfigError, "has 3 classes"),
        ({"mode": "multilabel"}, ConfigError, "has no classes"),
        ({"mode": "semantic"}, ConfigError, "mode='semantic'"),
        ({"model": None}, HookError, "has no model"),
        ({"train": "images"}, DataError, r"train='images'\) is a path"),
        ({"flips": 1}, ConfigError, "flips"),
        ({"window": 0}, ConfigError, "window is 0"),
        ({"window": [16, 0]}, ConfigError, "window is"),
        ({"overlap": 1}, ConfigError, "overlap is 1"),
        ({"smoothing": -0.1}, ConfigError, "smoothing is -0.1"),
        ({"model": "unet"}, ConfigError, r"model=...\) is a str; expected a function"),
        ({"optimizer": "adam"}, ConfigError, r"optimizer=...\) is a str; expected a function"),
        ({"optimizer": torch.optim.SGD(small_unet().parameters())}, ConfigError, r"optimizer=...\) is a SGD"),
        ({"optimizer": torch.optim.SGD, "lr": 0.1}, ConfigError, "lr would be ignored, as optimizer="),
        ({"scheduler": "cosine"}, ConfigError, r"scheduler=...\) is a str; expected a function"),
        ({"loss": torch.nn.BCEWithLogitsLoss}, ConfigError, "is the class BCEWithLogitsLoss; .*BCEWithLogitsLoss()"),
        ({"loss": {"a": "dice", "b": 3}}, ConfigError, "loss= is a int"),
        ({"loss": DiceBCELoss("binary"), "smoothing": 0.1}, ConfigError, "smoothing would be ignored, as loss="),
        ({"loss": dice_loss, "class_weights": torch.ones(1)}, ConfigError, "class_weights would be ignored"),
    ],
)
def test_what_is_not_allowed(options, error, message):
    with pytest.raises(error, match=message):
        SegmentationTrainer(**{"model": small_unet, "train": tensors(4), "logdir": None, **QUIET, **options})


def test_outputs_with_another_number_of_channels():
    with pytest.raises(HookError, match=r"outputs of the shape \(4, 3, 32, 32\); expected N x 1 x height"):
        built(lambda: small_unet(3)).train()


def test_without_evaluation_the_loss_decides():
    trainer = built()
    trainer.train()
    assert len(trainer.history) == 2


def test_masks_go_where_they_are_asked_for(tmp_path):
    data = folders(tmp_path)
    trainer = built(data=data, test=data, results=tmp_path / "there")
    trainer.train()
    trainer.test()
    assert (tmp_path / "there" / "masks" / "disc0.png").is_file() and (tmp_path / "there" / "images.csv").is_file()


def test_an_image_without_batch_is_no_surprise_to_one_batch_calls(tmp_path):
    trainer = built()
    images, masks = tensors(4)[:4]
    assert trainer.train_step((images, masks))["loss"] > 0
    assert trainer.val_step((images, masks))["prediction"].shape == (4, 1, 32, 32)
    assert F.sigmoid(next(trainer.predict(images))).shape == (4, 1, 32, 32)


def test_an_absent_class_is_said(tmp_path, capsys):
    data = folders(tmp_path, classes=3)
    options = {**QUIET, "verbose": True, "num_epochs": 1, "logdir": None}
    trainer = SegmentationTrainer(
        model=lambda: Constant([5.0, 0.0, 0.0, -5.0]),
        train=data,
        valid=data,
        classes=["0", "1", "2", "vein"],
        **options,
    )
    trainer.train()
    assert "absent from valid, neither true nor predicted: vein\n" in capsys.readouterr().out


def test_a_folder_tells_its_classes_and_what_is_ignored(tmp_path):
    data = folders(tmp_path, classes=3, ignore_index=2)
    trainer = built(lambda: small_unet(3), data=data)
    assert trainer.task == "multiclass" and len(trainer.class_names) == 3
    assert trainer.criterion.ignore_index == 2 and trainer.callbacks[0].ignore_index == 2
    subset = torch.utils.data.Subset(data, [0, 2])
    assert built(lambda: small_unet(3), data=subset).task == "multiclass"
    assert built(lambda: small_unet(3), data=data, ignore_index=7).criterion.ignore_index == 7
    assert built(data=data, classes=1).task == "binary"


def test_windows_and_a_model_in_shards():
    with pytest.raises(ConfigError, match="window=16 and strategy='fsdp'"):
        built(window=16, strategy="fsdp")
