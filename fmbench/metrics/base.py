"""What a metric is, and everything that a metric may look at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..data.base import Data, Split
from ..errors import Skip, UserError
from ..flow.couplings import Coupling
from ..flow.paths import Path
from ..registry import Component
from ..statistics import Estimate, mean

Field = Callable[[Tensor, Tensor], Tensor]  # v(t, x), t () float64
Labelled = tuple[Tensor, Tensor, Tensor | None]  # pairs (x0, x1) with their labels, if they have any


@dataclass(frozen=True)
class Geometry:
    """One fine reference solve of a flow, from which every geometric metric is read (never solved again).

    Batches first, one entry a sample; `z0` is the state at t = 0, `z1` at the flow's end time.
    """

    z0: Tensor  # (n, *shape)
    z1: Tensor  # (n, *shape)
    start_velocity: Tensor  # (n, *shape): v(0, z0)
    energy: Tensor  # (n,) float64: ∫‖v(t, Z_t)‖² dt
    straightness: Tensor  # (n,) float64: ∫‖(Z1 − Z0) − v(t, Z_t)‖² dt
    length: Tensor  # (n,) float64: ∫‖v(t, Z_t)‖ dt
    error: float  # √(E‖Z1 − Z1 with half the steps‖² / D), the solve's own error
    pilot: int | None = None  # samples that `error` was estimated on: all when None

    @property
    def displacement(self) -> Tensor:
        """Z1 − Z0 `(n, D)`, float64."""
        return (self.z1.double() - self.z0.double()).flatten(1)


@dataclass(frozen=True)
class Resources:
    """What a solve cost."""

    nfe: float  # network calls per sample
    seconds: tuple[float, ...]  # wall seconds of each timed repetition
    peak_memory_mb: float | None  # None where the platform cannot tell
    nfe_stderr: float = 0.0  # where samples make calls of their own, of their mean; 0 where all make the same


@dataclass(frozen=True)
class Exact:
    """What a flow is made of, from which its exact values follow where they are known."""

    path: Path
    source: Data
    data: Data
    coupling: Coupling
    solve: Callable[[Field, Tensor], Tensor] | None = None  # v, z0 to z1 as a cell's solver does; None: the flow itself


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """All that is known of a training coupling."""

    data: Data
    source: Data
    coupling: Coupling
    train_batch: int
    coupled: Callable[
        [int], tuple[Tensor, Tensor]
    ]  # n fresh pairs (x0, x1), `(n, *shape)` each, as training draws them
    fixed: int | None = None  # how many pairs a reflow round has: no minibatch is paired
    seed: int = 0  # of the evaluation: names the streams of held-out draws and of fresh pairs


@dataclass(frozen=True, kw_only=True)
class Evidence(Pairing):
    """All that is known of one cell: a flow sampled by one solver. What a cell lacks is None."""

    path: Path
    generated: Tensor  # (n, *shape)
    geometry: Geometry  # of the flow; its first n samples start from the same z0 as `generated`
    resources: Resources
    label: Tensor | None = None  # (n,) int64: what each sample was asked to be, of a conditional flow
    teacher: Geometry | None = None  # of the flow that drew a reflow round's pairs, where the metric asks for it
    velocity: Field | None = None  # v(t, x) of the flow, float32, differentiable in x
    oracle: Field | None = None  # the exact marginal velocity, where it is known
    source_log_density: Callable[[Tensor], Tensor] | None = None  # of the state at t = 0
    conditional: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # v(t, x, label) of a conditional flow
    labelled: Callable[[int], Labelled] | None = None  # of a conditional flow: as `coupled`, with its labels
    ask: Callable[[int], Tensor] | None = None  # one network call at t = 0 on n copies of a sample, with its label
    end_time: float = 1.0  # the flow is integrated over [0, end_time]
    distilled: int = 0  # steps k of a student, which is asked at 0, 1/k, …, (k − 1)/k and at no other time
    reference_steps: int = 100  # fixed RK4 steps that make the reference solve accurate
    tolerance: float | None = None  # that the reference solve was held to, in standard deviations of the data
    reference_grid: Callable[[int], Tensor] | None = None  # steps to times `(steps + 1,)`; equal steps when None

    def pairs(self, n: int) -> Labelled:
        """n pairs as training draws them; of a conditional flow with their labels."""
        return (*self.coupled(n), None) if self.labelled is None else self.labelled(n)

    def asked(self, t: Tensor, x: Tensor, label: Tensor | None) -> Tensor:
        """The flow's velocity at points x of pairs with these labels.

        Raises:
            Skip: there is none.
        """
        if self.conditional is not None and label is not None:
            return self.conditional(t, x, label)
        if self.velocity is None:
            raise Skip("this needs the flow's velocity")
        return self.velocity(t, x)


PROMISED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "measure": ("an Estimate(value, stderr, n)", lambda given: isinstance(given, Estimate)),
    "distance": ("an Estimate(value, stderr, n)", lambda given: isinstance(given, Estimate)),
    "per_sample": ("a tensor (n,), one number a sample", lambda given: isinstance(given, Tensor) and given.dim() == 1),
}
"""What a metric's methods must give, in words, and whether they did."""


