"""`python -m farabio_like.upscale`: what every kind of file becomes, and that a call which was killed goes on."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from farabio_like import CheckpointError
from farabio_like.data.image_files import read_image
from farabio_like.inference import upscale
from farabio_like.models.superresolution import RRDBNet, SRResNet
from farabio_like.upscale import folders, load_network, upscale_folder
from farabio_like.upscale.__main__ import main
from farabio_like.upscale.pictures import read_picture

from ..conftest import ROOT


def network(scale=2):
    torch.manual_seed(0)
    return SRResNet(scale, blocks=1, features=8).requires_grad_(False)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(network().state_dict(), path)
    return path


def noise(*shape, kind=np.uint8, seed=0):
    top = {np.uint8: 256, np.uint16: 65536}[kind]
    return np.random.default_rng(seed).integers(0, top, shape).astype(kind)


def call(*arguments):
    return main([str(argument) for argument in arguments])


def made(tmp_path, name, image, **options):
    """Return the image that a file of another one becomes, and what the network makes of its pixels."""
    before = tmp_path / "in" / name
    before.parent.mkdir(exist_ok=True)
    image.save(before, **options)
    assert upscale_folder(network(), before.parent, tmp_path / "out").done == 1
    return Image.open(tmp_path / "out" / name)


# ---------------------------------------------------------------- kinds of files


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("mode", "channels"), [("L", ()), ("LA", (2,)), ("RGB", (3,)), ("RGBA", (4,))])
@pytest.mark.parametrize("size", [(1, 1), (7, 501), (20, 11)])
def test_modes_and_sizes_are_kept(suffix, mode, channels, size, tmp_path):
    array = noise(*size, *channels)
    found = made(tmp_path, f"a.{suffix}", Image.fromarray(array))
    assert found.mode == mode and found.size == (2 * size[1], 2 * size[0])
    assert np.array_equal(np.asarray(found), upscale(network(), array))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_are_kept(suffix, tmp_path):
    array = noise(9, 13, kind=np.uint16)
    found = made(tmp_path, f"a.{suffix}", Image.fromarray(array))
    assert found.mode == "I;16" and np.array_equal(np.asarray(found), upscale(network(), array))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_of_colours_are_kept(channels, tmp_path):
    pytest.importorskip("torchvision")
    array = noise(70, 13, channels, kind=np.uint16)
    with open(tmp_path / "a.png", "wb") as file:
        from farabio_like.upscale.pictures import Picture, write_picture

        write_picture(file, Picture(array), ".png")
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, array)
    upscale_folder(network(), tmp_path / "a.png", tmp_path / "out")
    found = read_picture(tmp_path / "out" / "a.png").pixels
    assert found.dtype == np.uint16 and np.array_equal(found, upscale(network(), array))
    with Image.open(tmp_path / "out" / "a.png") as image:  # others read it, too
        assert image.size == (26, 140)
        image.load()


def test_palettes_bits_and_colours_of_print_are_looked_up(tmp_path):
    array = noise(8, 9) % 3
    palette = Image.fromarray(array)
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]], np.uint8)[array]
    found = made(tmp_path, "a.png", palette)
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), upscale(network(), colours))
    transparent = made(tmp_path, "a.png", palette, transparency=1)
    assert transparent.mode == "RGBA"
    assert np.asarray(transparent)[..., 3].min() == 0 < np.asarray(transparent)[..., 3].max() == 255
    found = made(tmp_path, "a.png", Image.fromarray(array == 1))
    assert np.array_equal(np.asarray(found), upscale(network(), np.where(array == 1, 255, 0).astype(np.uint8)))
    assert made(tmp_path, "a.tif", Image.fromarray(noise(8, 9, 4), "CMYK")).mode == "RGB"
    assert made(tmp_path, "a.tif", Image.fromarray(np.float32(noise(8, 9) / 255))).mode == "F"


def test_a_photograph_is_turned_and_keeps_its_profile(tmp_path):
    image = Image.fromarray(noise(20, 30, 3))
    exif = image.getexif()
    exif[0x0112] = 6  # on its side
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("a.jpg", "a.png"):
        found = made(tmp_path, name, image, exif=exif, icc_profile=profile)
        assert found.size == (40, 60) and found.getexif().get(0x0112, 1) == 1
        assert found.info["icc_profile"] == profile
    expected = upscale(network(), noise(20, 30, 3).transpose(1, 0, 2)[:, ::-1])
    assert np.array_equal(np.asarray(found), expected)


# ---------------------------------------------------------------- folders


def some_images(folder):
    for number, name in enumerate(("a.png", "deep/b c.png", "deep/er/d.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20, 30, 3, seed=number)).save(folder / name)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_structure_and_names_are_kept(weights, tmp_path, capsys):
    some_images(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"no image")
    assert call(weights, tmp_path / "in", tmp_path / "out") == 0
    assert files_in(tmp_path / "out") == ["a.png", "deep/b c.png", "deep/er/d.jpg"]
    assert capsys.readouterr().out == f"3 images made: {tmp_path / 'out'}\n"
    expected = upscale(network(), noise(20, 30, 3))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)


def test_a_file_that_is_broken_is_named_and_the_others_are_done(weights, tmp_path, capsys):
    some_images(tmp_path / "in")
    whole = (tmp_path / "in" / "a.png").read_bytes()
    (tmp_path / "in" / "a.png").write_bytes(whole[: len(whole) // 2])
    assert call(weights, tmp_path / "in", tmp_path / "out") == 1
    found = capsys.readouterr()
    assert f"{tmp_path / 'in' / 'a.png'} (" in found.err and "2 images made, 1 failed" in found.out
    assert files_in(tmp_path / "out") == ["deep/b c.png", "deep/er/d.jpg"]


def test_what_is_whole_is_left_and_what_is_not_is_made_again(weights, tmp_path, capsys):
    some_images(tmp_path / "in")
    out = tmp_path / "out"
    assert call(weights, tmp_path / "in", out) == 0
    expected = {name: (out / name).read_bytes() for name in files_in(out)}
    kept = (out / "a.png").stat().st_mtime_ns
    (out / "deep" / "b c.png").write_bytes(expected["deep/b c.png"][:-200])  # cut off by somebody else
    (out / "deep" / "er" / "d.jpg").unlink()
    (out / "deep" / "er" / f".d.jpg.{2**22 + 1}.tmp").write_bytes(b"half")  # of a process that was killed
    assert call(weights, tmp_path / "in", out) == 0
    assert "2 images made, 1 were there already" in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in files_in(out)} == expected
    assert (out / "a.png").stat().st_mtime_ns == kept
    # Newer weights, or a newer image: it is made again.
    os.utime(tmp_path / "in" / "a.png", (time.time() + 60, time.time() + 60))
    assert call(weights, tmp_path / "in", out) == 0
    assert "1 images made, 2 were there already" in capsys.readouterr().out
    assert call(weights, tmp_path / "in", out, "--again") == 0
    assert "3 images made:" in capsys.readouterr().out
    other = network()
    torch.save({"generator": other.state_dict(), "discriminator": {}}, weights)
    os.utime(weights, (time.time() + 120, time.time() + 120))
    assert call(weights, tmp_path / "in", out) == 0
    assert "3 images made:" in capsys.readouterr().out


def test_nothing_is_left_of_an_image_that_was_being_written(weights, tmp_path, monkeypatch):
    some_images(tmp_path / "in")

    def interrupted(file, picture, suffix):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "write_picture", interrupted)
    assert call(weights, tmp_path / "in", tmp_path / "out") == 130
    assert files_in(tmp_path / "out") == []


def test_it_goes_on_where_it_was_killed(weights, tmp_path):
    for number in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise(100, 100, 3, seed=number)).save(tmp_path / "in" / f"{number}.png")
    command = [sys.executable, "-m", "farabio_like.upscale", *map(str, (weights, tmp_path / "in", tmp_path / "out"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--tile", "16"], env=environment)
    while process.poll() is None and not (tmp_path / "out" / "0.png").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert "0.png" in before
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert files_in(tmp_path / "out") == ["0.png", "1.png", "2.png"]
    for number in range(3):
        path = tmp_path / "out" / f"{number}.png"
        assert np.abs(np.asarray(Image.open(path)) - upscale(network(), noise(100, 100, 3, seed=number))).max() <= 1
        assert before.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def test_one_file_to_a_folder_and_to_a_file(weights, tmp_path):
    Image.fromarray(noise(8, 9, 3)).save(tmp_path / "a.png")
    assert call(weights, tmp_path / "a.png", tmp_path / "out") == 0
    assert call(weights, tmp_path / "a.png", tmp_path / "b.png", "--tile", 4, "--overlap", 9, "--device", "cpu") == 0
    assert torch.equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "b.png"))


def test_a_target_within_the_source_is_not_read_again(weights, tmp_path):
    some_images(tmp_path)
    for _ in range(2):
        assert call(weights, tmp_path, tmp_path / "out") == 0
    assert len(files_in(tmp_path / "out")) == 3


def test_mistakes_are_one_line_and_status_two(weights, tmp_path, capsys):
    some_images(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(weights.read_bytes()[:-100])
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "other.pth")
    for arguments, said in (
        ((tmp_path / "absent.pth", tmp_path / "in", tmp_path / "out"), "there is no file of weights"),
        ((tmp_path / "empty", tmp_path / "in", tmp_path / "out"), "has no weights of a run"),
        ((damaged, tmp_path / "in", tmp_path / "out"), "damaged.pth"),
        ((tmp_path / "other.pth", tmp_path / "in", tmp_path / "out"), "holds no weights of a network of"),
        ((weights, tmp_path / "absent", tmp_path / "out"), "there is no file or folder"),
        ((weights, tmp_path / "empty", tmp_path / "out"), "no image in"),
        ((weights, tmp_path / "in", tmp_path / "in"), "Write them to another folder"),
        ((weights, tmp_path / "in", weights), "is a file; expected a folder"),
        ((weights, weights, tmp_path / "out"), "is no image"),
        ((weights, tmp_path / "in", tmp_path / "out", "--tile", "0"), "tile=0"),
        ((weights, tmp_path / "in", tmp_path / "out", "--device", "gpu"), "gpu"),
    ):
        assert call(*arguments) == 2
        found = capsys.readouterr().err
        assert said in found and "Traceback" not in found and found.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "model",
    [
        SRResNet(3, blocks=2, features=8, residual_scale=0.5),
        RRDBNet(3, blocks=2, features=8, growth=4, channels=1, residual_scale=0.3),
        RRDBNet(8, blocks=1, features=8, growth=4),
    ],
)
def test_a_network_is_found_by_its_weights(model, tmp_path):
    images = torch.rand(1, model.channels, 8, 8)
    with torch.no_grad():
        expected = model(images)
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    torch.save({"discriminator": {"a": torch.zeros(1)}, "generator": model.state_dict()}, tmp_path / "several.pth")
    for name in ("plain.pth", "several.pth"):
        found, path = load_network(tmp_path / name)
        assert type(found) is type(model) and torch.equal(found(images), expected) and path.name == name
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "run" / "model.pth")
    assert torch.equal(load_network(tmp_path / "run")[0](images), expected)
    average = {name: 2 * value if value.is_floating_point() else value for name, value in model.state_dict().items()}
    checkpoint = {"format": 2, "model": {"generator": model.state_dict()}, "averages": {"EMA": {"generator": average}}}
    torch.save(checkpoint, tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert not torch.equal(load_network(tmp_path / "run")[0](images), expected)
    with pytest.raises(FileNotFoundError, match="There are runs in it: .*run"):
        load_network(tmp_path)


def test_weights_that_are_not_whole_are_named(tmp_path):
    state = network().state_dict()
    for name in ("blocks.0.body.0.weight", "upsampling.0.weight", "settings"):
        torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"weights\.pth"):
            load_network(tmp_path / "weights.pth")
    torch.save({**state, "settings": torch.tensor([8, 1_000_000])}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="settings say a scale of 8, and there are 1 steps of upsampling"):
        load_network(tmp_path / "weights.pth")


def test_the_command_of_farabio_like_is_the_same(weights, tmp_path, capsys):
    pytest.importorskip("typer")
    from farabio_like.cli.main import main as farabio_like

    some_images(tmp_path / "in")
    assert farabio_like(["upscale", str(weights), str(tmp_path / "in"), str(tmp_path / "out"), "--tile", "8"]) == 0
    assert len(files_in(tmp_path / "out")) == 3 and "3 images made" in capsys.readouterr().out
    assert farabio_like(["upscale", str(weights), str(tmp_path / "absent"), str(tmp_path / "out")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
