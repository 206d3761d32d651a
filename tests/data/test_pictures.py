"""Sets of pictures: where they are found, what their content says, and that they are decoded once, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pictures import drawn, encoded, write_parquet, write_published
from PIL import Image
from pyarrow import parquet

from fmbench.data import DATA, base, decoded
from fmbench.data.pictures import Pictures
from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.times import TIMES
from fmbench.models import MODELS
from fmbench.randomness import generator
from fmbench.stages.flow import FlowSpec, TrainSettings
from fmbench.stages.minibatches import minibatches

CIFAR = drawn(60, 32, 3, seed=0)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty mirror folder, named by FMBENCH_DATA."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("FMBENCH_DATA", str(folder))
    return folder


def prepared(spec: object) -> Pictures:
    data = DATA.build(spec)
    data.prepare()
    assert isinstance(data, Pictures)
    return data


@pytest.mark.parametrize("place", [".", "cifar10", "uoft-cs/cifar10", "uoft-cs/cifar10/plain_text"])
def test_a_mirror_is_the_folder_itself_or_one_below(mirror: Path, place: str) -> None:
    write_published(mirror / place, "cifar10")
    write_published(mirror, "mnist")
    data = prepared("cifar10")
    assert (data.size("train"), data.size("test"), data.shape, data.classes) == (60, 40, (3, 32, 32), 10)


def test_a_folder_called_like_the_set_needs_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, n in (("train", 20), ("test", 10)):
        write_parquet(
            tmp_path / "cifar10" / f"{split}-00000-of-00001.parquet", drawn(n, 32, 3, n), [k % 10 for k in range(n)]
        )
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path / "cifar10"))
    assert prepared("cifar10").size("train") == 20
    with pytest.raises(UserError, match="'mnist' is not on this machine"):
        prepared("mnist")


def test_the_pixels_are_those_of_the_files(mirror: Path) -> None:
    write_published(mirror, "cifar10")
    data = prepared({"name": "cifar10", "flip": False})
    x = data.take("train", None)
    levels = torch.as_tensor(CIFAR.transpose(0, 3, 1, 2).copy())
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8), levels)
    assert torch.equal(data.arrays("train")[0], levels)
    assert torch.equal(data.take_labels("train", None), torch.arange(60) % 10)
    every = x.double()
    assert data.moments() == pytest.approx(
        (every.mean().item(), every.flatten(1).var(0).mean().sqrt().item()), abs=1e-6
    )
    assert x.min() == -1
    assert x.max() == 1


def test_the_content_decides_the_label_and_the_key_and_the_place_does_not(tmp_path: Path) -> None:
    def found(name: str, encoding: str, n: int = 60) -> Pictures:
        write_published(tmp_path / name, "cifar10", (n, 40), encoding)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FMBENCH_DATA", str(tmp_path / name))
            patch.setattr("fmbench.data.pictures.CIFAR10.count", 60)
            data = DATA.build("cifar10")
            assert data.label()
            return data

    png, again, jpeg, less = found("a", "PNG"), found("b", "PNG"), found("c", "JPEG"), found("d", "PNG", n=59)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmbench.data.pictures.CIFAR10.count", 60)
        assert [data.label() for data in (png, again, jpeg, less)] == [
            "cifar10",
            "cifar10",
            "cifar10-jpeg",
            "cifar10-part",
        ]
    assert DATA.build(png.spec()) == png == again == jpeg, "what a suite says is the same"
    assert png.identity() == again.identity()
    assert len({str(data.identity()) for data in (png, jpeg, less)}) == 3
    assert len(png.identity()["sha256"]) == 64


def test_without_its_files_a_set_can_be_planned_and_not_prepared(mirror: Path) -> None:
    data = DATA.build("cifar10")
    assert (data.shape, data.classes, data.label(), data.levels) == ((3, 32, 32), 10, "cifar10", 256)
    assert data.identity()["sha256"] is None
    with pytest.raises(
        UserError,
        match=r"'cifar10' is not on .*: looked in .*mirror.*HF_HUB_OFFLINE.*hf download uoft-cs/cifar10",
    ):
        data.prepare()


def test_what_cannot_be_found_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"someone/cats.*no mirror folder|someone/cats' is not on this machine"):
        prepared({"name": "images", "path": "someone/cats"})
    with pytest.raises(UserError, match=r"'nowhere' is not on this machine.*names no data set of the hub"):
        prepared({"name": "images", "path": "nowhere"})
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"FMBENCH_DATA .* no such folder"):
        prepared("cifar10")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"image": "img", "label": "labels"}, "no column 'labels'.*img, label"),
        ({}, "no column 'image'"),
        ({"image": "img", "held_out": "validation"}, "holds no validation files .*1 of test, 1 of train"),
        ({"image": "img", "colour": 1}, "unknown key 'colour'.*label"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(tmp_path: Path, spec: dict, message: str) -> None:
    write_published(tmp_path, "cifar10")
    with pytest.raises(UserError, match=message):
        prepared({"name": "images", "path": str(tmp_path), **spec})


def test_a_copy_of_something_else_is_refused(mirror: Path) -> None:
    for split in ("train", "test"):
        write_parquet(mirror / f"cifar10-{split}.parquet", drawn(10, 28, 1, 0), list(range(10)))
    with pytest.raises(UserError, match=r"no copy of 'cifar10': .* \(1, 28, 28\)"):
        prepared("cifar10")
    labels = [k % 10 for k in range(60)]
    for split in ("train", "test"):
        write_parquet(mirror / f"cifar10-{split}.parquet", CIFAR, labels, classes=11)
    with pytest.raises(UserError, match=r"\(3, 32, 32\) in 11 classes, encoded as PNG; expected .* in 10 classes"):
        prepared("cifar10")


def test_a_copy_of_two_encodings_is_refused(mirror: Path) -> None:
    """Its name could say one of them alone."""
    write_published(mirror, "cifar10")
    rows = parquet.read_table(mirror / "cifar10-test.parquet")
    pictures = rows["img"].to_pylist()
    pictures[3] = {"bytes": encoded(CIFAR[3], "JPEG"), "path": "3.jpeg"}
    mixed = rows.set_column(0, rows.schema.field("img"), pa.array(pictures, rows.schema.field("img").type))
    parquet.write_table(mixed, mirror / "cifar10-test.parquet")
    with pytest.raises(UserError, match=r"its test pictures .* encoded as PNG, JPEG; expected .* one encoding"):
        prepared("cifar10")


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    """Classes are folders; pictures of several sizes need a resolution, of which the central square is taken."""
    for split, n in (("train", 6), ("test", 3)):
        for label in ("cat", "dog"):
            for k in range(n):
                picture = np.full((20 + 4 * k, 24, 3), 40 * (label == "dog") + k, dtype=np.uint8)
                picture[:, :2] = 255  # outside the central square of the low ones
                path = tmp_path / split / label / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(picture))
    spec = {"name": "images", "path": str(tmp_path)}
    with pytest.raises(
        UserError, match=r"has shape \(3, 24, 24\), the first \(3, 20, 24\): give the data set a resolution"
    ):
        prepared(spec)
    data = prepared({**spec, "resolution": 8})
    assert (data.shape, data.classes, data.size("train"), data.size("test")) == ((3, 8, 8), 2, 12, 6)
    stored, label = data.arrays("train")
    assert label is not None
    assert label.tolist() == [0] * 6 + [1] * 6
    assert stored[0].unique().tolist() == [0]
    assert data.label() == f"images[{tmp_path.name}#{data.identity()['sha256'][:6]},resolution=8]"
    assert prepared({**spec, "resolution": 8, "label": None}).classes is None
    shutil.copytree(tmp_path / "train", tmp_path / "copy" / "train")
    shutil.copytree(tmp_path / "test", tmp_path / "copy" / "test")
    copy = DATA.build({**spec, "path": str(tmp_path / "copy"), "resolution": 8})
    assert copy.identity() == data.identity(), "wherever it lies"
    mirrored = DATA.build({**spec, "flip": True})
    assert mirrored.label().endswith(",flip=True]")
    assert mirrored.identity() != DATA.build(spec).identity()


def test_what_is_made_smaller_is_filtered_by_lanczos() -> None:
    """A fine chessboard becomes grey, where nearest neighbours keep black and white."""
    board = np.tile(255 * np.eye(2, dtype=np.uint8), (16, 16))[..., None]
    pixels, _ = decoded._pixels(encoded(board), decoded.Reading(resolution=8), "board")
    assert abs(pixels.astype(int) - 127.5).max() < 10
    picture = drawn(1, 32, 3, 0)[0]
    pixels, _ = decoded._pixels(encoded(picture), decoded.Reading(resolution=12), "picture")
    expected = np.asarray(Image.fromarray(picture).resize((12, 12), Image.Resampling.LANCZOS))
    assert np.array_equal(pixels, expected.transpose(2, 0, 1))


def place(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture))


def test_pictures_beside_each_other_have_no_labels(tmp_path: Path) -> None:
    """The folders of the splits are no classes, and one class is none."""
    for k, picture in enumerate(drawn(6, 8, 3, 0)):
        for split in ("train", "test"):
            place(tmp_path / "flat" / split / f"{k}.png", picture)
            place(tmp_path / "one" / split / "cat" / f"{k}.png", picture)
            place(tmp_path / "two" / split / ("cat", "dog")[k % 2 if split == "test" else 0] / f"{k}.png", picture)
            place(tmp_path / "deep" / split / ("cat", "cat/young")[k % 2] / f"{k}.png", picture)
    two = ("two", 2, [0, 0, 0, 1, 1, 1])
    for name, classes, labels in (("flat", None, None), ("one", None, None), two, ("deep", None, None)):
        data = prepared({"name": "images", "path": str(tmp_path / name)})
        assert data.classes == classes, name
        found = data.arrays("test")[1]
        assert (None if found is None else found.tolist()) == labels
        assert data.size("train") == 6


def test_grey_pictures_among_coloured_ones_need_channels(tmp_path: Path) -> None:
    colour, grey = drawn(4, 8, 3, 0), drawn(4, 8, 1, 1)
    for k in range(4):
        for split in ("train", "test"):
            place(tmp_path / "mixed" / split / f"{k}.png", grey[k] if k == 2 else colour[k])
        place(tmp_path / "apart" / "train" / f"{k}.png", colour[k])
        place(tmp_path / "apart" / "test" / f"{k}.png", grey[k])
    mixed, apart = ({"name": "images", "path": str(tmp_path / name)} for name in ("mixed", "apart"))
    with pytest.raises(UserError, match=r"picture 2 .* \(1, 8, 8\), the first \(3, 8, 8\): .* channels, 1 or 3"):
        prepared(mixed)
    with pytest.raises(UserError, match=r"training pictures .* \(3, 8, 8\), held-out ones of \(1, 8, 8\)"):
        prepared(apart)
    data = prepared({**mixed, "channels": 3})
    stored, _ = data.arrays("train")
    assert torch.equal(stored[2], torch.as_tensor(grey[2]).permute(2, 0, 1).expand(3, -1, -1))
    assert torch.equal(stored[0], torch.as_tensor(colour[0]).permute(2, 0, 1))
    assert "channels=3" in data.label()
    assert prepared({**apart, "channels": 1}).shape == (1, 8, 8)
    assert "channels" not in DATA.build(mixed).identity(), "what was computed before keeps its key"


PICTURE = {"bytes": encoded(drawn(1, 8, 3, 0)[0]), "path": None}


@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    [
        ([PICTURE] * 3, ["a", "b", "a"], r"\(train\): column 'label' holds string, labels are whole numbers"),
        ([PICTURE] * 3, [0.5, 1.0, 0.0], "column 'label' holds float64"),
        ([PICTURE] * 3, [[0], [1], [0]], "column 'label' holds a list"),
        ([PICTURE] * 3, [0, None, 1], "column 'label' has empty places"),
        ([PICTURE] * 3, [0, -1, 1], r"\(train\): labels run from -1 to 1, valid are 0 to 1"),
        ([PICTURE], [0], "holds 1 train pictures: at least two are needed"),
        ([PICTURE, None, PICTURE], [0, 1, 0], r"picture 1 of .* is no encoded picture"),
        ([1, 2, 3], [0, 1, 0], "cannot be read, damaged or of another kind"),
    ],
)
def test_columns_that_are_not_what_they_should_be(tmp_path: Path, pictures: list, labels: list, message: str) -> None:
    for split in ("train", "test"):
        parquet.write_table(pa.table({"image": pictures, "label": labels}), tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=message):
        prepared({"name": "images", "path": str(tmp_path)})


def test_a_column_of_plain_bytes_holds_pictures(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table = pa.table({"image": [PICTURE["bytes"]] * 3, "label": pa.array([0, 1, 0], pa.uint8())})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    data = prepared({"name": "images", "path": str(tmp_path)})
    assert (data.label()[:6], data.shape, data.classes) == ("images", (3, 8, 8), 2)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("where", ["page", "footer"])
def test_a_damaged_parquet_file_is_named(mirror: Path, split: str, where: str) -> None:
    write_published(mirror, "cifar10")
    file = mirror / f"cifar10-{split}.parquet"
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-100] if where == "footer" else b"PAR1" + b"\xab" * 3000 + content[3004:])
    with pytest.raises(UserError, match=rf"mirror \({split}\) cannot be read, damaged"):
        prepared("cifar10").label()


def test_flips_are_of_training_samples_and_of_the_generator_alone(mirror: Path) -> None:
    write_published(mirror, "cifar10")
    data, plain = (prepared({"name": "cifar10", "flip": flip}) for flip in (True, False))
    assert data.label() == "cifar10-part", "as published recipes do"
    assert plain.label() == "cifar10-part[flip=False]"
    x, _ = data.draw(400, generator("a"))
    same, _ = plain.draw(400, generator("a"))
    mirrored = (x == same.flip(-1)).flatten(1).all(1)
    assert (mirrored | (x == same).flatten(1).all(1)).all()
    assert abs(mirrored.double().mean().item() - 0.5) < 4 * 0.5 / 20
    assert torch.equal(data.draw(400, generator("a"))[0], x)
    assert torch.equal(data.draw_on("cpu", 400, generator("a"))[0], x)
    assert torch.equal(data.take("train", None), plain.take("train", None))
    assert data.moments() == plain.moments()


@pytest.mark.parametrize("free", [10**9, 10])
def test_a_set_that_lives_on_another_device_gives_the_same_draws(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """`cpu:0` stands in for a GPU, with room for the set or without."""
    write_published(mirror, "cifar10")
    data = prepared("cifar10")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(base, "_RESIDENT", {})
    x, label = data.draw(300, generator("a"))
    there, its_label = data.draw_on("cpu:0", 300, generator("a"))
    assert torch.equal(there, x)
    assert torch.equal(its_label, label)
    assert len(base._RESIDENT) == (free > 1000)
    flow = FlowSpec(
        data=data, source=DATA.build({"name": "normal", "dims": data.shape}), path=PATHS.build("rectified"),
        coupling=COUPLINGS.build("independent"), prediction="velocity", times=TIMES.build("uniform"),
        model=MODELS.build("unet"), train=TrainSettings(samples=64, batch=16), seed=3,
    )  # fmt: skip
    here, there = (list(minibatches([flow], 0, 4, 0.5, device=device)) for device in ("cpu", "cpu:0"))
    for (_, one), (_, other) in zip(here, there, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def files_of(cache: Path) -> dict[str, Path]:
    return {json.loads(path.read_bytes())["source"]["split"]: path.parent for path in cache.rglob("record.json")}


def test_it_is_decoded_once(mirror: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_published(mirror, "cifar10")
    prepared("cifar10")
    monkeypatch.setattr(decoded, "_decode", None)  # would fail
    prepared("cifar10")
    decoded._mapped.cache_clear()
    assert len(prepared({"name": "cifar10", "flip": False}).take("test", None)) == 40
    assert set(files_of(cache)) == {"train", "test"}


@pytest.mark.parametrize("damage", [b"", b"x" * 60 * 3 * 32 * 32])
def test_a_damaged_array_is_decoded_again(mirror: Path, cache: Path, damage: bytes) -> None:
    write_published(mirror, "cifar10")
    before = prepared("cifar10").take("train", None)
    (files_of(cache)["train"] / decoded.PIXELS).write_bytes(damage)  # while it is mapped
    assert torch.equal(prepared("cifar10").take("train", None), before)


def test_a_broken_picture_is_named(mirror: Path, cache: Path) -> None:
    rows = drawn(20, 32, 3, 0)
    write_published(mirror, "cifar10")
    write_parquet(mirror / "cifar10-test.parquet", rows, [k % 10 for k in range(20)], broken=13)
    with pytest.raises(UserError, match=r"picture 13 of .*mirror \(test\) cannot be read"):
        prepared("cifar10")
    assert set(files_of(cache)) == {"train"}


def test_an_interrupted_decoding_leaves_nothing_that_looks_whole(
    mirror: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_published(mirror, "cifar10")
    read, count = decoded._pixels, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 30:
            raise KeyboardInterrupt
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "_pixels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepared("cifar10")
    assert not files_of(cache)
    assert prepared("cifar10").size("train") == 60


SLOWLY = """
import sys, time
from fmbench.data import DATA, base, decoded
decode, pixels = decoded._decode, decoded._pixels
def told(*arguments):
    print("decoding", flush=True)
    decode(*arguments)
