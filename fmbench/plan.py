"""A suite becomes a plan: every row that the table will have, and the stages behind it. What is shared is planned once."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .budgets import Budget
from .data.base import check_draws
from .errors import UserError, unknown
from .fields import label_of, name_of
from .flow import predictions
from .flow.couplings import check_pairing
from .flow.losses import check_loss
from .flow.path_checks import check_path
from .flow.times import TIMES, check_times
from .identity import Spec
from .metrics.base import Metric
from .naming import FLOW_COLUMNS, budget_columns, flow_columns
from .schema import Suite, Task
from .solvers import GRIDS, SOLVERS
from .stages.flow import FlowSpec, PairsSpec, parametrisation
from .stages.measure import AloneSpec, FloorSpec, GivenSpec, MeasureSpec, PairingSpec, TruthSpec, exact
from .stages.minibatches import steps_in_advance
from .stages.sample import ReferenceSpec, SampleSpec
from .table import FLOOR, GIVEN, REFERENCE, TRUTH, bare

KEPT = 2**24  # numbers in a cell's samples that are stored without being asked for


@dataclass(frozen=True)
class Cell:
    """One planned row: its identity columns, and the specification whose result becomes its value."""

    columns: dict[str, Any]
    spec: MeasureSpec | AloneSpec


@dataclass(frozen=True)
class Plan:
    """All planned rows of a suite, in the table's order."""

    suite: Suite
    cells: list[Cell]

    def flows(self) -> list[FlowSpec]:
        """Every flow that must exist, each once; a reflow round after the round that its pairs come from."""
        found: dict[str, FlowSpec] = {}
        for cell in self.cells:
            last = cell.spec.cell.flow if isinstance(cell.spec, MeasureSpec) else None
            if isinstance(cell.spec, PairingSpec) and cell.spec.pairs is not None:
                last = cell.spec.pairs.flow
            for flow in _ancestry(last) if last is not None else []:
                found.setdefault(flow.key, flow)
        return list(found.values())

    def pairs(self) -> list[PairsSpec]:
        """Every set of reflow pairs, each once."""
        pairings = [c.spec.pairs for c in self.cells if isinstance(c.spec, PairingSpec)]
        wanted = [*(flow.pairs for flow in self.flows()), *pairings]
        return list({pairs.key: pairs for pairs in wanted if pairs is not None}.values())

    def references(self) -> list[ReferenceSpec]:
        """The reference solve of every measured flow."""
        measures = [c.spec for c in self.cells if isinstance(c.spec, MeasureSpec)]
        wanted = [spec for m in measures for spec in (m.reference, m.teacher) if spec is not None]
        return list({spec.key: spec for spec in wanted}.values())

    def samples(self) -> list[SampleSpec]:
        """Every sampled cell."""
        specs = [c.spec.cell for c in self.cells if isinstance(c.spec, MeasureSpec)]
        return list({spec.key: spec for spec in specs if isinstance(spec, SampleSpec)}.values())

    def stages(self) -> list[Spec]:
        """All stages whose artefacts the run leaves, in an order in which they can be made."""
        trained = [flow for flow in self.flows() if flow.model.trained]
        measures = {cell.spec.key: cell.spec for cell in self.cells}
        return [*trained, *self.pairs(), *self.references(), *self.samples(), *measures.values()]


def _ancestry(flow: FlowSpec) -> list[FlowSpec]:
    return [*(_ancestry(flow.pairs.flow) if flow.pairs else []), flow]


def make_plan(suite: Suite, only: Sequence[str] = ()) -> Plan:
    """The plan of a suite, less what `only` (such as `path=rectified`) leaves out.

    Raises:
        UserError: a filter, or a claim's side, names a value that the suite does not have; a filter names no column.
    """
    cells = [cell for task in suite.problems() for cell in _task_cells(suite, task)]
    for claim in suite.claims:
        claim.check([cell.columns for cell in cells])
    for rule in only:
        cells = _filtered(cells, rule)
    if not cells:
        raise UserError("nothing is left to run: the filters given with --only exclude every cell")
    return Plan(suite, cells)


