"""Laws on small spaces: Gaussians, mixtures of them, and the planar shapes that papers draw.

Every curve is built in its usual unit, gets Gaussian noise, and is then multiplied by `scale`; the defaults give a
standard deviation of 1.4 to 2.1 (eight-gaussians, which keeps its literature's size: 3.5). Where the law is known in
closed form, `log_density` is exact in float64.
"""

from __future__ import annotations

import math

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from ..randomness import seed_of
from .base import Data
from .law import MixtureLaw

LABEL_LENGTH = 40  # a longer label would break tables


class Normal(Data):
    """The standard normal N(0, I) on tensors of shape `dims`: the usual source, whatever its shape."""

    name = "normal"
    dims: tuple[PositiveInt, ...] = (2,)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dims

    def label(self) -> str:
        return self.name

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, None]:
        return torch.randn(n, *self.dims, generator=rng), None

    def mixture(self) -> MixtureLaw:
        mean = torch.zeros(1, math.prod(self.dims), dtype=torch.float64)
        return MixtureLaw(mean, torch.ones_like(mean), torch.ones_like(mean[:, 0]))

    def log_density(self, x: Tensor) -> Tensor:
        x = x.double().flatten(1)
        return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


class Mixture(Data):
    """Base of mixtures of Gaussians on vectors. Implement `mixture`. Labels are component numbers."""

    def mixture(self) -> MixtureLaw:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mixture().means.shape[1:])

    @property
    def classes(self) -> int:
        return len(self.mixture().weights)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.mixture().draw(n, rng)

    def log_density(self, x: Tensor) -> Tensor:
        return self.mixture().log_density(x)


class GaussianMixture(Mixture):
    """A mixture of Gaussians.

    Args:
        means: one point a component, all of one dimension.
        stds: of axis-aligned components: one number for all; or one entry a component, each a number or one a dimension.
        covariances: in place of stds, one full matrix a component, symmetric and positive definite.
        weights: positive, summing to one; equal when left out.
    """

    name = "gaussian-mixture"
    unchanged = {"covariances": None}
    means: tuple[tuple[float, ...], ...] = ((-2.0, 0.0), (2.0, 0.0))
    stds: PositiveFloat | tuple[PositiveFloat | tuple[PositiveFloat, ...], ...] = 0.5
    covariances: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    weights: tuple[PositiveFloat, ...] | None = None

    @model_validator(mode="after")
    def _agree(self) -> GaussianMixture:
        count = len(self.means)
        if not count or not self.means[0]:
            raise ValueError("means: give at least one point of at least one dimension, as in [[-2, 0], [2, 0]]")
        dim = len(self.means[0])
        for k, point in enumerate(self.means):
            if len(point) != dim:
                raise ValueError(
                    f"means[{k}] has {len(point)} dimensions, means[0] has {dim}: give all points the same"
                )
        if isinstance(self.stds, tuple):
            if len(self.stds) != count:
                raise ValueError(
                    f"{len(self.stds)} stds for {count} means: give one a component, or one number for all"
                )
            for k, std in enumerate(self.stds):
                if isinstance(std, tuple) and len(std) != dim:
                    raise ValueError(
                        f"stds[{k}] has {len(std)} numbers for {dim} dimensions: give one a dimension, or one number"
                    )
        if self.covariances is not None:
            if "stds" in self.model_fields_set and self.stds != type(self).model_fields["stds"].default:
                raise ValueError("give either stds or covariances, not both")
            if len(self.covariances) != count:
                raise ValueError(f"{len(self.covariances)} covariances for {count} means: give one matrix a component")
            for k, matrix in enumerate(self.covariances):
                _require_covariance(f"covariances[{k}]", matrix, dim)
        if self.weights is not None and len(self.weights) != count:
            raise ValueError(f"{len(self.weights)} weights for {count} means: give one a component, or leave them out")
        if self.weights is not None and abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"weights sum to {sum(self.weights):g}, not to 1: divide them by their sum")
        return self

    def label(self) -> str:
        """As every component's; a long list of numbers is shortened to a digest that still tells mixtures apart."""
        full = super().label()
        if len(full) <= LABEL_LENGTH:
            return full
        return f"{self.name}[#{seed_of(full) % 16**6:06x}]"

    def mixture(self) -> MixtureLaw:
        means = torch.tensor(self.means, dtype=torch.float64)
        count, dim = means.shape
        weights = torch.tensor(self.weights or (1.0,) * count, dtype=torch.float64)
        weights = weights / weights.sum()
        if self.covariances is not None:
            return MixtureLaw.of_covariances(means, torch.tensor(self.covariances, dtype=torch.float64), weights)
        stds = self.stds if isinstance(self.stds, tuple) else (self.stds,) * count
        rows = [std if isinstance(std, tuple) else (std,) * dim for std in stds]
        return MixtureLaw(means, torch.tensor(rows, dtype=torch.float64), weights)


