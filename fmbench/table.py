"""The tidy table of a run: its columns, making it from rows, reading it back, short names for what its rows hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import UserError, unknown

COLUMNS: dict[str, str] = {
    **dict.fromkeys(
        ["suite", "method", "data", "source", "path", "coupling", "prediction", "times", "model"], "string"
    ),
    **dict.fromkeys(["reflow", "distilled"], "Int64"),
    "trained_on": "string",  # the coupling; of a reflow round or a student, whose pairs
    "guidance": "float64",
    **dict.fromkeys(["seed", "sample_seed"], "Int64"),
    **dict.fromkeys(["solver", "grid"], "string"),
    "steps": "Int64",
    **dict.fromkeys(["nfe", "rtol", "atol"], "float64"),
    "metric": "string",
    **dict.fromkeys(["value", "stderr"], "float64"),
    "n": "Int64",
    "unit": "string",
    "higher_is_better": "boolean",
    **dict.fromkeys(["status", "reason"], "string"),
    "seconds": "float64",
    **dict.fromkeys(["device", "key"], "string"),
    **dict.fromkeys(["accepted", "rejected", "startup", "vjp"], "float64"),
    "batch": "Int64",
    **dict.fromkeys(["freedom", "probe_stderr"], "float64"),
    "protocol": "string",
}
"""The contract: every column of `results.parquet`, in order, with its dtype. A missing float is NaN, all else NA.

`freedom`: degrees of freedom of `stderr`; missing, infinitely many. `probe_stderr`: the part of `stderr` that random
probes leave; missing where there are none.
"""

TASK = ("suite", "data", "source")
FLOW = ("method", "path", "coupling", "prediction", "times", "model", "reflow", "distilled", "guidance")
SAMPLER = ("solver", "grid", "steps", "nfe", "rtol", "atol", "batch")
DESCRIPTION = ("unit", "higher_is_better")  # a function of the metric, which a failed row may lack
IDENTITY = (*TASK, *FLOW, *SAMPLER, "metric", *DESCRIPTION)
"""What two rows of one cell share: they differ in their seeds only (see `cell_key`)."""

REFERENCE = "reference"  # `solver` of a metric of the flow itself
FLOOR = "data"  # `model` of real data measured against real data
GIVEN = "given"  # `solver` of samples that were made elsewhere
TRUTH = "truth"  # `model` of an exact value, beside what an oracle's flow was measured to have


def of_flows(table: pd.DataFrame) -> pd.Series:
    """A mask of the rows that measure a flow: neither floors nor exact values."""
    return ~table["model"].isin([FLOOR, TRUTH]).fillna(False).astype(bool)


def is_raw(unit: str | None) -> bool:
    """Whether values of this unit depend on the data's scale: those of two data sets are not compared."""
    return (unit or "").startswith("data units")


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with exactly the columns and dtypes of `COLUMNS`; what a row lacks is missing, never 0.

    Raises:
        UserError: a row has a column that the contract does not know.
    """
    rows = list(rows)
    for extra in sorted({name for row in rows for name in row} - set(COLUMNS)):
        raise unknown("column", extra, COLUMNS)
    return typed(pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in COLUMNS}))


def of_lines(lines: Iterable[Mapping[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Lines as a table of just these columns, with their dtypes."""
    lines = list(lines)
    columns = {name: pd.Series([line[name] for line in lines], dtype=object) for name in dtypes}
    return pd.DataFrame(columns).astype(dict[Any, Any](dtypes))


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the contract's columns, their order and dtypes; a column that is absent becomes missing values."""
    absent = pd.Series([None] * len(table), index=table.index, dtype=object)
    columns = {name: _cast(table.get(name, absent), dtype) for name, dtype in COLUMNS.items()}
    return pd.DataFrame(columns, columns=list(COLUMNS)).reset_index(drop=True)


def _cast(column: pd.Series, dtype: str) -> pd.Series:
    if column.dtype == object:  # None, NaN and NA mean the same: missing
        column = column.where(column.notna(), math.nan if dtype == "float64" else None)
    if dtype == "string":
        column = column.astype("string")
        return column.mask(column == "", pd.NA)  # csv cannot tell an empty text from a missing one: neither do we
    return column.astype(dtype)  # type: ignore[call-overload]


def table_file(directory: Path) -> Path | None:
    """The file of a folder that holds the table: results.parquet, or results.csv where that alone was kept."""
    files = (directory / name for name in ("results.parquet", "results.csv"))
    return next((file for file in files if file.is_file()), None)


