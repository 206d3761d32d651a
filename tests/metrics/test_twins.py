"""Deliberately broken twins: each known answer that accepts the metric must reject its twin."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.metrics import METRICS, Evidence, Metric, Resources
from fmbench.metrics.balance import IdentityResidual
from fmbench.metrics.cost import NFE, PeakMemory, SamplesPerSecond, Seconds, SolverError, WorstSolverError
from fmbench.metrics.fid import FeatureDistance
from fmbench.metrics.geometry import TransportCost, TransportCostL1, TransportCostL2, TransportCostPower
from fmbench.metrics.inception_score import InceptionScore
from fmbench.metrics.marginals import EnergyCoefficient, MarginalPValue
from fmbench.metrics.operations import FLOPs
from fmbench.metrics.reference import ReferenceError as ReferenceSolveError
from fmbench.statistics import Estimate, mean

FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))


def offset() -> Evidence:
    """Generated samples off by (0.3, −0.4), the first one by ten times that."""
    seen = FLOW.evidence(100)
    by = torch.tensor([0.3, -0.4]).repeat(100, 1)
    by[0] *= 10
    return replace(seen, generated=seen.geometry.z1 + by)


def displaced() -> Evidence:
    """Every sample moved by (3, −4)."""
    seen = FLOW.evidence(10)
    return replace(seen, geometry=replace(seen.geometry, z1=seen.geometry.z0 + torch.tensor([3.0, -4.0])))


def timed() -> Evidence:
    return replace(FLOW.evidence(100), resources=Resources(nfe=8, seconds=(0.2, 0.8), peak_memory_mb=12.0))


def multiplied() -> Evidence:
    """A network that is one matrix, 2 × 2."""
    return replace(timed(), ask=lambda n: torch.zeros(n, 2) @ torch.zeros(2, 2))


def unbalanced() -> Evidence:
    """A path energy that is 1 above transport cost and straightness together."""
    seen = FLOW.evidence(4000)
    return replace(seen, geometry=replace(seen.geometry, energy=seen.geometry.energy + 1))


def doubtful() -> Evidence:
    """A reference solve that is off by 0.05 per dimension."""
    seen = FLOW.evidence(100)
    return replace(seen, geometry=replace(seen.geometry, error=0.05))


def gap(evidence: Evidence) -> Tensor:
    return (evidence.generated.double() - evidence.geometry.z1.double()).flatten(1)


Twin = Callable[[Evidence], Estimate]
CASES: dict[str, tuple[Metric, Callable[[], Evidence], float, Twin]] = {
    "solver_error, not per dimension": (
        SolverError(), offset, math.sqrt((99 * 0.25 + 25) / 100 / 2),
        lambda e: Estimate(gap(e).square().sum(1).mean().sqrt().item(), 0, 1)),
    "solver_error, a mean of roots": (
        SolverError(), offset, math.sqrt((99 * 0.25 + 25) / 100 / 2),
        lambda e: mean(gap(e).square().mean(1).sqrt())),
    "solver_error_worst, the mean": (
        WorstSolverError(), offset, math.sqrt(25 / 2), lambda e: SolverError().measure(e)),
    "nfe, a rate": (NFE(), timed, 8, lambda e: Estimate(e.resources.nfe / len(e.generated), 0, 1)),
    "seconds, the best of several": (Seconds(), timed, 0.5, lambda e: Estimate(min(e.resources.seconds), 0, 1)),
    "samples_per_second, a mean of rates": (
        SamplesPerSecond(), timed, 200, lambda e: mean(100 / torch.tensor(e.resources.seconds))),
    "peak_memory_mb, in bytes": (
        PeakMemory(), timed, 12, lambda e: Estimate((e.resources.peak_memory_mb or 0) * 2**20, 0, 1)),
    "flops, a product counted without its sum": (
        FLOPs(), multiplied, 8 * 2 * 4, lambda e: Estimate(8 * 4, 0, 1)),
    "transport_cost, per dimension": (
        TransportCost(), displaced, 25, lambda e: mean(e.geometry.displacement.square().mean(1))),
    "transport_cost_l1, the Euclidean norm": (
        TransportCostL1(), displaced, 7, lambda e: mean(e.geometry.displacement.norm(dim=1))),
    "transport_cost_l2, squared": (
        TransportCostL2(), displaced, 5, lambda e: mean(e.geometry.displacement.square().sum(1))),
    "transport_cost_power, coordinate by coordinate": (
        TransportCostPower(), displaced, 5**1.5, lambda e: mean(e.geometry.displacement.abs().pow(1.5).sum(1))),
    "identity_residual, the wrong sign of S": (
        IdentityResidual(), unbalanced, 1,
        lambda e: mean(e.geometry.energy - e.geometry.displacement.square().sum(1) + e.geometry.straightness)),
    "reference_error, per dimension": (
        ReferenceSolveError(), doubtful, 0.05 * math.sqrt(2), lambda e: Estimate(e.geometry.error, 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_metric_is_right_and_its_twin_is_not(case: str) -> None:
    metric, evidence, value, twin = CASES[case]
    seen = evidence()
    assert metric.measure(seen).value == pytest.approx(value, rel=1e-4)
    assert twin(seen).value != pytest.approx(value, rel=1e-2)


class WithoutItself(MarginalPValue):
    """Does not count the sample itself among its permutations."""

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        found = super().distance(x, y)
        return replace(found, value=((self.permutations + 1) * found.value - 1) / self.permutations)


def test_a_p_value_is_never_0_but_its_twin_s_is() -> None:
    """P(p ≤ α) ≤ α for every α, which p = 0 breaks: where it is surest it is 1/(B + 1)."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert MarginalPValue(permutations=99).distance(x, x + 20).value == 0.01
    assert WithoutItself(permutations=99).distance(x, x + 20).value == 0