def _task_cells(suite: Suite, task: Task) -> list[Cell]:
    for part in (task.data, task.source):
        check_draws(part)
    flows = [flow for flow in _flows(suite, task) if not flow.model.given]
    if suite.sample.guidance != [1] and all(flow.classes is None for flow in flows):
        raise UserError(
            "sample.guidance: no flow of the suite is given labels. Set flow.model.conditional: true, and a label_dropout"
        )
    guided = [(flow, guidance) for flow in flows for guidance in _guidances(suite, flow)]
    cells = [cell for one in guided for cell in (*_flow_cells(suite, *one), *_sample_cells(suite, *one))]
    cells = [*_pairing_cells(suite, flows), *cells, *_given_cells(suite, task), *_truth_cells(suite, flows)]
    return [*_once(cells), *_floor_cells(suite, task)]


def _guidances(suite: Suite, flow: FlowSpec) -> list[float | None]:
    """The weights that a flow is sampled with; None of an unconditional one, which knows no labels to be guided by."""
    if flow.classes is None:
        return [None]
    guided = [s for s in suite.sample.guidance if s != 1]
    if guided and (lack := flow.model.lacks_unconditional()) is not None:
        raise UserError(
            f"sample.guidance = {guided[0]:g}: model '{flow.model.label()}' has no unconditional velocity to be guided from: "
            f"it {lack}. Or use guidance 1."
        )
    return list(suite.sample.guidance)


def _reference(suite: Suite, flow: FlowSpec, guidance: float | None = None) -> ReferenceSpec:
    """The fine solve that explains a flow; a student, which knows its own few times alone, is held against its teacher's."""
    if flow.distilled and flow.teacher is not None:
        return _reference(suite, flow.teacher, guidance)
    settings, fine = suite.sample, suite.sample.reference
    n = min(settings.n, fine.n or settings.n)
    shared = {"n": n, "batch": settings.batch, "sample_seed": settings.seed, **_arithmetic(suite)}
    weight = 1.0 if guidance is None else guidance
    return ReferenceSpec(flow=flow, **shared, tolerance=fine.tolerance, max_steps=fine.max_steps, guidance=weight)


def _arithmetic(suite: Suite) -> dict[str, Any]:
    return {"precision": suite.sample.precision, "compile": suite.sample.compile}


def _flow_cells(suite: Suite, flow: FlowSpec, guidance: float | None) -> list[Cell]:
    if flow.distilled:
        return []
    reference = _reference(suite, flow, guidance)
    columns = {**flow_columns(flow), "guidance": guidance, "sample_seed": suite.sample.seed, "solver": REFERENCE}
    cells = []
    for m in suite.metrics:
        if m.scope == "flow":
            teacher = _reference(suite, flow.teacher, guidance) if m.asks_teacher and flow.teacher is not None else None
            spec = MeasureSpec(cell=reference, reference=reference, metric=m, teacher=teacher)
            cells.append(Cell({**columns, "metric": m.label()}, spec))
    return cells


def _sample_cells(suite: Suite, flow: FlowSpec, guidance: float | None) -> list[Cell]:
    settings, reference, weight = suite.sample, _reference(suite, flow, guidance), 1.0 if guidance is None else guidance
    columns = {**flow_columns(flow), "guidance": guidance, "sample_seed": settings.seed}
    cells = []
    for budget in [_own_budget(flow.distilled)] if flow.distilled else settings.solvers:
        budget.check(flow.path)
        budget, batch = budget.at(weight), budget.batch or settings.batch
        shared = {"flow": flow, "n": settings.n, "batch": batch, "sample_seed": settings.seed, **_arithmetic(suite)}
        shared["keep"] = settings.n * math.prod(flow.data.shape) <= KEPT if settings.keep is None else settings.keep
        sample = SampleSpec(**shared, solver=budget.solver, steps=budget.steps, grid=budget.grid, guidance=weight)
        for m in suite.metrics:
            of_student = flow.distilled and m.scope == "flow" and m.asks_teacher
            if m.scope == "samples" or of_student:
                spec = MeasureSpec(
                    cell=sample, reference=reference, metric=m, teacher=reference if of_student else None
                )
                cells.append(Cell({**columns, **budget_columns(budget, batch, weight), "metric": m.label()}, spec))
    return cells


def _own_budget(k: int) -> Budget:
    """A student of k steps is solved in k Euler steps."""
    return Budget(solver=SOLVERS.build("euler"), grid=GRIDS.build("uniform"), steps=k)


