from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from fmbench.errors import UserError
from fmbench.execute import missing
from fmbench.execute.jobs import TrainJob
from fmbench.plan import Plan, make_plan
from fmbench.stages.measure import FloorSpec, MeasureSpec
from fmbench.store import Store
from fmbench.suite import parse
from fmbench.table import COLUMNS

Tiny = Callable[..., dict[str, Any]]


def planned(suite: dict[str, Any], *only: str) -> Plan:
    return make_plan(parse(suite), only)


def axis(plan: Plan, column: str) -> set[Any]:
    return {cell.columns.get(column) for cell in plan.cells if not isinstance(cell.spec, FloorSpec)}


def test_every_cell_once_and_only_columns_of_the_contract(tiny: Tiny) -> None:
    plan = planned(tiny(flow__path=["rectified", "ve"], metrics=["w2", "nfe", "straightness", "npe"]))
    flows, budgets = 2 * 2, 3
    assert len(plan.cells) == flows * (budgets * 2 + 2) + 1  # w2 has a floor
    assert len({cell.spec.key for cell in plan.cells}) == len(plan.cells)
    assert {name for cell in plan.cells for name in cell.columns} <= set(COLUMNS)


def test_what_cells_share_is_planned_once(tiny: Tiny) -> None:
    plan = planned(tiny(flow__path=["rectified", "ve"]))
    assert len(plan.flows()) == len(plan.references()) == 4
    assert len(plan.samples()) == 4 * 3
    assert len({spec.key for spec in plan.stages()}) == len(plan.stages())
    work = missing(plan, Store())
    assert sum(len(job.provides) for job in work.jobs) == len({key for job in work.jobs for key in job.provides})
    assert {key for job in work.jobs for key in job.provides} == {spec.key for spec in plan.stages()}
    assert work.train_samples == 4 * 1024


def test_seeds_of_a_small_model_train_in_one_job(tiny: Tiny) -> None:
    def stacks(**changes: Any) -> list[list[int]]:
        work = missing(planned(tiny(flow__seed=[0, 1, 2], **changes)), Store())
        return [[flow.seed for flow in job.flows] for job in work.jobs if isinstance(job, TrainJob)]

    assert stacks() == [[0, 1, 2]]
    assert stacks(flow__model={"name": "mlp", "width": 256}) == [[0], [1], [2]]
    assert stacks(flow__reflow=1) == [[0, 1, 2], [0, 1, 2]]
    assert sorted(map(len, stacks(flow__path=["rectified", "fm-ot"]))) == [3, 3]


def test_rounds_of_reflow_share_the_rounds_below(tiny: Tiny) -> None:
    plan = planned(tiny(flow__reflow=[0, 1, 2], flow__seed=0))
    flows = plan.flows()
    assert [flow.reflow for flow in flows] == [0, 1, 2]
    for lower, upper in pairwise(flows):
        assert upper.pairs is not None
        assert upper.pairs.flow.key == lower.key
    assert len(plan.pairs()) == 2
    assert planned(tiny(flow__reflow=2, flow__seed=0)).flows()[-1].key == flows[-1].key
    assert [flow.key for flow in planned(tiny(flow__reflow=2, flow__seed=0)).flows()] == [flow.key for flow in flows]
    assert axis(planned(tiny(flow__reflow=2)), "reflow") == {2}  # only the round asked for is measured


