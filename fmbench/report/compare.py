"""Two results, cell by cell: better, worse, no significant difference, or not comparable and why.

One test for every cell, on the difference b − a of the means over seeds (`contrasts.combination`). p-values are
corrected by Holm over all cells tested. A metric without a direction is tested too: where it differs, it is no better or worse.

With one seed a side only the samples' part is known: the verdict is then about these two trained flows.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from .. import paired
from ..contrasts import combination, mean_value
from ..errors import UserError
from ..results import Results
from ..statistics import holm
from ..table import bare, cell_key, flow_labels, of_flows, of_lines, records, sampler_labels

BETTER, WORSE, SAME, INCOMPARABLE = "better", "worse", "no significant difference", "not comparable"
UNDIRECTED = "no direction: it differs, and the metric is neither better higher nor lower"
MACHINE = {"seconds", "samples_per_second", "peak_memory_mb"}  # metrics that measure the machine too

COLUMNS: dict[str, str] = {
    **dict.fromkeys(["data", "source", "flow", "sampler"], "string"),
    "nfe": "float64",
    **dict.fromkeys(["metric", "unit"], "string"),
    **dict.fromkeys(["a", "b", "difference", "low", "high", "p_value"], "float64"),
    **dict.fromkeys(["seeds_a", "seeds_b"], "Int64"),
    **dict.fromkeys(["verdict", "reason"], "string"),
    "broke": "bool",
}

Row = dict[str, Any]


def compare(a: Results, b: Results, alpha: float = 0.05) -> pd.DataFrame:
    """What b does against a, one row per cell of either (a cell: all but suite, seeds, device), floors left out.

    Returns:
        data, source, flow, sampler, nfe, metric, unit · a, b: means over seeds · difference: b − a with its interval
        (low, high) at 1 − alpha, uncorrected · p_value: corrected by Holm · seeds_a, seeds_b · verdict on b, at
        alpha · reason · broke: a has a value where b failed.

    Raises:
        UserError: alpha is no probability, or the two share no cell.
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha = {alpha}: it is a chance of error, between 0 and 1, as 0.05")
    sides = _cells(a, b)
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    if not set(sides[0]) & set(sides[1]):
        raise UserError(
            f"'{a.name}' and '{b.name}' have no cell in common (same data, flow, solver, budget and metric): "
            "compare two runs of one suite, or of suites that share flows."
        )
    lines = [_line(sides[0].get(key, []), sides[1].get(key, []), a, b, alpha) for key in keys]
    tested = [line for line in lines if line["verdict"] is None]
    for line, p_value in zip(tested, holm([line["p_value"] for line in tested]), strict=True):
        good = line["difference"] > 0 if line["higher_is_better"] else line["difference"] < 0
        line["verdict"] = SAME if p_value > alpha else BETTER if good else WORSE
        if line["verdict"] != SAME and line["higher_is_better"] is None:
            line |= {"verdict": INCOMPARABLE, "reason": UNDIRECTED}
        line["p_value"] = p_value
    return of_lines(lines, COLUMNS)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """How often each verdict fell, one row per metric, in the table's order."""
    counts = pd.crosstab(table["metric"], table["verdict"])
    return counts.reindex(table["metric"].unique()).reindex(columns=[BETTER, WORSE, SAME, INCOMPARABLE], fill_value=0)


def regressed(table: pd.DataFrame) -> bool:
    """Whether anything became worse, or failed where it had not."""
    return bool((table["verdict"].eq(WORSE) | table["broke"]).any())


def _cells(*sides: Results) -> list[dict[tuple[Any, ...], list[Row]]]:
    """Each side's rows by cell, with values sample by sample where they are kept; labels mean the same on both sides."""
    tables = [side.table.assign(side=place) for place, side in enumerate(sides)]
    both = pd.concat(tables, ignore_index=True)
    both = both.assign(flow=flow_labels(both), sampler=sampler_labels(both))
    cells: list[dict[tuple[Any, ...], list[Row]]] = [{} for _ in sides]
    kept = [paired.read(side.directory) for side in sides]
    for row in records(both[of_flows(both)]):
        row["per_sample"] = kept[row["side"]].get(row["key"])
        cells[row["side"]].setdefault(cell_key({**row, "suite": None}), []).append(row)
    return cells


