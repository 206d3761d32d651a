"""Files that are whole or not there, and the folder that keeps them: what `store` and the decoded pictures stand on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import platformdirs

from .errors import UserError

LAYOUT = "v1"  # of the cache folder
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free the disk or choose"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "A file stands where a folder should: choose"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "It is not yours to write: choose"),
}


class WriteError(UserError):
    """The disk refused: it is full, read-only or not ours. The run stops; what was written before is whole."""


@contextlib.contextmanager
def writing(path: Path, options: str = "--out, FMBENCH_CACHE") -> Iterator[None]:
    """Whatever the disk refuses inside becomes a `WriteError` that names `path` and the options that choose its folder."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "Choose")
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}. {remedy} another folder ({options})."
        ) from None


def write_atomically(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Puts `content` at `path`, whole or not at all; `durable` waits until the disk has it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal; read again only where the file has changed."""
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path, older_than: float = 0.0) -> None:
    """Removes what killed processes left beside the files of a folder: temporaries of `write_atomically`.

    Args:
        older_than: seconds; where others may be writing, only what no living write can still need.
    """
    for path in folder.glob(".*.????????"):
        with contextlib.suppress(OSError):  # somebody else's sweep was faster
            if path.is_file() and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def nearest(path: Path) -> Path:
    """What is there of a path: itself, or the first above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def shipped(name: str) -> Path:
    """A file or folder that comes with fmbench: inside of the package or, in a checkout, beside it."""
    package = Path(__file__).parent
    return next((place for place in (package / name, package.parent / name) if place.exists()), package / name)


def named(out: Path | str) -> Path:
    """The path that a user wrote for `out`.

    Raises:
        UserError: it is empty, which `Path` takes for the working directory.
    """
    if not str(out).strip():
        raise UserError(f"--out '{out}': the path is empty. Give one, such as . for this folder, or leave --out away.")
    return Path(out)


def cache_folder(root: Path | str | None = None) -> Path:
    """`root`, FMBENCH_CACHE or the platform's cache folder, and in it the folder of this layout."""
    return Path(root or os.environ.get("FMBENCH_CACHE") or platformdirs.user_cache_dir("fmbench")) / LAYOUT