def _pairing_cells(suite: Suite, flows: Sequence[FlowSpec]) -> list[Cell]:
    """Values of the training couplings: no training seed stands behind the first round's."""
    cells = []
    for flow in flows:
        columns = {**flow_columns(flow), "sample_seed": suite.sample.seed, "solver": REFERENCE}
        columns |= {} if flow.pairs else {"seed": None}
        made = {"data": flow.data, "source": flow.source, "coupling": flow.coupling, "batch": flow.train.batch}
        for m in suite.metrics:
            if m.scope == "coupling":
                spec = PairingSpec(**made, pairs=flow.pairs, metric=m, sample_seed=suite.sample.seed)
                cells.append(Cell({**columns, "metric": m.label()}, spec))
    return cells


def _given_cells(suite: Suite, task: Task) -> list[Cell]:
    """Values of samples that were made elsewhere: how, by which path, solver or seed, the table does not know."""
    shared = {"data": task.data, "n": suite.sample.n, "sample_seed": suite.sample.seed}
    columns = {"data": label_of(task.data), "solver": GIVEN, "sample_seed": suite.sample.seed}
    cells = []
    for model in (model for model in suite.flow.model if model.given):
        if (held := len(model.samples(task.data))) < suite.sample.n:
            raise UserError(
                f"model '{model.label()}' holds {held:,} samples, sample.n = {suite.sample.n:,} are asked for"
            )
        named = {**columns, "source": label_of(task.source), "model": model.label(), "method": model.method()}
        cells += [
            Cell({**named, "metric": m.label()}, GivenSpec(**shared, model=model, metric=m))
            for m in suite.metrics
            if m.scope == "samples"
        ]
    return cells


def _truth_cells(suite: Suite, flows: Sequence[FlowSpec]) -> list[Cell]:
    """What the metrics of exact flows should be, where that is known."""
    cells = []
    for flow in flows:
        if not flow.model.exact or flow.classes is not None:
            continue
        columns = {**flow_columns(flow), "model": TRUTH, "seed": None}
        fixed = [budget for budget in suite.sample.solvers if not budget.solver.adaptive]
        for m in suite.metrics:
            specs = [({"solver": REFERENCE}, TruthSpec(flow=flow, metric=m))]
            if m.scope == "samples":
                specs = [(budget_columns(b, b.batch or suite.sample.batch), _truth_at(b, flow, m)) for b in fixed]
            cells += [
                Cell({**columns, **more, "metric": m.label()}, spec)
                for more, spec in specs
                if m.has_true_value(exact(spec))
            ]
    return cells


def _truth_at(budget: Budget, flow: FlowSpec, metric: Metric) -> TruthSpec:
    return TruthSpec(flow=flow, metric=metric, solver=budget.solver, steps=budget.steps, grid=budget.grid)


def _floor_cells(suite: Suite, task: Task) -> list[Cell]:
    columns = {"model": FLOOR, "method": FLOOR, "data": label_of(task.data), "source": label_of(task.source)}
    n, seed = suite.sample.n, suite.sample.seed
    return [
        Cell(
            {**columns, "sample_seed": seed, "metric": m.label()},
            FloorSpec(data=task.data, metric=m, n=n, sample_seed=seed),
        )
        for m in suite.metrics
        if m.has_floor(task.data)
    ]