def test_reflow_needs_a_trained_flow_that_starts_at_its_source(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"flow\.reflow = 1: path 've' does not start at its source"):
        planned(tiny(flow__reflow=[0, 1], flow__path="ve"))
    mixture = {"name": "gaussian-mixture", "means": [[0, 0], [1, 1]], "stds": 0.5}
    with pytest.raises(UserError, match=r"flow\.reflow = 1: model 'oracle' is not trained"):
        planned(tiny(flow__reflow=1, flow__model="oracle", data=mixture))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow__prediction": "score", "flow__coupling": "minibatch-ot"}, "coupling 'minibatch-ot' is not independent"),
        ({"flow__prediction": "data", "flow__reflow": [0, 1]}, "the pairs of reflow = 1 are not independent"),
        ({"flow__prediction": "epsilon", "source": "eight-gaussians"}, "source 'eight-gaussians' is not normal"),
        ({"flow__prediction": "epsilon", "flow__path": "icfm"}, "path 'icfm' is a bridge"),
        ({"flow__path": "sb-cfm"}, r"Use coupling \{name: sinkhorn, reg: 2\}"),
        ({"flow__path": {"name": "sb-cfm", "sigma": 0.5}}, r"reg: 0\.5\}"),
        ({"flow__path": "icfm", "flow__reflow": 1}, "is a bridge, whose pairs are not those of an ODE"),
        ({"flow__path": "icfm", "flow__times": "edm"}, "a bridge and has no noise level"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned(tiny(**changes))


def test_an_oracle_predicts_nothing_but_the_velocity(tiny: Tiny) -> None:
    mixture = {"name": "gaussian-mixture", "means": [[0, 0], [1, 1]], "stds": 0.5}
    with pytest.raises(UserError, match="model 'oracle' is the exact velocity"):
        planned(tiny(flow__model="oracle", flow__prediction="epsilon", data=mixture))


def test_predictions_are_an_axis(tiny: Tiny) -> None:
    plan = planned(tiny(flow__prediction=["velocity", "score"], flow__seed=0))
    assert axis(plan, "prediction") == {"velocity", "score"}
    assert axis(plan, "method") == {"RF", "RF, score"}
    plain = planned(tiny(flow__seed=0))
    assert {flow.key for flow in plain.flows()} < {flow.key for flow in plan.flows()}


def test_an_oracle_trains_nothing(tiny: Tiny) -> None:
    mixture = {"name": "gaussian-mixture", "means": [[0, 0], [1, 1]], "stds": 0.5}
    work = missing(planned(tiny(flow__model="oracle", data=mixture)), Store())
    assert not [job for job in work.jobs if isinstance(job, TrainJob)]
    assert work.train_samples == 0


def test_the_same_flow_in_two_suites_has_one_key(tiny: Tiny) -> None:
    one = planned(tiny())
    two = planned(tiny(suite="other", title="x", tier="gpu", flow__path=["ve", "rectified"], flow__seed=[2, 1],
                       metrics=["w2"], sample__n=128))  # fmt: skip
    shared = {flow.key for flow in one.flows()} & {flow.key for flow in two.flows()}
    assert shared == {flow.key for flow in one.flows() if flow.seed == 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"train__lr": 1e-3}, {"train__samples": 2048}, {"train__batch": 32}, {"train__clip": None}, {"train__warmup": 1},
        {"train__ema_samples": 0}, {"train__schedule": "cosine"}, {"train__weight_decay": 0.1}, {"data": "spirals"},
        {"train__precision": "bfloat16"}, {"source": "spirals"}, {"flow__coupling": "minibatch-ot"}, {"flow__seed": 7},
        {"flow__path": {"name": "fm-ot", "sigma_min": 0.1}}, {"flow__model": {"name": "mlp", "width": 8, "depth": 2}},
        {"data": {"name": "moons", "noise": 0.06}}, {"flow__reflow": 1},
        {"flow__prediction": "data"}, {"flow__times": "mode"}, {"train__loss": "pseudo-huber"}, {"train__weight": "velocity"},
    ],
    ids=str,
)  # fmt: skip
def test_what_shapes_a_flow_is_in_its_key(tiny: Tiny, changes: dict[str, Any]) -> None:
    assert planned(tiny(**{"flow__seed": 0} | changes)).flows()[-1].key != planned(tiny(flow__seed=0)).flows()[-1].key


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, "RF"),
        ({"path": "fm-ot"}, "FM-OT"),
        ({"path": {"name": "fm-ot", "sigma_min": 0.1}}, "FM-OT"),
        ({"path": "vp-linear"}, "VP"),
        ({"path": "vp-cosine"}, "VP-cosine"),
        ({"path": "ve"}, "VE"),
        ({"coupling": "minibatch-ot"}, "OT-CFM"),
        ({"path": "fm-ot", "coupling": "minibatch-ot"}, "FM-OT+minibatch-ot"),
        ({"reflow": 1}, "2-RF"),
        ({"reflow": 2}, "3-RF"),
        ({"coupling": "minibatch-ot", "reflow": 1}, "OT-CFM, 2-rectified"),
        ({"path": "icfm"}, "I-CFM"),
        ({"path": "icfm", "coupling": "minibatch-ot"}, "OT-CFM"),
        ({"prediction": "epsilon"}, "RF, epsilon"),
        ({"path": "vp-linear", "prediction": "score"}, "VP, score"),
    ],
)
def test_methods_have_the_literature_s_names(tiny: Tiny, changes: dict[str, Any], method: str) -> None:
    suite = tiny()
    suite["flow"] |= changes
    assert axis(planned(suite), "method") == {method}


