from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fmbench.errors import UserError
from fmbench.report import FORMATS, render
from fmbench.report.charts import metric_chart
from fmbench.report.tables import failures, flow_grid, grids, headline_grid, sampled_grid, terminal_pivot, truth_grid
from fmbench.results import Results, frame

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture(scope="module")
def run(folder: Path) -> Results:
    return Results.load(folder)


def test_terminal_pivot_fits_and_loses_nothing(run: Results) -> None:
    for width in (100, 60, 40):
        table = terminal_pivot(run, width)
        assert max(map(len, table.to_string().splitlines())) <= width
    values = terminal_pivot(run, 40)  # long: one line a value
    assert values.index.names == ["solver", "nfe", "flow"]
    assert (values["w2"] != "").all()
    assert len(values) == 24 * 5 + 2 * 5 + 5  # fixed budgets, the adaptive solver with its calls, the floor
    wide = terminal_pivot(run, 100)
    assert wide.loc[("rk4", "4"), "VP"].endswith("†")
    assert wide.loc[("dopri5 1e-5", "its calls"), "VE"] == "99"
    assert set(wide.loc[("floor", "")]) == {"0.055 ± 0.007"}
    assert terminal_pivot(run, metric="solver_error").loc[("euler", "1"), "VE"] == "3 diverged"


def two(a: float, b: float, error: float = 0.01, **more: Any) -> Results:
    row = {"data": "moons", "source": "normal", "metric": "w2", "unit": "1", "higher_is_better": False, "status": "ok",
           "solver": "euler", "nfe": 4.0, "seed": 0, "model": "mlp", "n": 10}  # fmt: skip
    return Results(frame([row | {"method": m, "value": v, "stderr": error} | more for m, v in (("A", a), ("B", b))]))


@pytest.mark.parametrize(
    ("results", "bold"),
    [
        (two(1.0, 1.1), [True, False]),
        (two(1.0, 1.01), [False, False]),
        (two(1.0, 1.1, higher_is_better=True), [False, True]),
        (two(1.0, 1.1, higher_is_better=None), [False, False]),
        (two(1.0, 1.1, error=math.inf), [False, False]),
    ],
)
def test_only_what_is_significantly_best_is_bold(results: Results, bold: list[bool]) -> None:
    ((_, cells),) = sampled_grid(results.summary(), "w2").rows
    assert [cell is not None and cell.best for cell in cells] == bold


def oracle() -> Results:
    flow = {"data": "g", "source": "normal", "method": "RF", "path": "rectified", "coupling": "independent",
            "prediction": "velocity", "times": "uniform", "model": "oracle", "reflow": 0, "unit": "1",
            "higher_is_better": False, "status": "ok", "n": 10}  # fmt: skip
    cost = flow | {"metric": "transport_cost", "solver": "reference"}
    w2 = flow | {"metric": "w2", "solver": "euler"}
    return Results(frame([
        cost | {"seed": 0, "value": 2.2, "stderr": 0.1},
        cost | {"model": "truth", "value": 2.0, "stderr": 0.0},
        cost | {"method": "VP", "path": "vp", "seed": 0, "value": 9.0, "stderr": 0.1},  # no exact value: not shown
        w2 | {"seed": 0, "nfe": 4.0, "value": 0.5, "stderr": 0.03},
        w2 | {"seed": 0, "nfe": 64.0, "value": 0.2, "stderr": 0.03},
        w2 | {"method": "data", "model": "data", "path": None, "coupling": None, "solver": None, "value": 0.1,
              "stderr": 0.04},
    ]))  # fmt: skip


def test_exact_values_stand_beside_what_was_measured() -> None:
    results = oracle()
    lines = {index: [cell and cell.text for cell in cells] for index, cells in truth_grid(results.summary()).rows}
    assert lines == {
        ("transport_cost", "RF"): ["2", "2.20 ± 0.20", "+2.0"],
        ("w2", "RF"): ["floor 0.10 ± 0.08", "0.20 ± 0.06", "+2.0"],
    }


@pytest.mark.parametrize(("model", "left"), [("truth", []), ("data", ["transport_cost"])])
def test_an_exact_value_or_floor_that_failed_is_left_out(model: str, left: list[str]) -> None:
    """Its worker was killed, say: the whole report fell with it."""
    table = oracle().table.copy()
    table.loc[table["model"] == model, ["value", "stderr"]] = None
    table.loc[table["model"] == model, "status"] = "failed"
    assert [index[0] for index, _ in truth_grid(Results(table).summary()).rows] == left


