"""What distillation keeps: students of few steps beside the flows that taught them."""

from __future__ import annotations

from pydantic import Field

from ..table import TASK
from .axes import LATER
from .base import Claim, Contrast
from .cells import Cell, Cells, NotTested, needed
from .guards import arrived, fresh_noise, same_noise
from .marginals import GAP, no_farther

TAUGHT = (*TASK, "path", "coupling", "prediction", "model", "reflow", "guidance", "metric")  # what both share


class StudentsMatch(Claim):
    """A student of k steps, solved in k steps, is as good as its teacher at its most network calls: the energy coefficient
    between its samples and held-out data is no more than the teacher's, up to the margin.

    Each student against the flow that drew its pairs, from the same noise; a bad teacher proves nothing.
    """

    name = "few-step-students-match"
    axes = ({"distilled": 0}, {"distilled": LATER})
    effect = "H of a student at its own steps − H of its teacher at its most calls"
    source = "Liu et al. 2022, table 1(a): distilled k-rectified flows"
    metrics = ("energy_coefficient",)
    guards = (same_noise, fresh_noise, arrived)
    margin: float = Field(GAP, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        everyone = cells.find("energy_coefficient")
        students = [cell for cell in everyone if cell["distilled"]]
        pairs = [(student, teacher) for student in students for teacher in _teachers(student, everyone)]
        found = [
            no_farther(cells, a, b, self.margin, f"H of {a.flow} against its teacher at {b.nfe:g} calls")
            for a, b in pairs
        ]
        return needed(found, "missing rows", "no energy_coefficient of a student beside one of its teacher's")


def _teachers(student: Cell, everyone: list[Cell]) -> list[Cell]:
    """The flow that taught it, at its most calls; one for each law of times that it may have been trained with."""
    if student["steps"] != student["distilled"]:
        raise NotTested("own calls", f"{student.flow} was solved in {student['steps']} steps")
    alike = [c for c in everyone if c["distilled"] == 0 and all(c[name] == student[name] for name in TAUGHT)]
    best: dict[str, Cell] = {}
    for cell in alike:
        best[cell["times"]] = max(cell, best.get(cell["times"], cell), key=lambda c: c.nfe)
    return list(best.values())