def test_independent_coupling_of_two_data_sets_is_i_cfm(tiny: Tiny) -> None:
    assert axis(planned(tiny(source="eight-gaussians")), "method") == {"I-CFM"}


def test_values_of_the_flow_carry_the_reference_and_floors_the_data(tiny: Tiny) -> None:
    plan = planned(tiny())
    for cell in plan.cells:
        if isinstance(cell.spec, FloorSpec):
            assert cell.columns["model"] == "data"
            assert cell.columns["data"] == "moons"
            assert {"path", "seed", "solver"} & set(cell.columns) == set()
        elif cell.spec.metric.scope == "flow":
            assert cell.columns["solver"] == "reference"
            assert cell.spec.cell == cell.spec.reference
        else:
            assert cell.columns["solver"] in ("euler", "heun")
            assert cell.columns["nfe"] in (1.0, 2.0, 4.0)
    assert [cell.columns["metric"] for cell in plan.cells if isinstance(cell.spec, FloorSpec)] == ["sliced_w2"]


# ---- --only ----

TWO = {"path": ["rectified", {"name": "fm-ot", "sigma_min": 0.1}], "coupling": "independent", "seed": [0, 1],
       "model": [{"name": "mlp", "width": 8, "depth": 1}, {"name": "mlp", "width": 16, "depth": 1}]}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "column", "left"),
    [
        ("path=rectified", "path", {"rectified"}),
        ("path=fm-ot", "path", {"fm-ot[sigma_min=0.1]"}),
        ("path=fm-ot[sigma_min=0.1]", "path", {"fm-ot[sigma_min=0.1]"}),
        ("seed=1", "seed", {1}),
        ("seed=0, 1", "seed", {0, 1}),
        ("method=RF", "method", {"RF"}),
        ("model=mlp[depth=1,width=8]", "model", {"mlp[depth=1,width=8]"}),
        ("model=mlp", "model", {"mlp[depth=1,width=8]", "mlp[depth=1,width=16]"}),
        ("solver=heun", "solver", {"heun", "reference"}),
        ("solver=euler,heun", "solver", {"euler", "heun", "reference"}),
        ("nfe=1,4", "nfe", {1.0, 4.0, None}),
        ("metric=nfe", "metric", {"nfe"}),
        ("data=moons", "data", {"moons"}),
    ],
)
def test_only_keeps_what_it_names(tiny: Tiny, rule: str, column: str, left: set[Any]) -> None:
    everything, plan = planned(tiny(flow=TWO)), planned(tiny(flow=TWO), rule)
    assert axis(plan, column) == left
    kept, all_keys = [c.spec.key for c in plan.cells], [c.spec.key for c in everything.cells]
    assert kept == [key for key in all_keys if key in kept]  # the same cells, in the same order
    floors = [cell for cell in plan.cells if isinstance(cell.spec, FloorSpec)]
    assert len(floors) == (0 if column == "metric" else 1)


def test_filters_narrow_each_other(tiny: Tiny) -> None:
    plan = planned(
        tiny(flow=TWO), "path=rectified", "seed=0", "model=mlp[depth=1,width=8]", "solver=heun", "metric=nfe"
    )
    (cell,) = plan.cells
    assert isinstance(cell.spec, MeasureSpec)
    assert len(plan.flows()) == 1


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (["path"], ["--only 'path'", "column=value"]),
        (["paht=ve"], ["'paht'", "'path'", "solver"]),
        (["path=rectifed"], ["path", "'rectifed'", "'rectified'"]),
        (["path=ve"], ["'ve'", "rectified"]),
        (["solver=rk4"], ["'rk4'", "euler", "heun"]),
        (["nfe=3"], ["'3'", "1, 2, 4"]),
        (["path="], ["path", "''"]),
        (["metric=w2"], ["'w2'", "sliced_w2"]),
        (["seed=0", "seed=1"], ["seed", "'1'", "0"]),
        (["solver=heun", "nfe=1"], ["nfe", "'1'", "4"]),
    ],
)
def test_filters_that_name_nothing(tiny: Tiny, rules: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        planned(tiny(), *rules)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
