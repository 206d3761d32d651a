"""Paths of a user's own: derivatives found wherever they are asked for, mistakes told, the same path in every process."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path as FilePath
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from fmbench.errors import UserError
from fmbench.flow import PATHS, UserPath, path_from
from fmbench.flow.path_checks import check_path
from fmbench.flow.user_paths import derivative
from fmbench.flow.velocity import Velocity
from fmbench.plan import Plan, make_plan
from fmbench.solvers import SOLVERS
from fmbench.suite import parse


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    PATHS.names()
    for book in ("_where", "_loaded"):
        monkeypatch.setattr(PATHS, book, dict(getattr(PATHS, book)))


def sine(t: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * t)


def rest(t: Tensor) -> Tensor:
    return 1 - t


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 1)])
def test_derivatives_are_found(
    mode: Callable[[], AbstractContextManager[Any]], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    path = path_from("test-sine", sine, rest)()
    with mode():
        t = torch.linspace(0, 1, math.prod(shape), dtype=dtype).reshape(shape)
        s = path.schedule(t)
        exact = math.pi / 2 * torch.cos(math.pi / 2 * t)
        assert torch.allclose(s.d_alpha, exact, rtol=8 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)
        assert torch.equal(s.d_sigma, -torch.ones_like(t))
        assert {x.dtype for x in (s.alpha, s.sigma, s.d_alpha, s.d_sigma)} == {dtype}
        assert {x.shape for x in (s.alpha, s.sigma, s.d_alpha, s.d_sigma)} == {shape}
        assert not s.d_alpha.requires_grad


def test_a_derivative_can_be_differentiated_and_a_constant_has_none() -> None:
    t = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    curvature = torch.autograd.grad(derivative(lambda t: t**3, t).sum(), t)[0]
    assert torch.allclose(curvature, 6 * t)
    assert torch.equal(derivative(torch.ones_like, t), torch.zeros(2, dtype=torch.float64))


def test_given_derivatives_are_used_and_a_solve_runs() -> None:
    """The velocity of one point mass at 1: x1 = 1 exactly, whatever the path."""
    path = path_from("test-sine", sine, rest, d_sigma=lambda t: -1.5 * torch.ones_like(t))()
    t = torch.tensor([0.5], dtype=torch.float64)
    assert path.schedule(t).d_sigma.item() == -1.5
    honest = path_from("test-sine", sine, rest)()

    def field(t: Tensor, x: Tensor) -> Tensor:
        s = honest.schedule(t)
        return s.d_alpha + s.d_sigma * (x - s.alpha) / s.sigma

    with torch.inference_mode():
        times = torch.linspace(0, 0.9, 201, dtype=torch.float64)
        x = SOLVERS.build("rk4").integrate(Velocity(field), torch.tensor([[3.0]], dtype=torch.float64), times).x
    s = honest.schedule(times[-1])
    assert x.item() == pytest.approx((s.alpha + 3 * s.sigma).item(), abs=1e-6)


def test_identity_is_name_and_version_and_a_worker_finds_it() -> None:
    first = path_from("test-sine", sine, rest)()
    assert first.label() == "test-sine"
    assert first.method == "test-sine"
    assert pickle.loads(pickle.dumps(first)) == first
    assert first.identity() == {"name": "test-sine", "version": 1, "code": first.code}
    assert path_from("test-sine", sine, rest, version=2)().identity() != first.identity()


def test_a_name_that_is_taken_is_an_error() -> None:
    with pytest.raises(UserError, match="path 'rectified' is registered twice"):
        path_from("rectified", sine, rest)


def test_a_class_of_two_formulas_may_have_parameters() -> None:
    class Power(UserPath):
        name = "test-power"
        method = "Power"
        p: float = 2.0

        def alpha(self, t: Tensor) -> Tensor:
            return t**self.p

        def sigma(self, t: Tensor) -> Tensor:
            return (1 - t) ** self.p

    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    s = Power(p=3).schedule(t)
    assert torch.allclose(s.d_alpha, 3 * t**2)
    assert torch.allclose(Power(p=3).time_at(Power(p=3).half_log_snr(t)), t, atol=1e-14)
    assert Power(p=3).label() == "test-power[p=3]"


def plan_of(tiny: Callable[..., dict[str, Any]], path: str) -> Plan:
    return make_plan(parse(tiny(flow__path=path, flow__seed=0)))


def test_a_derivative_that_diverges_at_an_end_is_told_while_planning(tiny: Callable[..., dict[str, Any]]) -> None:
    def late(t: Tensor) -> Tensor:
        return (1 - t).sqrt()

    path_from("test-late", sine, late)
    with pytest.raises(UserError, match=r"path 'test-late': σ̇ = -inf at t = 1. Set its end_time within, as 1 − 1e-5"):
        plan_of(tiny, "test-late")
    path_from("test-early", torch.sqrt, rest)
    with pytest.raises(UserError, match=r"path 'test-early': α̇ = inf at t = 0. Set its start_time within"):
        plan_of(tiny, "test-early")
    path_from("test-in-time", sine, late, end_time=1 - 1e-5)
    assert plan_of(tiny, "test-in-time").cells


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (
            lambda t: torch.tensor(math.sin(t)),
            r"schedule\(t\) raises \w+ at t of shape \(2,\): .*t is a tensor of any shape",
        ),
        (lambda t: torch.stack(list(t)), r"schedule\(t\) raises TypeError at t of shape \(\): .*any shape, \(\) too"),
        (lambda t: 1.0, r"schedule\(t\) gives α as float at t of shape \(\): .*torch.ones_like"),
        (lambda t: t.sum(), r"schedule\(t\) gives α as shape \(\) at t of shape \(2,\)"),
        (lambda t: t * math.nan, r"α = nan at t = 0.1, between the ends, .*Mend its formula"),
        (
            lambda t: torch.where((t - 0.5).abs() < 0.01, math.nan, t),
            r"α = nan at t = 0.5, between the ends, .*Mend its formula",
        ),
    ],
)
def test_a_formula_that_takes_no_tensor_is_told_while_planning(
    tiny: Callable[..., dict[str, Any]], alpha: Callable[[Tensor], Any], said: str
) -> None:
    path_from("test-clumsy", alpha, rest, d_alpha=torch.ones_like)
    with pytest.raises(UserError, match=f"path 'test-clumsy': {said}"):
        plan_of(tiny, "test-clumsy")


@pytest.mark.parametrize(("factor", "size", "told"), [(1.002, 1, True), (1.0005, 1, False), (1.002, 0.01, False)])
def test_slopes_that_are_off_by_more_than_a_thousandth_of_the_largest_or_of_one(
    factor: float, size: float, told: bool
) -> None:
    """A sine's own slope is π/2 at most."""
    path = path_from(
        "test-off", lambda t: size * sine(t), rest, lambda t: factor * size * math.pi / 2 * torch.cos(math.pi / 2 * t)
    )()
    with pytest.raises(UserError, match="its derivatives are not those of its α and σ") if told else nullcontext():
        check_path(path)


