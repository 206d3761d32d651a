"""Every claim, shipped or not yet written: supported where it must be, refuted where it must be, untested where a guard fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from claim_tables import SCENES, Rows, built, on_training_noise, spoiled

from fmbench.cards import claim_card
from fmbench.claims import CLAIMS, Cells, Claim
from fmbench.claims.axes import holds, words
from fmbench.claims.judge import INCONCLUSIVE, NOT_TESTED, REFUTED, SUPPORTED, Verdict, verdicts
from fmbench.errors import UserError
from fmbench.plan import make_plan
from fmbench.suite import load, shipped
from fmbench.table import FLOOR, IDENTITY, TRUTH

EVERY = [built(name) for name in CLAIMS.names()]
each = pytest.mark.parametrize("claim", EVERY, ids=[claim.name for claim in EVERY])
RANKED = "adaptive-calls-follow-straightness"  # its flows are its sample
GUARDED = [pytest.param(c, g.name, id=f"{c.name}-{g.name}") for c in EVERY for g in c.checks()]


def verdict(claim: Claim, rows: Rows, kept: dict[str, Any] | None = None) -> Verdict:
    (found,) = verdicts(Cells(rows, {"d": {"dims": 1, "std": 1.0}}, kept), [claim])
    return found


@each
def test_facts(claim: Claim) -> None:
    assert CLAIMS.get(claim.name) is type(claim)
    assert claim.statement
    assert claim.source
    assert claim.needs()
    assert claim.effect != Claim.effect
    assert claim.rule
    assert {column for side in claim.axes for column in side} <= set(IDENTITY)
    told = claim_card(type(claim))
    assert (told["claim"], told["effect"], told["rule"]) == (claim.name, claim.effect, claim.rule)
    assert [words(side) for side in claim.axes] == told.get("axes", [])
    assert CLAIMS.build(claim.spec()) == claim
    assert claim.name in SCENES, "a claim without tables on which it must be supported and refuted"


@each
def test_supported_refuted_and_what_the_record_says(claim: Claim) -> None:
    scene, _ = SCENES[claim.name]
    good, bad = (verdict(claim, scene(fine)) for fine in (True, False))
    assert good.verdict == SUPPORTED, good
    assert bad.verdict == REFUTED, bad
    for found in (good, bad):
        record: dict[str, Any] = json.loads(json.dumps(found.record(), allow_nan=False))
        assert record["claim"] == claim.label()
        assert record["guard"] is None
        assert 0 <= record["p_value"] <= claim.alpha
        assert record["low"] <= record["effect"] <= record["high"]
        assert record["rows"] == list(dict.fromkeys(record["rows"]))
        assert set(record["rows"]) <= {row["key"] for row in scene(True)}
        assert record["samples"] is None or record["samples"] == 1000
    assert good.high <= good.margin <= bad.low or claim.name in (
        "solver-orders",
        "euler-needs-50-steps",
        "predictions-same-ode",
    )


@each
def test_a_suite_that_cannot_test_it_is_refused(claim: Claim) -> None:
    """What its scene measures is enough; without all rows on one of its sides it is not."""
    scene, _ = SCENES[claim.name]
    claim.check(scene(True))
    for side in claim.axes:
        rows = [row for row in scene(True) if not holds(row, side)]
        with pytest.raises(UserError, match="needs rows with") as refused:
            claim.check(rows)
        assert f"'{claim.label()}' needs rows with {words(side)}" in str(refused.value)
        for model in (FLOOR, TRUTH):  # measured of no flow
            rows = [{**row, "model": model} if holds(row, side) else row for row in scene(True)]
            with pytest.raises(UserError, match="needs rows with"):
                claim.check(rows)


@pytest.mark.parametrize(
    ("claim", "words"),
    [("logit-normal-helps", "times = logit-normal"), ("ot-cfm-cheaper", ""), ("wrong-target-fails", "over-time")],
)
def test_a_shipped_suite_with_a_claim_about_what_it_lacks(claim: str, words: str) -> None:
    """Told with the plan, before anything is trained."""
    metrics = "metrics=[w2, transport_cost, reference_error, marginal_gap]"
    suite = load("moons-nfe-sweep", [f"claims=[{claim}]", metrics])
    if not words:
        assert make_plan(suite).cells
        return
    with pytest.raises(UserError, match=words):
        make_plan(suite)


def test_four_flows_are_refused_where_five_are_ranked() -> None:
    claim = built("adaptive-calls-follow-straightness")
    with pytest.raises(UserError, match="the suite plans 4"):
        claim.check([row for row in SCENES[claim.name][0](True) if row["path"] != "ve"])


@pytest.mark.parametrize(("claim", "guard"), GUARDED)
def test_a_failed_guard_leaves_it_untested(claim: Claim, guard: str) -> None:
    scene, left = SCENES[claim.name]
    rows = scene(True)
    found = verdict(claim, spoiled(rows, guard, left), on_training_noise(rows, guard, left))
    assert (found.verdict, found.guard) == (NOT_TESTED, guard), found
    assert found.note
    record = found.record()
    assert record["p_value"] is None
    if (claim.name, guard) == ("fm-ot-fewer-calls", "same z0"):
        assert record["effect"] is None, "calls for no common error cannot be compared"
        return
    assert record["rows"], "where to look"
    assert set(record["rows"]) <= {row["key"] for row in rows}
    assert record["low"] <= record["effect"] <= record["high"]


@each
def test_without_its_rows_it_is_untested(claim: Claim) -> None:
    scene, _ = SCENES[claim.name]
    assert verdict(claim, []).guard in ("missing rows", "asymptotic regime", "straight flow", "too few flows")
    for metric in claim.needs():
        kept = [row for row in scene(True) if row["metric"] != metric]
        found = verdict(claim, kept)
        assert found.verdict == NOT_TESTED, metric
        assert found.guard is not None


@each
def test_a_failed_seed_is_not_averaged_away(claim: Claim) -> None:
    """Where one seed of a value that a claim needs has failed, it is untested, or does without that budget."""
    scene, _ = SCENES[claim.name]
    rows = scene(True)
    for metric in claim.needs():
        broken = [dict(row) for row in rows]
        for row in broken:
            if row["metric"] == metric and row["seed"] in (0, None) and row["model"] != "data":
                row |= {"status": "diverged", "value": None, "stderr": None, "reason": "not finite"}
        assert verdict(claim, broken).verdict == NOT_TESTED, metric


@pytest.mark.parametrize("claim", [pytest.param(c, id=c.name) for c in EVERY if c.name != RANKED])
def test_one_seed_without_errors_could_not_have_been_refuted(claim: Claim) -> None:
    scene, _ = SCENES[claim.name]
    alone = [{**row, "stderr": None} for row in scene(False) if row["seed"] in (0, None)]
    found = verdict(claim, alone)
    assert found.verdict in (INCONCLUSIVE, NOT_TESTED), found
    if found.verdict == INCONCLUSIVE:
        assert "could have refuted it" in found.note
        assert found.record()["detectable"] is None


def test_every_shipped_claim_is_run_in_a_shipped_suite() -> None:
    """All but the user's own comparison; these ids are part of the contract."""
    named = {claim.name for suite in shipped() for claim in load(suite).claims}
    assert named >= CONTRACT
    assert set(CLAIMS.names()) - {"comparison"} <= named


CONTRACT = {
    "reflow-cost-nonincreasing", "reflow-straightens", "straightness-rate", "marginals-preserved", "reflow-1d-straight",
    "balance-sheet", "ot-cfm-cheaper", "ot-cfm-straighter", "ot-cfm-fewer-calls", "linear-straighter-than-vp",
    "linear-straighter-than-ve", "fm-ot-fewer-calls", "fm-gradient-identity", "predictions-same-ode",
    "rectified-has-score", "solver-orders", "rk4-25-beats-euler-100", "euler-one-step-exact",
    "adaptive-calls-follow-straightness", "logit-normal-helps", "few-step-students-match", "euler-needs-50-steps",
    "wrong-target-fails",
}  # fmt: skip
