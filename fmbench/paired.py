"""Values sample by sample, kept beside the table: flows are measured on the same noise, so claims compare in pairs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from .errors import UserError
from .metrics.base import Geometry, PerSampleMetric
from .plan import Plan
from .stages.measure import MeasureSpec
from .store import Store
from .table import first_line

FILE = "paired.npz"
PARTS = ("z0", "z1", "start_velocity", "energy", "straightness", "length")

Paired = dict[str, np.ndarray]  # a row's key to `(n,)` float32, whose mean is the row's value


def gather(plan: Plan, store: Store) -> Paired:
    """The values of every metric of the plan that is a mean over the samples of a reference solve."""
    found: Paired = {}
    for cell in plan.cells:
        spec = cell.spec
        if not (isinstance(spec, MeasureSpec) and isinstance(spec.metric, PerSampleMetric)):
            continue
        if store.has(spec.key) and store.has(spec.reference.key):
            solved = store.read(spec.reference.key)
            geometry = Geometry(**{name: solved.tensors[name] for name in PARTS}, error=solved.info["error"])
            found[spec.key] = spec.metric.per_sample(geometry).float().numpy()
    return found


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
