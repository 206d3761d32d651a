"""A user's own code that does what it should not: told, or made harmless; never a wrong value in silence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fmbench.errors import UserError
from fmbench.plan import make_plan
from fmbench.randomness import lent_generators, only_given_generators
from fmbench.suite import parse

TAKEN = """
import numpy as np, torch
from fmbench.data import DATA, Data
from fmbench.data.base import FiniteData
from fmbench.flow import COUPLINGS, Coupling
from fmbench.flow.losses import LOSSES, WEIGHTS, Loss, Weight
from fmbench.flow.times import TIMES, TimeLaw
from fmbench.metrics import METRICS
from fmbench.metrics.base import PerSampleMetric, TwoSampleMetric
from fmbench.solvers import SOLVERS
from fmbench.solvers.base import Solution, Solver
from fmbench.statistics import Estimate
"""
COUPLING = (
    "@COUPLINGS.register\nclass Own(Coupling):\n    name = '{name}'\n"
    "    def pair(self, x0, x1, rng):\n        n = len(x0)\n        {body}\n"
)
TIMELAW = "@TIMES.register\nclass Own(TimeLaw):\n    name = '{name}'\n    def quantile(self, u):\n        {body}\n"
LOSS = (
    "@LOSSES.register\nclass Own(Loss):\n    name = '{name}'\n    def of(self, error, weight=None):\n        {body}\n"
)
WEIGHT = "@WEIGHTS.register\nclass Own(Weight):\n    name = '{name}'\n    def at(self, network, t):\n        {body}\n"
ENDLESS = (
    "@DATA.register\nclass Own(Data):\n    name = '{name}'\n    shape = property(lambda self: (2,))\n"
    "    def draw(self, n, rng):\n        {body}\n"
)
FINITE = (
    "@DATA.register\nclass Own(FiniteData):\n    name = '{name}'\n    def arrays(self, split):\n"
    "        x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))\n        {body}\n"
)
SAMPLES = (
    "@METRICS.register\nclass Own(TwoSampleMetric):\n    name = '{name}'\n    unit = '1'\n"
    "    def distance(self, x, y):\n        {body}\n"
)
EACH = (
    "@METRICS.register\nclass Own(PerSampleMetric):\n    name = '{name}'\n    unit = '1'\n"
    "    def per_sample(self, geometry):\n        {body}\n"
)
SOLVER = (
    "@SOLVERS.register\nclass Own(Solver):\n    name = '{name}'\n    order = 1\n    calls_per_step = 1\n"
    "    def integrate(self, velocity, x, times):\n        for a, b in zip(times[:-1], times[1:]):\n"
    "            x += (b - a) * velocity(a, x)\n        {body}\n"
)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], str]:
    """Registers a component from a template; gives its name."""
    from fmbench.plugins import load_plugins

    def register(template: str, body: str) -> str:
        name = f"own-{abs(hash((template, body)))}"
        file = tmp_path / f"{name}.py"
        file.write_text(TAKEN + template.format(name=name, body=body))
        load_plugins([str(file)])
        return name

    return register


@pytest.mark.parametrize(
    ("key", "template", "body", "said"),
    [
        ("flow__coupling", COUPLING, "return torch.arange(n), torch.arange(n) + 1", r"gives the index 8 .* 0 … 7"),
        ("flow__coupling", COUPLING, "return torch.arange(n), -1 - torch.arange(n)", r"gives the index -1"),
        ("flow__coupling", COUPLING, "return np.arange(n), np.arange(n)", r"gives ndarray of int64, not two tensors"),
        ("flow__coupling", COUPLING, "return x0[:, 0], x1[:, 0]", r"gives Tensor of torch.float32, not two tensors"),
        ("flow__coupling", COUPLING, "return torch.randperm(n), torch.arange(n)", r"global generator of torch: "),
        ("flow__coupling", COUPLING, "raise KeyError('oops')", r"raises KeyError: 'oops'"),
        ("flow__coupling", COUPLING, "raise NotImplementedError", r"has no pair: implement pair"),
        ("flow__times", TIMELAW, "return 2 * u", r"gives t = 1\.\d+: times lie between 0 and 1"),
        ("flow__times", TIMELAW, "return u * float('nan')", r"gives t = nan"),
        ("flow__times", TIMELAW, "return u[:3]", r"gives the shape \(3,\) where 64 times"),
        ("flow__times", TIMELAW, "return u.numpy()", r"gives ndarray where 64 times"),
        ("flow__times", TIMELAW, "return torch.rand_like(u)", r"global generator of torch: "),
        ("flow__times", TIMELAW, "raise NotImplementedError", r"has no quantile: implement"),
        ("train__loss", LOSS, "return error.square().mean()", r"of gives \(\) for errors of \(3, 5, 2\): one number a"),
        ("train__loss", LOSS, "return error.detach().numpy()", r"of gives ndarray for errors"),
        ("train__loss", LOSS, "return error.detach().flatten(1).mean(1)", r"has no gradient"),
        ("train__loss", LOSS, "return error @ error", r"raises RuntimeError: "),
        ("train__loss", LOSS, "raise NotImplementedError", r"has no of: implement of\(error, weight\)"),
        ("train__weight", WEIGHT, "return torch.ones(1, 1)", r"at gives \(1, 1\) for times of \(3, 5\)"),
        ("train__weight", WEIGHT, "return 2.0", r"at gives float for times"),
        ("train__weight", WEIGHT, "return t - 1", r"at gives -0\.\d+: a weight is finite and not negative"),
        ("train__weight", WEIGHT, "return t / 0", r"at gives inf: a weight is finite"),
        ("data", ENDLESS, "return torch.randn(n, 2), None", r"global generator of torch: "),
        ("data", ENDLESS, "return torch.from_numpy(np.random.randn(n, 2)).float(), None", r"generator of NumPy: "),
        ("data", ENDLESS, "return torch.zeros(n, 2).double(), None", r"torch\.float64: samples are torch\.float32"),
        ("data", ENDLESS, "return np.zeros((n, 2)), None", r"are ndarray: torch\.from_numpy"),
        ("data", ENDLESS, "return torch.zeros(n, 2), torch.zeros(n).long()", r"classes is None: write a property"),
        ("data", FINITE, "return x.numpy(), None", r"samples as ndarray: torch\.from_numpy"),
        ("data", FINITE, "return x.double(), None", r"torch\.float64: samples are torch\.float32"),
        ("data", FINITE, "return x, torch.zeros(50)", r"labels are torch\.float32 of shape \(50,\) for 50"),
        ("data", FINITE, "return x, torch.zeros(40).long()", r"labels are torch\.int64 of shape \(40,\) for 50"),
        ("data", FINITE, "return x, torch.zeros(50).long() - 1", r"the label -1: labels are 0 … "),
        ("data", FINITE, "return x[:0] if split == 'test' else x, None", r"arrays\('test'\) gives the shape \(0, 2\)"),
        ("data", FINITE, "return x[:, :1] if split == 'test' else x, None", r"both splits hold samples of one shape"),
        ("data", FINITE, "x[7] = float('nan'); return x, None", r"its train samples are not all finite"),
        ("data", FINITE, "return x[torch.randperm(50)], None", r"global generator of torch: "),
        ("data", ENDLESS.replace("(2,))", "[2])"), "return torch.zeros(n, 2), None", r"its shape is a list: write"),
        ("data", FINITE, "return open('nowhere')", r"raises FileNotFoundError: .*nowhere"),
    ],
)
def test_what_a_component_gives_is_looked_at_before_anything_runs(
    tiny: Callable[..., dict[str, Any]], own: Callable[[str, str], str], key: str, template: str, body: str, said: str
) -> None:
    with pytest.raises(UserError, match=f"'own-.*{said}"):
        make_plan(parse(tiny(**{key: own(template, body)})))


@pytest.mark.parametrize(
    ("template", "body", "said"),
    [
        (SAMPLES, "return 1.0", "gives float, not an Estimate"),
        (SAMPLES, "return Estimate(1.0, -0.1, 3)", "stderr = -0.1, n = 3"),
        (SAMPLES, "return Estimate(1.0, 0.1, 0)", "stderr = 0.1, n = 0"),
        (EACH, "return geometry.displacement", "per_sample gives a tensor of shape (64, 2), not a tensor (n,)"),
        (EACH, "return geometry.displacement[:3, 0]", "per_sample gives 3 numbers for 64 samples"),
        (EACH, "return geometry.energy.numpy()", "per_sample gives ndarray, not a tensor (n,)"),
    ],
)
def test_a_metric_that_gives_another_thing_is_a_row_with_its_reason(
    tiny: Callable[..., dict[str, Any]], own: Callable[[str, str], str], measured: Callable[..., pd.DataFrame],
    template: str, body: str, said: str,
) -> None:  # fmt: skip
    suite = tiny(metrics=[own(template, body)], flow__seed=0, flow__path="rectified", flow__reflow=0)
    table = measured(suite)
    assert set(table["status"]) == {"failed"}
    assert table["reason"].str.contains(said, regex=False).all(), table["reason"].tolist()


def test_a_solver_that_writes_into_its_start_gives_the_same_samples(
    tiny: Callable[..., dict[str, Any]], own: Callable[[str, str], str], measured: Callable[..., pd.DataFrame]
) -> None:
    solvers = [{"name": name, "nfe": 4} for name in ("euler", own(SOLVER, "return Solution(x, len(times) - 1)"))]
    known = {"flow__seed": 0, "flow__path": "rectified", "flow__reflow": 0, "metrics": ["solver_error"]}
    euler, copied = measured(tiny(sample__solvers=solvers, **known))["value"]
    assert copied == pytest.approx(euler, rel=1e-4)


def test_a_metric_that_draws_globally_gives_the_same_again_and_leaves_the_generators_alone(
    tiny: Callable[..., dict[str, Any]], own: Callable[[str, str], str], measured: Callable[..., pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    name = own(SAMPLES, "return Estimate(torch.rand(()).item() + np.random.rand(), 0.1, len(x))")
    suite = tiny(metrics=[name], flow__seed=0, flow__path="rectified", flow__reflow=0)
    values = []
    for cache in ("one", "two"):
        monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / cache))
        values.append(measured(suite)["value"].tolist())
    assert values[0] == values[1]
    assert len(set(values[0])) == len(values[0]), "each value has a stream of its own"


def test_generators_are_lent_and_given_back() -> None:
    def drawn() -> tuple[float, ...]:
        return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    with lent_generators("cpu", "a"):
        first = drawn()
        with lent_generators("cpu", "b"):
            assert drawn() != first
        second = drawn()
    with lent_generators("cpu", "a"):
        assert (drawn(), drawn()) == (first, second)
    with pytest.raises(UserError, match="it draws from the global generator of Python: "), only_given_generators("it"):
        random.random()
