"""What tables show, for the page, the terminal, a README or a paper: decided once, in `Grid`. How text writes it: `text`."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from ..contrasts import Difference
from ..grouping import grouped
from ..results import Results, interval_text
from ..statistics import holm, satterthwaite
from ..table import FLOOR, REFERENCE, TRUTH, flow_labels, of_flows, records, sampler_labels

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A value as text; `best` where it is significantly better than every other in its row (Holm, 5 %); a remark."""

    text: str
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A table to be printed: `rows` pairs the index's texts with one cell a column (None: not measured)."""

    title: str
    index: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell | None, ...]], ...]
    floor: str | None = None  # the same metric between two draws of real data
    notes: tuple[str, ...] = ()  # what [1], [2], … in the cells refer to


def tasks(summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The summary cut by data set and source, each part with its name."""
    parts = summary.groupby(["data", "source"], dropna=False, sort=False)
    return [(" from ".join(str(x) for x in pd.Series(key).dropna()), part) for key, part in parts]


def sampled_metrics(results: Results) -> list[str]:
    """Metrics that depend on solver and budget: the main one, then the table's order."""
    solver = results.table["solver"]
    names = results.table.loc[solver.notna() & solver.ne(REFERENCE), "metric"].dropna().unique()
    return sorted((str(name) for name in names), key=lambda name: name != results.main_metric)


def sampled_grid(summary: pd.DataFrame, metric: str) -> Grid:
    """One metric of one task: solvers and budgets down, flows across; an adaptive solver's measured calls below it."""
    rows = records(summary[(summary["metric"] == metric) & (summary["flow"] != TRUTH)])
    flows = list(dict.fromkeys(row["flow"] for row in rows if row["flow"] != "floor"))
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["flow"] != "floor":
            nfe = "adaptive" if row["rtol"] is not None else "" if row["nfe"] is None else f"{row['nfe']:g}"
            nfe = "" if row["solver"] == REFERENCE else nfe  # its calls are an outcome, other ones for each flow
            lines.setdefault((row["sampler"] or "", nfe), {})[row["flow"]] = row
    solvers = list(dict.fromkeys(sampler for sampler, _ in lines))
    printed: list[tuple[tuple[str, ...], tuple[Cell | None, ...]]] = []
    for index, line in sorted(lines.items(), key=lambda item: (solvers.index(item[0][0]), _number(item[0][1]))):
        printed.append((index, _cells([line.get(flow) for flow in flows])))
        if index[1] == "adaptive":
            calls = [line[flow]["nfe"] if flow in line else None for flow in flows]
            printed.append(((index[0], "its calls"), tuple(None if x is None else Cell(f"{x:.0f}") for x in calls)))
    floors = [_text(row) for row in rows if row["flow"] == "floor"]
    return Grid(_title(rows, metric), ("solver", "nfe"), tuple(flows), tuple(printed), floors[0] if floors else None)


def headline_grid(summary: pd.DataFrame, metric: str) -> Grid | None:
    """One metric of one task: budgets down, flows across, each by the fixed-step solver that does best at that budget.

    None for a metric without a direction. The solver is the cell's note.
    """
    rows = records(summary[(summary["metric"] == metric) & summary["rtol"].isna() & summary["nfe"].notna()])
    rows = [row for row in rows if row["solver"] != REFERENCE and row["flow"] != TRUTH]
    higher = next((row["higher_is_better"] for row in rows if row["higher_is_better"] is not None), None)
    if higher is None:
        return None
    flows = list(dict.fromkeys(row["flow"] for row in rows))
    best: dict[tuple[float, str], Row] = {}
    for row in rows:
        place = (row["nfe"], row["flow"])
        if place not in best or _quality(row, higher) > _quality(best[place], higher):
            best[place] = row
    several = len({row["sampler"] for row in rows}) > 1
    lines = []
    for nfe in sorted({row["nfe"] for row in rows}):
        line = [best.get((nfe, flow)) for flow in flows]
        cells = [
            replace(cell, note=row["sampler"]) if cell and row and several else cell
            for cell, row in zip(_cells(line), line, strict=True)
        ]
        lines.append(((f"{nfe:g}",), tuple(cells)))
    floors = records(summary[(summary["metric"] == metric) & (summary["flow"] == "floor")])
    floor = _text(floors[0]) if floors else None
    return Grid(_title(rows, metric), ("network calls",), tuple(flows), tuple(lines), floor)


NORMALISED = ("transport_cost", "straightness", "path_energy")  # shown in units of the data's variance, too


def flow_grid(summary: pd.DataFrame, variances: Mapping[str, float] = MappingProxyType({})) -> Grid:
    """All metrics of the flows of one task: metrics down, flows across; below a metric what it is to be read beside.

    Args:
        variances: D s² of data sets (`scale.variances`).
    """
    floors = {row["metric"]: row for row in records(summary[summary["flow"] == "floor"])}
    rows = records(summary[(summary["solver"] == REFERENCE) & of_flows(summary)])
    flows = list(dict.fromkeys(row["flow"] for row in rows))
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["metric"], ""), {})[row["flow"]] = row
    printed: list[tuple[tuple[str, ...], tuple[Cell | None, ...]]] = []
    for (metric, _), line in lines.items():
        unit, found = next((row["unit"] for row in line.values() if row["unit"]), ""), [line.get(f) for f in flows]
        printed.append(((metric, unit), _cells(found)))
        if metric in NORMALISED and (variance := variances.get(rows[0]["data"])):
            scaled = [None if row is None else _over(row, variance) for row in found]
            printed.append(((metric, f"data variance ({variance:.3g})"), _cells(scaled)))
        if metric in floors:
            printed.append(((f"{metric}: floor", unit), (interval_cell(floors[metric]),) * len(flows)))
        if any(row and row["probe_stderr"] is not None for row in found):
            printed.append(((f"{metric}: standard error of its probes", unit), tuple(map(_probe_cell, found))))
    pairs = {row["flow"]: row["trained_on"] for row in rows}
    if any(row["reflow"] for row in rows):
        printed.insert(0, (("trained on", ""), tuple(None if pairs[f] is None else Cell(pairs[f]) for f in flows)))
    grid = Grid("Metrics of the flows themselves", ("metric", "unit"), tuple(flows), tuple(printed))
    return _flows_down(grid) if len(flows) > max(MANY_FLOWS, len(printed)) else grid


