"""Everything that touches the disk: the cache of artefacts that suites share, and the folder of one result.

Every file is written beside its place and moved there, so that a reader sees all of it or none. An artefact is a JSON
record (identity, checksum, facts) and, where it holds tensors, a safetensors file; the record is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .disk import WriteError, cache_folder, nearest, sweep, write_atomically, writing
from .errors import UserError
from .identity import canonical, key_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["Artefact", "ResultFolder", "Store", "WriteError", "write_atomically"]

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Artefact:
    """What a finished stage left: small facts in `info`, arrays in `tensors`."""

    info: dict[str, Any]
    tensors: dict[str, Tensor]


class Store:
    """The cache: artefacts by key, in FMBENCH_CACHE or the platform's cache folder."""

    def __init__(self, root: Path | str | None = None):
        self.root = cache_folder(root)

    def ready(self) -> None:
        """Writes a file and takes it away again, so that a cache that refuses is known before there is work to lose.

        A cache that is not there yet is not made: the folder in which it would be is tried.

        Raises:
            WriteError: it cannot be written.
        """
        with (
            writing(self.root, "FMBENCH_CACHE"),
            tempfile.NamedTemporaryFile(dir=nearest(self.root), prefix=".probe.") as probe,
        ):
            probe.write(b"fmbench")
            probe.flush()

    def _file(self, key: str, suffix: str) -> Path:
        stage, _, digest = key.rpartition("-")
        return self.root / stage / digest[:2] / f"{key}{suffix}"

    def info(self, key: str) -> dict[str, Any] | None:
        """The facts of a finished artefact, or None. A record that is cut short or altered counts as not there."""
        try:
            record = json.loads(self._file(key, ".json").read_bytes())
            body = {name: record[name] for name in ("identity", "info", "tensors")}
            sound = (
                record["sha256"] == hashlib.sha256(canonical(body)).hexdigest() and key_of(record["identity"]) == key
            )
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}. Mend it or set FMBENCH_CACHE.") from None
        return _decode(record["info"]) if sound else None

    def has(self, key: str) -> bool:
        return self.info(key) is not None

    def read(self, key: str) -> Artefact:
        """The artefact, its tensors checked against the record.

        Raises:
            UserError: it is missing or damaged; says which file to remove.
        """
        info = self.info(key)
        record = json.loads(self._file(key, ".json").read_bytes()) if info is not None else {"tensors": None}
        path = self._file(key, ".safetensors")
        try:
            content = path.read_bytes()
            if info is None or hashlib.sha256(content).hexdigest() != record["tensors"]:
                raise ValueError("checksum differs")
            return Artefact(info, _unpack(content))
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"the cached artefact {path} is damaged ({error}). Remove it and its .json, then run again."
            ) from None

    def first(self, key: str, name: str, n: int) -> Tensor | None:
        """The first n rows of one tensor, without reading (or checking) the rest; None where there is no such artefact."""
        from safetensors import safe_open

        path = self._file(key, ".safetensors")
        if not path.is_file():
            return None
        with safe_open(path, "pt") as tensors:
            rows: Tensor = tensors.get_slice(name)[:n]
        return rows

    def write(
        self, key: str, identity: dict[str, Any], info: dict[str, Any], tensors: dict[str, Tensor] | None = None
    ) -> None:
        """Stores an artefact under its key; the record last, so that a kill leaves nothing that looks finished."""
        digest = None
        if tensors is not None:
            content = _pack(tensors)
            digest = hashlib.sha256(content).hexdigest()
            sweep(self._file(key, ".safetensors").parent, older_than=DAY)
            write_atomically(self._file(key, ".safetensors"), content, durable=True)
        body = {"identity": identity, "info": _encode(info), "tensors": digest}
        record = {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}
        write_atomically(self._file(key, ".json"), json.dumps(record, indent=1).encode(), durable=tensors is not None)

    def checkpoint(self, key: str) -> dict[str, Tensor] | None:
        """The last checkpoint of an unfinished training, or None (a damaged one is not used)."""
        try:
            return _unpack(self._file(key, ".checkpoint").read_bytes())
        except (OSError, SafetensorError):
            return None

    def write_checkpoint(self, key: str, state: dict[str, Tensor]) -> None:
        write_atomically(self._file(key, ".checkpoint"), _pack(state), durable=True)

    def drop_checkpoint(self, key: str) -> None:
        self._file(key, ".checkpoint").unlink(missing_ok=True)

    @contextlib.contextmanager
    def locks(self, keys: Sequence[str]) -> Iterator[None]:
        """Held while artefacts are made, so that two runs sharing the cache do not make them twice. Waits.

        The operating system lets go of them when a process dies, however it dies.
        """
        with contextlib.ExitStack() as held:
            for key in sorted(keys):  # one order for all, so that no two processes wait for each other
                path = self._file(key, ".lock")
                with writing(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    held.enter_context(FileLock(path))
            yield


class ResultFolder:
    """The folder DIR of one result: table, manifest, pictures, report."""

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Held during a run. A second process on the same folder is refused."""
        path = self.directory / ".lock"
        with writing(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"another fmbench process is writing to {self.directory}. Wait for it, or choose another folder with --out."
                ) from None
        sweep(self.directory)
        try:
            yield
        finally:
            lock.release()
            with contextlib.suppress(OSError):
                path.unlink()

    def write_table(self, table: pd.DataFrame) -> None:
        """The table as results.parquet and results.csv."""
        for name, content in _tables(table).items():
            write_atomically(self.directory / name, content)

    def holds(self, table: pd.DataFrame, manifest: dict[str, Any]) -> bool:
        """Whether the folder is complete and its table is this one, made from this suite by this version."""
        try:
            same_table = all(
                (self.directory / name).read_bytes() == content for name, content in _tables(table).items()
            )
            page = (self.directory / "report.html").read_bytes()
        except OSError:
            return False
        there = zipfile.is_zipfile(self.directory / "pictures.npz") and page.endswith(b"</html>")
        known = self.read_json("manifest.json")
        same = isinstance(known, dict) and all(known.get(name) == manifest[name] for name in ("fmbench", "suite"))
        return same_table and there and same

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the folder; None where there is none or it is damaged."""
        try:
            return json.loads((self.directory / name).read_bytes())
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, content: Any) -> None:
        write_atomically(self.directory / name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        write_atomically(self.directory / name, content)


def _pack(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save  # torch: reports read tables, and must not wait for it

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _unpack(content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(content)


def _tables(table: pd.DataFrame) -> dict[str, bytes]:
    return {"results.parquet": table.to_parquet(index=False), "results.csv": table.to_csv(index=False).encode()}


def _encode(value: Any) -> Any:
    """JSON has no NaN or infinity, and a null must not become a number: they travel as {"float": "nan"}."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            float(value["float"]) if set(value) == {"float"} else {name: _decode(item) for name, item in value.items()}
        )
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