def slow(*arguments):
    time.sleep(float(sys.argv[1]))
    return pixels(*arguments)
decoded._decode, decoded._pixels = told, slow
data = DATA.build("cifar10")
data.prepare()
print("ready", len(data.take("train", None)), len(data.take("test", None)), flush=True)
"""


def decoding(pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    )


@pytest.mark.slow
def test_two_processes_decode_once_and_a_killed_one_leaves_nothing_that_looks_whole(mirror: Path, cache: Path) -> None:
    write_published(mirror, "cifar10")
    killed = decoding(0.05)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "decoding\n"
    time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert not files_of(cache)
    told = [process.communicate()[0].splitlines() for process in [decoding(0.002), decoding(0.002)]]
    assert sorted(line for lines in told for line in lines) == ["decoding", "decoding", "ready 60 40", "ready 60 40"]


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (6, 4)], ids=["grey", "RGB", "RGBA"])
def test_16_bits_are_not_cut_to_8_in_silence(kind: int, channels: int) -> None:
    """Pillow opens a colour PNG of 16 bits in a mode of 8."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = (b"\0" + bytes(range(8 * channels))) * 4  # 4 pixels, two bytes a channel
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0))
    file += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(UserError, match="it is no 8-bit picture"):
        decoded._pixels(file, decoded.Reading(), "it")


