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


Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the suite: flow.seed=[0,1]. Repeatable.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: cuda where there is one.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes. Default: one for each core or GPU.")]
Ray = Annotated[
    str | None,
    typer.Option(help="Work on a Ray cluster: its address, or auto. FMBENCH_CACHE must be a disk that it shares."),
]
DevicesPerFlow = Annotated[
    int, typer.Option(help="Devices that train a flow together, each a part of every batch, and share its samples.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and what is already there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file that registers components of your own.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        callback=_told("FMBENCH_DATA"),
        exists=True,
        file_okay=False,
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
