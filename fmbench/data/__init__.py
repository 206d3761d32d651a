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
        "digits": "fmbench.data.digits:Digits",
        "cifar10": "fmbench.data.pictures:CIFAR10",
        "mnist": "fmbench.data.pictures:MNIST",
        "fashion-mnist": "fmbench.data.pictures:FashionMNIST",
        "imagenet-32": "fmbench.data.pictures:ImageNet32",
        "imagenet-64": "fmbench.data.pictures:ImageNet64",
        "images": "fmbench.data.pictures:Images",
    },
    listing="data",
)

__all__ = ["DATA", "Data"]
