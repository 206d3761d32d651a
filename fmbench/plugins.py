"""A user's own components: Python files that the command line names, and nothing that it does not name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import UserError
from .foreign import admit


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
