"""How claims look at a table: its cells (one value a seed), their partners and what else was measured of a flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ..contrasts import Row, by_seed, mean, mean_value
from ..paired import REUSED, SPREAD
from ..table import FLOOR, FLOW, IDENTITY, REFERENCE, SAMPLER, TASK, TRUTH, bare, cell_key
from .axes import takes

Found = TypeVar("Found", bound=Collection[Any])


class NotTested(Exception):
    """Why a claim cannot be decided here: the guard that failed, and what it saw."""

    def __init__(self, guard: str, reason: str):
        super().__init__(f"{guard}: {reason}")
        self.guard, self.reason = guard, reason


def needed(found: Found, guard: str, reason: str) -> Found:
    """What was found; nothing at all leaves the claim untested."""
    if not found:
        raise NotTested(guard, reason)
    return found


@dataclass(frozen=True)
class Cell:
    """The rows of one metric of one flow under one sampler: they differ in their seeds alone."""

    rows: tuple[Row, ...]

    def __getitem__(self, column: str) -> Any:
        return self.rows[0][column]

    @property
    def metric(self) -> str:
        """The metric's name without its parameters."""
        return bare(self["metric"])

    @cached_property
    def value(self) -> float:
        """The mean over seeds."""
        return mean(mean_value(rows) for rows in by_seed(self.rows).values())

    @cached_property
    def stderr(self) -> float:
        """What the samples leave open (seeds share them), as far as it is known."""
        known = [stderr for row in self.rows if math.isfinite(stderr := stderr_of(row))]
        return math.sqrt(mean(stderr**2 for stderr in known)) if known else 0.0

    @cached_property
    def nfe(self) -> float:
        return mean(float(row["nfe"] or math.nan) for row in self.rows)

    @property
    def sound(self) -> bool:
        return all(
            row["status"] == "ok" and row["value"] is not None and math.isfinite(row["value"]) for row in self.rows
        )

    @property
    def flow(self) -> str:
        """The flow in words, as far as claims tell flows apart."""
        round_ = f", round {self['reflow']}" if self["reflow"] else ""
        return f"{self['method']}{round_} on {self['data']}"

    def mapped(self, value: Callable[[float], float], slope: Callable[[float], float]) -> Cell:
        """The same cell with each value f(x) and, by the delta method, its standard error |f'(x)| · stderr."""

        def one(row: Row) -> Row:
            by, array = slope(row["value"]), row.get("per_sample")
            changed = {"value": value(row["value"]), "stderr": abs(by) * stderr_of(row)}
            return {**row, **changed, "per_sample": None if array is None else by * array}

        return Cell(tuple(map(one, self.rows)))


