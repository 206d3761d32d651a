"""The rows behind a verdict, in words."""

from __future__ import annotations

from typing import Any

from fmbench.report.verdicts import rows_used
from fmbench.table import COLUMNS

Rows = list[dict[str, Any]]


def row(key: str, metric: str = "straightness", **columns: Any) -> dict[str, Any]:
    known = {"model": "mlp", "data": "moons", "path": "rectified", "solver": "reference", "nfe": 129.0, "reflow": 0}
    return {**dict.fromkeys(COLUMNS), **known, "key": key, "metric": metric, **columns}


def flows(**columns: Any) -> Rows:
    return [
        row(f"{columns}-{reflow}-{seed}", reflow=reflow, seed=seed, **columns)
        for reflow in range(3)
        for seed in range(5)
    ]


def keys(rows: Rows, **where: Any) -> list[str]:
    return [row["key"] for row in rows if all(row[name] == value for name, value in where.items())]


def test_what_all_rows_share_is_not_told() -> None:
    rows = flows()
    assert rows_used(keys(rows), rows) == "15 rows: straightness of reflow 0, 1, 2 · seeds 0–4"
    assert rows_used(keys(rows, reflow=1, seed=3), rows) == "1 row: straightness of reflow 1 · seed 3"


def test_what_the_rows_share_is_told_where_the_table_holds_more() -> None:
    rows = [*flows(), *flows(path="ve")]
    expected = "15 rows: straightness of path ve · reflow 0, 1, 2 · seeds 0–4"
    assert rows_used(keys(rows, path="ve"), rows) == expected
    assert rows_used(keys(rows, path="ve"), [*rows, row("floor", model="data", data="digits")]) == expected


def test_components_of_one_name_are_counted_or_told_apart() -> None:
    rows = [row(str(k), seed=0, data=f"gaussian-mixture[#{k}]") for k in range(3)]
    assert rows_used(["0", "1"], rows) == "2 rows: straightness of data gaussian-mixture (2) · seed 0"
    assert rows_used(["2"], rows) == "1 row: straightness of data gaussian-mixture[#2] · seed 0"


def test_calls_are_told_where_they_were_chosen() -> None:
    rows = [row(f"euler {n}", "w2", solver="euler", nfe=float(n)) for n in (1, 2, 4, 8, 16)]
    rows += [row(f"dopri5 {n}", "w2", solver="dopri5", rtol=1e-5, nfe=float(n)) for n in (44, 56)]
    assert rows_used(keys(rows, solver="dopri5"), rows) == "2 rows: w2 of solver dopri5"
    assert rows_used(keys(rows, solver="euler"), rows) == "5 rows: w2 of solver euler · nfe 1, 2, 4, 8 and 1 more"


def test_a_value_that_flows_share_is_one_row_and_tells_nothing_of_them() -> None:
    rows = [row("same", "train_coupling_cost", path=path) for path in ("rectified", "fm-ot")]
    assert rows_used(["same"], rows) == "1 row: train_coupling_cost"


def test_rows_that_are_gone_are_counted_all_the_same() -> None:
    assert rows_used(["gone", "gone too"], flows()) == "2 rows"
    assert rows_used([], flows()) == ""