def test_transparency_is_not_dropped_in_silence(mirror: Path) -> None:
    """An opaque fourth channel says nothing; one that is seen through, of a colour or in a palette, would."""
    opaque = np.concatenate([CIFAR, np.full_like(CIFAR[..., :1], 255)], axis=-1)
    for split, pictures in (("train", opaque[:30]), ("test", CIFAR[30:])):
        write_parquet(mirror / "own" / f"{split}.parquet", pictures, None, image="image")
    data = prepared({"name": "images", "path": "own", "label": None})
    assert torch.equal(data.arrays("train")[0], torch.from_numpy(CIFAR[:30].transpose(0, 3, 1, 2)))
    opaque[7, 3, 3, 3] = 254
    write_parquet(mirror / "own" / "train.parquet", opaque[:30], None, image="image")
    with pytest.raises(UserError, match=r"picture 7 of .*own .train. has pixels that are seen through .mode RGBA."):
        prepared({"name": "images", "path": "own", "label": None})
    palette = Image.fromarray(CIFAR[0]).quantize(8)
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    palette.save(file := io.BytesIO(), "PNG", transparency=palette.info["transparency"])
    with pytest.raises(UserError, match=r"seen through .mode P., and"):
        decoded._pixels(file.getvalue(), decoded.Reading(), "it")
    palette.save(file := io.BytesIO(), "PNG", transparency=bytes([255] * 8))  # all opaque: Pillow warned of it
    pixels, _ = decoded._pixels(file.getvalue(), decoded.Reading(), "it")
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(palette.convert("RGBA"))[..., :3])
