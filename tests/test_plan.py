from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import write_published

from fmbench.api import outline
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
    def stacks(workers: int = 1, **changes: Any) -> list[list[int]]:
        work = missing(planned(tiny(flow__seed=[0, 1, 2], **changes)), Store(), workers)
        return [[flow.seed for flow in job.flows] for job in work.jobs if isinstance(job, TrainJob)]

    assert stacks() == [[0, 1, 2]]
    assert stacks(flow__model={"name": "mlp", "width": 256}) == [[0], [1], [2]]
    assert stacks(flow__reflow=1) == [[0, 1, 2], [0, 1, 2]]
    assert sorted(map(len, stacks(flow__path=["rectified", "fm-ot"]))) == [3, 3]
    # No worker is left idle, and rounds, which wait for each other, do not count as work for it.
    assert stacks(workers=2) == [[0, 1], [2]]
    assert stacks(workers=2, flow__reflow=1) == [[0, 1], [0, 1], [2], [2]]
    assert sorted(map(len, stacks(workers=2, flow__path=["rectified", "fm-ot"]))) == [3, 3]
    assert stacks(workers=8) == [[0], [1], [2]]


def test_a_student_learns_its_own_round_s_pairs_and_is_solved_in_its_own_steps(tiny: Tiny) -> None:
    plan = planned(tiny(flow__reflow=[0, 1], flow__distilled=[0, 1, 2], flow__seed=0))
    students = {flow.key: flow for flow in plan.flows() if flow.distilled}
    assert {(f.reflow, f.distilled, f.times.label()) for f in students.values()} == {
        (0, 1, "steps"), (0, 2, "steps[k=2]"), (1, 1, "steps"), (1, 2, "steps[k=2]")
    }  # fmt: skip
    for flow in students.values():
        assert flow.teacher is not None
        assert (flow.teacher.reflow, flow.teacher.distilled) == (flow.reflow, 0)
    assert {pairs.flow.reflow for pairs in plan.pairs()} == {0, 1}, "the next round and the students share their pairs"
    cells = [c for c in plan.cells if isinstance(c.spec, MeasureSpec) and c.spec.cell.flow.distilled]
    assert {(c.columns["solver"], c.columns["steps"], c.columns["distilled"]) for c in cells} == {
        ("euler", 1, 1), ("euler", 2, 2)
    }  # fmt: skip
    for cell in cells:
        assert isinstance(cell.spec, MeasureSpec)
        assert cell.spec.metric.scope == "samples"
        assert cell.spec.reference.flow == cell.spec.cell.flow.teacher, "a student is held against its teacher"
    work = missing(plan, Store())
    assert {key for job in work.jobs for key in job.provides} == {spec.key for spec in plan.stages()}


def test_what_pairs_say_of_the_rounds_reaches_them_and_not_the_first(tiny: Tiny) -> None:
    changes = {"inverted": 0.25, "init": "previous", "times": "u-shaped", "loss": "pseudo-huber",
               "solver": {"name": "rk4", "steps": 20}}  # fmt: skip
    first, second, third = planned(tiny(flow__reflow=[0, 1, 2], flow__seed=0, pairs=changes)).flows()
    assert (first.init, first.times.name, first.train.loss.name) == ("scratch", "uniform", "mse")
    for flow in (second, third):
        assert (flow.init, flow.times.name, flow.train.loss.name) == ("previous", "u-shaped", "pseudo-huber")
        assert flow.pairs is not None
        assert (flow.pairs.steps, flow.pairs.inverted, flow.pairs.solver.name) == (20, 0.25, "rk4")
    assert third.teacher == second


def test_every_row_says_what_its_flow_was_trained_on(tiny: Tiny) -> None:
    """Also those of the training coupling itself; real data and exact flows were trained on nothing."""
    changes = {
        "flow__reflow": [0, 1, 2],
        "flow__distilled": [0, 1],
        "metrics": ["w2", "transport_cost", "train_coupling_cost"],
    }
    plan = planned(tiny(flow__coupling=["independent", "minibatch-ot"], pairs={"inverted": 0.25}, **changes))
    said = {(c.columns.get("coupling"), c.columns.get("reflow"), c.columns.get("distilled"), c.columns.get("trained_on"))
            for c in plan.cells}  # fmt: skip
    drawn = [f"pairs of round {k}, 25% inverted data" for k in (0, 1, 2)]
    expected = {(None, None, None, None)}
    for coupling in ("independent", "minibatch-ot"):
        expected |= {(coupling, k, 0, drawn[k - 1] if k else coupling) for k in (0, 1, 2)}
        expected |= {(coupling, k, 1, drawn[k]) for k in (0, 1, 2)}
    assert said == expected
    mixture = {"name": "gaussian-mixture", "means": [[0, 0], [1, 1]], "stds": 0.5}
    assert axis(planned(tiny(flow__model="oracle", data=mixture)), "trained_on") == {None}


