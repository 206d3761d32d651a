"""Guards: without them a claim passes for the wrong reason. A guard that fails leaves its claim untested."""

from __future__ import annotations

import math

from .base import Contrast, Guard
from .cells import Cell, Cells, NotTested, stderr_of

WORSE = 1.5  # a left side whose marginal error is so many times the right side's has bought its advantage
MISFIT = 0.25  # a marginal error shown to be beyond this share of the displacement: no flow to this data at all
ASTRAY = 0.05  # an energy coefficient shown to be beyond this: what the other side is held against is not at the data
COINCIDENCE = 0.01  # costs that agree to this share of their standard errors were measured on the same noise
TRAINED = "train_coupling_cost"


def _same_noise(cells: Cells, contrast: Contrast) -> str | None:
    """Left and right were measured on the same noise and as much of it; other quantities have noise of their own."""
    left, right = contrast.left, contrast.right
    if right is None or right.metric != left.metric:
        return None
    for name in ("sample_seed", "n"):
        values = [{row[name] for row in cell.rows} for cell in (left, right)]
        if values[0] != values[1]:
            return f"{name} differs: {_listed(values[0])} against {_listed(values[1])}"
    return None


def _marginal_error(cells: Cells, contrast: Contrast) -> str | None:
    """The flow reaches its data: a model that shrinks its samples is cheap, and one that does not move is straight."""
    left, right = contrast.left, contrast.right
    error, cost = cells.finest(left, "w2"), cells.required(left, "transport_cost")
    floor = cells.floor(error)
    excess = error.value**2 - (floor.value**2 if floor else 0.0)
    doubt = math.hypot(*(2 * side.value * side.stderr for side in (error, floor) if side))
    if excess > MISFIT**2 * cost.value + 2 * doubt:
        return f"w2 of {left.flow} is {error.value:.3g}, too much beside displacements of {math.sqrt(cost.value):.3g}"
    if right is not None and right.metric == left.metric:
        other = cells.finest(right, "w2")
        if error.value > WORSE * other.value:
            return f"w2 of {left.flow} is {error.value:.3g}, of {right.flow} {other.value:.3g}"
    return None


def _arrived(cells: Cells, contrast: Contrast) -> str | None:
    """What is measured as the distance to the data, here the yardstick's, is small: of two bad flows one may be the better."""
    good = min(contrast.left, contrast.right or contrast.left, key=lambda cell: cell.value)
    if good.value - 2 * good.stderr > ASTRAY:
        return f"{good.metric} of {good.flow} is {good.value:.3g}: neither side arrives at the data"
    return None


def _integration_error(cells: Cells, contrast: Contrast) -> str | None:
    """The reference solve's own error cannot make or hide the effect.

    For Z1 off by δ, r = √E‖δ‖²: the transport cost is off by at most 2 r √C + r², E‖Z1 − Z0‖ and a solver's error by r,
    E‖Z1 − Z0‖₁ by √D r; an energy coefficient by 2 r / E‖x − y‖, where E‖x − y‖ is about the data's spread; another
    convex cost is taken to be off by the same share as ‖·‖².
    """
    for side in (contrast.left, contrast.right):
        if side is None or side.metric.startswith(TRAINED):
            continue
        r = cells.required(side, "reference_error").value
        if side.metric == "marginal_gap":
            bound = 2 * r / cells.spread(side)
        elif side["unit"] == "data units":
            bound = r * _root_dims(cells, side)
        else:
            cost = cells.required(side, "transport_cost").value
            bound = 2 * r * math.sqrt(cost) + r**2
            bound *= 1 if side["unit"] == "data units²" else side.value / cost
        if bound >= max(abs(contrast.difference.value), contrast.margin):
            effect = f"the effect is {contrast.difference.value:.2g}"
            return f"the reference solve of {side.flow} may be off by {bound:.2g}, {effect}"
    return None


def _fresh_noise(cells: Cells, contrast: Contrast) -> str | None:
    """The round before, which drew the training pairs, was not evaluated on these very pairs.

    A run's own streams never meet; this is for tables that were made elsewhere. On the same noise the pairs' cost IS
    the round's cost, up to the solvers' errors: far closer than sampling noise allows.
    """
    left, trained = contrast.left, contrast.right
    if trained is None or not trained.metric.startswith(TRAINED) or not left["reflow"]:
        return None
    for before in cells.partners(left, reflow=left["reflow"] - 1):
        if {row["n"] for row in before.rows} == {row["n"] for row in trained.rows} and _coincide(before, trained):
            return f"the cost of {before.flow} is that of the training pairs drawn from it, digit for digit"
    return None


def _coincide(a: Cell, b: Cell) -> bool:
    values = {(row["seed"], row["sample_seed"]): row["value"] for row in b.rows}
    gaps = [
        (abs(row["value"] - values.get((row["seed"], row["sample_seed"]), math.inf)), stderr_of(row)) for row in a.rows
    ]
    return all(math.isfinite(stderr) and gap <= COINCIDENCE * stderr for gap, stderr in gaps)


def _root_dims(cells: Cells, cell: Cell) -> float:
    if not cell.metric.endswith("_l1"):
        return 1.0
    dims = cells.dims(cell)
    if dims is None:
        raise NotTested("missing facts", f"the manifest does not say how many dimensions {cell['data']} has")
    return math.sqrt(dims)


def _listed(values: set[object]) -> str:
    return ", ".join(sorted(map(str, values)))


same_noise = Guard("same z0", (), _same_noise)
marginal_error = Guard("marginal error", ("w2", "transport_cost"), _marginal_error)
arrived = Guard("marginal error", (), _arrived)
integration_error = Guard("integration error", ("reference_error",), _integration_error)
fresh_noise = Guard("fresh z0", (), _fresh_noise)

GEOMETRY = (same_noise, marginal_error, integration_error)  # of two flows
ALONE = (marginal_error, integration_error)  # of one flow against a number of its own
