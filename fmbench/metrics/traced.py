"""The exact flow to a mixture of few dimensions, by quadrature over the points in which it ends.

Traced back from a grid over the data, and not forward from the source: the map from z0 to z1 all but jumps where paths part
for different components, its inverse is as smooth as the data's density, and sums over a grid converge beyond any power.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..flow.oracles import MixtureVelocity
from ..flow.velocity import Velocity
from ..solvers.runge_kutta import RK4

STEPS = 128  # of RK4 from the data to the source: errors of 1e-7


@dataclass(frozen=True)
class TracedFlow:
    """What `GaussianFlow` tells in closed form, of the flow of an affine path from N(0, I) that ends in points `z1 (M, D)`.

    `weights (M,)` are those of a quadrature rule for the data's law; all float64.
    """

    velocity: MixtureVelocity
    z1: Tensor
    weights: Tensor
    steps: int = STEPS

    @cached_property
    def solved(self) -> tuple[Tensor, Tensor, Tensor]:
        """z0 `(M, D)`, ∫‖v‖² dt and ∫‖v‖ dt `(M,)`: the state is integrated with both sums, from the end, where they are 0."""
        times = self.velocity.path.warp(torch.linspace(1, 0, self.steps + 1, dtype=torch.float64))

        def rates(t: Tensor, state: Tensor) -> Tensor:
            v = self.velocity(t, state[:, :-2])
            square = v.square().sum(1, keepdim=True)
            return torch.cat([v, square, square.sqrt()], dim=1)

        end = torch.cat([self.z1, torch.zeros_like(self.z1[:, :1]).expand(-1, 2)], dim=1)
        start = RK4().integrate(Velocity(rates), end, times).x
        return start[:, :-2], -start[:, -2], -start[:, -1]

    @property
    def displacement(self) -> Tensor:
        """Z1 − Z0 `(M, D)`."""
        return self.z1 - self.solved[0]

    def cubature(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points z0 and z1 `(M, D)`, and weights `(M,)`, whose sums are means over the flow's coupling."""
        return self.solved[0], self.z1, self.weights

    def transport_cost(self) -> float:
        """E‖Z1 − Z0‖²."""
        return self._mean(self.displacement.square().sum(1))

    def transport_cost_l1(self) -> float:
        """E‖Z1 − Z0‖₁."""
        return self._mean(self.displacement.abs().sum(1))

    def transport_cost_l2(self) -> float:
        """E‖Z1 − Z0‖."""
        return self._mean(self.displacement.norm(dim=1))

    def path_energy(self) -> float:
        """∫ E‖v(t, Z_t)‖² dt."""
        return self._mean(self.solved[1])

    def straightness(self) -> float:
        """∫ E‖(Z1 − Z0) − v(t, Z_t)‖² dt, by the identity of energy and cost."""
        return self.path_energy() - self.transport_cost()

    def one_step_error(self) -> float:
        """E‖Z0 + v(0, Z0) − Z1‖²."""
        first = self.velocity(torch.zeros((), dtype=torch.float64), self.solved[0])
        return self._mean((first - self.displacement).square().sum(1))

    def path_length(self) -> float:
        """E ∫‖v(t, Z_t)‖ dt."""
        return self._mean(self.solved[2])

    def _mean(self, values: Tensor) -> float:
        return (self.weights @ values).item()
