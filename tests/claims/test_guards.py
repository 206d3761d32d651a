"""Guards and reflow chains on made-up tables: where each fires, and where it must not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from claim_tables import INDEPENDENT, OT, Sheet, rounds, two

from fmbench import by_sample
from fmbench.claims import CLAIMS, Cells
from fmbench.claims.base import at_most, no_more
from fmbench.claims.guards import arrived, integration_error, marginal_error, same_noise
from fmbench.claims.judge import INCONCLUSIVE, NOT_TESTED, SUPPORTED, verdicts
from fmbench.paired import SPREAD


def test_rounds_with_another_law_of_times_are_one_chain() -> None:
    """`pairs.times` changes the law from the first pairs on; with several laws, each chain keeps to its own."""
    specs = ["reflow-cost-nonincreasing", "reflow-straightens", "straightness-rate", "reflow-1d-straight"]
    claims, facts = [CLAIMS.build(name) for name in specs], {"d": {"dims": 1}}
    for good in (True, False):
        plain = verdicts(Cells(rounds(good), facts), claims)
        later = [{**row, "times": "u-shaped"} if row["reflow"] else row for row in rounds(good)]
        renamed = verdicts(Cells(later, facts), claims)
        assert [(v.verdict, v.effect, v.contrasts) for v in renamed] == [
            (v.verdict, v.effect, v.contrasts) for v in plain
        ]
    others = [{**row, "times": "mode", "key": f"mode {row['key']}"} for row in rounds(True) if row["metric"] != "w2"]
    others += [{**row, "times": "mode"} for row in rounds(True) if row["metric"] == "w2" and row["model"] != "data"]
    short = [row for row in rounds(True) if row["reflow"] in (0, None)]
    straightens = verdicts(Cells(short + others, facts), claims)[1]
    assert (straightens.verdict, straightens.contrasts) == (SUPPORTED, 2), "rounds of another chain are none of its own"


def test_no_reflow_no_verdict_on_reflow() -> None:
    rows = [row for row in rounds(True) if row["reflow"] in (0, None)]
    (found,) = verdicts(Cells(rows), [CLAIMS.build({"name": "reflow-cost-nonincreasing", "costs": ["transport_cost"]})])
    assert (found.verdict, found.guard) == (NOT_TESTED, "missing rows")


@pytest.mark.parametrize(("error", "tested"), [(0.005, True), (0.044, False)])
def test_a_solve_s_error_counts_where_the_effect_is_decided(error: float, tested: bool) -> None:
    """4.15 after 4.0 with room up to 4.2: a solve that is off by 0.18 could have carried it across, one by 0.02 not."""
    sheet = Sheet()
    sheet.floor()
    for k, (cost, trained) in enumerate(((4.0, 10.0), (4.15, 4.0))):
        sheet.flow(cost, reflow=k)
        sheet.coupling("train_coupling_cost", trained, reflow=k)
    rows = [{**row, "value": error} if row["metric"] == "reference_error" else row for row in sheet.rows]
    (found,) = verdicts(Cells(rows), [CLAIMS.build({"name": "reflow-cost-nonincreasing", "costs": ["transport_cost"]})])
    assert (found.verdict, found.guard) == ((SUPPORTED, None) if tested else (NOT_TESTED, "integration error"))


@pytest.mark.parametrize(("error", "tested"), [(0.127, True), (0.1315, False)])
def test_both_solves_errors_are_summed(error: float, tested: bool) -> None:
    """3 against 4: by 2 r √C + r² each 0.46 and 0.52 at r = 0.127, each 0.47 and 0.54 at r = 0.1315: together more than 1."""
    rows = [
        {**row, "value": error} if row["metric"] == "reference_error" else row for row in two(OT, INDEPENDENT, True)
    ]
    (found,) = verdicts(Cells(rows), [CLAIMS.build("ot-cfm-cheaper")])
    assert (found.verdict, found.guard) == ((SUPPORTED, None) if tested else (NOT_TESTED, "integration error"))


@pytest.mark.parametrize(
    ("metric", "value", "columns", "bound"),
    [
        ("transport_cost", 4.0, {}, 2 * 0.1 * 2 + 0.1**2),  # 2 r √C + r²
        ("transport_cost_l2", 1.9, {}, 0.1),
        ("transport_cost_l1", 2.5, {}, 0.1 * math.sqrt(3)),  # √D r
        ("transport_cost_power[p=3]", 9.0, {"unit": "data units^p"}, 0.41 * 9 / 4),  # the same share as the cost's
        ("marginal_gap", 0.3, {}, 2 * 0.1 / (2 * math.sqrt(3))),  # 2 r over the data's spread
        ("solver_error", 0.3, {"solver": "euler", "nfe": 4.0}, 0.1),
        ("w2", 0.3, {"solver": "euler", "nfe": 4.0}, 0.0),  # no reference solve went into these
        ("train_coupling_cost", 5.0, {}, 0.0),
    ],
)
def test_what_a_solve_that_is_off_by_a_tenth_does_to_each_quantity(
    metric: str, value: float, columns: dict[str, Any], bound: float
) -> None:
    sheet = Sheet()
    for name, known in {"transport_cost": 4.0, "reference_error": 0.1, metric: value}.items():
        sheet.add(name, known, exact=True, **(columns if name == metric else {}))
    unit = {"unit": columns["unit"]} if "unit" in columns else {}
    rows = [{**row, **(unit if row["metric"] == metric else {})} for row in sheet.rows]
    cells = Cells(rows, {"d": {"dims": 3, "std": 2.0}})
    (left,) = cells.find(metric)
    for room, passes in ((1.01 * bound + 1e-9, True), (0.99 * bound, not bound)):
        reason = integration_error.check(cells, at_most("a bound", left, value + room))
        assert (reason is None) is passes, room


@pytest.mark.parametrize(
    ("left", "right", "floor", "passes"),
    [
        (0.48, 0.48, 0.0, True),  # a quarter of the displacement, 2, is 0.5
        (0.52, 0.52, 0.0, False),
        (0.9, 0.9, 0.8, True),  # W2² above the floor's: 0.17, not 0.81
        (0.95, 0.95, 0.8, False),
        (0.09, 0.01, 0.0, True),  # a twentieth of the displacement is 0.1, whatever the other side's
        (0.11, 0.01, 0.0, False),
        (0.29, 0.2, 0.0, True),  # beyond that, one and a half times the other side's is 0.3
        (0.31, 0.2, 0.0, False),
        (0.2, 0.31, 0.0, True),  # the dearer side may be worse
    ],
)
def test_how_far_from_the_data_the_ends_may_be(left: float, right: float, floor: float, passes: bool) -> None:
    """Exactly known here; an error of which W2 is known to a tenth proves nothing at the same places."""
    for stderr in (0.0, 0.1):
        sheet = Sheet()
        if floor:
            sheet.add("w2", floor, 1, exact=True, model="data", solver=None)
        for columns, error in ((OT, left), (INDEPENDENT, right)):
            sheet.add("transport_cost", 4.0, exact=True, **columns)
            sheet.add("w2", error, exact=True, **{**columns, "solver": "euler", "nfe": 4.0})
        rows = [{**row, "stderr": stderr} for row in sheet.rows]
        cells = Cells(rows)
        mine, other = (cells.find("transport_cost", **columns)[0] for columns in (OT, INDEPENDENT))
        reason = marginal_error.check(cells, no_more(mine, other))
        assert (reason is None) is (passes or stderr > 0), reason


def test_what_is_not_known_of_the_other_side_excuses_this_one() -> None:
    """0.4 ± 0.001 against 0.2 ± 0.05: W2² beyond 1.5² times the other's by 0.07 ± 1.5² · 2 · 0.2 · 0.05 = 0.045."""
    sheet = Sheet()
    for columns, error, stderr in ((OT, 0.4, 0.001), (INDEPENDENT, 0.2, 0.05)):
        sheet.add("transport_cost", 4.0, exact=True, **columns)
        sheet.add("w2", error, exact=True, **{**columns, "solver": "euler", "nfe": 4.0})
        for row in sheet.rows[-5:]:
            row["stderr"] = stderr
    cells = Cells(sheet.rows)
    mine, other = (cells.find("transport_cost", **columns)[0] for columns in (OT, INDEPENDENT))
    assert marginal_error.check(cells, no_more(mine, other)) is None
    for row in sheet.rows:
        row["stderr"] = 0.001
    assert marginal_error.check(Cells(sheet.rows), no_more(mine, other)) is not None