MADE_BY: dict[type[Metric], str] = {  # what makes the number, where several metrics share it
    FeatureDistance: "frechet_distance",
    InceptionScore: "Score",
    EnergyCoefficient: "EnergyCoefficient",
}


def spoken(path: Path) -> str:
    """The tests of a file that speak of a twin, with whatever of its own they name, to any depth."""
    text = path.read_text()
    tree = ast.parse(text)
    parts: dict[str, tuple[str, set[str]]] = {}
    for node in tree.body:
        words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        lines = text.splitlines()[
            min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1 : node.end_lineno
        ]
        targets = [getattr(node, "target", None), *getattr(node, "targets", [])]
        for name in [getattr(node, "name", None), *(t.id for t in targets if isinstance(t, ast.Name))]:
            if name is not None:
                parts[name] = "\n".join(lines), words
    asked = [name for name, (body, _) in parts.items() if name.startswith("test_") and "twin" in body.lower()]
    kept: set[str] = set()
    while asked:
        if (name := asked.pop()) in parts and name not in kept:
            kept.add(name)
            asked += parts[name][1]
    return "\n".join(parts[name][0] for name in kept)


def test_every_metric_has_a_twin_somewhere() -> None:
    """By its class, its name or what makes its number, in a test that speaks of a twin or in what that test names."""
    files = [path for path in Path(__file__).parent.glob("test_*.py") if "twin" in path.read_text().lower()]
    speaking = "\n".join(map(spoken, files))
    missing = []
    for name in METRICS.names():
        metric = METRICS.get(name)
        if not metric.__module__.startswith("fmbench."):  # a plug-in's, of another test in this process
            continue
        words = [metric.__name__, *(word for base, word in MADE_BY.items() if issubclass(metric, base))]
        if f'"{name}"' not in speaking and not re.search(rf"\b({'|'.join(words)})\b", speaking):
            missing.append(name)
    assert not missing
