"""Where pictures come from: the files of a data set in a mirror folder, in a folder of the user's, or on the hub.

Looked up in this order, the first that holds the set is taken:

1. the mirror, the folder that FMBENCH_DATA (or --data-root) names: `<root>/<name>/`, `<root>/<hub id>/`, then files of the
   root itself that begin with the name (`cifar10-train.parquet`), then the root itself if it is called like the set;
2. the Hugging Face hub: what was downloaded before, else a download (never under HF_HUB_OFFLINE=1).

A folder holds parquet files or pictures; which split a file belongs to is read from the words of its path below the folder:
`train-00000-of-00001.parquet`, `cifar10-test.parquet`, `validation/cat/7.png`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..disk import sha256_of
from ..errors import UserError
from ..grouping import grouped

Kind = Literal["parquet", "pictures"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
WORDS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")


@dataclass(frozen=True)
class Source:
    """The files of a data set, by split, each in the order in which it is read."""

    folder: Path
    kind: Kind
    files: Mapping[str, tuple[Path, ...]]
    digests: Mapping[str, str]  # of each split: the sha256 of its files' sha256 (of pictures: and their paths)

    @property
    def digest(self) -> str:
        """The sha256 that tells this content from any other, wherever it lies."""
        return _sha256(f"{split} {digest}" for split, digest in sorted(self.digests.items()))


def root() -> Path | None:
    """The mirror folder.

    Raises:
        UserError: FMBENCH_DATA names no folder.
    """
    named = os.environ.get("FMBENCH_DATA")
    if named and not Path(named).is_dir():
        raise UserError(f"FMBENCH_DATA (--data-root) = {named}: no such folder. See the README for how to lay it out.")
    return Path(named).absolute() if named else None


def find(name: str, hub: str | None, splits: Sequence[str]) -> Source | None:
    """The set called `name`, or `hub` on the hub, as it lies on this machine; None where it does not."""
    for folder, prefix in _places(name, hub):
        if source := _source(folder, prefix, splits):
            return source
    snapshot = None if hub is None else _snapshot(hub, download=False)
    return None if snapshot is None else _source(snapshot, "", splits)


def fetch(name: str, hub: str | None, splits: Sequence[str]) -> Source:
    """As `find`; what only the hub has is downloaded.

    Raises:
        UserError: it is nowhere to be had; says what was looked for, where, and how to get it.
    """
    for folder, prefix in _places(name, hub):
        if source := _source(folder, prefix, splits):
            return source
    reason = "it names no data set of the hub (owner/name)"
    if hub is not None:
        try:
            if source := _source(_snapshot(hub, download=True), "", splits):
                return source
            reason = f"the hub's {hub} holds no parquet file and no picture of the splits {' and '.join(splits)}"
        except (OSError, ValueError) as error:  # what the hub's client raises, connection and access included
            reason = "the hub was not asked (HF_HUB_OFFLINE)" if _offline() else f"the hub said: {_first_line(error)}"
    looked = ", ".join(
        dict.fromkeys(str(folder / f"{prefix}*" if prefix else folder) for folder, prefix in _places(name, hub))
    )
    mirror = looked or "no mirror folder (FMBENCH_DATA is not set)"
    download = (
        f"Download it where there is a network (`hf download {hub} --repo-type dataset`), or name" if hub else "Name"
    )
    raise UserError(
        f"data set '{name}' is not on this machine: looked in {mirror}; {reason}. {download} a folder that holds its "
        f"parquet files (*{splits[0]}*.parquet, *{splits[1]}*.parquet) or pictures with --data-root (FMBENCH_DATA)."
    )


def _places(name: str, hub: str | None) -> list[tuple[Path, str]]:
    """Folders to look into, each with the beginning that its files' names must have."""
    own = [Path(name).absolute()] if "/" in name or Path(name).is_dir() else []
    mirror = root()
    if mirror is None:
        return [(folder, "") for folder in own]
    folders = [*own, mirror / name, *([mirror / hub] if hub else [])]
    called = {name, (hub or name).rpartition("/")[2]}
    whole = [(mirror, "")] if mirror.name in called else []
    return [*((folder, "") for folder in dict.fromkeys(folders)), (mirror, Path(name).name), *whole]


def _source(folder: Path | None, prefix: str, splits: Sequence[str]) -> Source | None:
    """The files of these splits below `folder`; None where there is none of any.

    Raises:
        UserError: a split lacks its files, or they belong to several data sets.
    """
    if folder is None or not folder.is_dir():
        return None
    found = sorted(folder.glob(f"{prefix}[-_.]*")) if prefix else sorted(folder.rglob("*"))
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    kind: Kind = "parquet"
    files = [path for path in found if path.suffix == ".parquet" and path.is_file()]
    if not files:
        kind, files = "pictures", [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        return None
    by_split = grouped(files, lambda path: _split_of(path.relative_to(folder)))
    for split in splits:
        if split not in by_split:
            there = ", ".join(f"{len(paths)} of {split}" for split, paths in sorted(by_split.items()) if split)
            raise UserError(
                f"{folder} holds no {split} files ({there or 'no file name says its split'}): "
                f"name files or folders train and {splits[-1]}"
            )
        if kind == "parquet" and len({path.parent for path in by_split[split]}) > 1:
            several = sorted({str(path.parent.relative_to(folder)) for path in by_split[split]})
            raise UserError(f"{folder} holds several data sets: {', '.join(several)}. Name the folder of one of them.")
    kept = {split: tuple(by_split[split]) for split in splits}
    return Source(folder, kind, kept, {split: _digest(folder, kind, paths) for split, paths in kept.items()})


def _split_of(path: Path) -> str:
    """The first word of the path that names a split; "" where none does."""
    return next((WORDS[word] for word in re.split(r"[^a-z0-9]+", str(path).lower()) if word in WORDS), "")


def _digest(folder: Path, kind: Kind, paths: Iterable[Path]) -> str:
    # A picture's path tells its label; a parquet file holds all that matters.
    names = ("" if kind == "parquet" else path.relative_to(folder).as_posix() for path in paths)
    return _sha256(f"{sha256_of(path)} {name}" for path, name in zip(paths, names, strict=True))


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _snapshot(hub: str, *, download: bool) -> Path | None:
    """The folder of a hub's data set; `owner/name/folder` is a folder of it. None where it would have to be downloaded."""
    from huggingface_hub import snapshot_download

    owner, name, *below = hub.split("/")
    patterns = ["/".join([*below, f"**{suffix}"]) for suffix in (".parquet", *SUFFIXES)]
    try:
        folder = snapshot_download(
            f"{owner}/{name}", repo_type="dataset", allow_patterns=patterns, local_files_only=not download
        )
    except (OSError, ValueError):
        if download:
            raise
        return None
    return Path(folder, *below)


def _offline() -> bool:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
