"""The schema of suites, strictly: unknown keys, names and values are errors that name the nearest match."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .budgets import Budget, budgets_of
from .claims import CLAIMS, Claim
from .data import DATA
from .data.base import Data, shape_of
from .errors import UserError, unknown
from .fields import Strict, built, distinct, label_of, listed, name_of, several
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
from .registry import Component
from .solvers import SOLVERS
from .stages.arithmetic import Precision
from .stages.flow import PairsSettings, TrainSettings
from .table import bare

Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]  # a column of the table holds it
Round = Annotated[int, Field(ge=0, le=100)]  # each trains all the rounds below it
Guidance = Annotated[float, Field(ge=0, le=1000)]
Steps = Annotated[int, Field(ge=0, le=1000)]  # of a student; 0: no student
DISTINCT = AfterValidator(distinct)  # by the table's labels, which cannot tell two n of one metric apart


class Task(Strict):
    """One transport problem: from `source` to `data`."""

    data: Annotated[Data, built(DATA)]
    source: Annotated[Data, built(DATA)] = Field(default="normal", validate_default=True)

    @model_validator(mode="after")
    def _same_shape(self) -> Task:
        try:
            shape, ours = shape_of(self.data), shape_of(self.source)
        except UserError as error:
            raise ValueError(str(error)) from error
        if self.source.name == "normal" and "dims" not in self.source.model_fields_set:
            # The standard normal takes the shape of what it is carried to.
            object.__setattr__(self, "source", DATA.build({"name": "normal", "dims": shape}))
        elif ours != shape:
            raise ValueError(f"source '{self.source.name}' has shape {ours}, data '{self.data.name}' {shape}")
        return self


class FlowAxes(Strict):
    """The axes whose product are the flows; each a value or a list."""

    path: Annotated[list[Path], several(PATHS), DISTINCT] = Field(default="rectified", validate_default=True)
    coupling: Annotated[list[Coupling], several(COUPLINGS), DISTINCT] = Field(
        default="independent", validate_default=True
    )
    prediction: Annotated[list[Prediction], BeforeValidator(listed), DISTINCT] = Field(
        default="velocity", validate_default=True
    )
    times: Annotated[list[TimeLaw], several(TIMES), DISTINCT] = Field(default="uniform", validate_default=True)
    model: Annotated[list[Model], several(MODELS), DISTINCT] = Field(default="mlp", validate_default=True)
    reflow: Annotated[list[Round], BeforeValidator(listed), DISTINCT] = Field(default=0, validate_default=True)
    distilled: Annotated[list[Steps], BeforeValidator(listed), DISTINCT] = Field(default=0, validate_default=True)
    seed: Annotated[list[Seed], BeforeValidator(listed), DISTINCT] = Field(default=0, validate_default=True)
    exclude: list[dict[str, Any]] = []

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
                for value in listed(values):
                    if str(value) not in have:
                        raise ValueError(str(unknown(f"{axis} to exclude", value, have)))
        return self


MOST_SAMPLES = 10_000_000


class ReferenceSettings(Strict):
    """How fine the reference solve is, `tolerance` in standard deviations of the data, and of how many samples if not all."""

    n: PositiveInt | None = None
    tolerance: PositiveFloat = 1e-5
    max_steps: int = Field(512, ge=32)


class SampleSettings(Strict):
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
    guidance: Annotated[list[Guidance], BeforeValidator(listed), DISTINCT] = Field(default=1.0, validate_default=True)
    solvers: list[Budget] = []  # may be left out where only given samples are measured
    reference: ReferenceSettings = ReferenceSettings()
    precision: Precision = "float32"
    compile: bool = False
    keep: bool | None = None

    @field_validator("solvers", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> list[Budget]:
        if not value or not isinstance(value, list):
            raise ValueError("a list with at least one solver, such as {name: euler, nfe: [1, 2, 4]}")
        budgets = [
            budget for item in value for budget in (budgets_of(item) if not isinstance(item, Budget) else [item])
        ]
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
    budgets = budgets_of(solver)
    if len(budgets) != 1 or (budgets[0].grid is not None and budgets[0].grid.name != "uniform"):
        raise ValueError("pairs are drawn by one solver at one budget, on the uniform grid")
    return {"n": default.n, **value, "solver": budgets[0].solver, "steps": budgets[0].steps}


class Difference(Strict):
    """What is known of why values differ from published ones: the report shows it beside every value that it is about.

    Each of `data`, `method` and `metric` is a name of the table, or several; what is left out is any. A bare data set stands
    for its variants, too.
    """

    data: Annotated[list[str], BeforeValidator(listed)] = []
    method: Annotated[list[str], BeforeValidator(listed)] = []
    metric: Annotated[list[str], BeforeValidator(listed)] = []
    because: str = Field(min_length=1)

    @field_validator("data", "metric")
    @classmethod
    def _known_names(cls, names: list[str], info: ValidationInfo) -> list[str]:
        for name in names:
            valid = (DATA if info.field_name == "data" else METRICS).names()
            if bare(name) not in valid:
                raise ValueError(str(unknown(info.field_name or "", name, valid)))
        return names


class Suite(Strict):
    """A whole suite: the schema of `suites/*.yaml`."""

    suite: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str = ""
    about: str = ""
    tier: Literal["cpu", "gpu", "cluster"] = "cpu"
    data: Annotated[Data, built(DATA)] | None = None
    source: Annotated[Data, built(DATA)] | None = None
    tasks: list[Task] = []
    flow: FlowAxes
    train: TrainSettings = TrainSettings()
    pairs: Annotated[PairsSettings, BeforeValidator(_pairs)] = Field(default_factory=_pairs_default)
    sample: SampleSettings
    metrics: Annotated[list[Metric], several(METRICS), DISTINCT]
    claims: Annotated[list[Claim], several(CLAIMS)] = []
    differences: list[Difference] = []

    @field_validator("claims")
    @classmethod
    def _distinct_claims(cls, claims: list[Claim]) -> list[Claim]:
        return distinct(claims) if claims else claims

    @model_validator(mode="before")
    @classmethod
    def _recipe_written_out(cls, suite: Any) -> Any:
        try:
            return with_recipe(suite)
        except UserError as error:
            raise ValueError(f"train.recipe: {error}") from None

    @model_validator(mode="after")
    def _claims_bring_their_metrics(self) -> Suite:
        """What a claim needs is measured, listed or not; a metric with parameters that it names must be listed."""
        metrics = list(self.metrics)
        for claim in self.claims:
            for name in claim.needs():
                if not any(name in (metric.name, metric.label()) for metric in metrics):
                    try:
                        metrics.append(METRICS.build(name))
                    except UserError as error:
                        raise ValueError(f"claim '{claim.label()}' needs {name}: {error}") from None
        object.__setattr__(self, "metrics", metrics)
        return self

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
