from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from fmbench.report import render
from fmbench.report.reach import reach_grids, reach_text
from fmbench.results import Results, frame


@pytest.mark.parametrize(
    ("nfe", "low", "high", "failed", "text"),
    [
        (8.0, 8.0, 8.0, 0, "8"),
        (8.0, 4.0, 16.0, 0, "8 (4 to 16)"),
        (8.0, 8.0, math.inf, 1, "8 (8 to never) †"),
        (math.inf, 16.0, math.inf, 0, "not reached (16 to never)"),
        (math.inf, math.inf, math.inf, 0, "not reached"),
    ],
)
def test_an_answer_as_text(nfe: float, low: float, high: float, failed: int, text: str) -> None:
    assert reach_text({"nfe": nfe, "low": low, "high": high, "failed": failed}) == text


def test_every_report_shows_the_calls_to_reach_the_best(folder: Path) -> None:
    run = Results.load(folder)
    (grid,) = reach_grids(run)
    assert grid.title.startswith("Network calls to come within 5 % of the flow's own best w2")
    table = run.nfe_to_reach()
    assert grid.columns == tuple(dict.fromkeys(table["flow"]))
    assert {index for index, _ in grid.rows} == {(sampler,) for sampler in table["sampler"]}
    assert all("dopri5" not in index[0] for index, _ in grid.rows)
    for kind in ("md", "latex"):  # the page: test_page.py
        assert re.search(r"Network calls to come within 5 \\?%", render([run], kind))


def budget(solver: str, nfe: int, method: str = "RF", status: str = "ok") -> dict[str, object]:
    return {"method": method, "solver": solver, "nfe": nfe, "metric": "w2", "value": 1 / nfe, "stderr": 0.01, "n": 100,
            "higher_is_better": False, "status": status}  # fmt: skip


def test_a_solver_with_one_budget_is_not_asked_how_many_calls_it_needs() -> None:
    many = [budget("heun", nfe) for nfe in (2, 4)]
    (grid,) = reach_grids(Results(frame([budget("euler", 100), *many, budget("euler", 100, "OT-CFM")])))
    assert (grid.columns, [index for index, _ in grid.rows]) == (("RF",), [("heun",)])
    assert reach_grids(Results(frame([budget("euler", 100), budget("heun", 4)]))) == []
    (failed,) = reach_grids(Results(frame([budget("euler", 2, status="failed"), budget("euler", 4)])))
    assert failed.rows[0][1][0].text.endswith("†"), "a budget that failed was one all the same"


def test_a_result_without_fixed_budgets_has_no_such_table() -> None:
    row = {"method": "RF", "solver": "reference", "metric": "straightness", "value": 1.0, "status": "ok"}
    assert reach_grids(Results(frame([row]))) == []
