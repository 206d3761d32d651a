"""Reflow rounds in a table: one flow, rectified again and again, and the couplings that its rounds were trained on."""

from __future__ import annotations

from .cells import Cell, Cells, NotTested, needed
from .guards import TRAINED


def chains(cells: Cells, metric: str) -> list[list[Cell]]:
    """The cells of a metric of rectified flows, one list for the rounds 0, 1, … of a flow."""
    found = []
    for first in cells.find(metric, path="rectified", reflow=0, distilled=0):
        laws = {other["times"] for other in cells.partners(first, free={"times"})}  # of other chains
        later = [cell for cell in cells.partners(first, free={"reflow", "times"}) if cell["times"] not in laws]
        chain = [first]
        while (following := _following(chain, later)) is not None:
            chain.append(following)
        found.append(chain)
    return needed(found, "missing rows", f"no {metric} of a flow with path = rectified")


def _following(chain: list[Cell], later: list[Cell]) -> Cell | None:
    """The next round: with the times of the round before, else with those that `pairs.times` gave to all rounds but the first."""
    rounds = [cell for cell in later if cell["reflow"] == len(chain)]
    alike = [cell for cell in rounds if cell["times"] == chain[-1]["times"]]
    return next(iter(alike or (rounds if len(rounds) == 1 else [])), None)


def reflowed(cells: Cells, metric: str) -> list[list[Cell]]:
    """The chains with at least one round after the first."""
    found = [chain for chain in chains(cells, metric) if len(chain) > 1]
    return needed(found, "missing rows", f"no {metric} of a reflow round beside the round before it")


def trained_cost(cells: Cells, cell: Cell, cost: str) -> Cell | None:
    """The cost of the coupling that this very flow was trained on; None for another cost that was not measured."""
    found = cells.beside(cell, TRAINED + cost.removeprefix("transport_cost"))
    if found is None and cost == "transport_cost":
        raise NotTested("trained coupling", f"no {TRAINED} of what {cell.flow} was trained on")
    return found
