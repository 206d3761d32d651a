"""Couplings: which x0 of a minibatch is paired with which x1 (math.md, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..errors import Diverged
from ..registry import Component


class Coupling(Component):
    """A rule that pairs the two sides of a minibatch."""

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Index tensors `(i, j)` of `(B,)` each: x0[i] goes with x1[j] (and with x1's label j).

        Args:
            x0, x1: `(B, *shape)`, one minibatch.
            rng: for couplings that sample; never the global generator.
        """
        raise NotImplementedError


class Independent(Coupling):
    """Pairs as they were drawn: x0 and x1 independent."""

    name = "independent"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.arange(len(x0), device=x0.device)
        return index, index


class MinibatchOT(Coupling):
    """Exact optimal transport inside the minibatch, squared Euclidean cost, without replacement: the assignment itself.

    (Tong 2024, minibatch OT-CFM; Pooladian 2023, BatchOT.) The plan is a permutation: every sample is used once.

    Args:
        engine: `lapjv` (lapx), `pot` (network simplex), or `auto`, the faster one for the size and dimension. Both are
            exact; they may differ where several assignments are optimal.
        batch: samples in one transport problem; a larger problem than the training batch is cut by the caller.
    """

    name = "minibatch-ot"
    engine: Literal["auto", "pot", "lapjv"] = "auto"
    batch: int | None = Field(None, gt=1)

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The optimal pairing, i = 0 … B − 1. Deterministic: draws nothing from rng.

        Raises:
            Diverged: x0 or x1 is not finite. RuntimeError: the engine stopped before the optimum.
        """
        if x0.shape != x1.shape:
            raise ValueError(f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)} must have the same shape")
        a, b = x0.detach().flatten(1), x1.detach().flatten(1)
        index = torch.arange(len(a), device=a.device)
        solve = partial(_assign, _ENGINES[_faster(*a.shape) if self.engine == "auto" else self.engine])
        if a.shape[1] <= _DIRECT:
            j = solve(_distances(a, b))
        else:
            costs, squares, rounding = _products(a, b)
            j = solve(costs)
            if rounding > 1e-10 * (squares + costs[range(len(j)), j].mean()):  # pairs closer than the product resolves
                j = solve(_distances(a, b))
        return index, torch.from_numpy(j).to(a.device)


def cost(x0: Tensor, x1: Tensor, i: Tensor, j: Tensor) -> float:
    """Transport cost of a pairing: the mean of ‖x1[j] − x0[i]‖² in float64, data units²."""
    difference = x1.flatten(1)[j.to(x1.device)].double() - x0.flatten(1)[i.to(x0.device)].double()
    return difference.square_().sum(1).mean().item()


# -- cost matrices: float64, up to a constant per row and per column, which changes no assignment --

_DIRECT = 4  # up to this dimension, explicit differences are as fast as the product


def _distances(a: Tensor, b: Tensor) -> np.ndarray:
    """‖a_i − b_j‖² by explicit differences."""
    from scipy.spatial.distance import cdist

    return cdist(a.double().numpy(force=True), b.double().numpy(force=True), "sqeuclidean")


def _products(a: Tensor, b: Tensor) -> tuple[np.ndarray, float, float]:
    """−2⟨a_i, b_j⟩ of the centred sides: ‖a_i − b_j‖² up to the squared norms; their mean sum; the rounding.

    Column blocks keep the float64 copies in the cache. Without centring a common offset would eat the digits.
    """
    n, d = a.shape
    costs = torch.zeros(n, n, dtype=torch.float64, device=a.device)
    squares = torch.zeros(2, dtype=torch.float64, device=a.device)  # the mean of ‖a_i‖² and of ‖b_j‖²
    for block in range(0, d, 384):
        p, q = (x[:, block : block + 384].double() for x in (a, b))
        p, q = p - p.mean(0), q - q.mean(0)
        costs.addmm_(p, q.T, alpha=-2)
        squares += torch.stack([p.norm(), q.norm()]).square_() / n
    return costs.numpy(force=True), squares.sum().item(), np.finfo(float).eps * squares.prod().sqrt().item()


# -- engines: cost matrix (n, n) float64 → the column of each row (n,) --

Engine = Callable[[np.ndarray], np.ndarray]


def _faster(n: int, d: int) -> str:
    """The faster exact engine. Measured on one thread, in ms, `pot` / `lapjv`: see tests/benchmarks/coupling.py.

    n = 256: 8 / 4 (d = 2), 12 / 2 (d ≥ 64). n = 1024: 220 / 130 (d = 2), 450 / 45 (d ≥ 64). n = 2048: 850 / 800
    and less steady in 2-D, 1700 / 250 at d = 8. In the plane many assignments nearly tie, so augmenting paths are long.
    """
    return "pot" if d <= 3 and n > 1536 else "lapjv"


_MAX_ITERATIONS = 10**9  # the default 10⁵ stops early from about n = 2048 on


def _simplex(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Network simplex: the plan `(n, n)`, of zeros and ones because the masses are ones, and the rows' duals `(n,)`."""
    import ot  # seconds to import: only where it is used

    ones = np.ones(len(costs))
    plan, log = ot.emd(
        ones, ones, costs, numItermax=_MAX_ITERATIONS, log=True, center_dual=False, check_marginals=False
    )
    if log["warning"] is not None:
        raise RuntimeError(f"ot.emd stopped before the optimum (n = {len(costs)}): {log['warning']}")
    return plan, log["u"]


def _pot(costs: np.ndarray) -> np.ndarray:
    """The plan's only entry in each row."""
    return _simplex(costs)[0].argmax(1)


_STRIDE, _BLOCKS = 8, 4  # 4 blocks of n/8: a flat optimum from n = 256 to 1024


def _lapjv(costs: np.ndarray) -> np.ndarray:
    """Jonker-Volgenant on reduced costs C_ij − u_i − v_j: any u, v leave the optimum, good ones leave little to do.

    Where fewer than half of the rows can have their cheapest column after column reduction (low dimension, correlated
    images), v is the mean, over a few small blocks solved exactly, of each block's dual carried to all columns.
    Measured at n = 1024: 370 → 130 ms (d = 2), 330 → 55 ms (correlated images), 90 → 45 ms (smooth images).
    """
    import lap

    n = len(costs)
    costs = costs - costs.min(0)
    if n >= 128 and len(np.unique(costs.argmin(1))) < n / 2:
        v = np.zeros(n)
        for start in range(_BLOCKS):  # strided, so that sorted data give representative blocks too
            rows = costs[start::_STRIDE]
            _, u = _simplex(np.ascontiguousarray(rows[:, start::_STRIDE]))
            v += (rows - u[:, None]).min(0) / _BLOCKS
        costs -= v
        costs -= costs.min(1, keepdims=True)
        costs -= costs.min(0)
    return lap.lapjvr(costs, return_cost=False)[1]


_ENGINES: dict[str, Engine] = {"pot": _pot, "lapjv": _lapjv}


def _assign(engine: Engine, costs: np.ndarray) -> np.ndarray:
    """The engine's answer, guarded: costs must be finite (lapx does not look), the answer a permutation."""
    if not np.isfinite(costs).all():
        raise Diverged("a minibatch to be paired is not finite")
    j = engine(costs)
    if (np.bincount(j, minlength=len(j)) != 1).any():
        raise RuntimeError(f"the engine's answer is no permutation of {len(j)} samples")
    return j