def _once(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that say the same, once: several seeds share one coupling and one exact value."""
    return list({tuple(cell.columns.items()): cell for cell in reversed(cells)}.values())[::-1]


def _flows(suite: Suite, task: Task) -> list[FlowSpec]:
    axes = suite.flow
    flows = []
    for path, coupling, prediction, times, model, reflow, distilled, seed in itertools.product(
        axes.path, axes.coupling, axes.prediction, axes.times, axes.model, axes.reflow, axes.distilled, axes.seed
    ):
        values = {
            "path": path, "coupling": coupling, "prediction": prediction, "times": times,
            "model": model, "reflow": reflow, "distilled": distilled, "seed": seed,
        }  # fmt: skip
        if any(_matches(rule, values) for rule in axes.exclude):
            continue
        first = {name: value for name, value in values.items() if name not in ("reflow", "distilled")}
        flow = FlowSpec(data=task.data, source=task.source, train=suite.train, **first)
        for round_ in range(1, reflow + 1):
            flow = _taught(suite, flow, reflow=round_)
        if distilled:
            flow = _taught(suite, flow, distilled=distilled, times=TIMES.build({"name": "steps", "k": distilled}))
        _check(flow)
        flows.append(flow)
    if not flows:
        raise UserError("flow.exclude excludes every flow of the suite: leave at least one")
    return flows


def _taught(suite: Suite, teacher: FlowSpec, **changes: Any) -> FlowSpec:
    """The flow that learns from pairs which `teacher` draws: its next round, or a student of its own round."""
    p = suite.pairs
    pairs = PairsSpec(flow=teacher, n=p.n, solver=p.solver, steps=p.steps, inverted=p.inverted)
    train = suite.train if p.loss is None else suite.train.model_copy(update={"loss": p.loss})
    changes = {"times": p.times or teacher.times, "train": train, **changes}
    return teacher.model_copy(update={"pairs": pairs, "init": p.init, **changes})


def _check(flow: FlowSpec) -> None:
    """What no key alone can tell: whether the parts of a flow fit together."""
    check_path(flow.path)
    flow.path.check(flow.coupling)
    flow.times.check(flow.path)
    predictions.check(flow.prediction, flow.path, flow.coupling, flow.source.name, flow.reflow, flow.distilled)
    flow.coupling.check(flow.source, flow.data)
    check_times(flow.times, flow.path)
    check_pairing(flow.coupling, flow.data.shape, flow.data.classes is not None)
    flow.model.check(flow.path, flow.coupling, flow.source, flow.data)
    if flow.pairs is not None:
        flow.pairs.solver.check(flow.path)
    if flow.model.trained:
        check_loss(flow.train.loss, flow.train.weight, parametrisation(flow, 1.0), flow.data.shape)
        steps_in_advance(flow.train.batch, math.prod(flow.data.shape), flow.coupling)
    elif flow.pairs is not None:
        raise UserError(
            f"{_round(flow)}: model '{flow.model.name}' is not trained, so there is nothing to rectify or distil"
        )
    if not flow.model.trained and flow.prediction != "velocity":
        raise UserError(
            f"flow.prediction = '{flow.prediction}': model '{flow.model.name}' is the exact velocity, "
            "there is nothing to predict. Use 'velocity'."
        )
    if flow.pairs is None:
        return
    if not flow.path.affine:
        raise UserError(
            f"{_round(flow)}: path '{flow.path.label()}' is a bridge, whose pairs are not those of an ODE. Use 'rectified'."
        )
    if not flow.path.starts_at_source():
        raise UserError(f"{_round(flow)}: path '{flow.path.label()}' does not start at its source. Use 'rectified'.")
    if flow.distilled and flow.path.name != "rectified":
        raise UserError(
            f"{_round(flow)}: path '{flow.path.label()}' is curved, few Euler steps cannot follow it. Use 'rectified'."
        )


def _round(flow: FlowSpec) -> str:
    return f"flow.distilled = {flow.distilled}" if flow.distilled else f"flow.reflow = {flow.reflow}"


def _matches(rule: dict[str, Any], values: dict[str, Any]) -> bool:
    return all(
        {label_of(values[axis]), name_of(values[axis])}
        & {str(v) for v in (named if isinstance(named, list) else [named])}
        for axis, named in rule.items()
    )


def _filtered(cells: list[Cell], rule: str) -> list[Cell]:
    column, equals, text = rule.partition("=")
    column = column.strip()
    columns = [*FLOW_COLUMNS, "guidance", "solver", "metric", "nfe"]
    if not equals:
        raise UserError(f"--only '{rule}': write column=value, such as path=rectified")
    if column not in columns:
        raise unknown("column", column, columns)
    wanted = {value.strip() for value in re.split(r",(?![^\[]*\])", text)}  # no comma inside mlp[depth=2,width=16]
    have: set[str] = set()
    kept = []
    for cell in cells:
        value = cell.columns.get(column)
        names = {_text(value), bare(_text(value))}
        have.add(_text(value))
        # Floors have no flow, values of the flow no solver to be filtered by: they stay with what they explain.
        inapplicable = (
            value is None
            or (column in ("solver", "nfe") and cell.columns.get("solver") in (None, REFERENCE, GIVEN))
            or (column in ("method", "model") and isinstance(cell.spec, FloorSpec))
            or (column == "model" and isinstance(cell.spec, TruthSpec))
        )
        if inapplicable or names & wanted:
            kept.append(cell)
    for value in wanted:
        if not value or value not in have | set(map(bare, have)):
            raise unknown(f"{column} in this suite", value, have - {""})
    return kept


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
