"""Guards and reflow chains on made-up tables: where each fires, and where it must not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from claim_tables import INDEPENDENT, OT, Sheet, rounds, two

from fmbench import by_sample
from fmbench.claims import CLAIMS, Cells
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


@pytest.mark.parametrize(("error", "tested"), [(0.1, True), (0.15, False)])
def test_both_solves_errors_are_summed(error: float, tested: bool) -> None:
    """3 against 4: by 2 r √C + r² each 0.36 and 0.41 at r = 0.1, each 0.54 and 0.62 at r = 0.15, more than 1 together alone."""
    rows = [
        {**row, "value": error} if row["metric"] == "reference_error" else row for row in two(OT, INDEPENDENT, True)
    ]
    (found,) = verdicts(Cells(rows), [CLAIMS.build("ot-cfm-cheaper")])
    assert (found.verdict, found.guard) == ((SUPPORTED, None) if tested else (NOT_TESTED, "integration error"))


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
    (found,) = verdicts(Cells(rows, {"d": {"dims": 1, "std": 1.0}}, kept), [CLAIMS.build("ot-cfm-cheaper")])
    assert (found.verdict, found.guard) == (NOT_TESTED if guard else SUPPORTED, guard)


@pytest.mark.parametrize(("shared", "reused"), [(0, False), (3, False), (26, True), (256, True)])
def test_noise_is_reused_where_more_of_it_agrees_than_by_chance(shared: int, reused: bool) -> None:
    """Single-precision numbers of one dimension coincide now and then; a tenth of the pairs is about 26 of those looked at."""
    rng = torch.Generator().manual_seed(0)
    z0, first = torch.randn(2000, 1, generator=rng), torch.randn(256, 1, generator=rng)
    first[:shared] = z0[:shared]
    path, store = SimpleNamespace(start=lambda x: x), SimpleNamespace(first=lambda key, name, n: first)
    before = SimpleNamespace(pairs=None, path=path)
    flow: Any = SimpleNamespace(pairs=SimpleNamespace(key="pairs", flow=before), path=path)
    assert by_sample._reuses(flow, z0, store) == reused  # type: ignore[arg-type]


def test_a_conditional_flow_finds_its_training_coupling() -> None:
    """The flow's rows say how it was guided; its training coupling knows no guidance."""
    rows = [{**row, "guidance": None if row["metric"].startswith("train_") else 1.0} for row in rounds(True)]
    claims = [CLAIMS.build("balance-sheet"), CLAIMS.build("reflow-cost-nonincreasing")]
    found, plain = verdicts(Cells(rows), claims), verdicts(Cells(rounds(True)), claims)
    assert [(v.verdict, v.effect) for v in found] == [(v.verdict, v.effect) for v in plain]
    assert found[0].verdict == SUPPORTED
