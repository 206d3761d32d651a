from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmbench.errors import UserError
from fmbench.namesakes import told_apart
from fmbench.report.compare import compare
from fmbench.report.tables import terminal_pivot
from fmbench.results import COLUMNS, Results, frame, interval_text
from fmbench.statistics import interval
from fmbench.table import read_table


def row(metric: str = "w2", value: float | None = 1.0, stderr: float | None = 0.0, **more: Any) -> dict[str, Any]:
    return {"suite": "s", "method": "RF", "data": "moons", "source": "normal", "model": "mlp", "seed": 0,
            "solver": "euler", "nfe": 4.0, "metric": metric, "value": value, "stderr": stderr, "n": 100,
            "unit": "data units", "higher_is_better": False, "status": "ok"} | more  # fmt: skip


def results(*rows: dict[str, Any]) -> Results:
    return Results(frame(rows))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_missing_nan_and_infinity_survive_the_round_trip(tmp_path: Path, kind: str) -> None:
    table = frame([
        row(value=None, stderr=math.nan, status="failed", reason='a "quoted", line\nbroken', higher_is_better=None),
        row(value=0.1 + 0.2, stderr=math.inf, seed=None, method="NA", solver=None, higher_is_better=True),
        {},
    ])  # fmt: skip
    path = tmp_path / f"results.{kind}"
    table.to_parquet(path, index=False) if kind == "parquet" else table.to_csv(path, index=False)
    back = read_table(path)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert math.isnan(back["value"][0])
    assert back["value"][1] == 0.1 + 0.2
    assert math.isinf(back["stderr"][1])
    assert back["method"][1] == "NA"
    assert back["seed"][1] is pd.NA
    assert back["solver"][1] is pd.NA
    assert back.loc[2].isna().all()


