"""Whole claims on simulated tables: false verdicts come at no more than α, and what is said to be detectable is detected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from claim_tables import INDEPENDENT, OT, Sheet
from scipy.optimize import brentq
from scipy.special import erf
from test_judge import preserved

from fmbench.claims import CLAIMS, Cells
from fmbench.claims.judge import INCONCLUSIVE, REFUTED, SUPPORTED, Verdict, verdicts
from fmbench.claims.ranks import kendall

ALPHA, RUNS = 0.05, 400
PATHS = ("rectified", "fm-ot", "vp-linear", "vp-cosine", "ve", "brownian-bridge", "own", "other")


def judged(name: str, sheet: Sheet) -> Verdict:
    (found,) = verdicts(Cells(sheet.rows), [CLAIMS.build(name)])
    return found


def counted(once: Callable[[np.random.Generator], str], runs: int = RUNS) -> Counter[str]:
    rng = np.random.default_rng(0)
    return Counter(once(rng) for _ in range(runs))


def at_most(p: float, runs: int = RUNS) -> float:
    """What a count of events of probability p stays below: three binomial standard errors."""
    return runs * p + 3 * math.sqrt(runs * p * (1 - p))


def rarely_decided(once: Callable[[np.random.Generator], str]) -> Counter[str]:
    """The verdicts where nothing is to be found: either way at half of alpha."""
    found = counted(once)
    assert max(found[SUPPORTED], found[REFUTED]) <= at_most(ALPHA / 2)
    return found


# ---- Kendall's τ: the flows are the sample ----


def ranked(calls: np.ndarray, tolerances: int, rng: np.random.Generator) -> Sheet:
    """Flows of straightness 1, 2, … and their calls at several tolerances, in nearly the same order at each."""
    sheet = Sheet()
    for place, (path, base) in enumerate(zip(PATHS, calls, strict=False)):
        sheet.add("straightness", 1.0 + place, 1, path=path)
        for k in range(tolerances):
            value = float(base * (1 + 0.5 * k) + rng.normal(0, 3))
            tolerance = 10.0 ** -(3 + k)
            sampler = {"solver": "dopri5", "rtol": tolerance, "atol": tolerance, "nfe": value}
            sheet.add("nfe", value, 1, exact=True, path=path, **sampler)
    return sheet


@pytest.mark.parametrize("flows", [5, 6, 8])
@pytest.mark.parametrize("tolerances", [1, 4])
def test_calls_in_any_order_are_found_in_order_at_alpha(flows: int, tolerances: int) -> None:
    def once(rng: np.random.Generator) -> str:
        sheet = ranked(40 + 10 * rng.permutation(flows), tolerances, rng)
        return judged("adaptive-calls-follow-straightness", sheet).verdict

    found = rarely_decided(once)
    assert found[INCONCLUSIVE] + found[SUPPORTED] + found[REFUTED] == RUNS


def test_calls_that_follow_straightness_are_found_and_tolerances_are_no_flows() -> None:
    rng = np.random.default_rng(0)
    errors = set()
    for tolerances in (1, 4):
        found = judged("adaptive-calls-follow-straightness", ranked(40.0 + 20 * np.arange(8), tolerances, rng))
        assert (found.verdict, found.effect) == (SUPPORTED, -1)
        errors.add(found.high - found.low)
    assert len(errors) == 1


def test_several_tasks_have_the_error_of_one() -> None:
    rng = np.random.default_rng(0)
    one, two = (ranked(40.0 + 20 * np.arange(6), 1, rng) for _ in range(2))
    alone = judged("adaptive-calls-follow-straightness", one)
    one.rows += [{**row, "data": "e", "key": f"e-{row['key']}"} for row in two.rows]
    both = judged("adaptive-calls-follow-straightness", one)
    assert both.high - both.low == pytest.approx(alone.high - alone.low)
    assert len(both.rows) == 2 * len(alone.rows)


def test_kendall_by_hand_and_ties_count_for_neither_order() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3)


def test_an_effect_that_there_cannot_be_is_not_called_detectable() -> None:
    """−τ ≤ 1: five flows in full disorder refute the claim alone, of two-sided p = 0.0275; at a lower α not even these could."""
    rng = np.random.default_rng(0)
    cells = Cells(ranked(np.array([60.0, 40, 80, 50, 70]), 1, rng).rows)
    for alpha, detectable, words in (
        (0.05, 1.0, "an effect below 1 could"),
        (0.028, 1.0, "an effect below 1 could"),
        (0.027, math.inf, "cannot be refuted at this n"),
    ):
        (found,) = verdicts(cells, [CLAIMS.build({"name": "adaptive-calls-follow-straightness", "alpha": alpha})])
        assert found.verdict == INCONCLUSIVE
        assert found.detectable == detectable
        assert words in found.note
        assert found.record()["detectable"] == (1.0 if detectable == 1 else None)


# ---- slopes and calls of curves ----


def scattered(sheet: Sheet, rng: np.random.Generator, spread: float = 0.1) -> Sheet:
    """Errors of other trainings: each multiplied by a factor of its own."""
    for row in sheet.rows:
        if row["metric"] == "solver_error":
            row["value"] *= math.exp(rng.normal(0, spread))
    return sheet


def test_an_order_at_the_margin_is_called_either_way_at_half_of_alpha() -> None:
    """RK4 that converges with order 3.5, the claim's margin away from its own."""

    def once(rng: np.random.Generator) -> str:
        sheet = Sheet()
        sheet.flow()
        sheet.curve("solver_error", "rk4", {n: 10.0 / n**3.5 for n in (2, 4, 8)}, 4)
        return judged("solver-orders", scattered(sheet, rng)).verdict

    assert rarely_decided(once)[INCONCLUSIVE] > 0.9 * RUNS