def _require_covariance(key: str, rows: tuple[tuple[float, ...], ...], dim: int) -> None:
    if len(rows) != dim or any(len(row) != dim for row in rows):
        raise ValueError(f"{key} must be {dim} rows of {dim} numbers, as the means have {dim} dimensions")
    matrix = torch.tensor(rows, dtype=torch.float64)
    gap = (matrix - matrix.T).abs().max().item()
    if gap > 1e-9 * matrix.abs().max().item():
        i, j = divmod(int((matrix - matrix.T).abs().argmax()), dim)
        raise ValueError(f"{key} is not symmetric: entry [{i}][{j}] is {rows[i][j]:g}, [{j}][{i}] is {rows[j][i]:g}")
    if (least := torch.linalg.eigvalsh(matrix)[0].item()) <= 0:
        raise ValueError(f"{key} is not positive definite: its least eigenvalue is {least:.3g}, it must be above 0")


class EightGaussians(Mixture):
    """Eight equal Gaussians on a circle of radius `scale`; the defaults are torchcfm's (Tong 2024): 5 and √0.1."""

    name = "eight-gaussians"
    scale: PositiveFloat = 5.0
    std: PositiveFloat = math.sqrt(0.1)

    def mixture(self) -> MixtureLaw:
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        means = self.scale * torch.stack([angle.cos(), angle.sin()], dim=1)
        return MixtureLaw(means, torch.full_like(means, self.std), torch.full_like(angle, 1 / 8))


class Curve(Data):
    """Base of planar curves with isotropic Gaussian noise. Implement `trace`."""

    noise: NonNegativeFloat
    scale: PositiveFloat

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    def trace(self, u: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """The curve's coordinates `(n,)`, `(n,)` at uniform u `(n,)`, and which branch each point is on, or None."""
        raise NotImplementedError

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x, y, label = self.trace(torch.rand(n, generator=rng), rng)
        points = torch.stack([x, y], dim=1)
        return self.scale * (points + self.noise * torch.randn(n, 2, generator=rng)), label


class Moons(Curve):
    """Two interleaved half circles, placed as torchcfm's: 3 x − 1 (`scale` x + `shift`, one number or one a coordinate).

    `noise` is the standard deviation, before scaling, of independent Gaussian noise on each coordinate. torchcfm 1.0.7
    adds ONE uniform value to both coordinates of a point instead: its moons are smeared along the diagonal only.
    """

    name = "moons"
    noise: NonNegativeFloat = 0.05
    scale: PositiveFloat = 3.0
    shift: float | tuple[float, float] = -1.0

    @property
    def classes(self) -> int:
        return 2

    def trace(self, u: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        label = torch.randint(2, u.shape, generator=rng)
        x, y = torch.cos(math.pi * u), torch.sin(math.pi * u)
        return torch.where(label == 0, x, 1 - x), torch.where(label == 0, y, 0.5 - y), label

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x, label = super().draw(n, rng)
        return x + (torch.tensor(self.shift) if isinstance(self.shift, tuple) else self.shift), label


class SCurve(Curve):
    """The letter S: the classic three-dimensional sheet seen from its edge."""

    name = "s-curve"
    noise: NonNegativeFloat = 0.05
    scale: PositiveFloat = 1.5

    def trace(self, u: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, None]:
        angle = 3 * math.pi * (u - 0.5)
        return angle.sin(), angle.sign() * (angle.cos() - 1), None


class SwissRoll(Curve):
    """A spiral of one and a half turns between the radii 1.5 π and 4.5 π: the classic sheet seen from its edge."""

    name = "swiss-roll"
    noise: NonNegativeFloat = 0.25
    scale: PositiveFloat = 0.2

    def trace(self, u: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, None]:
        angle = 1.5 * math.pi * (1 + 2 * u)
        return angle * angle.cos(), angle * angle.sin(), None


class Spirals(Curve):
    """Two arms of `turns` turns each, wound about the centre and opposite to each other, out to radius `scale`."""

    name = "spirals"
    noise: NonNegativeFloat = 0.03
    scale: PositiveFloat = 3.0
    turns: PositiveFloat = 1.5

    @property
    def classes(self) -> int:
        return 2

    def trace(self, u: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        label = torch.randint(2, u.shape, generator=rng)
        radius = u.sqrt()
        angle = 2 * math.pi * self.turns * radius + math.pi * label
        return radius * angle.cos(), radius * angle.sin(), label


class Checkerboard(Data):
    """Uniform on the squares of one colour of a `cells` x `cells` board over [−half_width, half_width]²."""

    name = "checkerboard"
    cells: PositiveInt = 4
    half_width: PositiveFloat = 3.0

    @model_validator(mode="after")
    def _even(self) -> Checkerboard:
        if self.cells % 2:
            raise ValueError(f"cells = {self.cells} must be even, so that both colours cover the same area")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def classes(self) -> int:
        return self.cells**2 // 2

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        column, half_row = (torch.randint(high, (n,), generator=rng) for high in (self.cells, self.cells // 2))
        row = 2 * half_row + column % 2
        corner = torch.stack([column, row], dim=1)
        side = 2 * self.half_width / self.cells
        x = side * (corner + torch.rand(n, 2, generator=rng)) - self.half_width
        return x, column * (self.cells // 2) + half_row

    def log_density(self, x: Tensor) -> Tensor:
        """−log(area) on the board's filled squares, −∞ elsewhere."""
        cell = ((x.double() + self.half_width) * (self.cells / (2 * self.half_width))).floor()
        inside = ((cell >= 0) & (cell < self.cells)).all(1) & (cell.sum(1) % 2 == 0)
        log_area = math.log(2 * self.half_width**2)
        return torch.where(inside, -log_area, -math.inf).double()