def read_table(path: Path) -> pd.DataFrame:
    """`results.parquet` or `results.csv` as the contract's table.

    Raises:
        UserError: the file is not there, cannot be read, or lacks the columns that make it a result.
    """
    remedy = "Run `fmbench run` again with the same --out: it restores the table from what is cached."
    try:
        if path.suffix == ".csv":
            text = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8").astype(object)
            text = text.where(text != "", None)
            if "higher_is_better" in text:
                text["higher_is_better"] = text["higher_is_better"].map({"True": True, "False": False}).astype(object)
            for name in text.columns.intersection([name for name, dtype in COLUMNS.items() if dtype == "Int64"]):
                text[name] = pd.to_numeric(text[name])
            table = text
        else:
            table = pd.read_parquet(path)
    except Exception as error:  # each engine raises its own kinds on a damaged file
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {first_line(error)}). {remedy}") from error
    if lost := [name for name in ("method", "metric", "value", "status") if name not in table]:
        raise UserError(f"{path} is no table of results: it lacks {', '.join(lost)}. {remedy}")
    try:
        return typed(table)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} has a value of the wrong kind ({first_line(error)}). {remedy}") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries; whatever is missing (NA, NaN) is None."""
    columns = [_plain(table[name]) for name in table]
    return [dict(zip(map(str, table), row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(column: pd.Series) -> list[Any]:
    """A column's values as Python's own, None where missing."""
    values = [None if gone else value for value, gone in zip(column.tolist(), column.isna().tolist(), strict=True)]
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def freedom_of(row: Mapping[str, Any]) -> float:
    """Degrees of freedom of a row's standard error; infinitely many where it does not say."""
    freedom = row.get("freedom")
    return math.inf if freedom is None else float(freedom)


def bare(label: Any) -> str:
    """The name in a label: `ve` of `ve[sigma_max=9]`."""
    return str(label).partition("[")[0]


def cell_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row, as `records` gives it, measures: equal for the seeds of one cell.

    The calls and steps of an adaptive solver and of the reference solve are outcomes, not settings: they are left out.
    """
    chosen = row["rtol"] is not None or row["solver"] == REFERENCE
    outcomes = (*DESCRIPTION, "nfe", "steps") if chosen else DESCRIPTION
    return tuple(None if name in outcomes else row[name] for name in IDENTITY)


def flow_labels(table: pd.DataFrame) -> pd.Series:
    """For each row the shortest label that tells its flow from others: the method, then what varies within it."""
    flows = table.loc[of_flows(table), list(FLOW)].drop_duplicates()
    varying = {
        method: {name: _same_name(group[name]) for name in FLOW[1:] if group[name].nunique(dropna=False) > 1}
        for method, group in flows.groupby("method", dropna=False)
    }

    def label(row: Mapping[str, Any]) -> str:
        if row["model"] in (FLOOR, TRUTH):
            return "floor" if row["model"] == FLOOR else TRUTH
        columns = varying.get(row["method"], {})
        shown = [_varying(name, row[name], same) for name, same in columns.items() if row[name] is not None]
        return f"{row['method']} ({', '.join(shown)})" if shown else str(row["method"])

    labels = [label(row) for row in records(table[list(FLOW)])]
    return pd.Series(labels, index=table.index, dtype="string")


def _same_name(column: pd.Series) -> str | None:
    """The component that all values of a column are, where they differ in its parameters alone."""
    names = set(map(bare, column.dropna()))
    return names.pop() if COLUMNS[str(column.name)] == "string" and len(names) == 1 else None


def _varying(name: str, value: Any, same: str | None) -> str:
    """What tells a value from the others: its parameters where the component is the same."""
    if COLUMNS[name] != "string":
        return f"{name}={value:g}"
    return str(value)[len(same) + 1 : -1] or "default" if same else str(value)


def sampler_labels(table: pd.DataFrame) -> pd.Series:
    """For each row its solver: "euler", with its grid or batch where several are used, with its tolerance where it adapts."""
    by_solver = table.groupby("solver", dropna=True)
    grids, batches = (by_solver[name].nunique(dropna=False) for name in ("grid", "batch"))

    def label(row: Mapping[str, Any]) -> str | None:
        if row["solver"] is None:
            return "floor" if row["model"] == FLOOR else None
        parts = [row["grid"]] if row["grid"] is not None and grids[row["solver"]] > 1 else []
        parts += [] if row["rtol"] is None else [f"{row['rtol']:.0e}".replace("e-0", "e-")]
        parts += [f"batch {row['batch']}"] if row["batch"] is not None and batches[row["solver"]] > 1 else []
        return " ".join([row["solver"], *parts])

    labels = [label(row) for row in records(table[["solver", "grid", "rtol", "batch", "model"]])]
    return pd.Series(labels, index=table.index, dtype="string")


def read_json(path: Path) -> Any:
    """The JSON in a file, None when there is no file; a damaged one is a `UserError`."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}). Run `fmbench run` again with the same --out."
        ) from error
