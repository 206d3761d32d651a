"""Pictures as one array of bytes: decoded once, kept in the cache, memory-mapped ever after.

This is the second place beside `store` that writes to the cache: data sets stand below the store, and an array that is read
by place cannot be an artefact that is read whole. A decoded split is a folder of `pixels.u8`, `labels.i64` and, written last,
`record.json`: what is killed half-way leaves no record and is decoded again. One process decodes, the others wait.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ..disk import cache_folder, write_atomically, writing
from ..errors import UserError
from ..identity import canonical
from ..registry import changed
from .opaque import opaque
from .sources import Source

VERSION = 2  # of the decoding: raise it when the bytes change, or what is refused
BLOCK = 1000  # pictures in memory at a time
PIXELS, LABELS, RECORD = "pixels.u8", "labels.i64", "record.json"


@dataclass(frozen=True)
class Reading:
    """Which columns of a parquet file are the picture and its label; what side and channels pictures are brought to."""

    image: str = "image"
    label: str | None = "label"
    resolution: int | None = None
    channels: int | None = None

    def identity(self) -> dict[str, Any]:
        return changed(vars(self), {"channels": None})


@dataclass(frozen=True)
class Decoded:
    """One split. The tensors are maps of files: do not write into them."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor | None  # (N,) int64
    facts: dict[str, Any]  # classes, encodings, mean and std of the pixels in levels, sha256 of the files


@dataclass(frozen=True)
class Glance:
    """What a set tells before it is decoded."""

    encoding: str  # of the first training picture, as pillow names it: PNG, JPEG, …
    shape: tuple[int, int, int]  # (C, H, W)
    count: int  # of training pictures


def glance(source: Source, reading: Reading) -> Glance:
    """Looks at the first training picture alone."""
    files = source.files["train"]
    if source.kind == "pictures":
        first, count = files[0].read_bytes(), len(files)
    else:
        from pyarrow import parquet

        with _readable(f"{source.folder} (train)"):
            count = sum(parquet.read_metadata(file).num_rows for file in files)
            with parquet.ParquetFile(files[0]) as file:
                _require(source, reading.image, file.schema_arrow.names)
                rows = next(file.iter_batches(1, columns=[reading.image]), None)
        if not count or rows is None:
            raise UserError(f"{files[0]} holds no picture")
        first = _content(rows.column(0)[0].as_py(), str(files[0]))
    pixels, encoding = _pixels(first, reading, str(files[0]))
    return Glance(encoding, (pixels.shape[0], pixels.shape[1], pixels.shape[2]), count)


def decoded(source: Source, split: str, reading: Reading, *, verify: bool = False) -> Decoded:
    """The decoded split from the cache; decoded into it first where it is not there.

    Args:
        verify: also compares the files with the checksums of their record, and decodes damaged ones again.

    Raises:
        UserError: a picture cannot be read or is of another size than the first; (WriteError) the disk is full.
    """
    identity = {"version": VERSION, "sha256": source.digests[split], **reading.identity()}
    if source.kind == "pictures":  # the folders of both splits number the classes
        identity |= {"both": source.digest}
    folder = cache_folder() / "decoded" / hashlib.sha256(canonical(identity)).hexdigest()[:16]
    if not _sound(folder, verify):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not _sound(folder, verify):
                _decode(folder, source, split, reading)
    return _mapped(folder)


@lru_cache(maxsize=8)
def _mapped(folder: Path) -> Decoded:
    facts = json.loads((folder / RECORD).read_bytes())
    n, shape = facts["n"], facts["shape"]
    pixels = torch.from_file(str(folder / PIXELS), size=n * int(np.prod(shape)), dtype=torch.uint8)
    labels = None
    if facts["classes"] is not None:
        labels = torch.from_file(str(folder / LABELS), size=n, dtype=torch.int64)
    return Decoded(pixels.reshape(n, *shape), labels, facts)