def test_a_solver_s_exact_error_stands_at_the_middle_budget_and_is_no_flow() -> None:
    """Three budgets whose exact value is known, of each of two paths that share the name TRUTH."""
    flow = {"data": "g", "source": "normal", "method": "RF", "coupling": "independent", "prediction": "velocity",
            "times": "uniform", "reflow": 0, "unit": "1", "higher_is_better": False, "status": "ok", "n": 10,
            "metric": "solver_error", "solver": "euler", "grid": "uniform"}  # fmt: skip
    rows = []
    for method, path, by in (("RF", "rectified", 1.0), ("VP", "vp", 2.0)):
        for steps in (1, 4, 16):
            at = flow | {"method": method, "path": path, "steps": steps, "nfe": float(steps)}
            rows += [at | {"model": "oracle", "seed": 0, "value": 1.1 * by / steps, "stderr": 0.05 * by / steps},
                     at | {"model": "truth", "value": by / steps, "stderr": 0.0}]  # fmt: skip
    results = Results(frame(rows))
    lines = {index: [cell and cell.text for cell in cells] for index, cells in truth_grid(results.summary()).rows}
    assert lines == {
        ("solver_error", "RF, euler 4"): ["0.25", "0.28 ± 0.02", "+2.0"],
        ("solver_error", "VP, euler 4"): ["0.5", "0.55 ± 0.05", "+2.0"],
    }
    assert sampled_grid(results.summary(), "solver_error").columns == ("RF", "VP")
    assert headline_grid(results.summary(), "solver_error").columns == ("RF", "VP")
    chart = json.dumps(metric_chart(results.summary(), "solver_error"), default=str)
    assert '"truth"' not in chart


def test_a_distance_s_exact_value_stands_at_the_fewest_calls() -> None:
    """Where it is furthest from 0; a distance is what has a floor."""
    flow = {"data": "g", "source": "normal", "method": "RF", "path": "rectified", "coupling": "independent",
            "prediction": "velocity", "times": "uniform", "reflow": 0, "unit": "1", "higher_is_better": False,
            "status": "ok", "n": 10, "metric": "energy_distance", "solver": "euler", "grid": "uniform"}  # fmt: skip
    rows = [flow | {"method": "data", "model": "data", "path": None, "coupling": None, "solver": None, "value": 0.0}]
    for steps in (1, 4, 16):
        at = flow | {"steps": steps, "nfe": float(steps)}
        rows += [at | {"model": "oracle", "seed": 0, "value": 1.1 / steps, "stderr": 0.05 / steps},
                 at | {"model": "truth", "value": 1 / steps, "stderr": 0.0}]  # fmt: skip
    lines = {
        index: [cell and cell.text for cell in cells]
        for index, cells in truth_grid(Results(frame(rows)).summary()).rows
    }
    assert lines == {("energy_distance", "RF, euler 1"): ["1", "1.10 ± 0.10", "+2.0"]}


def test_an_exact_value_is_no_flow() -> None:
    results = oracle()
    ((index, cells),) = flow_grid(results.summary()).rows
    assert index[0] == "transport_cost"
    assert [cell and cell.text for cell in cells] == ["2.20 ± 0.20", "9.00 ± 0.20"]
    assert [grid.title for grid in grids(results)][-1] == "Measured against exact values"
    assert list(results.pivot("transport_cost", index="metric").columns) == ["RF", "VP"]


def test_calls_have_a_table_only_where_a_solver_chooses_them(run: Results) -> None:
    calls = [
        row | {"metric": "nfe", "value": row["nfe"], "unit": "1"}
        for row in run.select(metric="w2").table.to_dict("records")
    ]
    fixed = [row for row in calls if pd.isna(row["rtol"]) and row["model"] != "data"]
    titles = [
        [grid.title for grid in grids(Results(pd.concat([run.table, frame(more)], ignore_index=True)))]
        for more in (fixed, calls)
    ]
    assert [any(title.startswith("nfe") for title in told) for told in titles] == [False, True]


def test_headline_takes_the_best_fixed_solver_at_each_budget(run: Results) -> None:
    grid = headline_grid(run.summary(), "w2")
    assert grid is not None
    assert [index for index, _ in grid.rows] == [("1",), ("2",), ("4",), ("8",), ("16",), ("32",), ("64",)]
    summary = run.summary()
    eight = summary[(summary["metric"] == "w2") & (summary["nfe"] == 8) & (summary["flow"] == "RF")]
    cell = grid.rows[3][1][0]
    assert cell is not None
    assert cell.note == eight.loc[eight["mean"].idxmin(), "sampler"]


def test_flow_grid_has_a_line_a_metric(run: Results) -> None:
    assert [index[0] for index, _ in flow_grid(run.summary()).rows] == ["transport_cost", "straightness", "nll"]


