"""Affine paths: what every path must keep, and the values, fields and scalings that the papers give."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmbench.errors import UserError
from fmbench.flow import PATHS, Path, UserPath
from fmbench.flow.paths import Preconditioning, Schedule
from fmbench.randomness import generator


class Smooth(UserPath):
    """A user's path of two formulas, unregistered: derivatives are found."""

    name = "smooth"
    method = "Smooth"

    def alpha(self, t: Tensor) -> Tensor:
        return (t + t**2) / 2

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t**2


EVERY = [PATHS.build(name) for name in PATHS.names()]
VARIANTS = [
    PATHS.build({"name": "fm-ot", "sigma_min": 0}),
    PATHS.build({"name": "fm-ot", "sigma_min": 0.1}),
    PATHS.build({"name": "vp-linear", "beta_min": 1, "beta_max": 5}),
    PATHS.build({"name": "ve", "sigma_min": 0.1, "sigma_max": 10}),
    PATHS.build({"name": "icfm", "sigma": 0.5}),
    PATHS.build({"name": "sb-cfm", "sigma": 0.5}),
    Smooth(),
]
AFFINE = [path for path in EVERY + VARIANTS if path.affine]
each = pytest.mark.parametrize("path", EVERY + VARIANTS, ids=lambda path: path.label())
each_affine = pytest.mark.parametrize("path", AFFINE, ids=lambda path: path.label())
STD = 1.7  # of the data, in what follows