def test_frame_has_the_contracts_columns_and_refuses_others() -> None:
    empty = frame([])
    assert list(empty) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in empty.dtypes.items()} == COLUMNS
    with pytest.raises(UserError, match=r"unknown column 'metrc'. Did you mean 'metric'"):
        frame([{"metrc": "w2"}])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no results.parquet or .csv"),
        ({"results.parquet": b"not parquet"}, "cannot be read"),
        ({"results.csv": b"a,b\n1,2\n"}, "lacks method, metric, value, status"),
        ({"results.parquet": None, "manifest.json": b"{"}, "manifest.json cannot be read"),
    ],
)
def test_a_folder_that_is_no_result_is_the_users_mistake(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    for name, content in files.items():
        if content is None:
            frame([row()]).to_parquet(tmp_path / name, index=False)
        else:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Results.load(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Results.load(tmp_path / "nowhere")


def test_a_folder_that_keeps_its_table_as_text_is_the_same_result(tmp_path: Path) -> None:
    """Whatever a column holds, and a number to its last digit; where both tables stand, parquet's is read."""
    rows = [row(value=1 / 3, higher_is_better=False, steps=4, rtol=1e-5, freedom=2.5), row(seed=None, value=None),
            row(solver=None, reason="a, \"b\"\nand ü", higher_is_better=True, stderr=math.inf)]  # fmt: skip
    text, both = tmp_path / "text", tmp_path / "both"
    for folder in (text, both):
        folder.mkdir()
        frame(rows).to_csv(folder / "results.csv", index=False)
    frame(rows[:1]).to_parquet(both / "results.parquet", index=False)
    pd.testing.assert_frame_equal(Results.load(text).table, frame(rows), check_exact=True)
    assert len(Results.load(both).table) == 1


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "results.parquet")
    with pytest.raises(UserError, match="lacks method, metric, value, status"):
        Results.load(tmp_path)


def test_damaged_pictures_are_the_users_mistake_and_no_pictures_are_none(tmp_path: Path) -> None:
    frame([row()]).to_parquet(tmp_path / "results.parquet", index=False)
    assert Results.load(tmp_path).pictures == []
    (tmp_path / "pictures.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"pictures\.npz cannot be read"):
        _ = Results.load(tmp_path).pictures
    index = json.dumps([{"array": "a", "kind": "trajectory", "method": "RF"}])
    np.savez(tmp_path / "pictures.npz", index=np.array(index), a=np.zeros((3, 2, 2)), a_times=np.arange(3.0))
    (picture,) = Results.load(tmp_path).pictures
    assert (picture.kind, picture.method, picture.solver) == ("trajectory", "RF", None)
    assert picture.times is not None
    assert picture.times.tolist() == [0, 1, 2]


def test_select_says_the_nearest_column() -> None:
    kept = results(row(), row("mmd"), row(guidance=2.0)).select(metric=["w2", "nll"], guidance=None).table
    assert len(kept) == 1
    with pytest.raises(UserError, match="Did you mean 'solver'"):
        results(row()).select(solvr="euler")


def test_summary_by_hand() -> None:
    """Two seeds, values 1 and 3, stderr 0.3 and 0.4: mean 2; variance 2/2 between, (0.09 + 0.16)/2 within.

    Satterthwaite's degrees of freedom: 1.125² / 1² = 1.265625, for which Student's 97.5 % quantile is 7.8540.
    """
    (line,) = results(row(value=1.0, stderr=0.3), row(value=3.0, stderr=0.4, seed=1)).summary().to_dict("records")
    stderr = math.sqrt(1 + 0.125)
    assert line["mean"] == 2
    assert line["stderr"] == pytest.approx(stderr)
    assert (line["low"], line["high"]) == pytest.approx((2 - 7.8540 * stderr, 2 + 7.8540 * stderr), abs=1e-3)
    assert (line["seeds"], line["n"], line["failed"]) == (2, 100, 0)


def test_sample_seeds_are_averaged_within_their_seed() -> None:
    """1 and 2 of one seed, 5 of the other: (1.5 + 5) / 2. `n` is the smallest, of one value."""
    rows = [row(value=v, seed=s, sample_seed=k, n=n) for v, s, k, n in ((1, 0, 0, 100), (2, 0, 1, 50), (5, 1, 0, 80))]
    (line,) = results(*rows).summary().to_dict("records")
    assert (line["mean"], line["seeds"], line["n"]) == (3.25, 2, 50)


def test_the_interval_is_at_the_level_asked_for_and_probes_are_stated_apart() -> None:
    rows = [row(value=1.0, stderr=2.0, probe_stderr=part, seed=seed) for seed, part in enumerate((0.1, 0.7))]
    (line,) = results(rows[0]).summary(level=0.5).to_dict("records")
    assert (line["low"], line["high"]) == pytest.approx((1 - 2 * 0.6744898, 1 + 2 * 0.6744898))
    (line,) = results(*rows).summary().to_dict("records")
    assert line["probe_stderr"] == pytest.approx(0.5)


def test_what_failed_is_counted_not_averaged_and_a_failed_row_need_not_know_its_unit() -> None:
    failed = row(value=None, stderr=None, seed=1, status="diverged", unit=None, higher_is_better=None, n=None)
    (line,) = results(row(value=5.0), failed).summary().to_dict("records")
    assert (line["mean"], line["seeds"], line["failed"], line["failures"]) == (5.0, 1, 1, "1 diverged")
    (line,) = results(failed).summary().to_dict("records")
    assert math.isnan(line["mean"])
    assert (line["seeds"], line["failed"]) == (0, 1)


def test_an_undefined_error_stays_undefined() -> None:
    for stderr in (math.inf, math.nan, None):
        (line,) = results(row(stderr=stderr)).summary().to_dict("records")
        assert (line["low"], line["high"]) == (-math.inf, math.inf)
        assert not math.isfinite(line["stderr"])


def test_an_adaptive_solvers_calls_are_an_outcome() -> None:
    sampler = {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5}
    rows = [row(**sampler, nfe=40.0 + 6 * seed, steps=6 + seed, seed=seed) for seed in range(3)]
    (line,) = results(*rows).summary().to_dict("records")
    assert (line["nfe"], line["steps"], line["seeds"], line["sampler"]) == (46.0, 7, 3, "dopri5 1e-5")


def test_pivot_by_hand_keeps_solvers_apart() -> None:
    run = results(
        row("nll", 1.0, model="data", method=None, solver=None, nfe=None, seed=None),  # has a floor, and no budgets
        row("nll", 1.1, solver="reference", nfe=400.0),
        row(value=0.055, stderr=0.002, model="data", method=None, solver=None, nfe=None, seed=None),
        *[row(value=v, seed=s, nfe=k, stderr=0.1) for s, (v, k) in enumerate([(1.0, 4.0), (3.0, 4.0), (8.0, 2.0)])],
        row(method="VP", value=7.0),
        row(value=100.0, solver="heun"),
        row(value=50.0, solver="dopri5", rtol=1e-5, nfe=44.0),
        row("straightness", 0.5, solver="reference", nfe=400.0),
    )
    assert run.main_metric == "w2"
    grid = run.pivot()
    assert grid.attrs == {"metric": "w2", "unit": "data units", "solver": "euler"}
    assert grid.loc[4.0].to_dict() == {"RF": 2.0, "VP": 7.0}
    assert grid.loc[2.0, "RF"] == 8.0
    assert list(grid.index) == [2.0, 4.0]
    assert run.pivot("w2", solver="dopri5 1e-5").loc[44.0, "RF"] == 50
    assert run.pivot("straightness", index="metric").loc["straightness", "RF"] == 0.5
    assert run.pivot("w2", index=["sampler", "nfe"]).loc[("heun", 4.0), "RF"] == 100
    assert run.pivot("w2", solver="euler", text=True).loc[2.0, "RF"] == "8.00 ± 0.20"
    assert [str(nfe) for nfe in grid.index] == ["2", "4"], "whole calls read as such"
    assert str(run.pivot("w2", index=["sampler", "nfe"]).loc["heun"].index[0]) == "4"
    with pytest.raises(UserError, match="Did you mean 'euler'"):
        run.pivot("w2", solver="eular")
    with pytest.raises(UserError, match="unknown metric 'w3'"):
        run.pivot("w3")


def test_a_metric_of_the_flow_is_one_line_whatever_its_reference_solves_cost() -> None:
    run = results(
        row("straightness", 0.5, solver="reference", nfe=257.0),
        row("straightness", 0.1, solver="reference", nfe=129.0, method="OT-CFM"),
        row("straightness", 0.7, solver="reference", nfe=513.0, method="OT-CFM", data="spirals"),
        row("cost", 2.0, solver="reference", nfe=None),
    )
    grid = run.pivot("straightness", data="moons")
    assert (grid.index.name, grid.index.tolist()) == ("sampler", ["reference"])
    assert grid.loc["reference"].to_dict() == {"RF": 0.5, "OT-CFM": 0.1}
    assert run.pivot("straightness", index=["data", "nfe"]).loc[("spirals", "reference"), "OT-CFM"] == 0.7
    assert run.pivot("straightness", index=["sampler", "nfe"], data="moons").index.tolist() == ["reference"]
    assert run.pivot("cost").loc["reference", "RF"] == 2.0
    assert run.pivot("straightness", index="flow", columns="nfe", data="moons").shape == (2, 1)
    assert run.select(metric="straightness", data="moons").pivot(index="nfe").shape == (1, 2)  # also as the main metric
    printed = terminal_pivot(run.select(data="moons"), metric="straightness")
    assert printed.index.tolist() == [("reference", "")]
    assert list(printed.columns) == ["RF", "OT-CFM"]


def test_pivot_refuses_to_hide_a_value_behind_another() -> None:
    run = results(row(data="moons"), row(data="spirals"))
    with pytest.raises(UserError, match="they differ in data"):
        run.pivot("w2")
    assert run.pivot("w2", data="moons").shape == (1, 1)
    assert run.pivot("w2", index=["data", "nfe"]).shape == (2, 1)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/moons", "b/gauss"], ["moons", "gauss"]),
        (["a/moons", "b/moons"], ["a/moons", "b/moons"]),
        (["p/moons", "q/r/moons", "s/r/moons"], ["p/moons", "q/r/moons", "s/r/moons"]),
        ([f"{x}/1/2/3/4/5/6/7/8/9/10/moons" for x in "ab"], [f"{x}/1/2/3/4/5/6/7/8/9/10/moons" for x in "ab"]),
        (["a/moons", "a/moons", "a/../a/moons"], ["moons", "moons (2)", "moons (3)"]),
        (["a/moons", "b/moons", "a/moons"], ["a/moons", "b/moons", "a/moons (2)"]),
    ],
)
def test_folders_are_called_by_the_shortest_end_that_tells_them_apart(
    tmp_path: Path, folders: list[str], names: list[str]
) -> None:
    found = told_apart([Results(frame([row()]), directory=tmp_path / folder) for folder in folders])
    assert [each.name for each in found] == names


