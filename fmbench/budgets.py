"""Budgets: one solver and what it may spend, as `sample.solvers` and `pairs.solver` say it."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt

from .errors import UserError, unknown
from .fields import Strict, listed, product
from .flow.paths import Path
from .solvers import GRIDS, SOLVERS
from .solvers.base import Solver
from .solvers.grids import Grid


class Budget(Strict):
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


def budgets_of(value: Any) -> list[Budget]:
    """`{name: heun, nfe: [2, 4]}`, `{name: dopri5, rtol: …}` or a bare name, for one entry of `sample.solvers`."""
    item = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else value
    if not isinstance(item, dict):
        raise ValueError(f"{value!r} is no solver: write a name or a mapping with a name")
    nfe, steps, grid, batch = (item.pop(key, None) for key in ("nfe", "steps", "grid", "batch"))
    budgets: list[Budget] = []
    try:
        batches = [None] if batch is None else [_positive("batch", b) for b in listed(batch)]
        for spec in product(SOLVERS, item):
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
                [{"nfe": n, "steps": solver.steps_for(_positive("nfe", n))} for n in listed(nfe)]
                if nfe is not None
                else [{"steps": _positive("steps", n)} for n in listed(steps)]
            )
            if not counts:
                raise UserError(f"solver '{solver.name}': the list of its budgets is empty: give at least one")
            grids = [GRIDS.build(g) for g in listed(solver.default_grid if grid is None else grid)]
            budgets += [Budget(solver=solver, grid=g, batch=b, **n) for b in batches for g in grids for n in counts]
    except UserError as error:
        raise ValueError(str(error)) from None
    return budgets


MOST_CALLS = 1_000_000


def _positive(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_CALLS:
        raise UserError(f"{key} = {value!r}: whole numbers from 1 to {MOST_CALLS:,}")
    return value


def _require_known_keys(spec: Any) -> None:
    """A solver's own keys, and those of its budget, which every entry of `sample.solvers` may have."""
    if isinstance(spec, dict) and isinstance(spec.get("name"), str):
        solver = SOLVERS.get(spec["name"])
        valid = [*solver.model_fields, *(["batch"] if solver.adaptive else ["nfe", "steps", "grid", "batch"])]
        for key in spec:
            if key not in ("name", *valid):
                raise UserError(f"solver '{solver.name}': {unknown('key', key, valid)}")