def test_flow_grid_says_what_a_reflow_round_was_trained_on() -> None:
    row = {"data": "moons", "source": "normal", "metric": "transport_cost", "status": "ok", "solver": "reference",
           "seed": 0, "model": "mlp", "n": 10, "value": 1.0, "stderr": 0.1}  # fmt: skip
    first = row | {"method": "RF", "reflow": 0, "trained_on": "independent"}
    second = row | {"method": "2-RF", "reflow": 1, "trained_on": "pairs of round 0"}
    (index, cells), _ = flow_grid(Results(frame([first, second])).summary()).rows
    assert (index[0], [cell and cell.text for cell in cells]) == ("trained on", ["independent", "pairs of round 0"])
    assert len(flow_grid(Results(frame([first])).summary()).rows) == 1, "the coupling stands in the flow's label"
    older = flow_grid(Results(frame([first, second]).assign(trained_on=None)).summary()).rows
    assert older[0][1] == (None, None), "a table of an older version does not know"


def test_failures_count_every_row_that_is_not_ok(run: Results) -> None:
    listed = failures(run)
    assert sum(item["count"] for item in listed) == (run.table["status"] != "ok").sum() == 7
    assert {item["reason"] for item in listed} == set(run.table["reason"].dropna())


def test_markdown_latex_and_csv(run: Results) -> None:
    md, tex, table = (render([run], kind) for kind in ("md", "latex", "csv"))
    assert "| euler | 1 | 1.5" in md
    assert r"7 × " not in md
    assert r"RuntimeError: \<b\>out of memory\</b\>" in md
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == 7
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 7
    assert r"sliced\_w2" in tex
    assert all(sign not in tex for sign in "±²†")
    for block in tex.split(r"\begin{tabular}{")[1:]:
        width = len(block.partition("}")[0])
        for line in block.splitlines()[1:]:
            if line.endswith(r"\\") and "multicolumn" not in line:
                assert line.count(" & ") == width - 1
    back = pd.read_csv(io.StringIO(table))
    assert len(back) == len(run.summary())
    assert back["mean"].sum() == pytest.approx(run.summary()["mean"].sum())
    assert set(back["results"]) == {run.name}


def test_per_cent_is_written_in_one_way(run: Results) -> None:
    assert set(re.findall(r".\\%", render([run], "latex"))) == {" \\%"}


def test_unknown_format_and_nothing_to_report(run: Results) -> None:
    with pytest.raises(UserError, match="Did you mean 'html'"):
        render([run], "htm")
    for kind in FORMATS:
        with pytest.raises(UserError, match="no results to report"):
            render([], kind)
        with pytest.raises(UserError, match="empty"):
            render([Results(frame([]))], kind)


def test_a_table_of_failures_alone_is_reported(make: Callable[..., Path]) -> None:
    table = Results.load(make()).table
    table["status"], table["reason"], table["value"], table["stderr"] = "failed", "lost", math.nan, math.nan
    for kind in FORMATS:
        assert "lost" in render([Results(table)], kind) or kind in ("latex", "csv")


def couplings(names: list[str]) -> Results:
    row = {"data": "d", "source": "s", "model": "mlp", "metric": "coupling_bias", "unit": "1", "higher_is_better": False,
           "status": "ok", "solver": "reference", "n": 10, "stderr": 0.1}  # fmt: skip
    return Results(frame([row | {"method": "OT", "coupling": name, "value": 1.0 + i} for i, name in enumerate(names)]))


def test_flows_that_differ_in_parameters_alone_are_told_by_them() -> None:
    flows = flow_grid(couplings(["ot", "ot[batch=16]"]).summary()).columns
    assert flows == ("OT (default)", "OT (batch=16)")
    assert flow_grid(couplings(["ot", "ot[batch=16]", "sinkhorn"]).summary()).columns[1:] == (
        "OT (ot[batch=16])",
        "OT (sinkhorn)",
    )


def test_many_flows_stand_below_each_other() -> None:
    names = [f"ot[batch={2**k}]" for k in range(8)]
    grid = flow_grid(couplings(names).summary())
    assert (grid.index, grid.columns) == (("flow",), ("coupling_bias",))
    assert [index[0] for index, _ in grid.rows] == [f"OT (batch={2**k})" for k in range(8)]
    few = flow_grid(couplings(names[:3]).summary())
    assert few.index == ("metric", "unit")


@pytest.mark.parametrize("folder", sorted(REFERENCE.iterdir()), ids=lambda folder: folder.name)
def test_a_shipped_reference_can_be_rendered(folder: Path) -> None:
    """From its text alone, and without a cell that no number of calls could change."""
    text = render([Results.load(folder)], "md")
    assert text.count("\n|") > 3
    assert "(100 to never)" not in text
