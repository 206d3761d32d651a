"""All that is read from the reference solve is read from one: the network is called no more for ten metrics than for one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fmbench.execute import jobs
from fmbench.flow.velocity import Velocity
from fmbench.metrics.base import Evidence
from fmbench.metrics.geometry import PathEnergy
from fmbench.statistics import Estimate

GEOMETRY = [
    "transport_cost", "transport_cost_l1", "transport_cost_l2", {"name": "transport_cost_power", "p": 3}, "path_energy",
    "straightness", "straightness_normalized", "path_length_ratio", "one_step_error", "w2_squared", "npe",
    "reference_error", "marginal_gap", "solver_error", "solver_error_worst",
]  # fmt: skip
FLOWS, BUDGETS = ["rectified", "vp-cosine"], [1, 2, 4]
Count = Callable[[list[Any]], Counter[str]]


@pytest.fixture
def counted(
    tiny: Callable[..., dict[str, Any]],
    measured: Callable[..., pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Count:
    """Runs two flows at three budgets with these metrics: how many reference solves, and calls of the network, that took."""
    count: Counter[str] = Counter()
    solve, call, alone, runs = jobs.reference, Velocity.__call__, jobs.alone, itertools.count()

    def solved(*args: Any) -> Any:
        count["reference solves"] += 1
        return solve(*args)

    def called(self: Velocity, *args: Any) -> torch.Tensor:
        count["calls"] += 1
        return call(self, *args)

    def apart(*args: Any) -> Estimate:
        before = count["calls"]
        value = alone(*args)  # an exact value may follow the flow in its own way
        count["calls"] = before
        return value

    monkeypatch.setattr(jobs, "reference", solved)
    monkeypatch.setattr(jobs, "alone", apart)
    monkeypatch.setattr(Velocity, "__call__", called)

    def run(metrics: list[Any]) -> Counter[str]:
        monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / f"cache {next(runs)}"))
        count.clear()
        law = {"name": "gaussian-mixture", "means": [[1.0, 0.0], [-1.0, 0.5]], "stds": 0.5}
        many = {"data": law, "metrics": metrics, "sample__solvers": [{"name": "midpoint", "steps": BUDGETS}]}
        table = measured(tiny(flow={"path": FLOWS, "model": "oracle"}, **many))
        assert set(table["status"]) == {"ok"}, table["reason"].dropna().tolist()
        return Counter(count)

    return run


def test_one_reference_solve_per_flow(counted: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    one, many = counted(["solver_error"]), counted(GEOMETRY)
    assert one["reference solves"] == len(FLOWS)
    assert many == one
    measure = PathEnergy.measure

    def anew(self: PathEnergy, evidence: Evidence) -> Estimate:
        """The broken twin looks at the flow again, were it only once."""
        assert evidence.velocity is not None
        evidence.velocity(torch.tensor(0.5, dtype=torch.float64), evidence.geometry.z0)
        return measure(self, evidence)

    monkeypatch.setattr(PathEnergy, "measure", anew)
    assert counted(GEOMETRY)["calls"] == one["calls"] + len(FLOWS)
