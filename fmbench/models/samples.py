"""Samples that were made elsewhere, measured as they are."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.base import Data
from ..data.opaque import opaque
from ..disk import sha256_of
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.paths import Path
from ..registry import Component
from .elsewhere import RANGES, Elsewhere

FAR, FEW = 2.0, 0.01  # half-widths of the range beyond which few numbers lie, though samples were not clamped
OURS = "-1..1"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class Samples(Elsewhere):
    """Samples alone: a folder of pictures, or an array of them. Nothing is trained, solved or called.

    Args:
        folder: of pictures (in the order of their names, folders inside included), or a .npy or .npz file of
            `(n, *shape)`, of images also `(n, H, W, C)`.
        images: the range of an array of floats, −1..1 when None; pictures and arrays of uint8 are 0..255.
        digest: of the files' contents, in order.
    """

    name = "samples"
    given = True
    folder: str = ""
    images: Literal["-1..1", "0..1", "0..255"] | None = None

    def found(self) -> str | None:
        return _digest(self.folder) if self.folder else None

    def method(self) -> str:
        return FilePath(self.folder).resolve().name

    def label(self) -> str:
        return Component.label(self.model_copy(update={"folder": self.folder and self.method(), "digest": None}))

    def identity(self) -> dict[str, Any]:
        """Where the samples lie shapes nothing."""
        return {**super().identity(), "folder": "", "images": self.images or OURS}

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        self.samples(data)

    def samples(self, data: Data) -> Tensor:
        if not self.folder:
            raise UserError("model 'samples' needs its folder: of pictures, or a .npy or .npz file")
        if _digest(self.folder) != self.digest:
            raise UserError(f"{self.folder} has changed since the run began")
        return _read(self.folder, self.images, data.shape, str(self.digest))


@lru_cache(maxsize=2)
def _read(folder: str, declared: str | None, shape: tuple[int, ...], digest: str) -> Tensor:
    """`(n, *shape)`, float32, images in −1..1."""
    found = _pictures(folder, shape) if os.path.isdir(folder) else _array(folder, shape)
    if not len(found):
        raise UserError(f"{folder} holds no samples: its array has the shape {found.shape}")
    bits = found.dtype == np.uint8
    if bits and declared not in (None, "0..255"):
        raise UserError(f"{folder} holds levels of 8 bits, which are 0..255, not {declared}: leave --images away")
    images = "0..255" if bits else declared or OURS
    a, b = RANGES[images]
    x = (torch.from_numpy(found).float() - b) / a
    if not torch.isfinite(x).all():
        raise UserError(f"{folder}: not all of its numbers are finite")
    if len(shape) == 3 and not bits:
        _check_range(folder, found, x, images, declared)
    return x


def _check_range(folder: str, found: np.ndarray, x: Tensor, images: str, declared: str | None) -> None:
    """Raises `UserError` where floats are not of the range they are taken for."""
    if (x.abs() > FAR).float().mean() > FEW:
        raise UserError(
            f"{folder}: its numbers, {found.min():.3g} to {found.max():.3g}, are far outside {images}: declare the images' "
            f"range (--images {', '.join(RANGES)})"
        )
    if declared is None and found.min() >= 0:
        raise UserError(
            f"{folder}: none of its numbers, {found.min():.3g} to {found.max():.3g}, is negative, and floats are taken as "
            f"{OURS}: declare the images' range (--images 0..1; {OURS} if they are just that)"
        )
    if images == "0..255" and found.max() <= 1:
        raise UserError(f"{folder}: none of its numbers is above 1: they are not of 0..255 (--images 0..1 or {OURS})")


def _pictures(folder: str, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"{folder} holds pictures; this data has shape {shape}: give a .npy file of {('n', *shape)}")
    channels, height, width = shape
    found = np.empty((len(files := _files(folder)), *shape), dtype=np.uint8)
    for place, file in enumerate(files):
        try:
            with Image.open(file) as picture:
                if picture.size != (width, height):
                    raise UserError(
                        f"{file} is {picture.width} × {picture.height} pixels; this data has {width} × {height}"
                    )
                levels = np.asarray(opaque(picture, channels, str(file)))
        except OSError as error:
            raise UserError(f"{file} cannot be read as a picture: {error}") from None
        found[place] = levels[None] if channels == 1 else levels.transpose(2, 0, 1)
    return found


def _array(file: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        with open(file, "rb") as stream:
            found = np.load(stream, allow_pickle=False)
            if not isinstance(found, np.ndarray):
                names = found.files
                if len(names) != 1 and "arr_0" not in names:
                    raise UserError(f"{file} holds the arrays {', '.join(names)}: save the samples alone")
                found = found["arr_0" if "arr_0" in names else names[0]]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} cannot be read as an array: {error}") from None
    if len(shape) == 3 and found.shape[1:] == (*shape[1:], shape[0]):
        found = found.transpose(0, 3, 1, 2)
    if found.shape[1:] != shape or not (found.dtype.kind == "f" or found.dtype == np.uint8):
        raise UserError(f"{file} holds {found.dtype} {found.shape}; this data needs floats or uint8 of {('n', *shape)}")
    return np.ascontiguousarray(found)


def _files(folder: str) -> list[FilePath]:
    """The pictures of a folder by name, or the one file."""
    place = FilePath(folder)
    if place.is_dir():
        if files := sorted(file for file in place.rglob("*") if file.suffix.lower() in PICTURES):
            return files
        raise UserError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    if not place.is_file():
        raise UserError(f"{folder}: there is no such folder or file of samples")
    if place.suffix not in (".npy", ".npz"):
        raise UserError(f"{folder}: samples are a folder of pictures, or a .npy or .npz file")
    return [place]


def _digest(folder: str) -> str:
    """Of the files' contents, in order."""
    return hashlib.sha256(b"".join(bytes.fromhex(sha256_of(file)) for file in _files(folder))).hexdigest()
