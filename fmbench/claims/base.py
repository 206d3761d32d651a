"""What a claim is: a statement, what it needs, and the differences that decide it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from ..contrasts import Difference, combination
from ..errors import UserError
from ..registry import Component
from ..table import FLOOR, REFERENCE, TRUTH, bare, is_raw
from .axes import Side, holds, words
from .cells import Cell, Cells, NotTested, needed


@dataclass(frozen=True)
class Contrast:
    """One comparison of a claim, written so that the claim says: left − right ≤ margin.

    `right` is None where left is held against a number. The margin is a number, in the unit of the difference.
    """

    about: str  # which comparison, for people
    difference: Difference
    margin: float
    left: Cell
    right: Cell | None = None
    also: tuple[Cell, ...] = ()  # further cells that went into it
    most: float = math.inf  # the largest value that the difference can have

    def detectable(self, level: float) -> float:
        """The smallest true difference that a test at `level`, two-sided, finds beyond the margin with a chance of 80 %.

        Infinite where no possible one would be found. The largest possible one does not scatter: there is nothing beyond.
        """
        seen = self.margin + self.difference.detectable(level)
        if seen <= self.most:
            return seen
        return self.most if replace(self.difference, value=self.most).p_above(self.margin) <= level / 2 else math.inf

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (self.left, *((self.right,) if self.right else ()), *self.also)


@dataclass(frozen=True)
class Guard:
    """A reason for which a comparison may not be believed; `check` gives it in words, or None."""

    name: str
    metrics: tuple[str, ...]  # what it reads beside the claim's own metrics
    check: Callable[[Cells, Contrast], str | None]


class Claim(Component):
    """Base of all claims. Its statement is the first paragraph of its docstring. Implement `contrasts`.

    A claim is supported where ALL its contrasts are shown to be below their margins, refuted where ANY is shown to be
    above; `alpha` bounds the chance of either mistake.
    """

    source: ClassVar[str] = ""  # paper and equation
    metrics: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[tuple[Side, ...]] = ()  # a suite without a row on each of these sides cannot test it
    effect: ClassVar[str] = "left − right"  # what is estimated, in each comparison
    rule: ClassVar[str] = "effect ≤ margin"  # what is to be shown of it
    guards: ClassVar[tuple[Guard, ...]] = ()
    alpha: float = Field(0.05, gt=0, lt=0.5)

    @property
    def statement(self) -> str:
        return " ".join((type(self).__doc__ or "").split("\n\n")[0].split())

    def checks(self) -> tuple[Guard, ...]:
        """The guards that each of its contrasts must pass: the class's, unless it is told others."""
        return self.guards

    def needs(self) -> list[str]:
        """The metrics without which it cannot be tested."""
        return list(dict.fromkeys([*self.metrics, *(name for guard in self.checks() for name in guard.metrics)]))

    def check(self, planned: Sequence[Mapping[str, Any]]) -> None:
        """Raises `UserError` where no row that the suite plans, given by its identity columns, can speak of it."""
        measured = [row for row in planned if {row["metric"], bare(row["metric"])} & set(self.needs())]
        for side in self.axes:
            if not any(holds(row, side) for row in measured if row["model"] not in (FLOOR, TRUTH)):
                raise UserError(
                    f"claim '{self.label()}' needs rows with {words(side)}, and the suite plans none: "
                    "add them to flow or sample, or leave the claim out"
                )

    def contrasts(self, cells: Cells) -> list[Contrast]:
        """All comparisons that the table allows.

        Raises:
            NotTested: something that the claim cannot do without is missing.
        """
        raise NotImplementedError


class Pairwise(Claim):
    """Base of claims "metric at X < metric at Y, all else equal": give `metric`, `at`, `than` and perhaps `margin`.

    `margin` is a fraction of the right side's value. 0 asks for a strictly smaller left side. Its axes, effect and rule
    follow from these, unless the class gives its own.
    """

    rule = "effect ≤ margin × right side"

    metric: ClassVar[str]
    at: ClassVar[dict[str, Any]]
    than: ClassVar[dict[str, Any]]
    margin: float = Field(0.0, ge=0)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if all(hasattr(cls, given) for given in ("metric", "at", "than")):
            cls.axes = vars(cls).get("axes", (cls.at, cls.than))
            cls.effect = vars(cls).get("effect", f"{cls.metric} at {words(cls.at)} − at {words(cls.than)}")

    def needs(self) -> list[str]:
        return list(dict.fromkeys([self.metric, *super().needs()]))

    def contrasts(self, cells: Cells) -> list[Contrast]:
        return pairwise(cells, self.metric, self.at, self.than, self.margin)


def pairwise(cells: Cells, metric: str, at: dict[str, Any], than: dict[str, Any], margin: float) -> list[Contrast]:
    """Every cell of the metric at `at` against its partners at `than`; columns named by neither must agree."""
    found = [(a, b) for a in cells.find(metric, **at) for b in cells.partners(a, free=set(at), **than)]
    for a, b in needed(found, "missing rows", f"no {metric} with {words(at)} beside one with {words(than)}"):
        if a["data"] != b["data"] and is_raw(a["unit"]):
            both = f"{a['data']} and {b['data']}"
            raise NotTested("one scale", f"{metric} is in {a['unit']}, which are not the same on {both}")
    return [no_more(a, b, margin * abs(b.value)) for a, b in found]


def no_more(left: Cell, right: Cell, margin: float = 0.0) -> Contrast:
    """left ≤ right + margin."""
    about = f"{left['metric']}: {_place(left, right)} against {_place(right, left)}"
    return Contrast(about, combination([(1, left.rows), (-1, right.rows)]), margin, left, right)


def at_most(about: str, left: Cell, limit: float, *, sign: int = 1, also: tuple[Cell, ...] = ()) -> Contrast:
    """left ≤ limit; with sign = −1: −left ≤ limit."""
    return Contrast(about, combination([(sign, left.rows)]), limit, left, also=also)


def both_ways(left: Cell, right: Cell, margin: float) -> list[Contrast]:
    """|left − right| ≤ margin."""
    return [no_more(left, right, margin), no_more(right, left, margin)]


def _place(cell: Cell, other: Cell) -> str:
    """What tells a cell from the other one, in words."""
    if cell.metric != other.metric:
        return cell.metric
    solve = () if cell["solver"] == REFERENCE else ("solver", "nfe", "rtol")
    columns = ("path", "coupling", "prediction", "times", "model", "reflow", "distilled", *solve)
    shown = [f"{name}={_short(cell[name])}" for name in columns if cell[name] != other[name] and cell[name] is not None]
    return ", ".join(shown) + f" on {cell['data']}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
