"""Networks F(t, x) that learn velocities, oracles that need no learning, and what is brought from elsewhere."""

from __future__ import annotations

from ..registry import Registry
from .base import Model, Network

MODELS: Registry[Model] = Registry(
    "model",
    {
        "mlp": "fmbench.models.mlp:MLP",
        "unet": "fmbench.models.unet:UNet",
        "transformer": "fmbench.models.transformer:Transformer",
        "oracle": "fmbench.models.oracle:Oracle",
        "empirical": "fmbench.models.oracle:Empirical",
        "external": "fmbench.models.external:External",
        "samples": "fmbench.models.samples:Samples",
    },
    listing="models",
)

__all__ = ["MODELS", "Model", "Network"]
