"""What the table calls a flow and a budget: their identity columns, and the literature's names."""

from __future__ import annotations

from typing import Any

from .budgets import Budget
from .fields import label_of
from .stages.flow import FlowSpec

FLOW_COLUMNS = (
    "data", "source", "path", "coupling", "prediction", "times", "model", "reflow", "distilled", "seed", "method",
)  # fmt: skip


def flow_columns(flow: FlowSpec) -> dict[str, Any]:
    """The identity columns of a flow."""
    columns = {name: label_of(getattr(flow, name)) for name in FLOW_COLUMNS if name != "method"}
    numbers = {"reflow": flow.reflow, "distilled": flow.distilled, "seed": flow.seed}
    return {**columns, **numbers, "method": method_of(flow), "trained_on": trained_on(flow)}


def trained_on(flow: FlowSpec) -> str | None:
    """The coupling that the network learned from: the suite's, or pairs that an earlier round drew; None of an oracle."""
    if flow.pairs is None:
        return label_of(flow.coupling) if flow.model.trained else None
    inverted = f", {flow.pairs.inverted:.0%} inverted data" if flow.pairs.inverted else ""
    return f"pairs of round {flow.pairs.flow.reflow}{inverted}"


def budget_columns(budget: Budget, batch: int, guidance: float = 1.0) -> dict[str, Any]:
    """The columns that a budget fixes before anything is run. The batch is named where it can matter, or was asked for."""
    parameters = budget.solver.parameters()
    return {
        "solver": budget.solver.title(),
        "grid": None if budget.grid is None else label_of(budget.grid),
        "steps": budget.steps,
        "nfe": None if budget.steps is None else float(budget.solver.calls_for(budget.steps, guidance)),
        "rtol": parameters.get("rtol"),
        "atol": parameters.get("atol"),
        "batch": batch if budget.batch or budget.solver.depends_on_batch else None,
    }


def method_of(flow: FlowSpec) -> str:
    """The literature's name of a combination: RF, FM-OT, VP, VE; OT-CFM, I-CFM, SB-CFM of Tong 2024; C²OT; k-RF (Liu 2022).

    What is predicted follows it, unless it is the velocity: "VP, epsilon"; of a student, its steps: "2-RF, 1 step".
    """
    if (brought := flow.model.method()) is not None:
        return brought
    if flow.distilled:
        steps = f"{flow.distilled} step{'s' if flow.distilled > 1 else ''}"
        return f"{method_of(flow.model_copy(update={'distilled': 0}))}, {steps}"
    coupling = flow.coupling.name
    if flow.path.name in ("rectified", "icfm") and coupling in ("minibatch-ot", "label-ot"):
        name = {"minibatch-ot": "OT-CFM", "label-ot": "C²OT"}[coupling]
    elif flow.path.name == "sb-cfm":  # its coupling is part of it
        name = flow.path.method
    elif flow.path.name == "rectified" and coupling == "independent" and flow.source.name != "normal":
        name = "I-CFM"
    else:
        name = flow.path.method + ("" if coupling == "independent" else f"+{coupling}")
    if flow.reflow:
        return f"{flow.reflow + 1}-RF" if name == "RF" else f"{name}, {flow.reflow + 1}-rectified"
    return name if flow.prediction == "velocity" else f"{name}, {flow.prediction}"
