"""How a table was made: everything that one needs to know to trust it, or to make it again."""

from __future__ import annotations

import datetime
import math
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .execute import Outcome
from .machine import commit, hardware, versions
from .naming import flow_columns
from .plan import Plan
from .stages.flow import FlowSpec
from .store import Store


def manifest(plan: Plan, outcomes: dict[str, Outcome], store: Store, devices: Sequence[str]) -> dict[str, Any]:
    """The facts of a run, or of what there is of it, as JSON."""
    from . import __version__

    flows = plan.flows()
    known = [outcomes[cell.spec.key] for cell in plan.cells if cell.spec.key in outcomes]
    return {
        "fmbench": __version__,
        "suite": plan.suite.resolved(),
        "command": shlex.join(["fmbench", *sys.argv[1:]]) if Path(sys.argv[0]).name == "fmbench" else "fmbench.run(…)",
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(devices),
        "seeds": sorted({flow.seed for flow in flows}),
        "data": {
            task.data.label(): {
                **dict(zip(("mean", "std"), task.data.moments(), strict=True)),
                "dims": math.prod(task.data.shape),
                **task.data.provenance(),
            }
            for task in plan.suite.problems()
        },
        "paths": {flow.path.label(): _ends(flow) for flow in flows},
        "flows": [_flow_facts(flow, store) for flow in flows],
        "references": _references(plan, store),
        "planned": len(plan.cells),
        "statuses": dict(Counter(outcome.status for outcome in known)),
        "failures": _failures(known),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _ends(flow: FlowSpec) -> dict[str, float]:
    """How far a path is from its ends: x_0 keeps α_0 of the data, x at the end time keeps σ of the noise, a bridge γ too."""
    ends = flow.path.schedule(torch.tensor([0.0, flow.path.end_time], dtype=torch.float64))
    widths = {} if ends.gamma is None else {"gamma_0": ends.gamma[0].item(), "gamma_end": ends.gamma[1].item()}
    return {
        "alpha_0": ends.alpha[0].item(),
        "sigma_0": ends.sigma[0].item(),
        "alpha_end": ends.alpha[1].item(),
        "sigma_end": ends.sigma[1].item(),
        "end_time": flow.path.end_time,
        **widths,
    }


def _flow_facts(flow: FlowSpec, store: Store) -> dict[str, Any]:
    info = store.info(flow.key) or {}
    losses = info.get("losses") or [[None, None]]
    trained = {"loss": losses[-1][1], "train_seconds": info.get("seconds"), "device": info.get("device")}
    if "devices" in info:  # trained on several
        trained["devices"] = info["devices"]
    return {"key": flow.key, **flow_columns(flow), **(trained if flow.model.trained else {})}


def _references(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Each reference solve: how many steps it took, its own error in data units, and the one that was asked for."""
    return [
        {"key": spec.key, "flow": spec.flow.key, "steps": info["steps"], "error": info["error"],
         "tolerance": spec.tolerance * spec.flow.data.moments()[1]}
        for spec in plan.references() if (info := store.info(spec.key)) is not None
    ]  # fmt: skip


def _failures(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each distinct traceback once, with the number of rows that it cost."""
    traces = Counter(outcome.trace for outcome in outcomes if outcome.trace)
    return [{"rows": count, "trace": trace} for trace, count in traces.items()]
