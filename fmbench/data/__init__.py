"""Data sets: endless distributions with a known law, and finite collections with a held-out split."""

from __future__ import annotations

from ..registry import Registry
from .base import Data

DATA: Registry[Data] = Registry(
    "data set",
    {
        "normal": "fmbench.data.toys:Normal",
        "scaled-normal": "fmbench.data.scaled:ScaledNormal",
        "gaussian-mixture": "fmbench.data.toys:GaussianMixture",
        "eight-gaussians": "fmbench.data.toys:EightGaussians",
        "moons": "fmbench.data.toys:Moons",
        "checkerboard": "fmbench.data.toys:Checkerboard",
        "s-curve": "fmbench.data.toys:SCurve",
        "swiss-roll": "fmbench.data.toys:SwissRoll",
        "spirals": "fmbench.data.toys:Spirals",
        "digits": "fmbench.data.images:Digits",
    },
    listing="data",
)

__all__ = ["DATA", "Data"]