def test_equal_curves_take_equal_calls_but_for_alpha() -> None:
    def once(rng: np.random.Generator) -> str:
        sheet = Sheet()
        for path in ("fm-ot", "vp-linear"):
            sheet.flow(path=path)
            sheet.curve("solver_error", "heun", {n: 1.0 / n**2 for n in (4, 8, 16, 32)}, 2, path=path)
        return judged("fm-ot-fewer-calls", scattered(sheet, rng)).verdict

    assert rarely_decided(once)[INCONCLUSIVE] > 0.9 * RUNS


# ---- many claims at once ----

METRICS = ("w2", "mmd", "sliced_w2", "energy_distance", "fid", "kid")


def compared(rng: np.random.Generator, better: int = 0) -> list[Verdict]:
    """Six claims about two flows that are equal in all but the first `better` metrics."""
    sheet = Sheet()
    for place, metric in enumerate(METRICS):
        for columns in (OT, INDEPENDENT):
            sheet.add(metric, 1.0, exact=True, **columns)
            for row in sheet.rows[-5:]:
                row["value"] += 0.1 * rng.normal() - (2.0 if columns is OT and place < better else 0.0)
    sides = {"at": {"coupling": "minibatch-ot"}, "than": {"coupling": "independent"}}
    claims = [
        CLAIMS.build({"name": "comparison", "id": metric.replace("_", "-"), "metric": metric, **sides})
        for metric in METRICS
    ]
    return verdicts(Cells(sheet.rows), claims)


@pytest.mark.parametrize("better", [0, 3])
def test_of_many_claims_one_false_verdict_comes_at_alpha(better: int) -> None:
    """Holm, whether all are null or some are plainly true: without it one of six would fall in 26 % of runs."""

    def once(rng: np.random.Generator) -> str:
        found = compared(rng, better)
        assert [v.verdict for v in found[:better]] == [SUPPORTED] * better
        return str(any(v.verdict != INCONCLUSIVE for v in found[better:]))

    assert counted(once)["True"] <= at_most(ALPHA)


def test_what_is_detectable_is_so_at_the_level_that_holm_leaves() -> None:
    """Three of six claims are settled: the others are tested at α / 3, the settled ones at what the rest leaves them."""
    found = compared(np.random.default_rng(0), 3)
    assert [v.level for v in found] == pytest.approx([ALPHA / 4] * 3 + [ALPHA / 3] * 3)
    for verdict in found:
        assert (verdict.p_value <= ALPHA) == (verdict.verdict != INCONCLUSIVE)
    missing = judged("ot-cfm-cheaper", Sheet())
    assert math.isnan(missing.level)


# ---- the balance sheet ----


@pytest.mark.parametrize(
    ("residual", "stderr", "verdict"),
    [
        (0.3, 0.05, SUPPORTED),
        (0.3, 0.2, INCONCLUSIVE),  # a wide error supports nothing
        (0.6, 0.2, INCONCLUSIVE),  # within tolerance + z · stderr
        (1.2, 0.2, REFUTED),
        (-1.2, 0.2, REFUTED),
    ],
)
def test_a_residual_is_held_against_the_tolerance_and_its_own_error(
    residual: float, stderr: float, verdict: str
) -> None:
    """Trained on a coupling of cost 10: the tolerance is 0.5."""
    sheet = Sheet()
    sheet.flow()
    sheet.coupling("train_coupling_cost", 10.0)
    sheet.add("balance_residual", residual, exact=True)
    for row in sheet.rows[-5:]:
        row["stderr"] = stderr
    found = judged("balance-sheet", sheet)
    assert found.verdict == verdict
    assert sheet.rows[-6]["key"] in found.rows, "the cost that the tolerance is a share of"


# ---- gaps between laws ----


def shift_of(gap: float) -> float:
    """By which N(0, 1) must be shifted to stand at an energy coefficient from where it was."""
    same = 2 / math.sqrt(math.pi)
    return float(brentq(lambda d: 1 - same / (same * math.exp(-d * d / 4) + d * erf(d / 2)) - gap, 0, 10))


def test_the_gap_said_to_be_detectable_is_detected() -> None:
    """Of flows that keep the law; then of flows that are off by just that much. The interval agrees with the verdict."""
    n, runs = 300, 40
    kept = [preserved(0.0, run, n) for run in range(5)]
    detectable = float(np.mean([verdict.detectable for verdict in kept]))
    assert all(verdict.detectable > verdict.high for verdict in kept)
    found = Counter(preserved(shift_of(detectable), 100 + run, n).verdict for run in range(runs))
    assert found[REFUTED] >= 0.8 * runs - 3 * math.sqrt(runs * 0.8 * 0.2)
    for verdict in (*kept, preserved(0.284, 7, n)):
        assert (verdict.low <= verdict.margin <= verdict.high) == (verdict.verdict == INCONCLUSIVE)