def _sound(folder: Path, verify: bool) -> bool:
    """Whether the folder's files are as its record says: their sizes, and with `verify` their checksums."""
    try:
        facts = json.loads((folder / RECORD).read_bytes())
        for name, (size, digest) in facts["files"].items():
            if (folder / name).stat().st_size != size or (verify and _sha256(folder / name) != digest):
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode(folder: Path, source: Source, split: str, reading: Reading) -> None:
    """Writes the split's files, the record last."""
    shape: tuple[int, ...] | None = None
    encodings: Counter[str] = Counter()
    labels: list[int] = []
    n, total, squares = 0, np.zeros(()), np.zeros(())
    rows = _Rows.of(source, split, reading)
    _mapped.cache_clear()
    with writing(folder), (folder / f".{PIXELS}").open("wb") as file:
        for contents, numbers in rows:
            block: list[np.ndarray] = []
            for content in contents:
                place = f"picture {n + len(block)} of {source.folder} ({split})"
                pixels, encoding = _pixels(_content(content, place), reading, place)
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    cure = "channels, 1 or 3" if pixels.shape[0] != shape[0] else "a resolution, such as 64"
                    raise UserError(f"{place} has shape {pixels.shape}, the first {shape}: give the data set {cure}")
                block.append(pixels)
                encodings[encoding] += 1
            stack = np.stack(block)
            file.write(stack.tobytes())
            n, labels = n + len(block), labels + list(numbers)
            whole = stack.astype(np.int64)  # sums of whole numbers: exact, whatever the order
            total, squares = total + whole.sum(0), squares + (whole**2).sum(0)
        file.flush()
        os.fsync(file.fileno())
    if n < 2 or shape is None:
        raise UserError(f"{source.folder} holds {n} {split} pictures: at least two are needed")
    with writing(folder):
        os.replace(folder / f".{PIXELS}", folder / PIXELS)
    write_atomically(folder / LABELS, np.array(labels, dtype=np.int64).tobytes(), durable=True)
    classes = None if rows.label is None else rows.classes or max(labels) + 1
    if labels and not 0 <= min(labels) <= max(labels) < (classes or 1):
        raise UserError(
            f"{source.folder} ({split}): labels run from {min(labels)} to {max(labels)}, valid are 0 to {(classes or 1) - 1}"
        )
    variance = (squares - total.astype(np.float64) ** 2 / n) / (n - 1)
    facts = {
        "n": n,
        "shape": list(shape),
        "classes": classes,
        "encodings": dict(encodings),
        "mean": float(total.sum() / (n * total.size)),
        "std": float(np.sqrt(variance.mean())),
        "files": {name: [(folder / name).stat().st_size, _sha256(folder / name)] for name in (PIXELS, LABELS)},
        "source": {"sha256": source.digests[split], "split": split, **reading.identity(), "version": VERSION},
    }
    write_atomically(folder / RECORD, json.dumps(facts, indent=1).encode(), durable=True)


@dataclass(frozen=True)
class _Rows:
    """A split, read in blocks by Hugging Face datasets: the encoded pictures, and their labels where there are any."""

    place: str
    rows: Any  # datasets.IterableDataset
    image: str
    label: str | None
    classes: int | None  # where the files name them

    @classmethod
    def of(cls, source: Source, split: str, reading: Reading) -> _Rows:
        import datasets

        place = f"{source.folder} ({split})"
        files = {name: [str(path) for path in paths] for name, paths in source.files.items()}
        image, label = reading.image, reading.label
        if source.kind == "pictures":
            image, label = "image", "label" if reading.label and _in_classes(source) else None
            # Told, not guessed: datasets takes the folders of the splits themselves for classes of the second split alone.
            rows = datasets.load_dataset(
                "imagefolder", data_files=files, split=split, streaming=True, drop_labels=label is None
            )
        else:
            with _readable(place):
                rows = datasets.load_dataset("parquet", data_files=files, split=split, streaming=True)
        for column in (image, label):
            if column is not None:
                _require(source, column, list(rows.features))
        kind = "no label" if label is None else getattr(rows.features[label], "dtype", "a list")
        if label is not None and not kind.startswith(("int", "uint")):
            raise UserError(
                f"{place}: column '{label}' holds {kind}, labels are whole numbers from 0 on. Name another "
                "column, or do without: data: {name: images, path: …, label: null}"
            )
        classes = getattr(rows.features.get(label), "num_classes", None)
        rows = rows.select_columns([image, label] if label else [image])
        return cls(place, rows.cast_column(image, datasets.Image(decode=False)), image, label, classes)

    def __iter__(self) -> Iterator[tuple[list[Any], list[int]]]:
        with _readable(self.place):
            for block in self.rows.iter(BLOCK):
                labels = block[self.label] if self.label else []
                if None in labels:
                    raise UserError(
                        f"{self.place}: column '{self.label}' has empty places. Do without labels: "
                        "data: {name: images, path: …, label: null}"
                    )
                yield block[self.image], labels


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """What is wrong with a file, which pyarrow says by errors of its own and by OSError, is the user's to mend."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise UserError(f"{place} cannot be read, damaged or of another kind: {' '.join(str(error).split())}") from None


def _in_classes(source: Source) -> bool:
    """Whether pictures lie in several folders of one level, whose names are their classes."""
    folders = [{path.parent for path in paths} for paths in source.files.values()]
    depths = {len(folder.parts) for split in folders for folder in split}
    return len(depths) == 1 and any(len(split) > 1 for split in folders)


def _content(cell: Any, place: str) -> bytes:
    """The encoded picture in a cell of a column: `{bytes, path}`, as datasets stores them, or the bytes alone."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or (Path(cell["path"]).read_bytes() if cell.get("path") else None)
    if not isinstance(cell, bytes):
        raise UserError(f"{place} is no encoded picture (but {type(cell).__name__}): is this the column of pictures?")
    return cell


def _require(source: Source, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise UserError(
            f"{source.folder} has no column '{column}'. It has: {', '.join(columns)}. Say which hold the picture and its label: "
            "data: {name: images, path: …, image: …, label: …}"
        )


def _pixels(content: bytes, reading: Reading, place: str) -> tuple[np.ndarray, str]:
    """A picture `(1 or 3, H, W)` uint8 and how it was encoded; with a resolution, its central square brought to that side."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as picture:
            encoding = picture.format or "?"
            image = opaque(picture, reading.channels, place)
    except (UnidentifiedImageError, OSError, TypeError) as error:
        raise UserError(f"{place} cannot be read: {error}") from None
    side = reading.resolution
    if side is not None and image.size != (side, side):
        square = min(image.size)
        left, top = (image.width - square) // 2, (image.height - square) // 2
        image = image.crop((left, top, left + square, top + square)).resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), encoding
