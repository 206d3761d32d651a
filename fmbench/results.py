"""What a run measured: reading it back, averaging over seeds, turning it into a grid."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import paired
from .errors import UserError, unknown
from .grouping import grouped
from .reach import least_calls
from .statistics import Estimate, combine, interval
from .statistics import paired as bootstrapped
from .table import (
    COLUMNS,
    DESCRIPTION,
    FLOOR,
    IDENTITY,
    REFERENCE,
    cell_key,
    first_line,
    flow_labels,
    frame,
    freedom_of,
    is_raw,
    of_flows,
    of_lines,
    read_json,
    read_table,
    records,
    sampler_labels,
    table_file,
)

__all__ = ["COLUMNS", "Picture", "Results", "frame", "interval_text"]


@dataclass(frozen=True)
class Picture:
    """Arrays kept for the report: trajectories `(T, m, 2)` at `times` `(T,)`, or samples or data `(m, *shape)`."""

    kind: str  # trajectory | samples | data
    array: np.ndarray
    times: np.ndarray | None = None
    method: str | None = None
    data: str | None = None
    solver: str | None = None
    nfe: float | None = None
    seed: int | None = None


@dataclass(frozen=True, repr=False)
class Results:
    """What one run measured.

    Args:
        table: one row per measured value, columns as in `COLUMNS`.
        manifest: how it was made (suite, versions, hardware, …); keys may be missing.
        directory: where it was read from, None when made in memory.
        label: how to call it beside others, None for the folder's or the suite's name.
    """

    table: pd.DataFrame
    manifest: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    label: str | None = None

    @classmethod
    def load(cls, directory: str | Path) -> Results:
        """The results in a folder that `fmbench run --out` made: results.parquet, or results.csv where that alone was kept.

        Raises:
            UserError: the folder is no result, or a file in it is damaged.
        """
        directory = Path(directory)
        if (path := table_file(directory)) is None:
            what = "is no result: it has no results.parquet or .csv" if directory.exists() else "does not exist"
            raise UserError(f"{directory} {what}. Make one with `fmbench run SUITE --out {directory}`.")
        return cls(read_table(path), read_json(directory / "manifest.json") or {}, directory)

    def __repr__(self) -> str:
        return f"<Results '{self.name}': {len(self.table)} values of {', '.join(self.metrics)}>"

    @property
    def name(self) -> str:
        """How to call these results beside others: the label, else the folder's name, else the suite's."""
        return self.label or (self.directory.resolve().name if self.directory else str(self.suite["suite"]))

    @property
    def unfinished(self) -> str | None:
        """What to say of a run that was interrupted; None of one that ended."""
        if self.manifest.get("finished", True) is not None:
            return None
        return f"{len(self.table):,} of {self.manifest.get('planned', 0):,} values: the run did not finish"

    @property
    def suite(self) -> dict[str, Any]:
        """The resolved suite, as far as the manifest has it."""
        suite = self.manifest.get("suite")
        names = self.table["suite"].dropna()
        known = suite if isinstance(suite, dict) else {"suite": suite} if suite else {}
        return {"suite": str(names.iloc[0]) if len(names) else "results", **known}

    @cached_property
    def pictures(self) -> list[Picture]:
        """Trajectories and samples for the report, read from pictures.npz when first asked for; empty without one."""
        path = self.directory / "pictures.npz" if self.directory else None
        if path is None or not path.is_file():
            return []
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return [
                    Picture(
                        array=arrays[entry["array"]],
                        times=arrays[times] if (times := f"{entry['array']}_times") in arrays else None,
                        **{
                            key: entry[key]
                            for key in ("kind", "method", "data", "solver", "nfe", "seed")
                            if key in entry
                        },
                    )
                    for entry in json.loads(str(arrays["index"]))
                ]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            remedy = "Delete it, or run `fmbench run` again with the same --out."
            raise UserError(f"{path} cannot be read ({first_line(error)}). {remedy}") from error

    @property
    def metrics(self) -> list[str]:
        """The metrics measured, in the table's order."""
        return [str(name) for name in self.table["metric"].dropna().unique()]

    @property
    def main_metric(self) -> str:
        """The first metric of samples that has a floor (so it compares them with data), else the first of any solver.

        Raises:
            UserError: the table is empty.
        """
        if self.table.empty:
            raise UserError(f"results '{self.name}' are empty: no metric to show. Run the suite again.")
        floors = self.table.loc[self.table["model"] == FLOOR, "metric"]
        sampled = self.table.loc[self.table["solver"].notna() & (self.table["solver"] != REFERENCE), "metric"]
        return str(next(iter([*floors[floors.isin(sampled)], *sampled, *floors, *self.metrics])))

    def select(self, **where: Any) -> Results:
        """The rows where each named column equals the value, or one of them when it is a list.

        Raises:
            UserError: no such column.
        """
        keep = pd.Series(True, index=self.table.index)
        for column, value in where.items():
            if column not in self.table:
                raise unknown("column", column, self.table.columns)
            wanted = list(value) if isinstance(value, (list, tuple, set)) else [value]
            found = self.table[column].isin([item for item in wanted if not pd.isna(item)]).fillna(False).astype(bool)
            keep &= (found | self.table[column].isna()) if any(pd.isna(item) for item in wanted) else found
        return replace(self, table=self.table[keep].reset_index(drop=True))

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """One row per cell, averaged over its seeds.

        Only rows with status ok are averaged; `failed` counts the others and `failures` says what they were, so that
        a mean over survivors is seen to be one. An adaptive solver's calls differ from seed to seed: they belong to
        one cell, whose `nfe` is their mean.

        Returns:
            The columns of `IDENTITY`, then `flow` and `sampler` (the shortest labels that tell them apart), `trained_on`,
            `mean`, `low`, `high` (the interval at `level`, over seeds and samples), `stderr`, its degrees of `freedom` and
            the part `probe_stderr` of it that random probes leave, `n` (samples behind one seed's value, the smallest),
            `seeds` (how many were averaged), `failed`, `failures`. Values are in the row's unit.
        """
        if not isinstance(level, (int, float)) or not 0 < level < 1:
            raise UserError(f"level = {level!r}: the share of intervals that cover, between 0 and 1, as in 0.95")
        table = self.table.assign(flow=flow_labels(self.table), sampler=sampler_labels(self.table))
        extra = dict.fromkeys(["flow", "sampler", "trained_on", "failures"], "string")
        extra |= dict.fromkeys(["mean", "low", "high", "stderr", "freedom", "probe_stderr"], "float64")
        extra |= dict.fromkeys(["n", "seeds", "failed"], "Int64")
        dtypes = {name: COLUMNS[name] for name in IDENTITY} | extra
        return of_lines([_average(rows, level) for rows in grouped(records(table), cell_key).values()], dtypes)

    def nfe_to_reach(
        self, metric: str | None = None, within: float = 0.05, solver: str | None = None, level: float = 0.95
    ) -> pd.DataFrame:
        """The least network calls at which each flow comes within a share of its own best; see `reach.least_calls`.

        Args:
            metric: its name in the table; the main metric when None.
            within: the share, 0.05 for 5 %; at least 0 and below 1.
            solver: keep this solver's row of each flow (a `sampler` of `summary()`). The flow's best is over all
                fixed-step solvers all the same.

        Raises:
            UserError: unknown metric or solver, or one to which the question does not apply; within is no such share.
        """
        metric = metric or self.main_metric
        if metric not in self.metrics:
            raise unknown("metric", metric, self.metrics)
        lines = least_calls(self.table, metric, within, level)
        if solver is None:
            return lines
        if solver not in set(lines["sampler"]):
            raise unknown("fixed-step solver", solver, lines["sampler"].unique())
        return lines[lines["sampler"] == solver].reset_index(drop=True)

    def pivot(
        self,
        metric: str | None = None,
        index: str | Sequence[str] = "nfe",
        columns: str | Sequence[str] = "flow",
        *,
        solver: str | None = None,
        text: bool = False,
        level: float = 0.95,
        **where: Any,
    ) -> pd.DataFrame:
        """One metric as a grid of means over seeds: by default calls of the network down, flows across.

        Args:
            metric: its name in the table; the main metric when None.
            index, columns: columns of `summary()`; "flow" is the method, with what else tells two flows apart. A metric
                of the flow knows no budgets: it has the line "reference" ("sampler") in place of "nfe".
            solver: which solver's values (a `sampler` of `summary()`); None takes the first fixed-step one, or
                `reference` where the metric belongs to the flow: `attrs["solver"]` says which. An adaptive solver is
                never mixed into a grid of fixed calls: name it.
            text: cells read "0.123 ± 0.004" (half the interval at `level`) instead of numbers.
            where: further conditions, as in `select`.

        Returns:
            A grid in the metric's unit; `attrs` holds metric, unit, solver.

        Raises:
            UserError: unknown metric, solver or column, or several values fall into one cell of the grid.
        """
        metric = metric or self.main_metric
        if metric not in self.metrics:
            raise unknown("metric", metric, self.metrics)
        summary = self.select(**where).select(metric=metric).summary(level)
        summary = summary[of_flows(summary)]
        index, columns = ([axis] if isinstance(axis, str) else list(axis) for axis in (index, columns))
        axes = [*index, *columns]
        for axis in axes:
            if axis not in summary:
                raise unknown("column", axis, summary.columns)
        if solver is None and not {"solver", "sampler"} & set(axes):
            solver = _first_solver(summary)
        if solver is not None:
            if solver not in set(summary["sampler"].dropna()):
                raise unknown("solver", solver, summary["sampler"].dropna().unique())
            summary = summary[summary["sampler"] == solver]
        if summary["solver"].eq(REFERENCE).all():  # its calls are an outcome: by them a line would become a diagonal
            named = (["sampler" if axis == "nfe" else axis for axis in names] for names in (index, columns))
            index, columns = (list(dict.fromkeys(names)) for names in named)
            axes = [*index, *columns]
        if (crowded := summary.duplicated(axes, keep=False)).any():
            varying = [name for name in IDENTITY if summary.loc[crowded, name].nunique(dropna=False) > 1]
            raise UserError(
                f"pivot of '{metric}': several values fall into one cell; they differ in {', '.join(varying)}. "
                f"Add these to index or columns, or choose one, as in pivot({varying[0]}=…)."
            )
        summary = summary.astype({"nfe": "int64"} if (summary["nfe"] % 1 == 0).all() else {})  # reads 1, not 1.0
        texts = [interval_text(*row) for row in summary[["mean", "low", "high", "failures"]].itertuples(index=False)]
        names: Any = [axis[0] if len(axis) == 1 else axis for axis in (index, columns)]
        grid = summary.assign(text=texts).pivot(index=names[0], columns=names[1], values="text" if text else "mean")
        grid = grid[summary.set_index(names[1]).index.unique()]  # the table's order, not the alphabet's
        grid.attrs = {"metric": metric, "unit": str(summary["unit"].iloc[0]) if len(summary) else "", "solver": solver}
        return grid

    def paired(self, metric: str, a: Mapping[str, Any], b: Mapping[str, Any], *, seed: int = 0) -> Estimate:
        """b less a, sample by sample and seed by seed: the noise that two flows share cancels, as it cannot in `pivot`.

        Args:
            metric: a mean over the samples of the reference solve, such as straightness.
            a, b: conditions as in `select`, which leave one flow each: {"path": "rectified"}, {"path": "vp-cosine"}.
            seed: of the bootstrap over seeds and samples (`statistics.bootstrap`).

        Raises:
            UserError: a side is no single flow, its seeds are not the other's, no values sample by sample are kept, or the
                sides are of two data sets and the metric depends on their scale.
        """
        kept, sides, scales = paired.read(self.directory), [], set()
        for where in (a, b):
            table = self.select(**where).select(metric=metric, solver=REFERENCE).table
            rows = records(table[of_flows(table)])
            if len({cell_key(row) for row in rows}) != 1 or len({row["seed"] for row in rows}) != len(rows):
                raise UserError(
                    f"{dict(where)} leaves {len(rows)} rows of '{metric}': name one flow, and one sample_seed"
                )
            if any(row["key"] not in kept for row in rows):
                raise UserError(
                    f"'{metric}' has no values sample by sample in {self.name}/{paired.FILE}: a run whose suite names claims "
                    "keeps them, of metrics that are means over the samples of the reference solve"
                )
            sides.append({(row["seed"], row["sample_seed"]): kept[row["key"]] for row in rows})
            scales |= {row["data"] for row in rows if is_raw(row["unit"])}
        if len(scales) > 1:
            raise UserError(f"'{metric}' is in data units, which are not the same on {' and '.join(sorted(scales))}")
        first, second = sides
        if set(first) != set(second) or len({len(values) for side in sides for values in side.values()}) != 1:
            raise UserError("pairs need the same seeds and as many samples on both sides")
        values = [np.stack([side[name] for name in first]) for side in sides]
        one, other = (v[0] if len(v) == 1 else v for v in values)  # of one trained flow the error is over samples alone
        return bootstrapped(one, other, seed=seed)


