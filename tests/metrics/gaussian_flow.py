"""The rectified flow from N(0, I) to N(μ, diag(σ²)), in closed form: no network, no solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fmbench.data import Data
from fmbench.data.toys import GaussianMixture, Normal
from fmbench.flow.couplings import Independent
from fmbench.flow.paths import Rectified
from fmbench.metrics import Evidence, Geometry, Resources
from fmbench.randomness import generator
from fmbench.stages.measure import coupled

NODES = 2000  # midpoints in time, good to 1e-6 of the energy


@dataclass(frozen=True)
class GaussianFlow:
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def data(self) -> Data:
        return GaussianMixture(means=(self.mean,), stds=(self.std,))

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """s(t) = √(t² σ² + (1 − t)²) and its derivative."""
        variance = torch.tensor(self.std, dtype=torch.float64) ** 2
        s = (t**2 * variance + (1 - t) ** 2).sqrt()
        return s, (t * variance - (1 - t)) / s

    def velocity(self, t: float | Tensor, x: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        mean = torch.tensor(self.mean, dtype=torch.float64)
        s, rate = self.scales(t)
        return (mean + rate / s * (x.double() - t * mean)).to(x.dtype)

    def velocity_at(self, t: Tensor, x: Tensor) -> Tensor:
        """The same at a time for each sample, t `(B,)`."""
        return self.velocity(t[:, None], x) if t.dim() else self.velocity(t, x)

    def geometry(self, n: int, seed: int = 0) -> Geometry:
        mean, std = (torch.tensor(a, dtype=torch.float64) for a in (self.mean, self.std))
        z0 = torch.randn(n, len(mean), generator=generator("z0", seed), dtype=torch.float64)
        z1 = mean + std * z0
        t = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
        _, rate = self.scales(t[:, None])  # (NODES, D): v(t, Z_t) = μ + rate z0
        v_squared = mean**2 + 2 * mean * rate.mean(0) * z0 + (rate**2).mean(0) * z0**2
        bend = ((std - 1) ** 2 - 2 * (std - 1) * rate.mean(0) + (rate**2).mean(0)) * z0**2
        rates = self.scales((torch.arange(300, dtype=torch.float64)[:, None] + 0.5) / 300)[1]
        length = torch.stack([(mean + r * z0).norm(dim=1) for r in rates]).mean(0)
        return Geometry(z0, z1, mean - z0, v_squared.sum(1), bend.sum(1), length, error=0.0)

    def evidence(self, n: int, seed: int = 0, **changes: object) -> Evidence:
        geometry = self.geometry(n, seed)
        data, source, coupling = self.data, Normal(dims=(len(self.mean),)), Independent()
        known = {
            "data": data,
            "source": source,
            "coupling": coupling,
            "train_batch": 64,
            "coupled": coupled(data, source, coupling, 64, seed),
            "path": Rectified(),
            "generated": geometry.z1.float(),
            "label": torch.zeros(n, dtype=torch.int64),  # the mixture's one component
            "geometry": geometry,
            "teacher": self.geometry(n, seed + 1),
            "resources": Resources(nfe=8, seconds=(0.5, 0.7), peak_memory_mb=12.0),
            "velocity": self.velocity_at,
            "oracle": self.velocity_at,
            "source_log_density": source.log_density,
            "ask": lambda n: torch.zeros(n, 2) @ torch.zeros(2, 2),  # one product, in place of a network's
            "seed": seed,
        }
        return Evidence(**{**known, **changes})
