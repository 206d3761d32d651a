"""Samples from outside: read as they are, known by content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fmbench.data import DATA
from fmbench.errors import UserError
from fmbench.metrics.frechet import FDPixels
from fmbench.models import MODELS
from fmbench.models.base import Model

DIGITS = DATA.build("digits")


def given(folder: Any, **fields: Any) -> Model:
    return MODELS.build({"name": "samples", "folder": str(folder), **fields})


def write_pictures(folder: Path, n: int = 40) -> torch.Tensor:
    """Digits as a folder of PNGs: 17 grey levels on 0..255."""
    x = DIGITS.take("test", n, seed=1)
    folder.mkdir()
    for i, picture in enumerate(((x[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return x


def test_pictures_and_arrays_of_any_range_are_the_same_samples(tmp_path: Path) -> None:
    x = write_pictures(tmp_path / "png")
    levels = ((x + 1) * 127.5).round().numpy()
    np.save(tmp_path / "bytes.npy", levels.astype(np.uint8))
    np.savez(tmp_path / "last.npz", levels.astype(np.uint8).transpose(0, 2, 3, 1))  # (n, H, W, C)
    np.save(tmp_path / "unit.npy", levels / 255)
    np.save(tmp_path / "ours.npy", levels / 127.5 - 1)
    np.save(tmp_path / "floats.npy", levels)
    read = [given(tmp_path / name).samples(DIGITS) for name in ("png", "bytes.npy", "last.npz", "ours.npy")]
    read += [given(tmp_path / "unit.npy", images="0..1").samples(DIGITS)]
    read += [given(tmp_path / "floats.npy", images="0..255").samples(DIGITS)]
    for picture in (tmp_path / "png").iterdir():
        Image.open(picture).convert("RGBA").save(picture)  # nothing is seen through
    read += [given(tmp_path / "png").samples(DIGITS)]
    assert torch.allclose(read[0], x, atol=1 / 255)
    for other in read[1:]:
        assert other.dtype == torch.float32
        assert torch.allclose(other, read[0], atol=1e-6)


def test_the_row_is_the_metric_of_these_samples(
    tmp_path: Path, measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fd_pixels, computed by hand; metrics that need the flow are skipped with a reason; the floor stands beside."""
    x = write_pictures(tmp_path / "png")
    suite = {"suite": "given", "data": "digits", "flow": {"model": {"name": "samples", "folder": str(tmp_path / "png")}},
             "sample": {"n": 40}, "metrics": ["fd_pixels", "nfe", "solver_error", "transport_cost"]}  # fmt: skip
    table = measured(suite).set_index("metric")
    row = table[table["model"].str.startswith("samples")].loc["fd_pixels"]
    train = DIGITS.take("train", None)
    expected = FDPixels().distance(x.double().flatten(1), train.double().flatten(1))
    assert row["value"] == pytest.approx(expected.value, rel=1e-9)
    assert (row["method"], row["solver"], row["n"], row["model"]) == ("png", "given", 40, "samples[folder=png]")
    assert row[["path", "coupling", "seed", "nfe"]].isna().all()
    for name in ("nfe", "solver_error"):
        assert table.loc[name, "status"] == "skipped"
        assert "samples alone are given" in table.loc[name, "reason"]
    assert "transport_cost" not in table.index
    assert table[table["model"] == "data"].loc["fd_pixels", "value"] > 0


def test_content_is_the_identity(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    model = given(tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / "c")
    assert given(tmp_path / "c").identity() == model.identity()
    assert MODELS.build(given(tmp_path / "c").spec()) == given(tmp_path / "c")
    moved = given(tmp_path / "c")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "c" / "000.png")
    assert given(tmp_path / "c").identity() != model.identity()
    with pytest.raises(UserError, match="has changed since the run began"):
        moved.samples(DIGITS)


def big(folder: Path) -> Path:
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(folder / "big.png")
    return folder


def deep(folder: Path) -> Path:
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(folder / "deep.png")
    return folder


def transparent(folder: Path) -> Path:
    levels = np.full((8, 8, 4), 255, dtype=np.uint8)
    levels[0, 0, 3] = 254
    Image.fromarray(levels).save(folder / "seen_through.png")
    return folder


def text(folder: Path) -> Path:
    (folder / "a.png").write_text("no picture")
    return folder


def array(folder: Path, value: Any, name: str = "a.npy") -> Path:
    np.save(folder / name, value)
    return folder / name


def test_floats_of_another_range_than_they_are_taken_for_are_told(tmp_path: Path) -> None:
    """Read as −1..1, samples of 0..1 would be pale ones, and nothing would say so. What is declared is believed."""
    x = DIGITS.take("test", 40, seed=1).numpy()
    ranges = {"-1..1": x, "0..1": (x + 1) / 2, "0..255": (x + 1) * 127.5}
    for own, samples in ranges.items():
        file = array(tmp_path, samples)
        for declared in ranges:
            if declared == own or (own, declared) == ("0..1", "-1..1"):
                given(file, images=declared).samples(DIGITS)
                continue
            with pytest.raises(UserError, match=r"far outside|none of its numbers"):
                given(file, images=declared).samples(DIGITS)
    with pytest.raises(UserError, match=r"none of its numbers, 0 to 1, is negative.*--images 0\.\.1; -1\.\.1 if"):
        given(array(tmp_path, ranges["0..1"])).samples(DIGITS)
    few = np.where(np.arange(x.size).reshape(x.shape) % 200 == 0, 5.0, x)  # unclamped: half a percent far out
    given(array(tmp_path, few)).samples(DIGITS)
    bits = array(tmp_path, ranges["0..255"].astype(np.uint8))
    with pytest.raises(UserError, match=r"holds levels of 8 bits, which are 0\.\.255, not 0\.\.1: leave --images away"):
        given(bits, images="0..1").samples(DIGITS)
    same = [given(bits, images=declared).identity() for declared in (None, "-1..1")]
    assert same[0] == same[1], "keys of before"


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (lambda f: f / "none", "digits", "there is no such folder or file"),
        (lambda f: f, "digits", "holds no pictures"),
        (text, "digits", "cannot be read as a picture"),
        (big, "digits", "big.png is 8 × 9 pixels; this data has 8 × 8"),
        (deep, "digits", "deep.png is no 8-bit picture .mode I;16."),
        (transparent, "digits", r"seen_through\.png has pixels that are seen through .mode RGBA."),
        (
            lambda f: array(f, np.zeros((0, 1, 8, 8))),
            "digits",
            r"holds no samples: its array has the shape .0, 1, 8, 8.",
        ),
        (big, "moons", r"holds pictures; this data has shape \(2,\)"),
        (lambda f: array(f, np.zeros((3, 5))), "moons", r"holds float64 \(3, 5\); this data needs floats or uint8"),
        (lambda f: array(f, np.zeros((3, 2), dtype=int)), "moons", "holds int64"),
        (lambda f: array(f, np.array([{}, {}])), "moons", "cannot be read as an array"),
        (lambda f: array(f, np.full((3, 2), np.nan)), "moons", "not all of its numbers are finite"),
        (lambda f: array(f, np.full((3, 1, 8, 8), 200.0)), "digits", "far outside -1..1: declare the images' range"),
        (lambda f: big(f) / "big.png", "digits", "samples are a folder of pictures, or a .npy or .npz file"),
    ],
)
def test_mistakes(tmp_path: Path, make: Callable[[Path], Path], data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        given(make(tmp_path)).samples(DATA.build(data))
    with pytest.raises(UserError, match="needs its folder"):
        MODELS.build("samples").samples(DATA.build(data))
