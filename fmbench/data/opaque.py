"""A picture as plain levels of 8 bits: what would be lost on the way is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def opaque(picture: Image, channels: int | None, place: str) -> Image:
    """The picture in mode L or RGB: of 1 or 3 channels, when None as it is itself.

    Raises:
        UserError: it has more than 8 bits, or pixels that are seen through.
    """
    mode = picture.mode
    stored = [
        str(tile) for tile in getattr(picture, "tile", ())
    ]  # Pillow's modes of colours have 8 bits, whatever is stored
    if mode == "F" or mode.startswith("I") or any(";16" in how for how in stored):
        raise UserError(f"{place} is no 8-bit picture (mode {mode})")
    grey = (channels or (1 if mode in ("1", "L") else 3)) == 1
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] != 255:
            raise UserError(
                f"{place} has pixels that are seen through (mode {mode}), and what stands behind them is not said: lay the "
                "pictures on a background and save them without transparency"
            )
    return picture.convert("L" if grey else "RGB")
