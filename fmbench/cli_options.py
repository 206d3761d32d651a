"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def _told(variable: str) -> Callable[[Path | None], Path | None]:
    """Sets an environment variable, for worker processes too."""

    def tell(path: Path | None) -> Path | None:
        if path is not None:
            os.environ[variable] = str(path)
        return path

    return tell


Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file that registers components of your own.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        callback=_told("FMBENCH_DATA"),
        help="Folder of image data sets, looked into before the hub (or FMBENCH_DATA).",
    ),
]
InceptionWeights = Annotated[
    Path | None,
    typer.Option(
        "--inception-weights",
        callback=_told("FMBENCH_INCEPTION_WEIGHTS"),
        help="File of the Inception weights for fid, kid, … (or FMBENCH_INCEPTION_WEIGHTS).",
    ),
]
