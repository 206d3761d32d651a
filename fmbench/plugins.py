"""A user's own components: Python files that the command line names, and nothing that it does not name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError


def load_plugins(files: Sequence[str | Path]) -> None:
    """Imports each file once; its `@REGISTRY.register` decorators do the rest.

    Raises:
        UserError: a file is missing or cannot be imported.
    """
    for file in files:
        path = Path(file).resolve()
        name = f"fmbench_plugin_{path.stem}"
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None) == str(path):
            continue
        spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" and path.is_file() else None
        if spec is None or spec.loader is None:
            raise UserError(f"--plugin {file}: no such Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            sys.modules.pop(name)
            if isinstance(error, UserError):
                raise
            raise UserError(f"--plugin {file} cannot be imported: {type(error).__name__}: {error}") from error