def _kept(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method; what it gives is told, where it is called, if it is not what it must be."""
    words, right = PROMISED[name]

    @functools.wraps(method)
    def called(self: Metric, *args: Any, **kwargs: Any) -> Any:
        if not right(given := method(self, *args, **kwargs)):
            what = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise UserError(f"metric '{self.name}': {name} gives {what}, not {words}")
        return given

    return called


class Metric(Component):
    """Base of all metrics. A plug-in derives from one of the bases below, or from this.

    `scope` says what the value belongs to: `samples` (every solver and budget), `flow` (once, solver = reference) or
    `coupling` (once, nothing trained or solved: derive from `CouplingMetric`).
    """

    unit: ClassVar[str]
    higher_is_better: ClassVar[bool | None] = False
    scope: ClassVar[Literal["samples", "flow", "coupling"]]
    source: ClassVar[str] = ""  # paper and equation
    asks_teacher: ClassVar[bool] = False  # needs `Evidence.teacher`; asked of students, too, at their own calls

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name in vars(cls).keys() & PROMISED.keys():
            setattr(cls, name, _kept(name, vars(cls)[name]))
        if getattr(cls, "scope", "flow") not in (scopes := ("samples", "flow", "coupling")):
            raise UserError(f"metric {cls.__name__}: scope = {cls.scope!r}: valid are {', '.join(scopes)}")

    def label(self) -> str:
        """The name with its parameters, less n: the table has a column for that."""
        fields = type(self).model_fields
        plain = self.model_copy(update={"n": fields["n"].default}) if "n" in fields else self
        return Component.label(plain)

    def measure(self, evidence: Evidence) -> Estimate:
        """The value with its standard error and n.

        Raises:
            Skip: the metric makes no sense for this cell; the reason becomes the row's.
        """
        raise NotImplementedError

    def true_value(self, flow: Exact) -> float | None:
        """The exact value for the exact flow, where it is known; of samples, as `flow.solve` makes them."""
        return None

    def has_true_value(self, flow: Exact) -> bool:
        """Whether `true_value` is known: asked while planning, so override it where computing the value takes time."""
        return self.true_value(flow) is not None

    def floor(self, data: Data, n: int, seed: int) -> Estimate | None:
        """The same metric between independent draws of real data; None where that means nothing."""
        return None

    def has_floor(self, data: Data) -> bool:
        """Whether `floor` means something on this data set: known without computing it."""
        return False


class TwoSampleMetric(Metric):
    """A distance between generated samples and real ones. Implement `distance`.

    `n` is taken from both sides (when None: all generated samples, up to `most`); a finite split with fewer gives all.
    """

    scope: ClassVar[Literal["samples", "flow", "coupling"]] = "samples"
    against: ClassVar[Split] = "test"
    most: ClassVar[int | None] = None  # what a default n is held to, where time grows fast
    n: PositiveInt | None = None

    def has_floor(self, data: Data) -> bool:
        return True

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        """x `(n, D)` generated, y `(m, D)` real, float64."""
        raise NotImplementedError

    def real(self, data: Data, split: Split, n: int, seed: int) -> Tensor:
        """The real samples `(m, *shape)` of one side."""
        return take_up_to(data, split, n, seed)

    def measure(self, evidence: Evidence) -> Estimate:
        x = first_generated(evidence, self.n)[: self.n or self.most]
        return self.distance(_flat(x), _flat(self.real(evidence.data, self.against, len(x), evidence.seed)))

    def floor(self, data: Data, n: int, seed: int) -> Estimate | None:
        """Train against test, n samples a side, one pair of draws; `against` names the side that stays real."""
        n = self.n or min(n, self.most or n)
        splits: tuple[Split, Split] = ("train", "test") if self.against == "test" else ("test", "train")
        x, y = (_flat(self.real(data, split, n, seed)) for split in splits)
        return self.distance(x, y)


class PerSampleMetric(Metric):
    """The mean of one number per sample of the reference solve. Implement `per_sample`."""

    scope = "flow"

    def per_sample(self, geometry: Geometry) -> Tensor:
        """`(n,)` float64."""
        raise NotImplementedError

    def measure(self, evidence: Evidence) -> Estimate:
        values, n = self.per_sample(evidence.geometry), len(evidence.geometry.z1)
        if len(values) != n:
            raise UserError(
                f"metric '{self.name}': per_sample gives {len(values)} numbers for {n} samples: one each is meant"
            )
        return mean(values)


class CouplingMetric(Metric):
    """A property of the pairs that training sees. Implement `measure`, which is given a `Pairing` alone."""

    scope = "coupling"

    def measure(self, evidence: Pairing) -> Estimate:
        raise NotImplementedError


def first_generated(evidence: Evidence, n: int | None) -> Tensor:
    """The first n generated samples, all when None."""
    x = evidence.generated
    if n is not None and n > len(x):
        raise Skip(f"n = {n} samples asked for, {len(x)} generated: raise sample.n or lower the metric's n")
    return x[:n]


def take_up_to(data: Data, split: Split, n: int, seed: int) -> Tensor:
    """n samples of a split, or all of a finite split that holds fewer."""
    size = data.size(split)
    return data.take(split, n if size is None or size >= n else None, seed)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).to("cpu", torch.float64)