def _over(row: Row, scale: float) -> Row:
    return row | {name: row[name] / scale for name in ("mean", "low", "high", "stderr") if row[name] is not None}


MANY_FLOWS = 6  # side by side on a page


def _flows_down(grid: Grid) -> Grid:
    """The same table with a line for each flow, for more flows than a page is wide."""
    heads = tuple(f"{metric} ({unit})" if unit not in ("", "1") else metric for (metric, unit), _ in grid.rows)
    lines = tuple(((flow,), tuple(cells[place] for _, cells in grid.rows)) for place, flow in enumerate(grid.columns))
    return Grid(grid.title, ("flow",), heads, lines)


SAME_FLOW = ("data", "source", "path", "coupling", "prediction", "times", "reflow")


def truth_grid(summary: pd.DataFrame) -> Grid:
    """What oracles' flows were measured to have against what they have: metrics and flows down.

    A solver's own error stands there once for each solver, at the budget in the middle: with fewer calls it is large, with more
    lost in rounding. A distance to the data stands there at the fewest calls, where it is furthest from 0, and at the
    flow's most careful solver (an adaptive one, else the one with most calls), held against its floor: there its exact value is
    0 but for the bias of finite samples.
    """
    rows = [row for row in records(summary) if row["mean"] is not None]  # floors and exact values may have failed, too
    exact = {_named(row, "metric"): row for row in rows if row["model"] == TRUTH and row["solver"] == REFERENCE}
    known = {key[:-1] for key in exact}
    floors = {row["metric"]: row for row in rows if row["model"] == FLOOR}
    careful: dict[tuple[Any, ...], tuple[Row, Row]] = {}
    for row in sorted(records(summary[of_flows(summary)]), key=lambda row: (row["rtol"] is not None, row["nfe"] or 0)):
        key = _named(row, "metric")
        expected = exact.get(key) if row["solver"] == REFERENCE else floors.get(row["metric"])
        if expected is not None and key[:-1] in known and row["mean"] is not None:
            careful[key] = (row, expected)
    order = list(dict.fromkeys(row["metric"] for row in rows))
    found = [(row["flow"], row, expected) for row, expected in careful.values()]
    found += [
        (f"{row['flow']}, {row['sampler']} {row['nfe']:g}", row, expected) for row, expected in _solved(rows, floors)
    ]
    lines = tuple(
        (
            (row["metric"], label),
            (Cell(_exact_text(expected)), Cell(_text(row)), Cell(_errors_apart(row, expected))),
        )
        for label, row, expected in sorted(found, key=lambda line: order.index(line[1]["metric"]))
    )
    return Grid(
        "Measured against exact values", ("metric", "flow"), ("exact", "measured", "standard errors apart"), lines
    )