def test_flows_of_one_method_are_told_apart_by_what_varies() -> None:
    run = results(row(reflow=0), row(reflow=1), row(reflow=1, model="unet"), row(method="VP", path="vp-cosine"))
    assert run.summary()["flow"].tolist() == ["RF (mlp, reflow=0)", "RF (mlp, reflow=1)", "RF (unet, reflow=1)", "VP"]


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.12345, 0.0042, "0.123 ± 0.004"),
        (0.12344, 0.0012, "0.1234 ± 0.0012"),
        (0.5, 0.0998, "0.50 ± 0.10"),
        (1234.4, 56.0, "1230 ± 60"),
        (44.0, 0.0, "44"),
        (0.1234, math.inf, "0.123 ± ?"),
        (1.234e-7, 4.2e-9, "(1.23 ± 0.04)e-7"),
        (123456.0, 560.0, "(1.235 ± 0.006)e5"),
        (12345.6, 56.0, "12350 ± 60"),
        (0.001234, 0.00005, "0.00123 ± 0.00005"),
        (0.0001234, 0.000005, "(1.23 ± 0.05)e-4"),
        (0.00001, 0.05, "0.00 ± 0.05"),
        (math.nan, math.nan, "–"),
    ],
)
def test_interval_text(mean: float, half: float, text: str) -> None:
    assert interval_text(mean, mean - half, mean + half) == text


