"""Guards: without them a claim passes for the wrong reason. A guard that fails leaves its claim untested."""

from __future__ import annotations

import math

from ..contrasts import combination
from ..table import REFERENCE
from .base import Contrast, Guard
from .cells import Cell, Cells, NotTested

SURE = 1.645  # standard errors: what is said of a marginal must hold at 95 %
MISFIT = 0.25  # a marginal error shown to be beyond this share of the displacement: no flow to this data at all
SLIGHT = 0.05  # one within this share is no reason to doubt a comparison, whatever the other side's is
WORSE = 1.5  # beyond it, one shown to be so many times the right side's has bought the left side's advantage
SHRUNK = 0.15  # ends shown to be narrower than the data by more than this share; trained digits are, by 6 to 10 %
NARROWER = 0.08  # or than the other side's ends, from the same noise; two rounds on digits cost 5 %
ASTRAY = 0.05  # an energy coefficient shown to be beyond this: what the other side is held against is not at the data
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
    """Each flow reaches its data: a model that shrinks its samples is cheap, and one that does not move is straight.

    W2 between samples is held against its floor, W2 between real samples. It is blind to a mild shrinkage of few samples,
    for which the spread of the ends stands beside it: on common noise that differs by next to nothing.
    """
    left, right = contrast.left, contrast.right
    other = right if right is not None and right.metric == left.metric else None
    for side in (left, *([other] if other else [])):
        cost = cells.required(side, "transport_cost").value
        excess, stderr = _excess(cells, side)
        if excess - SURE * stderr > MISFIT**2 * cost:
            far = f"w2 of {side.flow} is {cells.finest(side, 'w2').value:.3g}"
            return f"{far}, too much beside displacements of {math.sqrt(cost):.3g}"
    if other is not None and (reason := _farther(cells, left, other)) is not None:
        return reason
    return _shrunk(cells, left, other) or (_shrunk(cells, other, left) if other else None)


def _excess(cells: Cells, side: Cell) -> tuple[float, float]:
    """W2² of a flow's samples above the floor's, and its standard error."""
    error = cells.finest(side, "w2")
    floor = cells.floor(error)
    sides = [error, *([floor] if floor else [])]
    excess = error.value**2 - (floor.value**2 if floor else 0.0)
    return excess, math.hypot(*(2 * found.value * found.stderr for found in sides))


def _farther(cells: Cells, left: Cell, right: Cell) -> str | None:
    (excess, stderr), (others, doubt) = _excess(cells, left), _excess(cells, right)
    slight = SLIGHT**2 * cells.required(left, "transport_cost").value
    beyond = excess - WORSE**2 * max(others, 0.0)
    if excess > slight and beyond > SURE * math.hypot(stderr, WORSE**2 * doubt if others > 0 else 0.0):
        values = [cells.finest(side, "w2").value for side in (left, right)]
        return f"w2 of {left.flow} is {values[0]:.3g}, of {right.flow} {values[1]:.3g}"
    return None


def _shrunk(cells: Cells, side: Cell, other: Cell | None) -> str | None:
    """The ends of a flow are narrower than the data, or than those of the flow beside it from the same noise."""
    own, beside = cells.spread_of(side), other and cells.spread_of(other)
    if own is None:
        return None
    known = [(combination([(1, own.rows)]), ((1 - SHRUNK) * cells.spread(side)) ** 2, "the data")]
    if other and beside:
        difference = combination([(1, own.rows), (-((1 - NARROWER) ** 2), beside.rows)])
        known.append((difference, 0.0, f"the samples of {other.flow}"))
    for difference, limit, wide in known:
        if difference.value + SURE * difference.stderr < limit:
            return f"the samples of {side.flow} spread by {math.sqrt(own.value):.3g}, narrower than {wide}"
    return None


def _arrived(cells: Cells, contrast: Contrast) -> str | None:
    """What is measured as the distance to the data, here the yardstick's, is small: of two bad flows one may be the better."""
    good = min(contrast.left, contrast.right or contrast.left, key=lambda cell: cell.value)
    if good.value - 2 * good.stderr > ASTRAY:
        return f"{good.metric} of {good.flow} is {good.value:.3g}: neither side arrives at the data"
    return None


def _integration_error(cells: Cells, contrast: Contrast) -> str | None:
    """The reference solves' own errors, of both sides together, cannot carry the effect across the margin, where it is decided.

    Its distance from there is the effect itself where there is no margin. A clear effect that chance has put next to its
    margin, nearer than its standard error, is undecided in any case: there the solves' errors must be beyond that, too.

    For Z1 off by δ, r = √E‖δ‖²: the transport cost is off by at most 2 r √C + r², E‖Z1 − Z0‖ and a solver's error by r,
    E‖Z1 − Z0‖₁ by √D r; an energy coefficient by 2 r / E‖x − y‖, where E‖x − y‖ is about the data's spread; another
    convex cost is taken to be off by the same share as ‖·‖².
    """
    bounds = [_off(cells, side) for side in (contrast.left, contrast.right) if side is not None]
    bound, effect = math.fsum(bounds), contrast.difference.value
    undecided = min(abs(effect), contrast.difference.stderr)
    if bound > 0 and bound >= max(abs(effect - contrast.margin), undecided):
        place = f"the effect is {effect:.2g}" + (f", the margin {contrast.margin:.2g}" if contrast.margin else "")
        return f"the reference solve of {contrast.left.flow} may be off by {bound:.2g}, {place}"
    return None


def _off(cells: Cells, side: Cell) -> float:
    if side.metric.startswith(TRAINED) or (side["solver"] != REFERENCE and side.metric != "solver_error"):
        return 0.0  # no reference solve went into it
    r = cells.required(side, "reference_error").value
    if side.metric == "marginal_gap":
        return 2 * r / cells.spread(side)
    if side["unit"] == "data units":
        return r * _root_dims(cells, side)
    cost = cells.required(side, "transport_cost").value
    bound = 2 * r * math.sqrt(cost) + r**2
    return bound if side["unit"] == "data units²" else bound * side.value / cost


def _fresh_noise(cells: Cells, contrast: Contrast) -> str | None:
    """No flow was evaluated on the noise of pairs that it, or a round before it, was trained on: it may know them by heart.

    A run's own streams never meet; `by_sample.gather` looks at the noise itself all the same, however much of it there is.
    """
    for cell in contrast.cells:
        if any(row["key"] in cells.reused for row in cell.rows):
            return f"{cell['metric']} of {cell.flow} was measured on the noise of its own training pairs"
    return None


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

GEOMETRY = (same_noise, fresh_noise, marginal_error, integration_error)  # of two flows
ALONE = (fresh_noise, marginal_error, integration_error)  # of one flow against a number of its own
NAMED = {guard.name: guard for guard in GEOMETRY}  # for claims in a suite file