def test_pairs_are_drawn_at_one_budget_that_is_said(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="solver 'euler' needs its budget"):
        planned(tiny(pairs={"solver": "euler"}))
    with pytest.raises(UserError, match="one solver at one budget"):
        planned(tiny(pairs={"solver": {"name": "euler", "steps": [1, 2]}}))
    with pytest.raises(UserError, match=r"pairs\.inverted = 1.0"):
        planned(tiny(pairs={"inverted": 1.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distilled": 1, "path": "vp-cosine"}, "flow.distilled = 1: path 'vp-cosine' is curved"),
        ({"distilled": 1, "path": "ve"}, "flow.distilled = 1: path 've' does not start at its source"),
        ({"distilled": 2, "prediction": "epsilon"}, "a student of 2 steps is asked at its few times alone"),
        ({"distilled": -1}, "distilled"),
    ],
)
def test_students_that_make_no_sense(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    suite = tiny()
    suite["flow"] |= changes
    with pytest.raises(UserError, match=message):
        planned(suite)


def test_a_metric_that_asks_is_given_the_teacher(tiny: Tiny) -> None:
    plan = planned(tiny(flow__reflow=1, flow__seed=0, metrics=["pair_memorisation", "transport_cost"]))
    teachers = {cell.spec.metric.name: cell.spec.teacher for cell in plan.cells if isinstance(cell.spec, MeasureSpec)}
    assert teachers["transport_cost"] is None
    assert teachers["pair_memorisation"] is not None
    assert teachers["pair_memorisation"].flow.reflow == 0
    assert teachers["pair_memorisation"] in plan.references()


def test_a_student_s_memorisation_is_a_row_at_its_own_calls(tiny: Tiny) -> None:
    """No other metric of the flow is one: at times between its own a student has no velocity, and so no path."""
    metrics = ["pair_memorisation", "transport_cost", "nfe"]
    plan = planned(tiny(flow__reflow=[0, 1], flow__distilled=[0, 2], flow__seed=0, metrics=metrics))
    students = [cell for cell in plan.cells if cell.columns.get("distilled") == 2]
    shown = {(c.columns["metric"], c.columns["solver"], c.columns["nfe"]) for c in students}
    assert shown == {("pair_memorisation", "euler", 2), ("nfe", "euler", 2)}
    for cell in students:
        if isinstance(cell.spec, MeasureSpec) and cell.spec.metric.name == "pair_memorisation":
            assert cell.spec.teacher is not None
            assert cell.spec.teacher.flow == cell.spec.cell.flow.teacher
            assert cell.spec.teacher in plan.references()


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
        ({"flow__prediction": "score", "flow__reflow": [0, 1]}, "the pairs of reflow = 1 are not independent"),
        ({"flow__prediction": "score", "source": "eight-gaussians"}, "source 'eight-gaussians' is not normal"),
        ({"flow__prediction": "epsilon", "flow__path": "icfm"}, "path 'icfm' is a bridge"),
        ({"flow__path": "sb-cfm"}, r"Use coupling \{name: sinkhorn, reg: 2\}"),
        ({"flow__path": {"name": "sb-cfm", "sigma": 0.5}}, r"reg: 0\.5\}"),
        ({"flow__path": "icfm", "flow__reflow": 1}, "is a bridge, whose pairs are not those of an ODE"),
        ({"flow__path": "icfm", "flow__times": "edm"}, "a bridge and has no noise level"),
        ({"flow__path": "icfm", "sample__solvers": [{"name": "ddim", "nfe": 4}]}, "solver 'ddim' needs an affine path"),
        ({"flow__path": "icfm", "sample__solvers": [{"name": "euler", "nfe": 4, "grid": "logsnr"}]},
         "grid 'logsnr' needs an affine path"),
    ],
)  # fmt: skip
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
        ({"distilled": 1}, "RF, 1 step"),
        ({"reflow": 1, "distilled": 4}, "2-RF, 4 steps"),
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


@pytest.mark.parametrize("side", ["data", "source"])
def test_draws_that_are_no_numbers_are_refused_before_anything_runs(
    side: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmbench.data import DATA

    lost = torch.full((2, 2), torch.nan), None
    monkeypatch.setattr(DATA.get("eight-gaussians"), "draw", lambda self, n, rng: lost)
    with pytest.raises(UserError, match="data set 'eight-gaussians': its draws are not finite"):
        planned(tiny(**{side: "eight-gaussians"}))


def test_a_path_without_a_schedule_is_refused_before_anything_runs(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmbench.flow import PATHS, Path

    class Unfinished(Path):
        name = "unfinished"
        method = "?"

    class Plain(Unfinished):
        name = "plain"

        def schedule(self, t: Any) -> Any:
            return t, 1 - t, 1 + 0 * t, -1 + 0 * t

    for path, found in (
        (Unfinished, "path 'unfinished' has no schedule: implement schedule"),
        (Plain, r"path 'plain': schedule\(t\) returns tuple, not a Schedule"),
    ):
        monkeypatch.setitem(PATHS._where, path.name, "here")
        monkeypatch.setitem(PATHS._loaded, path.name, path)
        with pytest.raises(UserError, match=found):
            planned(tiny(flow__path=path.name))


@pytest.mark.parametrize("name", ["cifar10-nfe-sweep-small", "cifar10-nfe-sweep"])
def test_the_readme_says_what_a_run_for_days_would_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_published(tmp_path, "cifar10")
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path))
    what = outline(name, device="cpu")
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (comment,) = re.findall(rf"^fmbench run {name} .*# (.*)$", readme, re.MULTILINE)
    counts = [int(count.replace(",", "")) for count in re.findall(r"[\d,]*\d", comment)]
    assert counts == [len(what.plan.flows()), what.work.train_samples, what.work.solves, what.work.values]
