"""The schema of suites, strictly: unknown keys, names and values are errors that name the nearest match."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from .claims import CLAIMS, Claim
from .data import DATA
from .data.base import Data
from .errors import UserError, unknown
from .flow import COUPLINGS, PATHS
from .flow.couplings import Coupling
from .flow.paths import Path
from .flow.predictions import Prediction
from .flow.times import TIMES, TimeLaw
from .metrics import METRICS
from .metrics.base import Metric
from .models import MODELS
from .models.base import Model
from .recipes import with_recipe
from .registry import Component, Registry
from .solvers import GRIDS, SOLVERS
from .solvers.base import Solver
from .solvers.grids import Grid
from .stages.arithmetic import Precision
from .stages.flow import PairsSettings, TrainSettings


def _built(registry: Registry[Any]) -> BeforeValidator:
    def build(value: Any) -> Any:
        try:
            return registry.build(value)
        except UserError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(build)


def _several(registry: Registry[Any]) -> BeforeValidator:
    """A name, a mapping or a list of them; inside a mapping, a list where one value belongs is a product too."""

    def build(value: Any) -> list[Any]:
        try:
            return [registry.build(one) for item in _listed(value) for one in _product(registry, item)]
        except UserError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(build)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _product(registry: Registry[Any], item: Any) -> Iterable[Any]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return [item]
    fields = registry.get(item["name"]).model_fields
    axes = {
        key: value if isinstance(value, list) and key in fields and not _takes_list(fields[key].annotation) else [value]
        for key, value in item.items()
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _takes_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return origin in (list, tuple) or any(
        _takes_list(part) for part in typing.get_args(annotation) if origin is not None
    )


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a column of the table holds it
Round = Annotated[int, Field(ge=0, le=100)]  # each trains all the rounds below it
Guidance = Annotated[float, Field(ge=0, le=1000)]
Steps = Annotated[int, Field(ge=0, le=1000)]  # of a student; 0: no student


class Task(_Strict):
    """One transport problem: from `source` to `data`."""

    data: Annotated[Data, _built(DATA)]
    source: Annotated[Data, _built(DATA)] = Field(default="normal", validate_default=True)

    @model_validator(mode="after")
    def _same_shape(self) -> Task:
        if self.source.name == "normal" and "dims" not in self.source.model_fields_set:
            # The standard normal takes the shape of what it is carried to.
            object.__setattr__(self, "source", DATA.build({"name": "normal", "dims": self.data.shape}))
        elif self.source.shape != self.data.shape:
            raise ValueError(
                f"source '{self.source.name}' has shape {self.source.shape}, data '{self.data.name}' {self.data.shape}"
            )
        return self


class FlowAxes(_Strict):
    """The axes whose product are the flows; each a value or a list."""

    path: Annotated[list[Path], _several(PATHS)] = Field(default="rectified", validate_default=True)
    coupling: Annotated[list[Coupling], _several(COUPLINGS)] = Field(default="independent", validate_default=True)
    prediction: Annotated[list[Prediction], BeforeValidator(_listed)] = Field(default="velocity", validate_default=True)
    times: Annotated[list[TimeLaw], _several(TIMES)] = Field(default="uniform", validate_default=True)
    model: Annotated[list[Model], _several(MODELS)] = Field(default="mlp", validate_default=True)
    reflow: Annotated[list[Round], BeforeValidator(_listed)] = Field(default=0, validate_default=True)
    distilled: Annotated[list[Steps], BeforeValidator(_listed)] = Field(default=0, validate_default=True)
    seed: Annotated[list[Seed], BeforeValidator(_listed)] = Field(default=0, validate_default=True)
    exclude: list[dict[str, Any]] = []

    @field_validator("path", "coupling", "prediction", "times", "model", "reflow", "distilled", "seed")
    @classmethod
    def _distinct_values(cls, values: list[Any]) -> list[Any]:
        return _distinct(values)

    @field_validator("exclude")
    @classmethod
    def _known_axes(cls, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        axes = [name for name in cls.model_fields if name != "exclude"]
        for rule in rules:
            for axis in rule:
                if axis not in axes:
                    raise ValueError(str(unknown("axis", axis, axes)))
        return rules

    @model_validator(mode="after")
    def _exclusions_name_values(self) -> FlowAxes:
        for rule in self.exclude:
            for axis, values in rule.items():
                have = {name for value in getattr(self, axis) for name in (label_of(value), name_of(value))}
                for value in _listed(values):
                    if str(value) not in have:
                        raise ValueError(str(unknown(f"{axis} to exclude", value, have)))
        return self


def label_of(value: Any) -> str:
    """What the table prints for a value of an axis."""
    return value.label() if isinstance(value, Component) else str(value)


def _distinct(values: list[Any]) -> list[Any]:
    labels = [label_of(value) for value in values]
    if not labels:
        raise ValueError("the list is empty: give at least one value")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"'{twice[0]}' is listed twice")
    return values


def name_of(value: Any) -> str:
    return value.name if isinstance(value, Component) else str(value)


class Budget(_Strict):
    """One way to sample: a solver, for fixed-step ones its grid and number of steps, and a batch if not the suite's.

    Where the suite gave network calls they are kept as `nfe`; `steps` are then what they pay for at one call an evaluation,
    and `at` says what they pay for under guidance.
    """

    solver: Solver
    grid: Grid | None = None
    steps: PositiveInt | None = None
    nfe: PositiveInt | None = None
    batch: PositiveInt | None = None

    def check(self, path: Path) -> None:
        """Raises `UserError` where this solver or this grid cannot follow such a path."""
        self.solver.check(path)
        if self.grid is not None:
            self.grid.check(path)

    def at(self, guidance: float) -> Budget:
        """The budget under guidance: as many steps as were given, or as the calls pay for.

        Raises:
            UserError: `nfe` cannot be met exactly.
        """
        if self.nfe is None:
            return self
        return self.model_copy(update={"steps": self.solver.steps_for(self.nfe, guidance)})


def _budgets(value: Any) -> list[Budget]:
    """`{name: heun, nfe: [2, 4]}`, `{name: dopri5, rtol: …}` or a bare name, for one entry of `sample.solvers`."""
    item = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else value
    if not isinstance(item, dict):
        raise ValueError(f"{value!r} is no solver: write a name or a mapping with a name")
    nfe, steps, grid, batch = (item.pop(key, None) for key in ("nfe", "steps", "grid", "batch"))
    budgets: list[Budget] = []
    try:
        batches = [None] if batch is None else [_positive("batch", b) for b in _listed(batch)]
        for spec in _product(SOLVERS, item):
            _require_known_keys(spec)
            solver = SOLVERS.build(spec)
            if solver.adaptive:
                if given := [
                    key for key, value in (("nfe", nfe), ("steps", steps), ("grid", grid)) if value is not None
                ]:
                    raise UserError(f"solver '{solver.name}' chooses its own steps: give rtol and atol, not {given[0]}")
                budgets += [Budget(solver=solver, batch=b) for b in batches]
                continue
            if (nfe is None) == (steps is None):
                raise UserError(
                    f"solver '{solver.name}' needs its budget: either nfe (network calls) or steps, a number or a list"
                )
            counts = (
                [{"nfe": n, "steps": solver.steps_for(_positive("nfe", n))} for n in _listed(nfe)]
                if nfe is not None
                else [{"steps": _positive("steps", n)} for n in _listed(steps)]
            )
            if not counts:
                raise UserError(f"solver '{solver.name}': the list of its budgets is empty: give at least one")
            grids = [GRIDS.build(g) for g in _listed(solver.default_grid if grid is None else grid)]
            budgets += [Budget(solver=solver, grid=g, batch=b, **n) for b in batches for g in grids for n in counts]
    except UserError as error:
        raise ValueError(str(error)) from None
    return budgets


def _require_known_keys(spec: Any) -> None:
    """A solver's own keys, and those of its budget, which every entry of `sample.solvers` may have."""
    if isinstance(spec, dict) and isinstance(spec.get("name"), str):
        solver = SOLVERS.get(spec["name"])
        valid = [*solver.model_fields, *(["batch"] if solver.adaptive else ["nfe", "steps", "grid", "batch"])]
        for key in spec:
            if key not in ("name", *valid):
                raise UserError(f"solver '{solver.name}': {unknown('key', key, valid)}")


