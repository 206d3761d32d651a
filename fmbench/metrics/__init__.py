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
        "energy_coefficient": "fmbench.metrics.marginals:EnergyCoefficient",
        "marginal_gap": "fmbench.metrics.marginals:MarginalGap",
        "marginal_p_value": "fmbench.metrics.marginals:MarginalPValue",
        "fd_pixels": "fmbench.metrics.frechet:FDPixels",
        "label_accuracy": "fmbench.metrics.labels:LabelAccuracy",
        "nll": "fmbench.metrics.likelihood:NLL",
        "bits_per_dim": "fmbench.metrics.bits:BitsPerDim",
        "transport_cost": "fmbench.metrics.geometry:TransportCost",
        "transport_cost_l1": "fmbench.metrics.geometry:TransportCostL1",
        "transport_cost_l2": "fmbench.metrics.geometry:TransportCostL2",
        "transport_cost_power": "fmbench.metrics.geometry:TransportCostPower",
        "train_coupling_cost": "fmbench.metrics.coupling:TrainCouplingCost",
        "train_coupling_cost_l1": "fmbench.metrics.coupling:TrainCouplingCostL1",
        "train_coupling_cost_l2": "fmbench.metrics.coupling:TrainCouplingCostL2",
        "train_coupling_cost_power": "fmbench.metrics.coupling:TrainCouplingCostPower",
        "minimal_loss": "fmbench.metrics.balance:MinimalLoss",
        "model_error": "fmbench.metrics.balance:ModelError",
        "balance_residual": "fmbench.metrics.balance:BalanceResidual",
        "identity_residual": "fmbench.metrics.balance:IdentityResidual",
        "gradient_gap": "fmbench.metrics.gradient:GradientGap",
        "w2_squared": "fmbench.metrics.geometry:W2Squared",
        "straightness": "fmbench.metrics.geometry:Straightness",
        "straightness_normalized": "fmbench.metrics.geometry:StraightnessNormalized",
        "path_energy": "fmbench.metrics.geometry:PathEnergy",
        "npe": "fmbench.metrics.geometry:NPE",
        "path_length_ratio": "fmbench.metrics.geometry:PathLengthRatio",
        "one_step_error": "fmbench.metrics.geometry:OneStepError",
        "independent_cost": "fmbench.metrics.coupling:IndependentCost",
        "distinct_pairs": "fmbench.metrics.coupling:DistinctPairs",
        "coupling_bias": "fmbench.metrics.coupling:CouplingBias",
        "coupling_milliseconds": "fmbench.metrics.coupling:CouplingMilliseconds",
        "coupling_label_skew": "fmbench.metrics.coupling:LabelSkew",
        "solver_error": "fmbench.metrics.cost:SolverError",
        "solver_error_worst": "fmbench.metrics.cost:WorstSolverError",
        "pair_memorisation": "fmbench.metrics.memorisation:PairMemorisation",
        "reference_error": "fmbench.metrics.reference:ReferenceError",
        "nfe": "fmbench.metrics.cost:NFE",
        "seconds": "fmbench.metrics.cost:Seconds",
        "samples_per_second": "fmbench.metrics.cost:SamplesPerSecond",
        "peak_memory_mb": "fmbench.metrics.cost:PeakMemory",
    },
    listing="metrics",
)

__all__ = ["METRICS", "Evidence", "Exact", "Geometry", "Metric", "Pairing", "Resources"]
