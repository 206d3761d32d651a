"""The assignment that minimises Σ_i ‖a_i − b_j(i)‖² over permutations j: exact, and as fast as the libraries allow.

What is slow differs with the dimension: in the plane the solve (many assignments nearly tie), among images the costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import Diverged

Engine = Callable[[np.ndarray], np.ndarray]
Product = Callable[[Tensor, Tensor], tuple[np.ndarray, float, float]]


def assignment(a: Tensor, b: Tensor, engine: Literal["auto", "pot", "lapjv"] = "auto") -> np.ndarray:
    """The column j `(n,)` int64 of each row, for points a, b `(n, d)`.

    Raises:
        Diverged: a or b is not finite. RuntimeError: the engine stopped before the optimum.
    """
    if _spread(b) > WIDER * _spread(a):
        return _inverse(_assigned(b, a, engine))
    return _assigned(a, b, engine)


def _inverse(j: np.ndarray) -> np.ndarray:
    """The row of each column, from the column of each row."""
    i = np.empty_like(j)
    i[j] = np.arange(len(j))
    return i


WIDER = 1.2
"""The points that are spread wider by this factor stand as rows: row reduction then leaves less to do (0.9 against 1.6 ms,
n = 256, d = 64, normal → digits)."""


def _spread(x: Tensor) -> float:
    """E‖x − E x‖² up to a factor; of the first 64 points and some 256 coordinates, for a guess needs no more."""
    y = np.ascontiguousarray(x[:64, :: max(1, x.shape[1] // 256)].numpy(force=True))
    return float(np.vdot(y, y)) / len(y) - float(np.square(y.mean(0)).sum())


def _assigned(a: Tensor, b: Tensor, engine: Literal["auto", "pot", "lapjv"]) -> np.ndarray:
    n, d = a.shape
    solve = partial(_solve, _ENGINES[_faster(n, d) if engine == "auto" else engine])
    if d <= 4:  # explicit differences are as fast as the product
        return solve(_distances(a, b))
    for product, share in _attempts(a, b):
        costs, squares, rounding = product(a, b)
        if abs(costs[0, 0]) > 1e3 * np.ptp(costs):  # a common offset drowns the differences
            continue
        j = solve(costs)
        if rounding / share <= 1e-9 * (squares + costs[np.arange(n), j].mean()):
            return j
    return solve(_distances(a, b))  # pairs closer than products resolve


def _attempts(a: Tensor, b: Tensor) -> list[tuple[Product, float]]:
    """Ways to the costs, the fastest first, each with what its rounding is divided by before it is judged.

    Single precision, for float32 points of high dimension, where the product is all the time: an entry is off by about
    ε‖a‖‖b‖, and only a swap of a few pairs that tie to within that can go wrong, so of the total cost of n pairs at most
    about ε / n is lost. In 92 problems of n = 128 to 1024 the pairing was the optimal one. Points far from the origin are
    centred, which changes no assignment: a common offset would eat the digits.
    """
    single = a.dtype == b.dtype == torch.float32 and a.shape[1] >= 512
    short: list[tuple[Product, float]] = [(_product, len(a)), (_centred_product, len(a))] if single else []
    return [*short, (_double_product, 0.01), (_double_centred_product, 0.1)]


# -- cost matrices: up to a constant per row and per column, which changes no assignment --


def _distances(a: Tensor, b: Tensor) -> np.ndarray:
    """‖a_i − b_j‖² by explicit differences."""
    from scipy.spatial.distance import cdist

    return cdist(a.double().numpy(force=True), b.double().numpy(force=True), "sqeuclidean")


def _product(a: Tensor, b: Tensor) -> tuple[np.ndarray, float, float]:
    """−2⟨a_i, b_j⟩ in the points' precision: ‖a_i − b_j‖² up to the squared norms; the mean sum of those; the rounding."""
    costs = (a @ b.T).mul_(-2)
    squares = [torch.dot(x.flatten(), x.flatten()).item() / len(a) for x in (a, b)]
    rounding = torch.finfo(a.dtype).eps * math.sqrt(squares[0] * squares[1])
    return costs.numpy(force=True), sum(squares), rounding


def _centred_product(a: Tensor, b: Tensor) -> tuple[np.ndarray, float, float]:
    return _product(a - a.mean(0), b - b.mean(0))


def _double_product(a: Tensor, b: Tensor) -> tuple[np.ndarray, float, float]:
    return _product(a.double(), b.double())


def _double_centred_product(a: Tensor, b: Tensor) -> tuple[np.ndarray, float, float]:
    return _centred_product(a.double(), b.double())


# -- engines: cost matrix (n, n) → the column of each row (n,) --


def _faster(n: int, d: int) -> str:
    """The faster exact engine. Measured on one thread, ms, `pot` / `lapjv`, medians of 8, 4, 3 fresh draws:

    n = 256: 12 / 7 to 19 / 11 (d = 2), 19 / 3 (d = 8). n = 1024: 265 / 171 to 375 / 351 (d = 2), 686 / 304 (d = 8).
    n = 2048: 1448 / 1135 to 1717 / 1797 (d = 2), 1879 / 1046 (d = 8). Above, in the plane, `lapjv` is unsteady: at
    n = 3072, single draws, 2701 / 2340 and 2192 / 4074, so `pot` loses less. The machine was busy: read ratios only.
    """
    return "pot" if d <= 2 and n > 2048 else "lapjv"


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


_CROWDED = 0.25
_STRIDE, _BLOCKS = 8, 4  # 4 blocks of n/8: near the best of those tried (strides 4 to 16) for n = 256 to 1024


def _lapjv(costs: np.ndarray) -> np.ndarray:
    """Jonker-Volgenant on reduced costs C_ij − u_i − v_j: any u, v leave the optimum, good ones leave little to do.

    Row reduction is enough where the rows' cheapest columns are many different ones (high dimension). Where they are few
    (the plane, random walks), the transposed problem is solved, whose duals are first guessed: the mean, over a few small
    blocks solved exactly, of each block's duals carried to all. With and without the guess, medians in ms of the solve on one
    thread: 1.3 / 0.6 (n = 256, d = 64, normal), 3.0 / 5.3 (256, the plane), 81 / 316 (1024, the plane), 50 / 244 (1024, random
    walks), 15 / 9 (1024, smooth images); `_CROWDED` lies between.
    """
    import lap

    n = len(costs)
    costs = costs - costs.min(1, keepdims=True)
    if n < 256 or np.count_nonzero(costs.min(0) == 0) > _CROWDED * n:
        return lap.lapjvr(costs, return_cost=False)[1]
    v = np.zeros(n)
    for start in range(_BLOCKS):  # strided, so that sorted data give representative blocks too
        rows = costs.T[start::_STRIDE]
        _, u = _simplex(np.ascontiguousarray(rows[:, start::_STRIDE], dtype=np.float64))
        v += (rows - u[:, None]).min(0) / _BLOCKS
    costs = np.subtract(costs.T, v, order="C")
    costs -= costs.min(1, keepdims=True)
    return _inverse(lap.lapjvr(costs, return_cost=False)[1])


_ENGINES: dict[str, Engine] = {"pot": _pot, "lapjv": _lapjv}


def _solve(engine: Engine, costs: np.ndarray) -> np.ndarray:
    """The engine's answer, guarded: costs must be finite (lapx does not look), the answer a permutation."""
    if not np.isfinite(costs).all():
        raise Diverged("a minibatch to be paired is not finite")
    j = engine(costs)
    if (np.bincount(j, minlength=len(j)) != 1).any():
        raise RuntimeError(f"the engine's answer is no permutation of {len(j)} samples")
    return j
