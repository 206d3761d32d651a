"""Ours beside the literature's: which rows meet, by how many errors they differ, and what speaks against comparing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fmbench.published import load, select
from fmbench.report import render
from fmbench.report.published import beside_grid, published_grid
from fmbench.results import Results, frame
from fmbench.schema import Difference
from fmbench.suite import load as load_suite
from fmbench.table import records

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "tong-2d"


def ours(metric: str = "npe", value: float = 0.9, **more: Any) -> dict[str, Any]:
    """Our I-CFM on the S: published is npe 0.856 with sd 0.031 over 5 seeds."""
    return {"suite": "s", "method": "I-CFM", "data": "s-curve", "source": "normal", "model": "mlp", "seed": 0,
            "solver": "reference", "metric": metric, "value": value, "stderr": 0.02, "n": 10_000, "unit": "1",
            "higher_is_better": False, "status": "ok"} | more  # fmt: skip


def beside(*rows: dict[str, Any], **suite: Any) -> list[list[str]]:
    grid = beside_grid(Results(frame(rows), {"suite": suite}))
    return (
        [] if grid is None else [[*index, *(cell.text if cell else "" for cell in cells)] for index, cells in grid.rows]
    )


def test_a_value_beside_its_published_counterpart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmbench.report.page.vega", lambda: "")  # bundling takes seconds
    (line,) = beside(ours())
    apart = (0.9 - 0.856) / math.hypot(0.02, 0.031 / math.sqrt(5))
    assert line == [
        "s-curve",
        "I-CFM",
        "npe",
        "0.90 ± 0.04",
        "0.856 (sd 0.031) [1]",
        f"{apart:+.1f}",
        "paper",
        "comparable",
    ]
    run = Results(frame([ours()]))
    for kind in ("html", "md", "latex"):
        text = render([run], kind)
        assert "Beside published numbers" in text
        assert "2307.03672" in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n": 2_000}, "comparable"),  # a path energy of fewer samples is unsure, not biased
        ({"metric": "w2", "solver": "euler", "nfe": 100.0, "n": 2_000}, "n = 2,000, theirs 10,000: not the same bias"),
        ({"data": "s-curve[noise=0.2]"}, "data s-curve[noise=0.2], theirs s-curve"),
        ({"metric": "w2", "solver": "heun", "nfe": 32.0}, "by heun 32, theirs euler 100"),
        ({"metric": "w2", "solver": "dopri5", "rtol": 1e-5, "nfe": 44.0}, "by dopri5 1e-5, theirs euler 100"),
    ],
)
def test_what_speaks_against_a_comparison_is_said(changes: dict[str, Any], why: str) -> None:
    (line,) = beside(ours(**changes))
    assert line[-1] == why


def test_a_fine_solve_stands_for_many_calls_but_not_for_few() -> None:
    task = {"data": "eight-gaussians[scale=12,std=1.5]", "source": "moons[noise=0.1,scale=9.73,shift=-3.65]"}
    (line,) = beside(ours("path_energy", 110.0, **task))
    assert line[-1] == "by a fine solve, theirs euler 20"
    lines = beside(ours("npe", 2.5, **task))
    assert {line[-1] for line in lines} == {"comparable", "published without an error"}


def test_the_cell_with_their_solver_and_calls_is_taken() -> None:
    rows = [ours("w2", value, solver="euler", nfe=nfe) for nfe, value in ((4.0, 9.0), (100.0, 0.25))]
    (line,) = beside(*rows, ours("w2", 0.2, solver="dopri5", rtol=1e-5, nfe=40.0))
    assert (line[3], line[-1]) == ("0.25 ± 0.04", "comparable")


def test_rows_that_measure_something_else_do_not_meet() -> None:
    assert beside(ours(method="VP")) == []
    assert beside(ours(source="moons")) == []
    assert beside(ours("sliced_w2")) == []
    assert beside(ours(model="data"), ours(status="failed", value=None)) == []
    lines = beside(ours("fid", 3.0, method="RF", data="cifar10", solver="euler", nfe=1.0))
    assert lines
    assert not any("6.18" in text for line in lines for text in line)  # the distilled student is no counterpart


@pytest.mark.parametrize(
    ("about", "noted"),
    [
        ({}, True),
        ({"data": "s-curve", "method": ["OT-CFM", "I-CFM"], "metric": "npe"}, True),
        ({"data": "s-curve[noise=0.2]"}, False),
        ({"method": "OT-CFM"}, False),
        ({"metric": "w2"}, False),
    ],
)
def test_what_the_suite_knows_of_a_difference_stands_beside_it(about: dict[str, Any], noted: bool) -> None:
    known = Difference.model_validate({**about, "because": "The W of the papers."}).model_dump()
    grid = beside_grid(Results(frame([ours()]), {"suite": {"differences": [known]}}))
    assert grid
    ((_, cells),) = grid.rows
    assert cells[-1]
    assert cells[-1].text == ("comparable [2]" if noted else "comparable")
    assert ("The W of the papers." in grid.notes) == noted


def test_a_difference_of_a_bare_data_set_is_of_its_variants_too() -> None:
    known = {"data": ["s-curve"], "method": [], "metric": [], "because": "Noise."}
    (line,) = beside(ours(data="s-curve[noise=0.2]"), differences=[known])
    assert line[-1] == "data s-curve[noise=0.2], theirs s-curve [2]"


def test_every_difference_beyond_the_errors_of_tong_2d_is_explained_and_no_explanation_is_idle() -> None:
    run = replace(Results.load(REFERENCE), manifest={"suite": load_suite("tong-2d").resolved()})
    grid = beside_grid(run)
    assert grid
    lines = [(*index, *(cell.text for cell in cells if cell)) for index, cells in grid.rows]
    assert [line for line in lines if abs(float(line[5])) > 1.96 and not line[-1].endswith("]")] == []
    assert {item["because"] for item in run.suite["differences"]} <= set(grid.notes)


def test_an_undefined_error_gives_no_verdict() -> None:
    (line,) = beside(ours(stderr=None))
    assert line[5] == "?"
    lines = beside(ours("fid", 3.0, method="FM-OT", data="cifar10", solver="dopri5", rtol=1e-5, nfe=142.0, n=50_000))
    assert all("published without an error" in line[-1] for line in lines)


def test_the_listing_holds_every_row_with_evidence_and_numbered_notes() -> None:
    grid = published_grid(load())
    assert len(grid.rows) == len(load())
    (row,) = records(select("cifar10", "FM w/ OT", "nfe"))
    (line,) = published_grid(select("cifar10", "FM w/ OT", "nfe")).rows
    assert [cell.text for cell in line[1] if cell] == ["nfe", "142", "dopri5 1e-5, nfe 142", "paper", "[1]"]
    assert row["value"] == 142
    marks = {int(mark.strip("[]")) for _, cells in grid.rows for mark in cells[-1].text.split() if cells[-1]}  # type: ignore[union-attr]
    assert marks == set(range(1, len(grid.notes) + 1))