MOST_CALLS = 1_000_000


def _positive(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CALLS:
        raise UserError(f"{key} = {value!r}: whole numbers from 1 to {MOST_CALLS:,}")
    return value


MOST_SAMPLES = 10_000_000


class ReferenceSettings(_Strict):
    """How fine the reference solve is, `tolerance` in standard deviations of the data, and of how many samples if not all."""

    n: PositiveInt | None = None
    tolerance: PositiveFloat = 1e-5
    max_steps: int = Field(512, ge=32)


class SampleSettings(_Strict):
    """How much is sampled, how, and from which noise.

    `guidance` are the weights s of v = v_uncond + s (v_cond − v_uncond), an axis of conditional flows alone: s = 1 is the
    conditional flow itself, s = 0 the unconditional one; another convention's w is s − 1. A solver's `nfe` are network calls
    at every guidance. An evaluation costs one call at s = 0 and s = 1 and two at any other, so that `nfe: 16` is 16 Euler
    steps at s = 1 and 8 at s = 2; calls that do not come out even are an error. `steps` are steps whatever they cost.

    `precision` is that of the network's calls, as in training; metrics that call the network use float32. `compile` compiles the
    network for solvers of fixed steps. `keep` says whether all samples stay in the cache, or some to look at alone; where it is
    not given they do up to 64 MB a cell.
    """

    n: int = Field(10_000, ge=1, le=MOST_SAMPLES)
    batch: PositiveInt = 4096
    seed: Seed = 0
    guidance: Annotated[list[Guidance], BeforeValidator(_listed)] = Field(default=1.0, validate_default=True)
    solvers: list[Budget] = []  # may be left out where only given samples are measured
    reference: ReferenceSettings = ReferenceSettings()
    precision: Precision = "float32"
    compile: bool = False
    keep: bool | None = None

    @field_validator("guidance")
    @classmethod
    def _distinct_guidances(cls, values: list[float]) -> list[float]:
        return _distinct(values)

    @field_validator("solvers", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> list[Budget]:
        if not value or not isinstance(value, list):
            raise ValueError("a list with at least one solver, such as {name: euler, nfe: [1, 2, 4]}")
        budgets = [budget for item in value for budget in (_budgets(item) if not isinstance(item, Budget) else [item])]
        seen: set[tuple[str, str, int | None, int | None]] = set()
        for budget in budgets:
            cell = (budget.solver.label(), label_of(budget.grid), budget.steps, budget.batch)
            if cell in seen:
                raise ValueError(f"solver '{cell[0]}' with {budget.steps} steps is listed twice")
            seen.add(cell)
        return budgets

    @model_validator(mode="after")
    def _calls_come_out_even(self) -> SampleSettings:
        try:
            for budget, guidance in itertools.product(self.solvers, self.guidance):
                budget.at(guidance)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self


def _pairs_default() -> PairsSettings:
    return PairsSettings(n=20_000, solver=SOLVERS.build({"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}))


def _pairs(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    default = _pairs_default()
    if "solver" not in value:
        return {"n": default.n, "solver": default.solver, **value}
    solver = value["solver"]
    if value.get("steps") is not None and isinstance(solver, (str, dict)):
        solver = {**({"name": solver} if isinstance(solver, str) else solver), "steps": value["steps"]}
    budgets = _budgets(solver)
    if len(budgets) != 1 or (budgets[0].grid is not None and budgets[0].grid.name != "uniform"):
        raise ValueError("pairs are drawn by one solver at one budget, on the uniform grid")
    return {"n": default.n, **value, "solver": budgets[0].solver, "steps": budgets[0].steps}


class Suite(_Strict):
    """A whole suite: the schema of `suites/*.yaml`."""

    suite: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str = ""
    about: str = ""
    tier: Literal["cpu", "gpu", "cluster"] = "cpu"
    data: Annotated[Data, _built(DATA)] | None = None
    source: Annotated[Data, _built(DATA)] | None = None
    tasks: list[Task] = []
    flow: FlowAxes
    train: TrainSettings = TrainSettings()
    pairs: Annotated[PairsSettings, BeforeValidator(_pairs)] = Field(default_factory=_pairs_default)
    sample: SampleSettings
    metrics: Annotated[list[Metric], _several(METRICS)]
    claims: Annotated[list[Claim], _several(CLAIMS)] = []

    @field_validator("metrics")
    @classmethod
    def _distinct_metrics(cls, metrics: list[Metric]) -> list[Metric]:
        return _distinct(metrics)  # by the table's labels, which cannot tell two n of one metric apart

    @field_validator("claims")
    @classmethod
    def _distinct_claims(cls, claims: list[Claim]) -> list[Claim]:
        return _distinct(claims) if claims else claims

    @model_validator(mode="before")
    @classmethod
    def _recipe_written_out(cls, suite: Any) -> Any:
        try:
            return with_recipe(suite)
        except UserError as error:
            raise ValueError(f"train.recipe: {error}") from None

    @model_validator(mode="after")
    def _one_way_to_name_tasks(self) -> Suite:
        if (self.data is None) == (not self.tasks):
            raise ValueError("give either data (and, if you like, source) or tasks")
        if self.tasks and self.source is not None:
            raise ValueError("source stands inside each of the tasks, not beside them")
        for metric in self.metrics:
            n = getattr(metric, "n", None)
            if n is not None and n > MOST_SAMPLES:
                raise ValueError(f"metric '{metric.name}' asks for n = {n:,} samples: at most {MOST_SAMPLES:,}")
            if n is not None and metric.scope == "samples" and n > self.sample.n:
                raise ValueError(
                    f"metric '{metric.name}' asks for n = {n} samples, sample.n is {self.sample.n}: raise one or lower the other"
                )
        measured = {name for metric in self.metrics for name in (metric.name, metric.label())}
        for claim in self.claims:
            if lacking := [name for name in claim.needs() if name not in measured]:
                raise ValueError(
                    f"claim '{claim.label()}' needs {', '.join(lacking)}: add to metrics, or leave the claim out"
                )
        if not self.sample.solvers and not all(model.given for model in self.flow.model):
            raise ValueError("sample.solvers is missing: a list such as [{name: euler, nfe: [1, 2, 4]}]")
        self.problems()
        return self

    def problems(self) -> list[Task]:
        """The transport problems, however they were written."""
        if self.tasks:
            return self.tasks
        return [Task(data=self.data, **({} if self.source is None else {"source": self.source}))]

    def resolved(self) -> dict[str, Any]:
        """The whole suite with every default filled in, as plain values: what the manifest holds; `parse` reads it back."""
        plain: dict[str, Any] = _resolved(self)
        return plain if self.tasks else {**plain, "source": self.problems()[0].source.spec()}


def _resolved(value: Any) -> Any:
    if isinstance(value, Component):
        return value.spec()
    if isinstance(value, Budget):
        spent = {"steps": value.steps} if value.nfe is None else {"nfe": value.nfe}
        budget = {"grid": value.grid.spec(), **spent} if value.grid else {}
        return {**value.solver.spec(), **budget, **({} if value.batch is None else {"batch": value.batch})}
    if isinstance(value, BaseModel):
        return {name: _resolved(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [_resolved(item) for item in value]
    return value
