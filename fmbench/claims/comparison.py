"""A user's own claim in a line of YAML: a metric at some rows against the same metric at others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from ..errors import unknown
from ..table import FLOW, SAMPLER, TASK, bare
from .base import Claim, Contrast, Guard, pairwise
from .cells import Cells
from .guards import NAMED

COLUMNS = (*TASK[1:], *FLOW, *SAMPLER)
EXAMPLE = "{name: comparison, metric: w2, at: {coupling: minibatch-ot}, than: {coupling: independent}}"


class Comparison(Claim):
    """A metric at `at` is no more than at `than`, all else equal.

    `{name: comparison, id: …, metric: w2, at: {coupling: minibatch-ot}, than: {coupling: independent}, margin: 0.05}`.
    Both sides are named by columns of the table; values in data units of two data sets are not compared. `margin` is a fraction
    of the right side; 0 asks for strictly less.
    `guards: [same z0, marginal error, integration error, fresh z0]` names what must hold beside it: the first alone, unless told.
    """

    name = "comparison"
    effect = "the metric at `at` − at `than`"
    rule = "effect ≤ margin × right side"
    source = "the suite"
    id: str = Field("comparison", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    about: str = ""
    metric: str
    at: dict[str, Any]
    than: dict[str, Any]
    margin: float = Field(0.0, ge=0)
    chosen: tuple[str, ...] = Field(("same z0",), alias="guards")

    @model_validator(mode="before")
    @classmethod
    def _says_what_it_compares(cls, given: Any) -> Any:
        if isinstance(given, dict) and (lacking := [key for key in ("metric", "at", "than") if key not in given]):
            raise ValueError(f"it does not say what to compare: give {', '.join(lacking)}, as in {EXAMPLE}")
        return given

    @field_validator("at", "than")
    @classmethod
    def _known_columns(cls, side: dict[str, Any]) -> dict[str, Any]:
        for column in side:
            if column not in COLUMNS:
                raise ValueError(str(unknown("column", column, COLUMNS)))
        return side

    @field_validator("chosen")
    @classmethod
    def _known_guards(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in NAMED:
                raise ValueError(str(unknown("guard", name, NAMED)))
        return names

    def parameters(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @property
    def statement(self) -> str:
        return self.about or f"{self.metric} at {_words(self.at)} is no more than at {_words(self.than)}"

    def label(self) -> str:
        return self.id

    def check(self, planned: Sequence[Mapping[str, Any]]) -> None:
        rows = [columns for columns in planned if self.metric in (columns["metric"], bare(columns["metric"]))]
        for side in (self.at, self.than):
            for column, wanted in side.items():
                have = {columns.get(column) for columns in rows} - {None}
                names = have | {bare(value) for value in have if isinstance(value, str)}
                for value in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
                    if value not in names:
                        shown = sorted(f"{item:g}" if isinstance(item, float) else str(item) for item in have)
                        kind = f"{column} of claim '{self.id}'"
                        raise unknown(
                            kind, value, shown, remedy=f"These are the values beside {self.metric} in this suite."
                        )

    def checks(self) -> tuple[Guard, ...]:
        return tuple(NAMED[name] for name in self.chosen)

    def needs(self) -> list[str]:
        return list(dict.fromkeys([self.metric, *super().needs()]))

    def contrasts(self, cells: Cells) -> list[Contrast]:
        return pairwise(cells, self.metric, self.at, self.than, self.margin)


def _words(side: dict[str, Any]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in side.items()) or "all rows"
