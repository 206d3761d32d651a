"""Feature extractors: what turns 8-bit images into the vectors on which image metrics are computed."""

from __future__ import annotations

from ...registry import Registry
from .base import Extractor

EXTRACTORS: Registry[Extractor] = Registry(
    "extractor",
    {
        "inception-v3-compat": "fmbench.metrics.features.inception:InceptionCompat",
        "inception-v3-other": "fmbench.metrics.features.inception:InceptionOther",
        "pixels": "fmbench.metrics.features.pixels:Pixels",
        "effnet-lite0": "fmbench.metrics.features.effnet:EffNetLite0",
        "dinov2-vit-l-14": "fmbench.metrics.features.dinov2:DINOv2",
    },
)

__all__ = ["EXTRACTORS", "Extractor", "extractor"]


def extractor(name: str) -> Extractor:
    """The extractor of a registered name, or that which a user's `module:factory` makes."""
    if ":" in name:
        from .own import Own

        return Own(factory=name)
    return EXTRACTORS.build(name)
