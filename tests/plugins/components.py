"""One component of each kind, as a user would write them: `fmbench run suite.yaml --plugin components.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fmbench.data import DATA, Data
from fmbench.flow import COUPLINGS, PATHS, Coupling, Path
from fmbench.flow.paths import Schedule
from fmbench.metrics import METRICS
from fmbench.metrics.base import CouplingMetric, Exact, Pairing, TwoSampleMetric
from fmbench.models import MODELS, Model, Network
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS
from fmbench.solvers.tableaux import RungeKutta, Tableau
from fmbench.statistics import Estimate, mean


@PATHS.register
class Power(Path):
    """α = t^p, σ = (1 − t)^p: p = 1 is the rectified path."""

    name = "power"
    method = "Power"
    p: float = Field(1.5, ge=1)

    def schedule(self, t: Tensor) -> Schedule:
        a, b, p = t, 1 - t, self.p
        return Schedule(a**p, b**p, p * a ** (p - 1), -p * b ** (p - 1))


@COUPLINGS.register
class Sorted(Coupling):
    """Pairs by the order of the first coordinate: optimal in one dimension, cheap in all."""

    name = "sorted"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return x0.flatten(1)[:, 0].argsort(), x1.flatten(1)[:, 0].argsort()


@SOLVERS.register
class Kutta3(RungeKutta):
    """Kutta's method of order three: Simpson's rule where v does not depend on x."""

    name = "kutta3"
    order = 3
    source = "Kutta 1901"
    tableau = Tableau(a=((0.5,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6))


@METRICS.register
class MeanGap(TwoSampleMetric):
    """The distance of the means: the least that two laws should share."""

    name = "mean_gap"
    unit = "data units"
    source = "first moments"

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        gap = x.mean(0) - y.mean(0)
        variance = x.var(0) / len(x) + y.var(0) / len(y)
        direction = gap / gap.norm()
        return Estimate(gap.norm().item(), (direction.square() * variance).sum().sqrt().item(), len(x))


@METRICS.register
class PairCost(CouplingMetric):
    """E‖x1 − x0‖₁ / D of the pairs that are trained on."""

    name = "pair_cost"
    unit = "data units"
    source = "Liu 2022, theorem 3.5 with another convex c"
    n: PositiveInt = 1024

    def measure(self, evidence: Pairing) -> Estimate:
        x0, x1 = evidence.coupled(min(self.n, 128))
        return mean((x1 - x0).abs().flatten(1).mean(1))

    def true_value(self, flow: Exact) -> float | None:
        if flow.data.name != "normal" or flow.coupling.name != "independent":
            return None
        return 2 / math.sqrt(math.pi)  # x1 − x0 ~ N(0, 2)


@DATA.register
class Ring(Data):
    """Uniform on a circle with Gaussian noise."""

    name = "ring"
    radius: PositiveFloat = 2.0
    noise: PositiveFloat = 0.1

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, None]:
        angle = 2 * math.pi * torch.rand(n, generator=rng)
        circle = self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        return circle + self.noise * torch.randn(n, 2, generator=rng), None


@MODELS.register
class RandomFeatures(Model):
    """Linear regression on fixed random features of (t, x): trained in a moment."""

    name = "random-features"
    width: PositiveInt = 32

    def network(self, shape: tuple[int, ...], seeds: Sequence[int]) -> Network:
        return RandomFeaturesNetwork(self.width, math.prod(shape), seeds[0])


class RandomFeaturesNetwork(Network):
    """One network: `stack` stays 1, so S = 1 is all that it meets."""

    def __init__(self, width: int, d: int, seed: int):
        super().__init__()
        features = torch.randn(d + 1, width, generator=generator("init", "random-features", seed))
        self.register_buffer("features", features, persistent=False)  # a function of the seed: no weight to keep
        self.weight = nn.Parameter(torch.zeros(1, width, d))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        flat = x.reshape(-1, len(self.features) - 1)
        inputs = torch.cat([flat, t.to(x.dtype).expand(x.shape[: t.dim() or 1]).reshape(-1, 1)], dim=1)
        return (torch.tanh(inputs @ self.features) @ self.weight[0]).reshape(x.shape)