class Cells:
    """The table of one result, ready for claims. What was skipped makes no sense for its flow: it is not there.

    Args:
        rows: as `table.records` gives them.
        facts: of each data set, by its label, as the manifest's `data` holds them.
        per_sample: of rows, by their keys, the values `(n,)` whose mean is the row's value, where they are known; and what
            else `by_sample.gather` keeps.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        facts: Mapping[str, Any] | None = None,
        per_sample: Mapping[str, Any] | None = None,
    ):
        self.facts, kept = facts or {}, per_sample or {}
        self.reused, self.kept = frozenset(map(str, kept.get(REUSED, ()))), kept
        cells: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            if row["model"] != TRUTH and row["metric"] is not None and row["status"] != "skipped":
                cells.setdefault(cell_key(row), []).append({**row, "per_sample": kept.get(row["key"])})
        made = [Cell(tuple(rows)) for rows in cells.values()]
        self.floors = [cell for cell in made if cell["model"] == FLOOR]
        self.measured = [cell for cell in made if cell["model"] != FLOOR]

    def find(self, metric: str, *, broken: bool = False, **where: Any) -> list[Cell]:
        """The cells of a metric in which each column has the value (or its bare name, or one of a list).

        Raises:
            NotTested: a seed of such a cell has no value, unless `broken`: then such cells are left out.
        """
        found = self._named(metric, lambda cell: all(takes(cell[column], wanted) for column, wanted in where.items()))
        return [cell for cell in found if cell.sound] if broken else [_whole(cell) for cell in found]

    def partners(self, cell: Cell, free: set[str] | None = None, **where: Any) -> list[Cell]:
        """Cells of the same metric that differ from this one in the columns named (and those in `free`) alone."""
        named = {*where, *(free or ()), "method"}
        named |= set(SAMPLER) - {"grid"} if named & set(SAMPLER) else set()
        named |= {"path", "coupling", "reflow"} if "method" in where else set()
        # Rounds and students may have a law of times of their own: where none has the cell's, that is no other difference.
        later = bool(named & {"reflow", "distilled"})
        others = [
            other
            for other in self.find(cell["metric"], **where)
            if other is not cell
            and all(other[c] == cell[c] for c in _settings(cell) if c not in named and not (later and c == "times"))
        ]
        alike = [other for other in others if other["times"] == cell["times"]]
        return alike if alike and "times" not in named else others

    def beside(self, cell: Cell, metric: str) -> Cell | None:
        """Another metric of the flow itself (or of its training coupling), None where it was not measured."""
        return next((_whole(found) for found in self._of_flow(cell, metric) if found["solver"] == REFERENCE), None)

    def required(self, cell: Cell, metric: str) -> Cell:
        """As `beside`; what is missing leaves the claim untested."""
        found = self.beside(cell, metric)
        if found is None:
            raise NotTested("missing rows", f"no {metric} of {cell.flow}")
        return found

    def finest(self, cell: Cell, metric: str) -> Cell:
        """A sampled metric of the flow at its most network calls."""
        sampled = [found for found in self._of_flow(cell, metric) if found.sound]
        return max(needed(sampled, "missing rows", f"no {metric} of {cell.flow}"), key=lambda found: found.nfe)

    def _of_flow(self, cell: Cell, metric: str) -> list[Cell]:
        return self._named(metric, lambda found: all(_agree(found, cell, name) for name in (*TASK, *FLOW)))

    def _named(self, metric: str, wanted: Callable[[Cell], bool]) -> list[Cell]:
        """The wanted cells of a metric, named with its parameters or without."""
        return [cell for cell in self.measured if metric in (cell["metric"], cell.metric) and wanted(cell)]

    def spread_of(self, cell: Cell) -> Cell | None:
        """E‖Z1 − E Z1‖² of the flow's ends, with its values sample by sample; None where a seed's are not kept."""
        rows = []
        for row in self.required(cell, "transport_cost").rows:
            array = self.kept.get(SPREAD + str(row["key"]))
            if array is None or len(array) < 2:
                return None
            value, n = float(np.mean(array, dtype=np.float64)), len(array)
            stderr = float(np.std(array, ddof=1, dtype=np.float64)) / math.sqrt(n)
            known = {"value": value, "stderr": stderr, "freedom": n - 1, "per_sample": array}
            rows.append({**row, "metric": "spread", **known})
        return Cell(tuple(rows))

    def floor(self, cell: Cell) -> Cell | None:
        """The same metric between real samples, None where it was not measured."""
        same = [f for f in self.floors if all(f[name] == cell[name] for name in ("metric", "data", "source"))]
        return next((floor for floor in same if floor.sound), None)

    def dims(self, cell: Cell) -> int | None:
        """The number of dimensions of the flow's data, None where the manifest does not say."""
        facts = self.facts.get(cell["data"])
        return facts.get("dims") if isinstance(facts, Mapping) else None

    def spread(self, cell: Cell) -> float:
        """√(E‖x1 − E x1‖²) of the flow's data.

        Raises:
            NotTested: the manifest does not say.
        """
        facts = self.facts.get(cell["data"])
        if not isinstance(facts, Mapping) or not facts.get("std") or not facts.get("dims"):
            raise NotTested("missing facts", f"the manifest does not say how far {cell['data']} spreads")
        return float(facts["std"]) * math.sqrt(facts["dims"])


def stderr_of(row: Row) -> float:
    return math.inf if row["stderr"] is None else float(row["stderr"])


def _settings(cell: Cell) -> list[str]:
    outcomes = ("nfe", "steps") if cell["rtol"] is not None or cell["solver"] == REFERENCE else ()
    return [name for name in IDENTITY if name not in (*outcomes, "unit", "higher_is_better", "suite")]


def _agree(a: Cell, b: Cell, column: str) -> bool:
    """Whether two cells may be of one flow by this column: a training coupling knows no guidance."""
    return a[column] == b[column] or (column == "guidance" and None in (a[column], b[column]))


def _whole(cell: Cell) -> Cell:
    if not cell.sound:
        bad = next(row for row in cell.rows if not Cell((row,)).sound)
        state = bad["status"] if bad["status"] != "ok" else "without a finite value"
        raise NotTested(
            "failed rows", f"{cell['metric']} of {cell.flow} is {state}: {bad['reason'] or 'no reason given'}"
        )
    return cell