def interval_text(mean: float, low: float, high: float, failures: str | None = None) -> str:
    """ "0.123 ± 0.004": half the interval with one digit (two when it begins with 1), the mean to the same place.

    An undefined interval reads "± ?"; a cell without a value says what happened to it; "†" marks a mean over the
    seeds that did not fail.
    """
    mark = " †" if isinstance(failures, str) and failures else ""
    if math.isnan(mean):
        return failures if mark and failures else "–"
    half = (high - low) / 2
    if half == 0 or not math.isfinite(mean):
        return f"{mean:.4g}{mark}"
    if not math.isfinite(half):
        return f"{mean:.3g} ± ?{mark}"
    place = math.floor(math.log10(half))
    place -= f"{half:e}"[0] == "1"  # 0.0012 keeps both digits, 0.004 one
    largest = math.floor(math.log10(max(abs(mean), half)))
    if largest >= 5 or largest < -3:
        digits = max(largest - place, 0)
        return f"({mean / 10.0**largest:.{digits}f} ± {half / 10.0**largest:.{digits}f})e{largest}{mark}"
    return f"{round(mean, -place):.{max(-place, 0)}f} ± {round(half, -place):.{max(-place, 0)}f}{mark}"


def _average(rows: list[dict[str, Any]], level: float) -> dict[str, Any]:
    """One line of `summary` from the rows of one cell: seeds, and within a seed its sample seeds, are combined."""
    good = [row for row in rows if row["status"] == "ok"]
    line = {name: rows[0][name] for name in (*IDENTITY, "flow", "sampler", "trained_on")}
    line |= {name: next((row[name] for row in rows if row[name] is not None), None) for name in DESCRIPTION}
    if line["rtol"] is not None:
        calls, steps = ([row[name] for row in good if row[name] is not None] for name in ("nfe", "steps"))
        line["nfe"] = sum(calls) / len(calls) if calls else math.nan
        line["steps"] = round(sum(steps) / len(steps)) if steps else None
    seeds: dict[Any, list[Estimate]] = {}
    for row in good:
        value, stderr = (math.nan if row[name] is None else row[name] for name in ("value", "stderr"))
        estimate = Estimate(value, stderr, row["n"] or 0, freedom_of(row), row.get("probe_stderr"))
        seeds.setdefault(row["seed"], []).append(estimate)
    total, low, high = Estimate(math.nan, math.nan, 0), math.nan, math.nan
    if seeds:
        total = combine([combine(estimates) for estimates in seeds.values()])
        low, high = interval(total, level)
    failures = Counter(row["status"] or "no status" for row in rows if row["status"] != "ok")
    return line | {
        "mean": total.value,
        "low": low,
        "high": high,
        "stderr": total.stderr,
        "freedom": total.freedom,
        "probe_stderr": total.probe_stderr,
        "n": min((row["n"] for row in good if row["n"] is not None), default=None),
        "seeds": len(seeds),
        "failed": failures.total(),
        "failures": ", ".join(f"{count} {status}" for status, count in failures.items()) or None,
    }


def _first_solver(summary: pd.DataFrame) -> str | None:
    """The first fixed-step solver in the table's order; `reference` for a metric of the flow; else any."""
    fixed = summary.loc[summary["rtol"].isna(), "sampler"]
    return next((str(name) for name in [*fixed.dropna(), *summary["sampler"].dropna()]), None)
