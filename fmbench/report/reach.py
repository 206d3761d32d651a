"""The report's answer to "how many network calls does each flow need?"."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..errors import UserError
from ..results import Results
from ..table import records
from .tables import Cell, Grid, tasks

WITHIN = 0.05


def reach_grids(results: Results) -> list[Grid]:
    """For each task: fixed-step solvers down, flows across; cells read "8 (4 to 16)", calls and their 95 % interval.

    Empty where the question does not apply: no fixed-step solver with two budgets, or a main metric without a direction.
    """
    try:
        table = results.nfe_to_reach(within=WITHIN)
    except UserError:
        return []
    table = table[table["budgets"] + table["failed"] > 1]  # one budget is no answer to how many
    if table.empty:
        return []
    parts = tasks(table)
    title = (
        f"Network calls to come within {100 * WITHIN:g} % of the flow's own best {results.main_metric} (95 % interval)"
    )
    return [_grid(f"{title} · {name}" if len(parts) > 1 else title, part) for name, part in parts]


def _grid(title: str, table: pd.DataFrame) -> Grid:
    lines = records(table)
    flows = tuple(dict.fromkeys(str(line["flow"]) for line in lines))
    cells = {(line["sampler"], line["flow"]): Cell(reach_text(line)) for line in lines}
    samplers = dict.fromkeys(str(line["sampler"]) for line in lines)
    rows = tuple(((sampler,), tuple(cells.get((sampler, flow)) for flow in flows)) for sampler in samplers)
    return Grid(title, ("fixed-step solver",), flows, rows)


def reach_text(line: dict[str, Any]) -> str:
    """ "8 (4 to 16)"; "8" where the interval is that budget alone; "not reached" or an end "never" where infinite."""
    nfe, low, high = line["nfe"], line["low"], line["high"]
    mark = " †" if line["failed"] else ""
    text = "not reached" if math.isinf(nfe) else f"{nfe:g}"
    if low == high:
        return text + mark
    return f"{text} ({low:g} to {'never' if math.isinf(high) else f'{high:g}'}){mark}"