def times(path: Path, n: int = 41, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(path.start_time, path.end_time, n, dtype=torch.float64).to(dtype)


def functions(s: Schedule) -> dict[str, Tensor]:
    """What the schedule has: γ and γ̇ on bridges only."""
    return {name: value for name, value in vars(s).items() if value is not None}


def at(path: Path, t: float) -> tuple[float, float]:
    s = path.schedule(torch.tensor(t, dtype=torch.float64))
    return s.alpha.item(), s.sigma.item()


def normal(n: int, d: int, *parts: str | int) -> Tensor:
    return torch.randn(n, d, generator=generator("test paths", *parts), dtype=torch.float64)


@each
def test_derivatives_are_those_of_the_schedule(path: Path) -> None:
    t = times(path).requires_grad_()
    s = path.schedule(t)
    seen = functions(s)
    assert set(seen) == {"alpha", "sigma", "d_alpha", "d_sigma"} | (set() if path.affine else {"gamma", "d_gamma"})
    for name in [name for name in seen if not name.startswith("d_")]:
        slope = torch.autograd.grad(seen[name].sum(), t, retain_graph=True)[0] if seen[name].requires_grad else 0 * t
        assert torch.allclose(seen[f"d_{name}"], slope, rtol=1e-9, atol=1e-12) == path.sound, name


@each
def test_schedule_runs_from_noise_to_data(path: Path) -> None:
    s = path.schedule(times(path))
    assert all(value.shape == (41,) for value in functions(s).values())
    assert all(value.isfinite().all() for value in functions(s).values())
    assert (s.alpha.diff() >= 0).all()
    assert (s.sigma.diff() < 0).all()
    assert (s.sigma[:-1] > 0).all()
    assert s.sigma[-1] >= 0
    if path.name.startswith("vp"):
        assert torch.allclose(s.alpha**2 + s.sigma**2, torch.ones(41, dtype=torch.float64), atol=1e-14)


# the table of the paths: (α_0, σ_0), (α_1, σ_1)
ENDS = {
    "rectified": ((0, 1), (1, 0)),
    "fm-ot": ((0, 1), (1, 1e-5)),
    "fm-ot[sigma_min=0]": ((0, 1), (1, 0)),
    "fm-ot[sigma_min=0.1]": ((0, 1), (1, 0.1)),
    "vp-cosine": ((0, 1), (1, 0)),
    "vp-linear": ((math.exp(-5.025), math.sqrt(1 - math.exp(-10.05))), (1, 0)),
    "vp-linear[beta_max=5,beta_min=1]": ((math.exp(-1.5), math.sqrt(1 - math.exp(-3))), (1, 0)),
    "ve": ((1, 50), (1, 0.01)),
    "ve[sigma_max=10,sigma_min=0.1]": ((1, 10), (1, 0.1)),
    "icfm": ((0, 1), (1, 0)),
    "icfm[sigma=0.5]": ((0, 1), (1, 0)),
    "sb-cfm": ((0, 1), (1, 0)),
    "sb-cfm[sigma=0.5]": ((0, 1), (1, 0)),
    "smooth": ((0, 1), (1, 0)),
}
BLURRED = ("icfm",)  # x0 is not where the path starts: γ_0 > 0


@pytest.mark.parametrize("path", [p for p in EVERY + VARIANTS if p.label() in ENDS], ids=lambda path: path.label())
def test_ends(path: Path) -> None:
    start, end = ENDS[path.label()]
    assert at(path, 0) == pytest.approx(start, rel=1e-12)
    assert at(path, 1) == pytest.approx(end, rel=1e-9, abs=1e-15)
    assert path.starts_at_source() == (start == (0, 1) and path.name not in BLURRED)


def test_table_is_complete() -> None:
    assert set(ENDS) == {path.label() for path in VARIANTS} | {
        "rectified", "fm-ot", "vp-cosine", "vp-linear", "ve", "icfm", "sb-cfm",
    }  # fmt: skip
    assert f"{at(PATHS.build('vp-linear'), 0)[0]:.4f}" == "0.0066"  # 0.00657: not 0


@each
def test_float32_keeps_its_digits(path: Path) -> None:
    t = times(path, 1001, torch.float32)
    low, high = functions(path.schedule(t)), functions(path.schedule(t.double()))
    for name, value in high.items():
        assert low[name].dtype == torch.float32
        error = (low[name] - value).abs().max()
        assert error <= 32 * torch.finfo(torch.float32).eps * value.abs().max(), name


@each
def test_float32_keeps_its_digits_towards_the_ends(path: Path) -> None:
    """Each value to 64 roundings of its own size, where α, σ and γ vanish too; where 1 − c t cancels, of size 1."""
    near = torch.logspace(-7, -1, 61, dtype=torch.float64)
    t = torch.cat([near, 1 - near]).clamp(path.start_time, path.end_time).float()
    t = t.clamp(max=1 - 2**-24)  # σ̇ of vp-linear and γ̇ of sb-cfm are infinite at 1, to which 1 − 1e-7 may round
    low, high = functions(path.schedule(t)), functions(path.schedule(t.double()))
    cancels = ("fm-ot", "smooth")
    for name, value in high.items():
        size = value.abs() + (1.0 if path.name in cancels else 0.0)
        assert ((low[name] - value).abs() <= 64 * torch.finfo(torch.float32).eps * size).all(), name


def test_vp_linear_keeps_its_digits_where_sigma_vanishes() -> None:
    """1 − α² would lose them; at 1 − 1e-5 it is 1e-6."""
    path = PATHS.build("vp-linear")
    t = (1 - torch.logspace(-5, -1, 50, dtype=torch.float64)).float()
    sigma, naive = path.schedule(t).sigma, (1 - path.schedule(t).alpha ** 2).sqrt()
    exact = path.schedule(t.double()).sigma
    assert (sigma / exact - 1).abs().max() < 1e-6
    assert (naive / exact - 1).abs().max() > 1e-3


@each
@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_point_is_the_formula(path: Path, shape: tuple[int, ...]) -> None:
    d = math.prod(shape)
    x0, x1 = (normal(5, d, side).reshape(5, *shape) for side in "ab")
    t = times(path, 5)
    noise = normal(5, d, "c").reshape(5, *shape)
    x, u = path.point(x0, x1, t, noise)
    for i in range(5):
        s = path.schedule(t[i])
        width, rate = (0.0, 0.0) if s.gamma is None or s.d_gamma is None else (s.gamma, s.d_gamma)
        assert torch.allclose(x[i], s.alpha * x1[i] + s.sigma * x0[i] + width * noise[i], rtol=1e-14)
        assert torch.allclose(u[i], s.d_alpha * x1[i] + s.d_sigma * x0[i] + rate * noise[i], rtol=1e-14)
        one_x, one_u = path.point(x0[i : i + 1], x1[i : i + 1], t[i], noise[i : i + 1])  # a scalar t
        assert torch.equal(one_x[0], x[i])
        assert torch.equal(one_u[0], u[i])


@each_affine
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_half_log_snr_and_its_inverse(path: Path, dtype: torch.dtype) -> None:
    """λ grows from end to end; the inverse returns within what a rounding of λ moves t, closed form and bisection alike."""
    t = torch.linspace(0, 1, 201, dtype=torch.float64).to(dtype).reshape(3, 67)
    snr = path.half_log_snr(t)
    assert snr.dtype == dtype
    assert snr.shape == t.shape
    assert not snr.isnan().any()
    assert (snr.flatten().diff() > 0).all()
    eps = torch.finfo(dtype).eps
    slope = (snr.flatten()[2:] - snr.flatten()[:-2]) / (2 * 0.005)  # the least over the neighbourhood
    allowed = 8 * eps * (1 + snr.flatten()[1:-1].abs() / slope.clamp(min=1))
    for inverse in (path.time_at, lambda value: Path.time_at(path, value)):
        back = inverse(snr)
        assert back.dtype == dtype
        assert ((back - t).flatten()[1:-1].abs() <= allowed).all()
        assert back.flatten()[[0, -1]].tolist() == pytest.approx([0, 1], abs=8 * eps)
        beyond = inverse(torch.tensor([-math.inf, -1e3, 1e3, math.inf], dtype=dtype))
        assert beyond.tolist() == pytest.approx([0, 0, 1, 1], abs=8 * eps)


def test_half_log_snr_of_rectified_is_the_logit() -> None:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.allclose(PATHS.build("rectified").half_log_snr(t), torch.logit(t), rtol=1e-14, atol=1e-14)


def test_a_bridge_has_no_signal_to_noise_ratio() -> None:
    for name in ("icfm", "sb-cfm"):
        with pytest.raises(UserError, match=f"path '{name}' is a bridge and has no signal-to-noise ratio"):
            PATHS.build(name).half_log_snr(torch.tensor(0.5))


@pytest.mark.parametrize("sigma_min", [0, 1e-5, 0.1])
def test_fm_ot_field_given_the_data_is_lipmans(sigma_min: float) -> None:
    """u_t(x | x1) = (x1 − (1 − σ_min) x) / (1 − (1 − σ_min) t): Lipman 2023, eq. 21."""
    path = PATHS.build({"name": "fm-ot", "sigma_min": sigma_min})
    x0, x1, t = normal(99, 2, "a"), normal(99, 2, "b"), torch.linspace(0, 0.99, 99, dtype=torch.float64)
    x, u = path.point(x0, x1, t)
    slope = 1 - sigma_min
    assert torch.allclose(u, (x1 - slope * x) / (1 - slope * t[:, None]), rtol=1e-9, atol=1e-9)


@each
def test_times_stop_short_of_a_derivative_that_diverges_and_of_nothing_else(path: Path) -> None:
    """By 1e-5, at either end."""
    for t, stated, short in ((0.0, path.start_time, 1e-5), (1.0, path.end_time, 1 - 1e-5)):
        slopes = [s for name, s in functions(path.schedule(torch.tensor(t).double())).items() if name.startswith("d_")]
        assert stated == (t if all(slope.isfinite() for slope in slopes) else short)


@each
def test_start_and_reference_times(path: Path) -> None:
    z0 = normal(7, 3, "z").float()
    assert torch.allclose(path.start(z0), at(path, 0)[1] * z0)
    assert path.start(z0).dtype == torch.float32
    grid = path.warp(torch.linspace(0, 1, 513, dtype=torch.float64))
    assert grid[0] == 0
    assert grid[-1] == path.end_time
    assert (grid.diff() > 0).all()
    assert path.method


def test_half_of_vp_linears_reference_steps_are_equal_in_t_and_half_in_the_logarithm_of_the_rest() -> None:
    """Until t = ½: a half of the one, ln 2 / ln 1e5 = 6.02 % of the other. In the last thousandth: 0.1 % and two fifths."""
    t = PATHS.build("vp-linear").warp(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    early, last = (t <= 0.5).double().mean().item(), (t >= 0.999).double().mean().item()
    assert (early, last) == pytest.approx(((0.5 + 0.0602) / 2, (0.001 + 0.4) / 2), abs=3e-4)


def test_noise_that_holds_data_is_not_the_source() -> None:
    """σ_0 = 1 alone does not tell: here the start is ½ x1 + x0."""

    class Late(Smooth):
        def alpha(self, t: Tensor) -> Tensor:
            return (1 + t) / 2

    assert not Late().starts_at_source()


def test_labels_and_mistakes() -> None:
    assert PATHS.build({"name": "fm-ot", "sigma_min": 0.1}).label() == "fm-ot[sigma_min=0.1]"
    assert PATHS.build({"name": "fm-ot", "sigma_min": 1e-5}).label() == "fm-ot"
    with pytest.raises(UserError, match="sigma_min = 5 must be below sigma_max = 2"):
        PATHS.build({"name": "ve", "sigma_min": 5, "sigma_max": 2})
    with pytest.raises(UserError, match=r"sigma_min = 1\.5"):
        PATHS.build({"name": "fm-ot", "sigma_min": 1.5})


# -- preconditioning --

N = 200_000


def standardised(path: Path, t: float, p: Preconditioning) -> bool:
    """Whether F sees inputs of variance 1 and learns uncorrelated targets of variance 1: five standard errors."""
    x, u = path.point(normal(N, 1, "x0"), STD * normal(N, 1, "x1"), torch.tensor(t, dtype=torch.float64))
    inputs, targets = p.c_in * x, (u - p.c_skip * x) / p.c_out
    variances = [inputs.square().mean().item(), targets.square().mean().item()]
    correlation = (inputs * targets).mean().item()
    return variances == pytest.approx([1, 1], abs=5 * math.sqrt(2 / N)) and abs(correlation) < 5 / math.sqrt(N)


def coefficients(path: Path, t: float) -> Preconditioning:
    return path.preconditioning(torch.tensor(t, dtype=torch.float64), STD)


@each_affine
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_networks_see_unit_variance(path: Path, share: float) -> None:
    t = share * path.end_time
    assert standardised(path, t, coefficients(path, t))


@pytest.mark.parametrize("twin", ["sign of c_skip", "c_out without the data", "c_in squared"])
def test_broken_twins_are_rejected(twin: str) -> None:
    path, t = PATHS.build("ve"), 0.3
    p = coefficients(path, t)
    broken = {
        "sign of c_skip": replace(p, c_skip=-p.c_skip),
        "c_out without the data": replace(p, c_out=p.c_out / STD),
        "c_in squared": replace(p, c_in=p.c_in**2),
    }[twin]
    assert standardised(path, t, p)
    assert not standardised(path, t, broken)


def test_on_ve_it_is_edms() -> None:
    """Karras 2022, Table 1: D = c_skip x + c_out F(c_in x), through v = σ̇ (x − D) / σ."""
    path, s2 = PATHS.build("ve"), STD**2
    t = times(path)
    ours, s = path.preconditioning(t, STD), path.schedule(t)
    total = s.sigma**2 + s2
    edm_skip, edm_out, edm_in = s2 / total, s.sigma * STD / total.sqrt(), 1 / total.sqrt()
    rate = s.d_sigma / s.sigma
    assert torch.allclose(ours.c_in, edm_in, rtol=1e-12)
    assert torch.allclose(ours.c_skip, rate * (1 - edm_skip), rtol=1e-9)
    assert torch.allclose(ours.c_out, -rate * edm_out, rtol=1e-12)


@pytest.mark.parametrize(("path", "hold"), [("over-time", 0.125), ({"name": "over-time", "hold": 0.4}, 0.4)])
def test_the_wrong_target_is_the_displacement_over_time(path: str | dict[str, object], hold: float) -> None:
    x0, x1 = (torch.randn(40, 2, generator=generator("over time", k), dtype=torch.float64) for k in (0, 1))
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    x, u = PATHS.build(path).point(x0, x1, t)
    t = t[:, None]
    assert torch.allclose(x, t * x1 + (1 - t) * x0)
    assert torch.allclose(u, (x1 - x0) / t.clamp(min=hold))


@pytest.mark.parametrize("path", [path for path in EVERY + VARIANTS if path.sound], ids=lambda path: path.label())
def test_the_marginal_of_a_bridge_is_as_wide_as_its_two_noises(path: Path) -> None:
    """σ² + γ² of independent x0 and ε, and its own derivative; of an affine path σ alone."""
    t = times(path)[2:-2].requires_grad_()
    s, marginal = path.schedule(t), path.marginal(t)
    assert torch.allclose(marginal.sigma**2, s.sigma**2 + (0 if s.gamma is None else s.gamma**2))
    assert torch.allclose(marginal.d_sigma, torch.autograd.grad(marginal.sigma.sum(), t)[0])
