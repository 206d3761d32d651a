"""Floating-point operations against counts by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.errors import Skip
from fmbench.metrics import METRICS, Resources
from fmbench.metrics.operations import operations
from fmbench.models import MODELS

FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))


def of_network(model: dict[str, object], shape: tuple[int, ...]) -> int:
    network = MODELS.build(model).network(shape, [0]).eval()
    return operations(lambda n: network(torch.zeros((), dtype=torch.float64), torch.zeros(n, *shape)))


@pytest.mark.parametrize(("width", "depth"), [(16, 1), (64, 3)])
def test_an_mlp_is_its_matrices(width: int, depth: int) -> None:
    products = 2 * width + width * width * (depth - 1) + width * 2  # the time's are made once a call
    assert of_network({"name": "mlp", "width": width, "depth": depth}, (2,)) == 2 * products


def test_a_convolution_is_its_kernel_at_every_place() -> None:
    convolution = torch.nn.Conv2d(3, 5, 3, padding=1)
    assert operations(lambda n: convolution(torch.zeros(n, 3, 8, 8))) == 2 * 5 * 3 * 9 * 64


def test_attention_is_two_products_on_every_device() -> None:
    """Processors' fused attention is not in torch's own count."""

    def attend(n: int) -> torch.Tensor:
        q = torch.zeros(n, 4, 16, 8)  # heads, tokens, dimensions
        return torch.nn.functional.scaled_dot_product_attention(q, q, q)

    assert operations(attend) == 4 * 2 * (2 * 16 * 16 * 8)


def test_of_a_sampled_cell_as_its_calls() -> None:
    weight = torch.zeros(2, 2)
    seen = FLOW.evidence(100, ask=lambda n: torch.zeros(n, 2) @ weight)
    metric = METRICS.build("flops")
    fixed = metric.measure(replace(seen, resources=Resources(8, (1.0,), None)))
    assert (fixed.value, fixed.stderr, fixed.n) == (8 * 2 * 4, 0, 100)
    adaptive = metric.measure(replace(seen, resources=Resources(8.5, (1.0,), None, nfe_stderr=0.25)))
    assert (adaptive.value, adaptive.stderr, adaptive.freedom) == (8.5 * 8, 0.25 * 8, 99)
    unknown = metric.measure(replace(seen, resources=Resources(8.5, (1.0,), None, nfe_stderr=math.inf)))
    assert unknown.stderr == math.inf


def test_what_has_no_network_is_told() -> None:
    metric = METRICS.build("flops")
    with pytest.raises(Skip, match="needs the flow's network"):
        metric.measure(FLOW.evidence(10, ask=None))
    with pytest.raises(Skip, match="no network's"):
        metric.measure(FLOW.evidence(10, ask=lambda n: 2 * torch.zeros(n, 2)))


def test_guidance_pays_for_two_calls(
    tiny: Callable[..., dict[str, Any]], measured: Callable[..., pd.DataFrame]
) -> None:
    """A run of a conditional network: the operations follow the calls."""
    model = {"name": "mlp", "width": 16, "depth": 2, "conditional": True, "label_dropout": 0.2}
    data = {"name": "gaussian-mixture", "means": [[-2, 0], [2, 0]], "stds": [[0.3, 0.3], [0.5, 0.2]]}
    table = measured(
        tiny(data=data, flow__model=model, flow__seed=0, metrics=["flops", "nfe"], sample__guidance=[0, 1, 2],
             sample__solvers=[{"name": "euler", "nfe": 4}, {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2, "per_sample": True}])
    )  # fmt: skip
    cells = table.pivot_table(index=["guidance", "solver"], columns="metric", values=["value", "stderr"])
    assert len(cells) == 6
    each = 2 * (2 * 16 + 16 * 16 + 16 * 2)
    for column in ("value", "stderr"):
        assert cells[column]["flops"].tolist() == pytest.approx((each * cells[column]["nfe"]).tolist(), rel=1e-12)