@pytest.mark.parametrize(("value", "stderr", "passes"), [(0.04, 0.0, True), (0.06, 0.0, False), (0.06, 0.01, True)])
def test_the_better_side_must_be_shown_to_be_astray(value: float, stderr: float, passes: bool) -> None:
    sheet = Sheet()
    sheet.add("marginal_gap", value, exact=True, **OT)
    sheet.add("marginal_gap", 0.5, exact=True, **INDEPENDENT)
    cells = Cells([{**row, "stderr": stderr} for row in sheet.rows])
    left, right = cells.find("marginal_gap")
    assert (arrived.check(cells, no_more(left, right)) is None) is passes


def test_as_much_noise_on_both_sides() -> None:
    sheet = Sheet()
    for columns in (OT, INDEPENDENT):
        sheet.add("straightness", 1.0, **columns)
    rows = [{**row, "n": 500 if row["coupling"] == "independent" else 1000} for row in sheet.rows]
    for table, told in ((sheet.rows, None), (rows, "n differs: 1000 against 500")):
        cells = Cells(table)
        left, right = (cells.find("straightness", **columns)[0] for columns in (OT, INDEPENDENT))
        assert same_noise.check(cells, no_more(left, right)) == told


def test_an_undecided_effect_is_no_fault_of_the_solve() -> None:
    """By chance an effect is next to its margin: where its standard error is beyond the solves', that is what is told."""
    spec = {"name": "comparison", "metric": "transport_cost", "at": OT, "than": INDEPENDENT, "margin": 0.2,
            "guards": ["integration error"]}  # fmt: skip
    for stderr, guard in ((0.5, None), (0.001, "integration error")):
        rows = two(OT, INDEPENDENT, True)
        for row in rows:
            if row["metric"] == "transport_cost":
                row |= {"value": 4.82 if row["coupling"] == OT["coupling"] else 4.0, "stderr": stderr}
            elif row["metric"] == "reference_error":
                row["value"] = 0.01
        (found,) = verdicts(Cells(rows), [CLAIMS.build(spec)])
        assert (found.verdict, found.guard) == (NOT_TESTED if guard else INCONCLUSIVE, guard)


