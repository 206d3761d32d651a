"""Flows small enough to train in a blink."""

from __future__ import annotations

from typing import Any

from fmbench.data import DATA
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.predictions import Prediction
from fmbench.flow.times import TIMES
from fmbench.flow.velocity import Field
from fmbench.models import MODELS
from fmbench.stages.flow import FlowSpec, Pairs, PairsSpec, TrainSettings
from fmbench.stages.pairs import halves

TINY = {"name": "mlp", "width": 16, "depth": 2}
MEAN, STD = (1.0, -0.5, 0.2), (0.5, 1.0, 2.0)
GAUSSIAN = {"name": "gaussian-mixture", "means": [MEAN], "stds": [STD]}


def flow(
    *,
    data: Any = "gaussian-mixture",
    path: Any = "rectified",
    coupling: Any = "independent",
    prediction: Prediction = "velocity",
    times: Any = "uniform",
    model: Any = TINY,
    seed: int = 0,
    **train: Any,
) -> FlowSpec:
    law = DATA.build(data)
    return FlowSpec(
        data=law,
        source=DATA.build({"name": "normal", "dims": law.shape}),
        path=PATHS.build(path),
        coupling=COUPLINGS.build(coupling),
        prediction=prediction,
        times=TIMES.build(times),
        model=MODELS.build(model),
        train=TrainSettings(**{"samples": 70 * 64, "batch": 64, **train}),  # past one block of 64 steps
        seed=seed,
    )


def gaussian(path: Any = "rectified") -> FlowSpec:
    """One Gaussian in three dimensions and its oracle: everything is known in closed form."""
    return flow(data=GAUSSIAN, path=path, model="oracle")


def pairs_from(spec: PairsSpec, field: Field) -> Pairs:
    """All reflow pairs, as one device draws them."""
    return Pairs.joined([solve(spec, field) for solve, _ in halves(spec)])
