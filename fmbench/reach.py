"""How many network calls a flow needs: the least budget whose metric is near the flow's own best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .errors import UserError
from .grouping import grouped
from .statistics import redrawn
from .table import FLOW, REFERENCE, TASK, flow_labels, of_flows, of_lines, records, sampler_labels

COLUMNS: dict[str, str] = {
    **dict.fromkeys(["data", "source", "flow", "sampler", "metric"], "string"),
    **dict.fromkeys(["nfe", "low", "high", "best", "best_nfe"], "float64"),
    **dict.fromkeys(["budgets", "failed", "seeds"], "Int64"),
}
Row = dict[str, Any]


def least_calls(table: pd.DataFrame, metric: str, within: float = 0.05, level: float = 0.95) -> pd.DataFrame:
    """The least budget at which each fixed-step solver comes within a share of the flow's own best, on one metric.

    The flow's best is its best mean over seeds at any budget of any fixed-step solver in the table; near means no worse
    than best + within · |best| (− where higher is better). Among the budgets that were run: finer answers, and bests
    beyond the largest budget, are not seen. A budget of which a seed failed counts as failed, not as reached.

    The interval: every budget's mean is redrawn by its uncertainty (`statistics.redrawn`: seeds together, samples
    budget by budget) and the question asked again, against the budget that was best. The best is not chosen anew: the
    least of several redrawn means would lie too low and the answer too high.

    Args:
        table: columns as in `table.COLUMNS`. Adaptive solvers choose their own calls and are left out.

    Returns:
        One row a flow and solver: data, source, flow, sampler, metric; nfe, infinite where no budget reaches; low and
        high, budgets too, infinite where what they bound was not reached; best and best_nfe, the flow's; budgets (that
        have a value), failed (that have not), seeds. With one budget, or an undefined standard error, nothing is known
        but that the answer lies between the least budget and infinity.

    Raises:
        UserError: within is negative or not below 1, the metric has no direction, or no fixed-step solver was measured by it.
    """
    if not 0 <= within < 1:
        raise UserError(f"within = {within}: a share of the best value, at least 0 and below 1, as 0.05 for 5 %")
    labelled = table.assign(flow=flow_labels(table), sampler=sampler_labels(table))
    rows = records(labelled[(labelled["metric"] == metric) & of_flows(labelled)])
    higher = next((row["higher_is_better"] for row in rows if row["higher_is_better"] is not None), None)
    rows = [row for row in rows if row["solver"] not in (None, REFERENCE) and row["rtol"] is None and row["nfe"]]
    if not rows:
        raise UserError(f"metric '{metric}' was measured at no fixed budget: choose one that belongs to the samples")
    if higher is None:
        raise UserError(f"metric '{metric}' is neither better higher nor lower: it has no best")
    flows = grouped(rows, lambda row: tuple(row[name] for name in (*TASK, *FLOW)))
    lines = [line for flow in flows.values() for line in _flow(flow, -1.0 if higher else 1.0, within, level)]
    return of_lines(lines, COLUMNS)


def _flow(rows: list[Row], sign: float, within: float, level: float) -> list[Row]:
    """The lines of one flow; sign · value is better lower."""
    seeds = sorted({row["seed"] for row in rows}, key=str)
    cells = grouped(rows, lambda row: (row["sampler"], row["nfe"]))
    good = {cell: found for cell, found in cells.items() if _complete(found, seeds)}
    about = {name: rows[0][name] for name in ("data", "source", "flow", "metric")} | {"seeds": len(seeds)}
    if good:
        values, errors, freedom = (
            np.array([[_mean(rows, name, seed) for rows in good.values()] for seed in seeds])
            for name in ("value", "stderr", "freedom")
        )
        means = sign * values.mean(axis=0)
        best = int(means.argmin())
        certain = len(good) > 1 and np.isfinite(errors).all()
        drawn = sign * redrawn(values, errors, freedom, seed=0) if certain else np.empty((0, len(good)))
        about |= {"best": sign * means[best], "best_nfe": list(good)[best][1]}
        near = _near(np.vstack([means, drawn]), best, within)
    lines = []
    for sampler in dict.fromkeys(sampler for sampler, _ in cells):
        budgets = sorted((nfe, place) for place, (name, nfe) in enumerate(good) if name == sampler)
        line = {"best": math.nan, "best_nfe": math.nan, **about, "sampler": sampler, "budgets": len(budgets)}
        line |= {"failed": sum(name == sampler for name, _ in cells) - len(budgets)}
        if not budgets:
            lines.append(line | dict.fromkeys(["nfe", "low", "high"], math.inf))
            continue
        reached = near[:, [place for _, place in budgets]]
        answers = np.where(reached.any(1), np.array([nfe for nfe, _ in budgets])[reached.argmax(1)], math.inf)
        low, high = _ends(answers[1:], level) if certain else (budgets[0][0], math.inf)
        nfe = float(answers[0])
        lines.append(line | {"nfe": nfe, "low": min(low, nfe), "high": max(high, nfe)})
    return lines


def _near(means: np.ndarray, best: int, within: float) -> np.ndarray:
    """Which of the means `(draws, B)` are within a share of the one at the place `best`."""
    least = means[:, [best]]
    near: np.ndarray = means <= least + within * np.abs(least)
    return near


def _ends(answers: np.ndarray, level: float) -> tuple[float, float]:
    """The answers between which the share `level` of the draws lies, always some that were given."""
    ordered, tail = np.sort(answers), (1 - level) / 2 * (len(answers) - 1)
    return float(ordered[math.floor(tail)]), float(ordered[math.ceil(len(ordered) - 1 - tail)])


def _complete(rows: list[Row], seeds: Iterable[Any]) -> bool:
    sound = all(row["status"] == "ok" and row["value"] is not None and math.isfinite(row["value"]) for row in rows)
    return sound and {row["seed"] for row in rows} == set(seeds)


def _mean(rows: list[Row], name: str, seed: Any) -> float:
    """Mean over the seed's sample seeds; a missing standard error is unknown, not 0, missing freedom is infinite."""
    found = [math.inf if row[name] is None else row[name] for row in rows if row["seed"] == seed]
    return math.fsum(found) / len(found)
