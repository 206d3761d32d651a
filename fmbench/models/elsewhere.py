"""What models that were made elsewhere share: they are known by their content, wherever it lies."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from ..errors import UserError
from .base import Model

RANGES: dict[str, tuple[float, float]] = {"-1..1": (1.0, 0.0), "0..1": (0.5, 0.5), "0..255": (127.5, 127.5)}
"""Ranges of images, as numbers a and b: what is x here is a x + b there."""


class Elsewhere(Model):
    """Base of models that are not made here. Implement `found`.

    `digest` is the sha256 of the content: found when the suite is read, not given. A value that is given, as the manifest
    of an earlier run does, must agree.
    """

    trained: ClassVar[bool] = False
    digest: str | None = None

    @model_validator(mode="after")
    def _known_by_content(self) -> Elsewhere:
        try:
            found = self.found()
        except UserError as error:
            raise ValueError(str(error)) from None
        if self.digest not in (None, found):
            raise ValueError(f"digest {self.digest} was measured before; what is there now has {found}")
        object.__setattr__(self, "digest", found)
        return self

    def found(self) -> str | None:
        """The sha256 of all that the model is; None where nothing is named.

        Raises:
            UserError: it is not there or cannot be loaded.
        """
        raise NotImplementedError
