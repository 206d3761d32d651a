"""Stand-ins for picture sets: small files in the layout of the hub's, drawn here."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fmbench.data import DATA, Data
from fmbench.data.pictures import Pictures

PUBLISHED = {  # column of the picture, side, channels, classes, held-out split
    "cifar10": ("img", 32, 3, 10, "test"),
    "mnist": ("image", 28, 1, 10, "test"),
    "fashion-mnist": ("image", 28, 1, 10, "test"),
    "imagenet-32": ("image", 32, 3, 1000, "validation"),
    "imagenet-64": ("image", 64, 3, 1000, "validation"),
}


def drawn(n: int, side: int, channels: int, seed: int) -> np.ndarray:
    """n different pictures `(n, side, side, channels)` uint8: a gradient, a disc and a little noise; black and white occur."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / (side - 1)
    pictures = []
    for _ in range(n):
        angle, cx, cy = rng.uniform(0, 2 * np.pi), *rng.uniform(0.2, 0.8, 2)
        base = (np.cos(angle) * x + np.sin(angle) * y)[..., None] + rng.uniform(-0.5, 0.5, channels)
        base = np.where(((x - cx) ** 2 + (y - cy) ** 2 < 0.05)[..., None], rng.uniform(-0.5, 1.5, channels), base)
        pictures.append(base + rng.normal(0, 0.05, base.shape))
    levels = np.clip(128 + 100 * np.tanh(np.stack(pictures) - 0.5), 0, 255).astype(np.uint8)
    levels[0, 0, 0], levels[0, -1, -1] = 0, 255
    return levels


def encoded(picture: np.ndarray, encoding: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, encoding)
    return file.getvalue()


def write_parquet(
    path: Path,
    pictures: np.ndarray,
    labels: list[int] | None,
    *,
    image: str = "img",
    classes: int = 10,
    encoding: str = "PNG",
    broken: int | None = None,
) -> None:
    """As the hub's files are: pictures as {bytes, path}, the features in the schema's metadata."""
    rows = [
        {"bytes": encoded(picture, encoding), "path": f"{k}.{encoding.lower()}"} for k, picture in enumerate(pictures)
    ]
    if broken is not None:
        rows[broken]["bytes"] = rows[broken]["bytes"][:40]
    columns: dict[str, pa.Array] = {image: pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    features: dict[str, dict] = {image: {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
        features["label"] = {"names": [f"class {k}" for k in range(classes)], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def write_published(folder: Path, name: str, n: tuple[int, int] = (60, 40), encoding: str = "PNG") -> None:
    """Both splits of a published set's stand-in as `<name>-train.parquet` and so on, labels in equal shares."""
    image, side, channels, classes, held_out = PUBLISHED[name]
    for seed, (split, count) in enumerate(zip(("train", held_out), n, strict=True)):
        write_parquet(
            folder / f"{name}-{split}.parquet",
            drawn(count, side, channels, seed),
            [k % min(classes, 10) for k in range(count)],
            image=image,
            classes=classes,
            encoding=encoding,
        )


@cache
def mirror() -> Path:
    """A mirror folder that holds every published set's stand-in; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="fmbench-mirror-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in PUBLISHED:
        write_published(folder / name if name == "cifar10" else folder, name)
    return folder


def stood_in(names: Iterable[str]) -> list[Data]:
    """The data sets of these names; those of pictures read stand-ins, and nothing is decoded yet."""
    found: list[Data] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMBENCH_DATA", str(mirror()))
        for name in names:
            own = {"path": str(mirror() / "cifar10"), "image": "img"} if name == "images" else {}
            found.append(DATA.build({"name": name, **own}))
            if isinstance(found[-1], Pictures):
                assert found[-1].source is not None
    return found
