"""Dormand and Prince's pair with a step size for each sample: no sample sees its batch mates.

Error norm, first step and control are those of the textbook, sample by sample (Hairer, Nørsett, Wanner 1993, II.4), with
the constants that scipy's RK45 has made usual, so that one sample takes the steps that scipy would.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import Diverged
from ..flow.velocity import Field, Velocity
from .base import Solution
from .tableaux import Tableau

PAIR = Tableau(
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    low=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
)
"""Dormand & Prince 1980; Hairer, Nørsett, Wanner 1993, table II.5.2."""
GAP = tuple(b - low for b, low in zip(PAIR.b, PAIR.low or (), strict=True))
EXPONENT = -1 / 5  # the error of the embedded order 4 goes with h⁵
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
STARTUP = 2  # evaluations: the first slope, and one for the first step's size


def integrate(velocity: Velocity, x: Tensor, start: Tensor, end: Tensor, rtol: float, atol: float) -> Solution:
    """From x `(B, *shape)` at `start` to `end`; the velocity is called with t `(B',)`, the samples still under way.

    A sample that has arrived leaves the batch, so what is called is what is needed.

    Raises:
        Diverged: a sample's step fell below what its time can resolve.
    """
    samples, forward = len(x), bool(end > start)
    arrived, accepted, rejected = torch.empty_like(x), 0, 0
    evaluations = torch.full((samples,), STARTUP, device=x.device)
    index = torch.arange(samples, device=x.device)
    t = start.double().repeat(samples)

    def field(t: Tensor, y: Tensor, dtype: torch.dtype = x.dtype) -> Tensor:
        return velocity(t, y, index).to(dtype)  # times of float64, one a sample, may promote what a field computes

    slope = field(t, x)
    h = _first_step(field, x, slope, t, end, rtol, atol)
    again = torch.zeros(samples, dtype=torch.bool, device=x.device)  # the last trial was rejected
    while len(index):
        smallest = 10 * (torch.nextafter(t, end.double()) - t).abs()
        if (stuck := ~(h >= smallest)).any():  # so written, NaN is caught too
            raise Diverged(f"dopri5 gave up: a sample's step fell below what its time {t[stuck][0].item():g} resolves")
        later = t + (h if forward else -h)
        later = torch.where(later > end if forward else later < end, end, later)
        step = later - t
        y, slopes = _trial(field, x, slope, t, step, later)
        evaluations[index] += len(slopes) - 1
        scale = atol + rtol * torch.maximum(x.abs(), y.abs())
        error = _norm(_sum(slopes, GAP) * _column(step, x) / scale)
        good = error < 1
        factor = (SAFETY * error**EXPONENT).clamp(SHRINK, GROW).nan_to_num(SHRINK)
        h = step.abs() * torch.where(good & ~again, factor, factor.clamp(max=1))  # no growth after a rejection
        keep = _column(good, x)
        x, slope = torch.where(keep, y, x), torch.where(keep, slopes[-1], slope)
        t, again = torch.where(good, later, t), ~good
        wins = int(good.sum())
        accepted, rejected = accepted + wins, rejected + len(index) - wins
        under_way = t != end
        if not under_way.all():
            arrived[index[~under_way]] = x[~under_way]
            index, x, slope, t, h, again = (part[under_way] for part in (index, x, slope, t, h, again))
    return Solution(arrived, accepted / samples, rejected / samples, STARTUP, evaluations)


def _trial(
    field: Field, x: Tensor, slope: Tensor, t: Tensor, step: Tensor, later: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The state after one step from every sample's own time, and the seven slopes, the last at that state."""
    slopes, h, y = [slope], _column(step, x), x
    for row, node in zip(PAIR.a, PAIR.c[1:], strict=True):
        y = x + h * _sum(slopes, row)
        slopes.append(field(later if node > 1 - 1e-12 else t + node * step, y))
    return y, slopes  # the last row is b: y is the step's result


def _first_step(field: Field, x: Tensor, slope: Tensor, t: Tensor, end: Tensor, rtol: float, atol: float) -> Tensor:
    """A first step for every sample, for one call (Hairer, Nørsett, Wanner, II.4, "starting step size")."""
    whole = (end - t).abs()
    scale = atol + rtol * x.abs()
    d0, d1 = _norm(x / scale), _norm(slope / scale)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(whole)
    signed = h0 * torch.sign(end - t)
    d2 = _norm((field(t + signed, x + _column(signed, x) * slope) - slope) / scale) / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / steepest) ** -EXPONENT)
    return torch.minimum(100 * h0, h1).minimum(whole)


def _sum(slopes: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    terms = [(w, k) for w, k in zip(weights, slopes, strict=True) if w]
    total = terms[0][0] * terms[0][1]
    for w, k in terms[1:]:
        total = total.add(k, alpha=w)
    return total


def _norm(x: Tensor) -> Tensor:
    """Root mean square over the dimensions of each sample, float64 `(B,)`."""
    return x.flatten(1).double().square().mean(1).sqrt()


def _column(values: Tensor, x: Tensor) -> Tensor:
    """`(B,)` shaped against `(B, *shape)`, in its precision unless it is a mask."""
    shaped = values.reshape(-1, *[1] * (x.dim() - 1))
    return shaped if values.dtype == torch.bool else shaped.to(x.dtype)