@pytest.mark.parametrize(
    ("left", "right", "guard"),
    [
        (1.0, 1.0, None),
        (0.95, 1.0, None),
        (0.9, 1.0, "marginal error"),  # beside the other, from the same noise
        (1.0, 0.9, "marginal error"),
        (0.8, 0.8, "marginal error"),  # beside the data, of spread 1
        (0.9, 0.9, None),
    ],
)
def test_ends_that_are_narrow_prove_nothing(left: float, right: float, guard: str | None) -> None:
    """n = 1,000 ends on the line: their variance is known to √(2/n) = 4.5 %, its ratio on common noise exactly."""
    rows, noise = two(OT, INDEPENDENT, True), np.random.default_rng(0).normal(size=1000)
    deviations = ((noise - noise.mean()) / noise.std()) ** 2
    kept = {
        SPREAD + row["key"]: (left if row["coupling"] == OT["coupling"] else right) ** 2 * deviations
        for row in rows if row["metric"] == "transport_cost"
    }  # fmt: skip
    for scale in (1.0, 3.0):  # of everything: the data's spread too
        wide = {key: scale**2 * values for key, values in kept.items()}
        facts = {"d": {"dims": 1, "std": scale}}
        (found,) = verdicts(Cells(rows, facts, wide), [CLAIMS.build("ot-cfm-cheaper")])
        assert (found.verdict, found.guard) == (NOT_TESTED if guard else SUPPORTED, guard)


def test_that_few_ends_are_narrow_is_not_shown() -> None:
    """0.8² of 20 ends is known to √(2/20) of itself, which holds 0.85²."""
    rows, noise = two(OT, INDEPENDENT, True), np.random.default_rng(0).normal(size=20)
    squares = 0.8**2 * ((noise - noise.mean()) / noise.std()) ** 2
    kept = {SPREAD + row["key"]: squares for row in rows if row["metric"] == "transport_cost"}
    (found,) = verdicts(Cells(rows, {"d": {"dims": 1, "std": 1.0}}, kept), [CLAIMS.build("ot-cfm-cheaper")])
    assert (found.verdict, found.guard) == (SUPPORTED, None)


@pytest.mark.parametrize(
    ("looked_at", "shared", "reused"),
    [(256, 0, False), (256, 3, False), (256, 26, True), (256, 256, True), (5, 5, True), (5, 4, False)],
)
@pytest.mark.parametrize("later", [False, True])
def test_noise_is_reused_where_more_of_it_agrees_than_by_chance(
    looked_at: int, shared: int, reused: bool, later: bool
) -> None:
    """Single-precision numbers of one dimension coincide now and then; a tenth of the pairs is about 26 of those looked at.

    Pairs hold noise as the source drew it, z0 is where the path starts; a later round stands on the pairs of the first.
    """
    rng = torch.Generator().manual_seed(0)
    z0, first, fresh = (torch.randn(n, 1, generator=rng) for n in (2000, looked_at, 256))
    first[:shared] = z0[:shared] / 2
    path, store = SimpleNamespace(start=lambda x: 2 * x), SimpleNamespace(first=lambda key, *_: kept[key])
    kept = {"first": first, "fresh": fresh, "never drawn": None}
    flow: Any = SimpleNamespace(pairs=None, path=path)
    for key in ["first", *(["fresh", "never drawn"] if later else [])]:
        flow = SimpleNamespace(pairs=SimpleNamespace(key=key, flow=flow), path=path)
    assert by_sample._reuses(flow, z0, store) == reused  # type: ignore[arg-type]


def test_deviations_of_ends_have_the_unbiased_variance_as_their_mean() -> None:
    ends = 3 + torch.randn(5, 1, 2, generator=torch.Generator().manual_seed(0))
    assert by_sample._deviations(ends).mean() == pytest.approx(ends.var(0).sum().item(), rel=1e-6)
    assert by_sample._deviations(ends[:1]).tolist() == [0]


def test_a_conditional_flow_finds_its_training_coupling() -> None:
    """The flow's rows say how it was guided; its training coupling knows no guidance."""
    rows = [{**row, "guidance": None if row["metric"].startswith("train_") else 1.0} for row in rounds(True)]
    claims = [CLAIMS.build("balance-sheet"), CLAIMS.build("reflow-cost-nonincreasing")]
    found, plain = verdicts(Cells(rows), claims), verdicts(Cells(rounds(True)), claims)
    assert [(v.verdict, v.effect) for v in found] == [(v.verdict, v.effect) for v in plain]
    assert found[0].verdict == SUPPORTED