def _line(rows_a: list[Row], rows_b: list[Row], a: Results, b: Results, alpha: float) -> Row:
    """A row of `compare`; its verdict is left open (None) where the test decides."""
    any_row = (rows_a or rows_b)[0]
    good_a, good_b = ([row for row in rows if row["status"] == "ok"] for rows in (rows_a, rows_b))
    known = [row for row in (*rows_a, *rows_b) if row["unit"] is not None]
    line: Row = {name: any_row.get(name) for name in ("data", "source", "flow", "sampler", "nfe", "metric")}
    line |= dict.fromkeys(["difference", "low", "high", "p_value"], math.nan)
    line |= {
        "unit": known[0]["unit"] if known else None,
        "higher_is_better": next((row["higher_is_better"] for row in known), None),
        "a": mean_value(good_a),
        "b": mean_value(good_b),
        "seeds_a": len({row["seed"] for row in good_a}),
        "seeds_b": len({row["seed"] for row in good_b}),
        "broke": bool(rows_b) and len(good_a) == len(rows_a) > 0 and len(good_b) < len(rows_b),
        "verdict": INCOMPARABLE,
        "reason": _obstacle(rows_a, rows_b, a, b),
    }
    if line["reason"] is not None:
        return line
    difference = combination([(1, good_b), (-1, good_a)])
    low, high = difference.interval(1 - alpha)
    line |= {"difference": difference.value, "low": low, "high": high}
    if not math.isfinite(difference.stderr) and difference.value != 0:
        return line | {"reason": "uncertainty undefined: no standard error, and fewer than three seeds in common"}
    p_value = difference.p_value if math.isfinite(difference.stderr) else 1.0
    notes = ["identical"] if difference.value == 0 else []
    notes += ["one seed: holds for these trained flows"] if min(line["seeds_a"], line["seeds_b"]) == 1 else []
    return line | {"p_value": p_value, "verdict": None, "reason": "; ".join(notes) or None}


def _obstacle(rows_a: list[Row], rows_b: list[Row], a: Results, b: Results) -> str | None:
    """Why two cells cannot be compared, or None."""
    for rows, side in ((rows_a, a), (rows_b, b)):
        if not rows:
            return f"missing in {side.name}"
        if bad := [row for row in rows if row["status"] != "ok"]:
            return (
                f"{len(bad)} of {len(rows)} {bad[0]['status']} in {side.name}: {bad[0]['reason'] or 'no reason given'}"
            )
        if any(row["value"] is None or not math.isfinite(row["value"]) for row in rows):
            return f"no finite value in {side.name}"
    for name in ("unit", "higher_is_better", "n"):
        values = [sorted({str(row[name]) for row in rows}) for rows in (rows_a, rows_b)]
        if values[0] != values[1]:
            return f"{name} differs: {', '.join(values[0])} against {', '.join(values[1])}"
    made = [list(dict.fromkeys(p for row in rows for p in _protocol(row))) for rows in (rows_a, rows_b)]
    if set(made[0]) != set(made[1]):
        alone = ["; ".join(p for p in one if p not in other) or "no such" for one, other in (made, made[::-1])]
        return f"protocol differs: {alone[0]} against {alone[1]}"
    scales = [side.manifest.get("data", {}).get(rows_a[0]["data"]) for side in (a, b)]
    if all(isinstance(scale, dict) for scale in scales) and not _close(*scales):
        return f"data scale differs: {json.dumps(scales[0])} against {json.dumps(scales[1])}"
    if bare(rows_a[0]["metric"]) in MACHINE:
        hardware = [side.manifest.get("hardware") for side in (a, b)]
        devices = [sorted({str(row["device"]) for row in rows}) for rows in (rows_a, rows_b)]
        if None in hardware:
            return "hardware unknown: a manifest does not name it"
        if hardware[0] != hardware[1] or devices[0] != devices[1]:
            return "hardware differs"
    return None


def _protocol(row: Row) -> list[str]:
    """How a value was made, in the parts that a metric tells it in."""
    return str(row["protocol"]).split("; ") if row["protocol"] is not None else ["none told"]


def _close(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(
        math.isclose(a[key], b[key], rel_tol=1e-6, abs_tol=1e-9) if isinstance(a[key], float) else a[key] == b[key]
        for key in a.keys() & b.keys()
    )
