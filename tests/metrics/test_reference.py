"""The reference solve's own error: its unit, and that it is an upper estimate of what the solve is really off by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.metrics import METRICS
from fmbench.plan import make_plan
from fmbench.stages.flow import velocity_field
from fmbench.stages.sample import reference
from fmbench.suite import parse

FLOW = GaussianFlow((1.0, -0.5, 0.2), (0.5, 2.0, 1.0))
METRIC = METRICS.build("reference_error")


def test_over_all_dimensions_together() -> None:
    geometry = replace(FLOW.geometry(50), error=0.01)
    found = METRIC.measure(FLOW.evidence(50, geometry=geometry))
    assert found.value == pytest.approx(0.01 * math.sqrt(3))
    assert found.stderr == math.inf, "one estimate: nothing is known of its spread"


@pytest.mark.parametrize(("n", "seen"), [(40, 40), (600, 512)])
def test_a_row_states_the_samples_it_was_estimated_on(
    n: int, seen: int, tiny: Callable[..., dict[str, Any]], measured: Callable[..., pd.DataFrame]
) -> None:
    law = {"name": "gaussian-mixture", "means": [[1.0, 0.0]], "stds": 0.5}
    cell = {"n": n, "batch": 256, "solvers": [{"name": "euler", "nfe": 1}]}
    suite = tiny(data=law, flow={"model": "oracle"}, sample=cell, metrics=["reference_error", "transport_cost"])
    table = measured(suite).query("model == 'oracle'").set_index("metric")
    assert table["n"].to_dict() == {"reference_error": seen, "transport_cost": n}


def test_it_bounds_what_the_solve_is_off_by() -> None:
    """A stiff mixture at 32 steps, against 512: halving overestimates RK4's error 15 times where its order shows."""
    suite = {
        "suite": "stiff",
        "data": {"name": "gaussian-mixture", "means": [[-2.0, 0.0], [2.0, 0.0]], "stds": 0.2},
        "flow": {"model": "oracle"},
        "sample": {"n": 256, "solvers": [{"name": "euler", "nfe": 1}]},
        "metrics": ["reference_error"],
    }
    (spec,) = make_plan(parse(suite)).references()
    field = velocity_field(spec.flow, None)
    coarse, fine = (
        reference(spec.model_copy(update={"tolerance": tolerance, "max_steps": steps}), field).geometry
        for tolerance, steps in ((1.0, 32), (1e-9, 512))
    )
    off = (coarse.z1.double() - fine.z1.double()).square().sum(1).mean().sqrt().item()
    claimed = METRIC.measure(FLOW.evidence(2, geometry=coarse)).value
    assert 0 < off <= claimed < 1000 * off
    twin = coarse.error  # per dimension, as a solver's error is: would promise too little of a cost
    assert twin == pytest.approx(claimed / torch.tensor(2.0).sqrt().item())
