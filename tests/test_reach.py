"""The least calls to reach a flow's own best: known answers, what is uncertain, what cannot be asked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fmbench.errors import UserError
from fmbench.reach import _ends, least_calls
from fmbench.results import Results, frame


def row(nfe: float, value: float | None, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"suite": "s", "method": "RF", "data": "moons", "source": "normal", "model": "mlp", "seed": seed, "sample_seed": 0,
            "solver": "euler", "nfe": nfe, "metric": "w2", "value": value, "stderr": 1e-6, "n": 100, "unit": "1",
            "higher_is_better": False, "status": "ok"} | more  # fmt: skip


def curve(values: dict[int, float], seeds: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [row(nfe, value, seed, **more) for nfe, value in values.items() for seed in range(seeds)]


def reach(*rows: dict[str, Any], **more: Any) -> pd.DataFrame:
    return least_calls(frame(rows), "w2", **more)


def interval_of(line: Any) -> tuple[float, float, float]:
    return float(line["nfe"]), float(line["low"]), float(line["high"])


def test_the_least_budget_within_five_per_cent_of_the_best() -> None:
    values = {1: 3.0, 2: 1.06, 4: 1.04, 8: 1.0, 16: 1.02}
    (line,) = reach(*curve(values)).to_dict("records")
    assert interval_of(line) == (4, 4, 4)
    assert (line["best"], line["best_nfe"], line["budgets"], line["failed"], line["seeds"]) == (1.0, 8, 5, 0, 3)
    assert interval_of(reach(*curve(values), within=0.07).iloc[0]) == (2, 2, 2)
    assert interval_of(reach(*curve(values), within=0).iloc[0]) == (8, 8, 8)
    assert interval_of(reach(*curve(dict(reversed(values.items())))).iloc[0]) == (4, 4, 4)  # the order is not asked


def test_the_best_is_the_flows_own_over_all_fixed_solvers() -> None:
    table = reach(
        *curve({1: 3.0, 2: 2.0, 4: 1.5}),
        *curve({2: 1.2, 4: 1.0}, solver="heun"),
        *curve({1: 9.0, 2: 7.0}, method="VP"),
        *curve({80: 0.1}, solver="dopri5", rtol=1e-5, atol=1e-5),  # chooses its own calls: left out
        row(400, 0.1, solver="reference"),
        row(1, 0.01, model="data", method="data", solver=None),
    )
    lines = {(line["flow"], line["sampler"]): line for line in table.to_dict("records")}
    assert {key: interval_of(line) for key, line in lines.items()} == {
        ("RF", "euler"): (math.inf, math.inf, math.inf),
        ("RF", "heun"): (4, 4, 4),
        ("VP", "euler"): (2, 2, 2),
    }
    assert {line["best"] for key, line in lines.items() if key[0] == "RF"} == {1.0}


def test_higher_may_be_better_and_values_negative() -> None:
    (line,) = reach(*curve({1: 0.5, 2: 0.93, 4: 0.96, 8: 1.0}, higher_is_better=True)).to_dict("records")
    assert (interval_of(line), line["best"]) == ((4, 4, 4), 1.0)
    (line,) = reach(*curve({1: 0.3, 2: -0.094, 4: -0.096, 8: -0.1})).to_dict("records")  # as an unbiased MMD²
    assert (interval_of(line), line["best"]) == ((4, 4, 4), pytest.approx(-0.1))
    (line,) = reach(*curve({1: 0.3, 2: 1e-9, 4: 0.0})).to_dict("records")
    assert interval_of(line)[0] == 4  # nothing but itself is within 5 % of 0


def test_uncertain_means_widen_the_interval_and_may_leave_it_open() -> None:
    values = {1: 3.0, 2: 1.10, 4: 1.03, 8: 1.0}
    noisy = curve(values, stderr=0.05)
    nfe, low, high = interval_of(reach(*noisy).iloc[0])
    assert (nfe, low) == (4, 2)
    assert high == 8
    heun = curve({2: 1.4, 4: 1.05}, solver="heun", stderr=0.05)
    assert interval_of(reach(*noisy, *heun).iloc[1]) == (4, 4, math.inf)
    spread = [row(nfe, value * (1 + 0.05 * sign * (nfe == 4)), seed) for nfe, value in values.items()
              for seed, sign in enumerate((-1, 0, 1))]  # fmt: skip
    assert interval_of(reach(*spread).iloc[0]) == (4, 4, 8)  # the seeds disagree at 4 calls only
    together = [row(nfe, value + 0.5 * seed, seed) for nfe, value in values.items() for seed in range(3)]
    assert interval_of(reach(*together, within=0.05).iloc[0])[0] == 4  # seeds that move all budgets alike


def test_the_answer_lies_in_its_interval() -> None:
    """Eleven budgets at 1.06 ± 0.05: each is within 1.05 in 42 draws of 100, none of them in 0.58^11, a quarter per cent."""
    almost = curve(dict.fromkeys(range(1, 12), 1.06), stderr=0.05)
    nfe, _, high = interval_of(reach(*almost, *curve({12: 1.0})).iloc[0])
    assert nfe == high == 12


def test_the_ends_leave_no_more_out_than_they_may() -> None:
    """Of eleven, the middle half lies between places 2.5 and 7.5: rounded outwards."""
    assert _ends(np.arange(11)[::-1], 0.5) == (2, 8)


@pytest.mark.parametrize("stderr", [None, math.nan, math.inf])
def test_an_undefined_error_leaves_everything_open(stderr: float | None) -> None:
    values = {1: 3.0, 2: 1.0, 4: 1.0}
    assert interval_of(reach(*curve(values, stderr=stderr)).iloc[0]) == (2, 1, math.inf)


def test_one_budget_knows_no_better() -> None:
    assert interval_of(reach(*curve({8: 1.0})).iloc[0]) == (8, 8, math.inf)


def test_a_budget_with_a_failed_seed_does_not_count_as_reached() -> None:
    rows = curve({1: 3.0, 2: 1.0, 4: 1.01})
    rows[3] |= {"value": None, "stderr": None, "status": "diverged", "unit": None, "higher_is_better": None}
    (line,) = reach(*rows).to_dict("records")
    assert (interval_of(line), line["best"], line["budgets"], line["failed"]) == ((4, 4, 4), 1.01, 2, 1)
    lost = curve({1: math.nan}, solver="heun", status="failed")
    (_, line) = reach(*rows, *lost).to_dict("records")
    assert (interval_of(line), line["budgets"], line["failed"]) == ((math.inf,) * 3, 0, 1)
    (line,) = reach(*curve({1: 1.0, 2: math.nan})).to_dict("records")
    assert (line["budgets"], line["failed"]) == (1, 1)
    (line,) = reach(*curve({1: math.nan}, status="failed")).to_dict("records")
    assert math.isnan(line["best"])


def test_questions_without_an_answer() -> None:
    run = Results(frame([*curve({1: 2.0, 2: 1.0}), row(400, 1.0, solver="reference", metric="straightness"),
                         row(4, 4.0, metric="nfe", higher_is_better=None)]))  # fmt: skip
    assert len(run.nfe_to_reach()) == 1
    assert len(run.nfe_to_reach(solver="euler")) == 1
    with pytest.raises(UserError, match=r"unknown fixed-step solver 'eular'. Did you mean 'euler'"):
        run.nfe_to_reach(solver="eular")
    with pytest.raises(UserError, match="unknown metric 'w3'"):
        run.nfe_to_reach("w3")
    with pytest.raises(UserError, match="'straightness' was measured at no fixed budget"):
        run.nfe_to_reach("straightness")
    with pytest.raises(UserError, match="'nfe' is neither better higher nor lower"):
        run.nfe_to_reach("nfe")
    with pytest.raises(UserError, match="within = "):
        run.nfe_to_reach(within=-0.1)
    with pytest.raises(UserError, match=r"within = 5: .* below 1, as 0.05 for 5 %"):
        run.nfe_to_reach(within=5)


def test_the_interval_covers_the_true_answer() -> None:
    """A curve that falls to its plateau at 8 calls, seeds and samples both noisy: 95 % of intervals hold 8."""
    truth, repeats = {1: 3.0, 2: 1.0, 4: 0.35, 8: 0.30, 16: 0.29}, 150
    rng, rows = np.random.default_rng(7), []
    for study in range(repeats):
        seeds = 0.04 * rng.standard_normal((3, 1)) + 0.02 * rng.standard_normal((3, 5))
        factor = 1 + seeds + 0.02 * rng.standard_normal(5)
        rows += [row(nfe, value * factor[k, b], k, stderr=0.02 * value, method=f"flow {study}")
                 for b, (nfe, value) in enumerate(truth.items()) for k in range(3)]  # fmt: skip
    table = reach(*rows)
    held = ((table["low"] <= 8) & (table["high"] >= 8)).sum()
    assert held >= 0.95 * repeats - 3 * math.sqrt(0.95 * 0.05 * repeats)
    assert (table["nfe"] == 8).sum() < 0.9 * repeats  # the answer alone would be wrong more often