def test_a_path_whose_time_runs_from_data_to_noise_is_told_while_planning(tiny: Callable[..., dict[str, Any]]) -> None:
    path_from("test-turned", rest, lambda t: t)
    with pytest.raises(UserError, match=r"path 'test-turned': α/σ does not rise .*α = 1, σ = 0 .* write 1 − t for t"):
        plan_of(tiny, "test-turned")


def test_a_constant_that_is_no_tensor_is_told_while_planning(tiny: Callable[..., dict[str, Any]]) -> None:
    path_from("test-constant", lambda t: t, lambda t: 0.5)  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match=r"schedule\(t\) gives σ as float at t of shape \(\): .*torch.ones_like"):
        plan_of(tiny, "test-constant")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_plugin_file_serves_workers(
    tiny: Callable[..., dict[str, Any]], measured: Callable[..., pd.DataFrame], tmp_path: FilePath, workers: int
) -> None:
    """Here and in processes that read the plug-in for themselves; derivatives are found inside inference mode."""
    plugin = tmp_path / "my_path.py"
    plugin.write_text(
        "import torch\nfrom fmbench.flow import path_from\n"
        "path_from('test-plugged', lambda t: t**1.5, lambda t: 1 - t, method='Plugged')\n"
    )
    suite = tiny(flow__path=["test-plugged", "rectified"], flow__seed=0, metrics=["solver_error"])
    table = measured(suite, workers=workers, plugins=(str(plugin),))
    assert set(table["status"]) == {"ok"}
    assert set(table["method"]) == {"Plugged", "RF"}
