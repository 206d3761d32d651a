"""Values sample by sample, kept beside the table: flows are measured on the same noise, so claims compare in pairs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from .errors import UserError
from .table import first_line

FILE = "paired.npz"
SPREAD, REUSED = "spread ", "reused noise"  # what is kept beside the rows' values: see `by_sample.gather`

Paired = dict[str, np.ndarray]  # a row's key to `(n,)` float32, whose mean is the row's value


def packed(paired: Paired) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **paired)  # type: ignore[arg-type]
    return buffer.getvalue()


def read(directory: Path | None) -> Paired:
    """What a folder holds; nothing where it has no such file: claims then take samples as independent.

    Raises:
        UserError: the file is damaged.
    """
    path = directory / FILE if directory else None
    if path is None or not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        remedy = "Delete it, or run `fmbench run` again with the same --out."
        raise UserError(f"{path} cannot be read ({first_line(error)}). {remedy}") from error