def _solved(rows: list[Row], distances: Container[str]) -> list[tuple[Row, Row]]:
    """Of each flow, solver and metric the value at one of the budgets whose exact value is known, and that: the middle budget,
    of distances to the data the least."""
    budget = ("metric", "solver", "grid", "steps", "batch")
    exact = {_named(row, *budget): row for row in rows if row["model"] == TRUTH and row["solver"] != REFERENCE}
    pairs: dict[tuple[Any, ...], list[tuple[Row, Row]]] = {}
    for row in sorted((row for row in rows if row["model"] != TRUTH), key=lambda row: row["nfe"] or 0):
        if (expected := exact.get(_named(row, *budget))) is not None:
            pairs.setdefault(_named(row, "metric", "sampler"), []).append((row, expected))
    return [line[0 if line[0][0]["metric"] in distances else len(line) // 2] for line in pairs.values()]


def _named(row: Row, *more: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*SAME_FLOW, *more))


def _exact_text(row: Row) -> str:
    return f"{row['mean']:.5g}" if row["model"] == TRUTH else f"floor {_text(row)}"


def _errors_apart(row: Row, expected: Row) -> str:
    gap, error = row["mean"] - expected["mean"], math.hypot(row["stderr"] or 0, expected["stderr"] or 0)
    return "0" if gap == 0 else f"{gap / error:+.1f}" if 0 < error < math.inf else "?"


def grids(results: Results) -> list[Grid]:
    """Every table of the results: the calls each flow needs; for each task the sampled metrics, then the flows' own."""
    from .published import beside_grid  # these build on this file
    from .reach import reach_grids
    from .scale import ends_grid, variances

    parts = tasks(results.summary())
    found = reach_grids(results)
    for name, summary in parts:
        several = f" · {name}" if len(parts) > 1 else ""
        sampled = [
            sampled_grid(summary, m) for m in sampled_metrics(results) if _tells(summary, m, results.main_metric)
        ]
        made = [*sampled, flow_grid(summary, variances(results)), truth_grid(summary)]
        found += [replace(grid, title=grid.title + several) for grid in made if grid.rows]
    found += filter(None, [ends_grid(results), beside_grid(results)])
    return found


def _tells(summary: pd.DataFrame, metric: str, main: str) -> bool:
    """Whether a table of the metric says more than its row heads: the calls of fixed-step solvers are those asked for."""
    return metric != "nfe" or main == "nfe" or bool(summary.loc[summary["metric"] == "nfe", "rtol"].notna().any())


def failures(results: Results) -> list[Row]:
    """Every row that is not ok, those with the same flow, solver, status and reason taken together."""
    rows = results.table.assign(flow=flow_labels(results.table), sampler=sampler_labels(results.table))
    bad = records(rows[rows["status"].ne("ok").fillna(True)])
    groups = grouped(bad, lambda row: tuple(row[name] for name in ("flow", "sampler", "status", "reason")))

    def listed(rows: list[Row], name: str) -> str:
        return ", ".join(
            dict.fromkeys(f"{x:g}" if isinstance(x, float) else str(x) for row in rows if (x := row[name]) is not None)
        )

    return [
        {"flow": flow, "sampler": sampler or "", "status": status or "no status", "reason": reason or "no reason given",
         "count": len(rows), **{name: listed(rows, name) for name in ("nfe", "seed", "metric")}}
        for (flow, sampler, status, reason), rows in groups.items()
    ]  # fmt: skip


def coarse(results: Results) -> str | None:
    """What is to be said of reference solves that ended before their tolerance: geometry and solver_error rest on them."""
    solves = results.manifest.get("references") or []
    if not (short := [solve for solve in solves if solve["error"] > solve["tolerance"]]):
        return None
    worst = max(short, key=lambda solve: solve["error"] / solve["tolerance"])
    return (
        f"{len(short)} of {len(solves)} reference solves missed their tolerance, by up to {worst['error']:.2g} against "
        f"{worst['tolerance']:.2g} data units at {worst['steps']} steps. Their error is in solver_error's; raise "
        "sample.reference.max_steps, or its tolerance."
    )


SHORTEN = re.compile(r"^\(?(\S+) ± [^)†]*?\)?(e-?\d+)?( †)?$")  # drops the interval, keeps exponent and mark


def terminal_pivot(results: Results, width: int = 100, metric: str | None = None) -> pd.DataFrame:
    """The main metric as text for a terminal of `width` characters: solvers and calls down, flows across.

    Intervals are left out when they do not fit; a table that is still too wide is laid out long, one line a value.
    `attrs["title"]` says metric, unit and direction.

    Raises:
        UserError: no such metric, or the results are empty.
    """
    metric = metric or results.main_metric
    parts = tasks(results.select(metric=metric).summary())
    made = [(name, sampled_grid(summary, metric)) for name, summary in parts]
    flows = list(dict.fromkeys(flow for _, grid in made for flow in grid.columns))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for name, grid in made:
        place = (name,) if len(made) > 1 else ()
        for index, cells in grid.rows:
            lines[(*place, *index)] = {flow: cell.text for flow, cell in zip(grid.columns, cells, strict=True) if cell}
        if grid.floor:
            lines[(*place, "floor", "")] = dict.fromkeys(grid.columns, grid.floor)
    names = [*(["task"] if len(made) > 1 else []), "solver", "nfe"]
    table = pd.DataFrame(list(lines.values()), index=pd.MultiIndex.from_tuples(list(lines), names=names), columns=flows)
    table = table.fillna("")
    if _width(table) > width:
        short = {flow: [re.sub(SHORTEN, r"\1\2\3", text) for text in table[flow]] for flow in flows}
        table = pd.DataFrame(short, index=table.index)
    if _width(table) > width:
        long = pd.DataFrame(table.rename_axis(columns="flow").stack(), columns=[metric])
        table = long[long[metric] != ""]
    table.attrs = {"title": made[0][1].title if made else metric}
    return table


def interval_cell(row: Row) -> Cell:
    """A row of the summary as "0.123 ± 0.004"."""
    return Cell(_text(row))


def _cells(rows: list[Row | None]) -> tuple[Cell | None, ...]:
    best = _significantly_best(rows)
    return tuple(None if row is None else Cell(_text(row), place == best) for place, row in enumerate(rows))


def _probe_cell(row: Row | None) -> Cell | None:
    """The probes' part of the standard error; "?" where one probe a sample cannot tell."""
    if row is None or row["probe_stderr"] is None:
        return None
    return Cell(f"{row['probe_stderr']:.2g}" if _finite(row["probe_stderr"]) else "?")


def _significantly_best(rows: list[Row | None]) -> int | None:
    """Which value beats each other one by Welch's unpaired test (Holm at 5 %), None where none does.

    Every cell must have a value and a finite standard error: one that is unknown may be the best.
    """
    known = [row for row in rows if row is not None]
    if len(known) < 2 or any(row["mean"] is None or not _finite(row["stderr"]) for row in known):
        return None
    higher = known[0]["higher_is_better"]
    if higher is None:
        return None
    places = [place for place, row in enumerate(rows) if row is not None]
    first, *others = sorted(places, key=lambda place: -rows[place]["mean"] if higher else rows[place]["mean"])  # type: ignore[index]
    p_values = [_p_value(rows[first], rows[other]) for other in others]  # type: ignore[arg-type]
    return first if max(holm(p_values)) <= 0.05 else None


def _quality(row: Row, higher: bool) -> float:
    return -math.inf if row["mean"] is None else row["mean"] if higher else -row["mean"]


def _p_value(a: Row, b: Row) -> float:
    freedom = satterthwaite((row["stderr"] ** 2, row["freedom"]) for row in (a, b))
    return Difference(a["mean"] - b["mean"], math.hypot(a["stderr"], b["stderr"]), freedom).p_value


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _text(row: Row) -> str:
    mean, low, high = (math.nan if row[name] is None else row[name] for name in ("mean", "low", "high"))
    return interval_text(mean, low, high, row["failures"])


def _title(rows: list[Row], metric: str) -> str:
    known = next((row for row in rows if row["unit"]), None)
    direction = {True: "higher is better", False: "lower is better"}.get(known["higher_is_better"]) if known else None
    about = [known["unit"] if known and known["unit"] != "1" else None, direction]
    return f"{metric} ({', '.join(filter(None, about))})" if any(about) else metric


def _number(text: str) -> float:
    return float(text) if text not in ("", "adaptive") else math.inf


def _width(table: pd.DataFrame) -> int:
    return max(map(len, table.to_string().splitlines()))
