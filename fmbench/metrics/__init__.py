"""What is measured. One class a metric, its facts beside its code."""

from __future__ import annotations

from ..registry import Registry
from .base import Evidence, Exact, Geometry, Metric, Pairing, Resources

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "w2": "fmbench.metrics.distances:W2",
        "sliced_w2": "fmbench.metrics.distances:SlicedW2",
        "mmd": "fmbench.metrics.distances:MMD",
        "energy_distance": "fmbench.metrics.distances:EnergyDistance",
        "fd_pixels": "fmbench.metrics.frechet:FDPixels",
        "nll": "fmbench.metrics.likelihood:NLL",
        "transport_cost": "fmbench.metrics.geometry:TransportCost",
        "w2_squared": "fmbench.metrics.geometry:W2Squared",
        "straightness": "fmbench.metrics.geometry:Straightness",
        "straightness_normalized": "fmbench.metrics.geometry:StraightnessNormalized",
        "path_energy": "fmbench.metrics.geometry:PathEnergy",
        "npe": "fmbench.metrics.geometry:NPE",
        "path_length_ratio": "fmbench.metrics.geometry:PathLengthRatio",
        "one_step_error": "fmbench.metrics.geometry:OneStepError",
        "solver_error": "fmbench.metrics.cost:SolverError",
        "reference_error": "fmbench.metrics.reference:ReferenceError",
        "nfe": "fmbench.metrics.cost:NFE",
        "seconds": "fmbench.metrics.cost:Seconds",
        "samples_per_second": "fmbench.metrics.cost:SamplesPerSecond",
        "peak_memory_mb": "fmbench.metrics.cost:PeakMemory",
    },
    listing="metrics",
)

__all__ = ["METRICS", "Evidence", "Exact", "Geometry", "Metric", "Pairing", "Resources"]
