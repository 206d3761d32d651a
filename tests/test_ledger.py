"""The ledger of network calls on every row: what was called, what was rejected, what only started a method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fmbench.errors import UserError
from fmbench.plan import make_plan
from fmbench.results import Results, frame
from fmbench.solvers import SOLVERS
from fmbench.suite import parse
from fmbench.table import read_table, sampler_labels

LEDGER = ["accepted", "rejected", "startup", "vjp"]


def suite(solvers: list[Any], path: Any = "rectified", **more: Any) -> dict[str, Any]:
    return {
        "suite": "ledger",
        "data": {"name": "gaussian-mixture", "means": [[-1, 0], [1, 0.5]], "stds": 0.3},
        "flow": {"path": path, "model": "oracle"},
        "sample": {"n": 40, "batch": 16, "reference": {"tolerance": 1e-3}, "solvers": solvers},
        "metrics": ["nfe", "solver_error", {"name": "nll", "n": 10, "steps": 4}],
        **more,
    }


def test_every_row_of_a_solve_says_what_was_called(measured: Callable[..., pd.DataFrame]) -> None:
    names = SOLVERS.names()
    solvers = [
        {"name": name, **({"rtol": 1e-2, "atol": 1e-2} if SOLVERS.get(name).adaptive else {"steps": 3})}
        for name in names
    ]
    table = measured(suite(solvers, sample={"n": 40, "batch": 16, "solvers": [
        *solvers, {"name": "dopri5", "per_sample": True, "rtol": 1e-2, "atol": 1e-2}]}))  # fmt: skip
    assert set(table["status"]) == {"ok"}, table["reason"].dropna().tolist()
    solved = table[table["solver"].notna() & table["model"].eq("oracle")]
    assert solved[LEDGER].notna().all(axis=None)
    assert set(solved["solver"]) == {*names, "dopri5[per_sample=True]", "reference"}
    for row in solved.to_dict("records"):
        if row["solver"] == "reference":
            assert row["nfe"] == row["startup"] + 4 * row["accepted"]
            continue
        assert row["vjp"] == 0
        solver = SOLVERS.build(row["solver"].partition("[")[0])
        if solver.adaptive:
            trials = row["accepted"] + row["rejected"]
            assert row["nfe"] == pytest.approx(row["startup"] + solver.calls_per_step * trials)
            assert row["steps"] == round(row["accepted"])
        else:
            assert (row["steps"], row["accepted"], row["rejected"]) == (3, 3, 0)
            assert row["nfe"] == solver.calls_for(3)
            assert pd.isna(row["batch"])
    assert set(solved.loc[solved["solver"] == "dopri8", "batch"]) == {16}
    assert solved.loc[solved["solver"].str.contains("per_sample"), "batch"].isna().all(), "it does not matter there"
    assert (solved.loc[solved["solver"] == "ab2", "startup"] == 1).all()
    likelihood = solved[solved["metric"].str.startswith("nll")]
    assert likelihood["vjp"].tolist() == [2 * 4 * 4], "D products at each of the four stages of four steps"


def test_batches_are_a_setting_of_their_own(measured: Callable[..., pd.DataFrame]) -> None:
    loose = {"rtol": 1e-3, "atol": 1e-3, "batch": [5, 40]}
    table = measured(
        suite([{"name": "dopri5", **loose}, {"name": "dopri5", "per_sample": True, **loose}], metrics=["nfe"])
    )
    calls = table.set_index(["solver", "batch"])["value"]
    assert calls["dopri5", 5] != calls["dopri5", 40]
    assert calls["dopri5[per_sample=True]", 5] == calls["dopri5[per_sample=True]", 40]
    labels = set(sampler_labels(table))
    assert {"dopri5 1e-3 batch 5", "dopri5[per_sample=True] 1e-3 batch 40"} <= labels
    assert len(Results(table).summary()) == 4


def test_a_folder_from_before_the_ledger_still_loads(tmp_path: Path) -> None:
    row = {
        "suite": "s",
        "method": "RF",
        "model": "mlp",
        "solver": "euler",
        "metric": "w2",
        "value": 1.0,
        "status": "ok",
    }
    old = frame([row]).drop(columns=[*LEDGER, "batch"])
    for name, write in (("results.parquet", old.to_parquet), ("results.csv", old.to_csv)):
        write(tmp_path / name, index=False)
        table = read_table(tmp_path / name)
        pd.testing.assert_frame_equal(table, frame([row]))
        assert table[[*LEDGER, "batch"]].isna().all(axis=None)
    assert len(Results.load(tmp_path).summary()) == 1


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"name": "ddim", "steps": 4}, "solver 'ddim'"),
        ({"name": "heun", "steps": 4, "grid": "logsnr"}, "grid 'logsnr'"),
    ],
)
def test_what_needs_an_affine_path_is_refused_while_planning(entry: dict[str, Any], what: str) -> None:
    mlp = {"path": "icfm", "model": "mlp"}
    with pytest.raises(UserError, match=f"{what} needs an affine path.*'icfm'"):
        make_plan(parse(suite([entry], flow=mlp)))
    make_plan(parse(suite([{"name": "heun", "steps": 4}], flow=mlp)))


def test_a_solver_names_its_own_grid_unless_the_suite_does() -> None:
    def grids(entry: dict[str, Any]) -> set[str | None]:
        return {c.columns.get("grid") for c in make_plan(parse(suite([entry]))).cells if c.columns.get("grid")}

    assert grids({"name": "edm-heun", "nfe": 7}) == {"polynomial-rho"}
    assert grids({"name": "edm-heun", "nfe": 7, "grid": ["uniform", "cosine"]}) == {"uniform", "cosine"}
    assert grids({"name": "heun", "nfe": 8}) == {"uniform"}
