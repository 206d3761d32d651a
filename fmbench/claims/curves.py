"""Errors over network calls: how many calls an error takes, and at what order it falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..contrasts import Row
from ..table import FLOW, REFERENCE, TASK
from .cells import Cell, Cells, stderr_of

Curve = list[Cell]  # one flow, one fixed-step solver: a metric by increasing network calls


def curves(cells: Cells, metric: str, **where: Any) -> list[Curve]:
    """Every curve of at least two budgets; budgets at which a seed failed, or was exact, are left out."""
    found: dict[tuple[Any, ...], Curve] = {}
    for cell in cells.find(metric, broken=True, **where):
        if cell["rtol"] is None and cell["solver"] != REFERENCE and min(row["value"] for row in cell.rows) > 0:
            key = (*(cell[name] for name in (*TASK, *FLOW)), cell["solver"], cell["grid"], cell["metric"])
            found.setdefault(key, []).append(cell)
    return [sorted(curve, key=lambda cell: cell.nfe) for curve in found.values() if len(curve) > 1]


def log2_calls(curve: Curve, targets: Mapping[Any, tuple[float, float]]) -> list[Row]:
    """log2 of the calls at which the error first meets the target of each (seed, sample seed), log-log interpolated.

    Args:
        targets: the error to meet and its relative standard error; an error that the curve itself attains is met
            exactly there.
    """
    rows: list[Row] = []
    for place, (target, doubt) in targets.items():
        points = [next(row for row in cell.rows if _place(row) == place) for cell in curve]
        later = next(i for i, row in enumerate(points) if row["value"] <= target)
        x, y = math.log2(curve[later].nfe), points[later]
        if y["value"] == target or later == 0:
            rows.append({**y, "value": x, "stderr": 0.0})
            continue
        before = points[later - 1]
        slope = math.log(before["value"] / y["value"]) / (x - math.log2(curve[later - 1].nfe))
        value = x - math.log(target / y["value"]) / slope
        rows.append({**y, "value": value, "stderr": math.hypot(stderr_of(y) / y["value"], doubt) / slope})
    return rows


def common_targets(a: Curve, b: Curve) -> dict[Any, tuple[float, float]]:
    """For each (seed, sample seed) of both: the least error that both curves reach, with its relative standard error."""
    best = [{place: min((r for c in curve for r in c.rows if _place(r) == place), key=lambda r: r["value"])
             for place in map(_place, curve[0].rows)} for curve in (a, b)]  # fmt: skip
    worse = {
        place: max((best[0][place], best[1][place]), key=lambda r: r["value"])
        for place in best[0].keys() & best[1].keys()
    }
    return {place: (row["value"], stderr_of(row) / row["value"]) for place, row in sorted(worse.items(), key=str)}


def slope_weights(curve: Sequence[Cell]) -> list[float]:
    """Weights on the log errors whose sum is the least-squares slope over log steps."""
    x = [math.log(cell["steps"]) for cell in curve]
    center = math.fsum(x) / len(x)
    scale = math.fsum((value - center) ** 2 for value in x)
    return [(value - center) / scale for value in x]


def _place(row: Row) -> tuple[Any, Any]:
    return row["seed"], row["sample_seed"]