@given(st.floats(1e-8, 1e8), st.floats(1e-6, 10))
def test_interval_text_is_near_what_it_says(mean: float, share: float) -> None:
    half = mean * share
    text = interval_text(mean, mean - half, mean + half)
    bare, _, power = text.partition(")e")
    value, _, width = bare.strip("(").partition(" ± ")
    scale = 10.0 ** int(power or 0)
    assert float(width) * scale == pytest.approx(half, rel=0.35)
    assert abs(float(value) * scale - mean) <= 0.51 * half


def kept_by_sample(directory: Path, shift: float, seeds: int = 3) -> Results:
    """Two paths' straightness of three seeds on the same 400 samples, 1 + `shift` apart, whose own spread is 50 times that."""
    rng, arrays, rows = np.random.default_rng(0), {}, []
    noise = 5 * rng.standard_normal(400)
    for path, by in (("rectified", 0.0), ("vp-cosine", 0.1 + shift)):
        for seed in range(seeds):
            key = f"{path}-{seed}"
            arrays[key] = (noise + by + 0.01 * rng.standard_normal() + 0.05 * rng.standard_normal(400)).astype(
                "float32"
            )
            rows.append(row("straightness", float(arrays[key].mean()), float(arrays[key].std() / 20), path=path, seed=seed,
                            key=key, solver="reference", n=400, sample_seed=0, steps=None, nfe=None))  # fmt: skip
    directory.mkdir(exist_ok=True)
    np.savez(directory / "paired.npz", **arrays)
    return Results(frame(rows), directory=directory)


def test_a_paired_difference_knows_what_the_flows_share(tmp_path: Path) -> None:
    kept = kept_by_sample(tmp_path / "a", 0.0)
    sides = {"path": "rectified"}, {"path": "vp-cosine"}
    found = kept.paired("straightness", *sides)
    low, high = interval(found, 0.99)
    assert low < 0.1 < high
    assert found.stderr < 0.03 < 5 / 20, "the spread of samples that both share is no error of the difference"
    back = kept.paired("straightness", *reversed(sides))
    assert (back.value, back.n) == (-found.value, 400)
    one = kept.select(seed=[0]).paired("straightness", *sides)
    assert 0 < one.stderr < 0.01, "one trained flow: over samples alone"
    with pytest.raises(UserError, match="name one flow"):
        kept.paired("straightness", {}, sides[1])
    fewer = kept.table[(kept.table["path"] == "rectified") | (kept.table["seed"] != 0)]
    with pytest.raises(UserError, match="the same seeds"):
        Results(fewer, directory=kept.directory).paired("straightness", *sides)
    with pytest.raises(UserError, match=r"no values sample by sample in .*paired\.npz"):
        Results(kept.table).paired("straightness", *sides)
    of_two = kept.table.assign(data=kept.table["data"].where(kept.table["path"] == "rectified", "s-curve"))
    with pytest.raises(UserError, match="'straightness' is in data units, which are not the same on moons and s-curve"):
        Results(of_two, directory=kept.directory).paired("straightness", *sides)
    assert (
        Results(of_two.assign(unit="1"), directory=kept.directory).paired("straightness", *sides).value == found.value
    )


def test_two_results_are_compared_sample_by_sample_where_they_kept_them(tmp_path: Path) -> None:
    a, b = kept_by_sample(tmp_path / "a", 0.0), kept_by_sample(tmp_path / "b", 0.1)
    line = compare(a, b).set_index("flow").iloc[1]
    assert line["low"] < 0.1 < line["high"]
    assert line["high"] - line["low"] < 0.1
    apart = compare(Results(a.table), Results(b.table)).set_index("flow").iloc[1]
    assert apart["high"] - apart["low"] > 0.9, "two samples of spread 5, taken as independent"
