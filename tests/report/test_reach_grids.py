from __future__ import annotations

import math
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
    assert grid.title.startswith("Network calls to come within 5% of the flow's own best w2")
    table = run.nfe_to_reach()
    assert grid.columns == tuple(dict.fromkeys(table["flow"]))
    assert {index for index, _ in grid.rows} == {(sampler,) for sampler in table["sampler"]}
    assert all("dopri5" not in index[0] for index, _ in grid.rows)
    for kind in ("md", "latex"):  # the page: test_page.py
        assert "Network calls to come within 5" in render([run], kind)


def test_a_result_without_fixed_budgets_has_no_such_table() -> None:
    row = {"method": "RF", "solver": "reference", "metric": "straightness", "value": 1.0, "status": "ok"}
    assert reach_grids(Results(frame([row]))) == []
