"""A user's own claim in a line of YAML: a metric at some rows against the same metric at others."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ..errors import unknown
from ..table import FLOW, SAMPLER, TASK
from .base import Claim, Contrast, pairwise
from .cells import Cells
from .guards import same_noise

COLUMNS = (*TASK[1:], *FLOW, *SAMPLER)


class Comparison(Claim):
    """A metric at `at` is no more than at `than`, all else equal.

    `{name: comparison, id: …, metric: w2, at: {coupling: minibatch-ot}, than: {coupling: independent}, margin: 0.05}`.
    Both sides are named by columns of the table. `margin` is a fraction of the right side; 0 asks for strictly less.
    """

    name = "comparison"
    source = "the suite"
    metrics = ()
    guards = (same_noise,)
    id: str = Field("comparison", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    about: str = ""
    metric: str = "w2"
    at: dict[str, Any] = {"coupling": "minibatch-ot"}
    than: dict[str, Any] = {"coupling": "independent"}
    margin: float = Field(0.0, ge=0)

    @field_validator("at", "than")
    @classmethod
    def _known_columns(cls, side: dict[str, Any]) -> dict[str, Any]:
        for column in side:
            if column not in COLUMNS:
                raise ValueError(str(unknown("column", column, COLUMNS)))
        return side

    @property
    def statement(self) -> str:
        return self.about or f"{self.metric} at {_words(self.at)} is no more than at {_words(self.than)}"

    def label(self) -> str:
        return self.id

    def needs(self) -> list[str]:
        return [self.metric]

    def contrasts(self, cells: Cells) -> list[Contrast]:
        return pairwise(cells, self.metric, self.at, self.than, self.margin)


def _words(side: dict[str, Any]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in side.items()) or "all rows"
