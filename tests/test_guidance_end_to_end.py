"""Conditional flows and guidance from the suite file to the table."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fmbench.errors import UserError
from fmbench.execute import missing
from fmbench.plan import Plan, make_plan
from fmbench.stages.measure import MeasureSpec
from fmbench.store import Store
from fmbench.suite import load, parse

Tiny = Callable[..., dict[str, Any]]
Measured = Callable[..., pd.DataFrame]
FAR = {"name": "gaussian-mixture", "means": [[-4, 0], [0, 4], [4, 0]], "stds": 0.3}
MLP = {"name": "mlp", "width": 16, "depth": 1, "conditional": True, "label_dropout": 0.2}
ORACLE = {"name": "oracle", "conditional": True}


def budgets(plan: Plan) -> set[tuple[Any, ...]]:
    """guidance, solver, steps and nfe of every sampled cell."""
    cells = [cell.columns for cell in plan.cells if cell.columns.get("steps")]
    return {(c["guidance"], c["solver"], c["steps"], c["nfe"]) for c in cells}


def refused(suite: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(parse(suite))
    return str(caught.value)


def test_a_budget_is_network_calls_at_every_guidance(tiny: Tiny) -> None:
    solvers = [{"name": "euler", "nfe": 8}, {"name": "heun", "steps": 3}, "dopri5"]
    suite = parse(tiny(data=FAR, flow__model=MLP, sample__solvers=solvers, sample__guidance=[0, 1, 2.5]))
    plan = make_plan(suite)
    assert budgets(plan) == {
        (0, "euler", 8, 8), (1, "euler", 8, 8), (2.5, "euler", 4, 8),
        (0, "heun", 3, 6), (1, "heun", 3, 6), (2.5, "heun", 3, 12),
    }  # fmt: skip
    assert make_plan(parse(suite.resolved())).cells == plan.cells, "the manifest's suite is another suite"
    assert budgets(make_plan(suite, ["guidance=2.5"])) == {(2.5, "euler", 4, 8), (2.5, "heun", 3, 12)}


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (
            {"name": "euler", "nfe": [4, 1]},
            r"nfe = 1 with guidance 2: it makes 2 calls a step\. Valid: multiples of 2, nearest 2",
        ),
        (
            {"name": "heun", "nfe": 6},
            r"'heun' cannot meet nfe = 6 with guidance 2: it makes 4 calls a step\. Valid: .* 4, nearest 4 or 8",
        ),
        (
            {"name": "edm-heun", "nfe": 3},
            r"nfe = 3 with guidance 2: it makes 4 calls a step\. Valid: 4 · steps − 2, nearest 2 or 6",
        ),
    ],
)
def test_calls_that_guidance_cannot_meet_are_refused(tiny: Tiny, solver: dict[str, Any], message: str) -> None:
    suite = tiny(data=FAR, flow__model=MLP, sample__solvers=[solver])
    make_plan(parse(suite))
    with pytest.raises(UserError, match=message):
        parse({**suite, "sample": {**suite["sample"], "guidance": [1, 2]}})


def test_what_guidance_needs_is_asked_for_while_planning(tiny: Tiny) -> None:
    untaught = {**MLP, "label_dropout": 0}
    assert "was never trained without labels" in refused(
        tiny(data=FAR, flow__model=untaught, sample__guidance=[1, 2], sample__solvers=["dopri5"])
    )
    assert "conditional: true" in refused(tiny(data=FAR, sample__guidance=[1, 2], sample__solvers=["dopri5"]))
    assert "data set 's-curve' has no labels" in refused(tiny(data="s-curve", flow__model=MLP))
    assert "label_dropout = 0.1 drops labels that are not given" in refused(
        tiny(flow__model={"name": "mlp", "label_dropout": 0.1})
    )
    assert "sample.guidance" in refused(tiny(data=FAR, flow__model=MLP, sample__guidance=-1))
    assert "'2.0' is listed twice" in refused(
        tiny(data=FAR, flow__model=MLP, sample__guidance=[2, 2.0], sample__solvers=["dopri5"])
    )


def test_unconditional_flows_keep_their_keys_beside_guided_ones(tiny: Tiny) -> None:
    alone = make_plan(parse(tiny(data=FAR)))
    plain = {"name": "mlp", "width": 16, "depth": 1}
    suite = tiny(
        data=FAR,
        flow__model=[plain, MLP],
        sample__guidance=[0, 1, 3],
        sample__solvers=[{"name": "euler", "nfe": 2}, {"name": "heun", "nfe": 4}],
    )
    both = make_plan(parse(suite))
    known = {cell.spec.key for cell in alone.cells if "nfe" in cell.columns and cell.columns["nfe"] != 1}
    assert known <= {cell.spec.key for cell in both.cells if cell.columns.get("guidance") is None}
    guided = [cell for cell in both.cells if cell.columns.get("guidance") is not None]
    assert len({cell.spec.key for cell in guided}) == len(guided)
    references = {c.spec.reference.key for c in guided if isinstance(c.spec, MeasureSpec)}
    assert len(references) == 2 * 3, "two seeds, three guidances"


def test_the_guided_oracle_is_measured_exactly(tiny: Tiny, measured: Measured) -> None:
    """Every sample lands where it was asked to; what needs the velocity elsewhere says why it has none."""
    metrics = ["label_accuracy", "nfe", "solver_error", "transport_cost", "nll", "model_error"]
    solvers = [{"name": "rk4", "nfe": 128}, {"name": "dopri5", "per_sample": True, "rtol": 1e-4, "atol": 1e-4}]
    suite = tiny(
        data=FAR, flow__model=ORACLE, flow__seed=0, sample__solvers=solvers, sample__guidance=[0, 1, 2], metrics=metrics
    )
    table = measured(suite)
    assert set(table["status"]) == {"ok", "skipped"}
    skipped = table[table["status"] == "skipped"]
    assert set(skipped["metric"]) == {"nll", "model_error"}
    assert skipped["reason"].str.contains("conditional flow").all()
    values = table[(table["status"] == "ok") & (table["model"] != "data")]
    accuracy = values[values["metric"] == "label_accuracy"].groupby("guidance")["value"].min()
    assert accuracy[0.0] < 0.6
    assert (accuracy[[1.0, 2.0]] == 1).all()
    calls = values[(values["metric"] == "nfe") & (values["solver"] == "rk4")]
    assert (calls["value"] == 128).all()
    assert calls.set_index("guidance")["steps"].to_dict() == {0.0: 32, 1.0: 32, 2.0: 16}
    assert (values[values["metric"] == "solver_error"]["value"] < 0.05).all()
    floor = table[(table["model"] == "data") & (table["metric"] == "label_accuracy")]["value"]
    assert floor.tolist() == [1.0]


def test_rounds_and_students_of_a_conditional_flow(tiny: Tiny, tmp_path: Path, fmbench: Callable[..., Any]) -> None:
    """The whole way at the command line: first training, reflow on labelled pairs, a student, guidance, report."""
    import yaml

    suite = tiny(
        data=FAR,
        flow={"model": MLP, "reflow": [0, 1], "distilled": [0, 1], "exclude": [{"reflow": 0, "distilled": 1}]},
        train={"samples": 64 * 200, "batch": 64, "lr": 1e-2, "ema_samples": 2000},
        pairs={"n": 600, "solver": {"name": "heun", "nfe": 16}, "inverted": 0.2, "init": "previous"},
        sample__guidance=[1, 1.5],
        sample__n=128,
        sample__solvers=[{"name": "euler", "nfe": 16}],
        metrics=["label_accuracy", "nfe", "transport_cost"],
    )
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(suite))
    answer = fmbench("run", file, "--out", out, "--workers", "1")
    assert answer.code == 0, answer.err
    table = pd.read_parquet(out / "results.parquet")
    assert set(table["status"]) == {"ok"}
    flows = table[table["model"] != "data"]
    assert sorted(flows["guidance"].unique()) == [1.0, 1.5]
    accuracy = flows[flows["metric"] == "label_accuracy"].set_index(["reflow", "distilled", "guidance"])["value"]
    assert len(accuracy) == 6
    assert (accuracy > 0.9).all(), accuracy
    students = flows[(flows["distilled"] == 1) & (flows["metric"] == "nfe")]
    assert students.set_index("guidance")["value"].to_dict() == {1.0: 1, 1.5: 2}
    plan = make_plan(load(str(file)))
    assert missing(plan, Store()).jobs == [], "labels of stored pairs are not found again"
    pairs = [Store().read(spec.key).tensors for spec in plan.pairs()]
    assert all(set(stored) == {"z0", "z1", "label"} for stored in pairs)


def test_the_loss_on_pairs_is_asked_with_their_labels(tiny: Tiny, measured: Measured) -> None:
    """The conditional oracle: L* = π σ / 2 a dimension, wherever a label's mean is, and the sheet balances."""
    metrics = ["minimal_loss", "balance_residual", "transport_cost", "straightness"]
    suite = tiny(data=FAR, flow__model=ORACLE, flow__seed=0, sample__n=2000, sample__guidance=[1, 2], metrics=metrics)
    table = measured({**suite, "sample": {**suite["sample"], "solvers": ["dopri5"]}})
    on_pairs = table[table["metric"].isin(metrics[:2])]
    guided = on_pairs[on_pairs["guidance"] == 2]
    assert set(guided["status"]) == {"skipped"}
    assert guided["reason"].str.contains("which is not guided").all()
    found = on_pairs[on_pairs["guidance"] == 1].set_index("metric")
    assert set(found["status"]) == {"ok"}
    for metric, exact in {"minimal_loss": math.pi * 0.3, "balance_residual": 0.0}.items():
        assert found.loc[metric, "value"] == pytest.approx(exact, abs=4 * found.loc[metric, "stderr"]), metric
    assert found.loc["balance_residual", "stderr"] < 0.5, "with other labels it is off by the spread of the means, ten"


def test_memorisation_of_a_conditional_round_is_measured(tiny: Tiny, measured: Measured) -> None:
    """Pairs that were learned as a whole law: seen or not, they fit alike, and far better than with a wrong label."""
    settings = {"flow__model": MLP, "flow__seed": 0, "flow__reflow": 1, "sample__solvers": ["dopri5"]}
    suite = tiny(data=FAR, **settings, metrics=["pair_memorisation", "minimal_loss", "balance_residual"])
    suite |= {"pairs": {"n": 512, "inverted": 0.25, "solver": {"name": "rk4", "steps": 8}}}
    suite["train"] |= {"samples": 2**16, "lr": 5e-3, "batch": 128}
    table = measured(suite)
    assert set(table["status"]) == {"ok"}
    found = table[table["reflow"] == 1].set_index("metric")
    assert abs(found.loc["pair_memorisation", "value"]) < 4 * found.loc["pair_memorisation", "stderr"] + 0.1
    assert found.loc["minimal_loss", "value"] < 2, "with other labels it is the spread of the means, ten"
