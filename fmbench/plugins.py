"""Python of a user's own: imported only where the command line has named it, and known by its content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .errors import UserError


@dataclass(frozen=True)
class Foreign:
    """A module that was named: what was executed is what was hashed."""

    module: ModuleType
    sha256: str


_named: dict[str, Foreign] = {}


def named(place: str) -> Foreign:
    """What the command line has named as `place`, a Python file or a module.

    Raises:
        UserError: it has not named it: nothing is imported because a suite alone says so.
    """
    found = _named.get(_resolved(place))
    if found is None:
        raise UserError(f"'{place}' is Python that the command line does not name. Allow it with --plugin {place}.")
    return found


def admit(place: str) -> Foreign:
    """Imports the file or the module that the command line names; once for each content of a file.

    Raises:
        UserError: it is missing or cannot be imported.
    """
    place = str(place)
    known = _named.get(_resolved(place))
    content = _content(place)
    if known is not None and (content is None or known.sha256 == hashlib.sha256(content).hexdigest()):
        return known
    try:
        with importing_from(place):
            module = importlib.import_module(place) if content is None else _executed(Path(place).resolve(), content)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    if content is None:
        content = Path(module.__file__).read_bytes() if module.__file__ else module.__name__.encode()
    _named[_resolved(place)] = found = Foreign(module, hashlib.sha256(content).hexdigest())
    return found


def load_plugins(files: Sequence[str | Path]) -> None:
    """Imports each file, or module, once; its `@REGISTRY.register` decorators do the rest.

    Raises:
        UserError: one is missing or cannot be imported.
    """
    for file in files:
        try:
            admit(str(file))
        except UserError as error:
            raise UserError(f"--plugin {error}") from error.__cause__


@contextlib.contextmanager
def importing_from(place: str) -> Iterator[None]:
    """Modules beside a file, or in the working directory, can be imported, as where Python itself runs the file."""
    folder = str(Path(place).resolve().parent) if place.endswith(".py") else os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _resolved(place: str) -> str:
    return str(Path(place).resolve()) if place.endswith(".py") else place


def _content(place: str) -> bytes | None:
    """The bytes of a Python file; None for a module of that name."""
    path = Path(place)
    if path.suffix != ".py" and "/" not in place and all(part.isidentifier() for part in place.split(".")):
        return None
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{place}: no such Python file")
    return path.read_bytes()


def _executed(path: Path, content: bytes) -> ModuleType:
    """The file's module. Compiled from the bytes in hand: a bytecode cache tells two edits of one second not apart."""
    name = f"fmbench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module  # while it runs, as an import does: classes are pickled by their module's name
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise
    return module
