"""Sampling: common noise, honest counts; the reference solve against closed forms and against a much finer one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor
from toy_flows import GAUSSIAN, MEAN, STD, flow, gaussian, pairs_from

from fmbench.data import DATA
from fmbench.errors import BudgetExceeded, Diverged, UserError
from fmbench.flow import PATHS, Path
from fmbench.flow.paths import Rectified
from fmbench.flow.velocity import Velocity
from fmbench.metrics.geometry import broken_identity
from fmbench.randomness import stream
from fmbench.solvers import GRIDS, SOLVERS
from fmbench.solvers.runge_kutta import RK4
from fmbench.stages import sample as sampling
from fmbench.stages.arithmetic import Graphed
from fmbench.stages.flow import FlowSpec, PairsSpec, velocity_field
from fmbench.stages.sample import (
    Reference,
    ReferenceSpec,
    SampleSpec,
    noise,
    reference,
    reference_times,
    sample,
)

FROM_SOURCE = ["rectified", "vp-cosine"]  # α_0 = 0, σ_0 = 1, σ_1 = 0: Z1 = μ + Σ^½ Z0 exactly
each_path = pytest.mark.parametrize("path", PATHS.names())


def sample_spec(
    solver: Any = "heun", steps: int | None = 4, n: int = 300, batch: int = 128, **changes: Any
) -> SampleSpec:
    chosen = SOLVERS.build(solver)
    grid = None if chosen.adaptive else GRIDS.build("uniform")
    return SampleSpec(
        **{
            "flow": gaussian(), "solver": chosen, "steps": None if chosen.adaptive else steps, "grid": grid,
            "n": n, "batch": batch, "sample_seed": 0, **changes,
        }
    )  # fmt: skip


@lru_cache
def solved(path: str, n: int = 512, **changes: Any) -> Reference:
    spec = ReferenceSpec(**{"flow": gaussian(path), "n": n, "batch": 400, "sample_seed": 0, **changes})
    return reference(spec, velocity_field(spec.flow, None))


class Network:
    """A small field that remembers the batch of every call."""

    def __init__(self) -> None:
        spec = flow(model={"name": "mlp", "width": 16}, data=GAUSSIAN)
        self.field = velocity_field(spec, dict(spec.model.network((3,), [0]).named_parameters()))
        self.sizes: list[int] = []

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.field(t, x)


# -- noise --


def test_noise_depends_on_seed_and_place_alone() -> None:
    source = DATA.build({"name": "normal", "dims": [3]})
    many = noise(source, 0, 3000, 7)
    assert torch.equal(noise(source, 0, 10, 7), many[:10])
    assert torch.equal(noise(source, 1000, 2100, 7), many[1000:2100])
    assert not torch.equal(noise(source, 0, 10, 8), many[:10])
    assert not torch.equal(many[:1000], many[1000:2000])


@each_path
def test_every_path_starts_from_the_same_noise(path: str) -> None:
    plain = noise(gaussian().source, 0, 512, 0)
    start = solved(path).geometry.z0
    sigma = PATHS.build(path).schedule(torch.zeros((), dtype=torch.float64)).sigma.item()
    assert torch.allclose(start, sigma * plain, rtol=1e-6)


# -- a cell --


def test_a_sample_depends_neither_on_n_nor_on_the_batch() -> None:
    """Up to the rounding of a few float32 matrix products of values of order one."""
    many = sample(sample_spec(n=1500, batch=1500), Network()).x
    for n, batch in [(1500, 64), (300, 300), (300, 7)]:
        few = sample(sample_spec(n=n, batch=batch), Network()).x
        assert few.shape == (n, 3)
        assert torch.allclose(few, many[:n], atol=1e-5)


def test_solvers_share_their_noise() -> None:
    """In pairs they agree far better than two draws would."""
    coarse = sample(sample_spec("euler", 32), Network()).x
    fine = sample(sample_spec("rk4", 32), Network()).x
    assert (coarse - fine).abs().max() < 0.1 < (coarse - fine.flip(0)).abs().max()


@pytest.mark.parametrize("name", SOLVERS.names())
def test_calls_and_steps_are_those_of_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SHORT", 0.0)  # one timed solve
    network = Network()
    spec = sample_spec(name, steps=5, n=300, batch=128)
    outcome = sample(spec, network)
    calls = network.sizes[1:]  # less the warm-up
    assert outcome.resources.nfe == pytest.approx(sum(calls) / 300)
    if not spec.solver.adaptive:
        assert outcome.resources.nfe == spec.solver.calls_for(5)
        assert outcome.steps == 5
        assert outcome.ledger.rejected == 0
    else:
        work = outcome.ledger
        trials = work.accepted + work.rejected
        assert outcome.resources.nfe == pytest.approx(work.startup + spec.solver.calls_per_step * trials)
    assert max(calls) <= 128


def test_a_solver_that_calls_more_or_less_than_it_declares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sample_spec("euler", 4)
    monkeypatch.setattr(type(spec.solver), "calls_per_step", 2)
    with pytest.raises(UserError, match="solver 'euler' makes 4 network calls in 4 steps, and declares 8"):
        sample(spec, velocity_field(spec.flow, None))


@pytest.mark.parametrize("cut", [lambda found: found.x, lambda found: replace(found, x=found.x[:3])])
def test_a_solver_must_give_all_its_samples(cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sample_spec("euler", 4)
    whole = type(spec.solver).integrate
    monkeypatch.setattr(type(spec.solver), "integrate", lambda *given: cut(whole(*given)))
    with pytest.raises(UserError, match=r"solver 'euler': integrate gives .*, not a Solution of shape \(128, "):
        sample(spec, velocity_field(spec.flow, None))


def test_short_solves_are_timed_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SHORT", 1e9)
    short = sample(sample_spec(), Network()).resources.seconds
    monkeypatch.setattr(sampling, "SHORT", 0.0)
    long = sample(sample_spec(), Network()).resources.seconds
    assert (len(short), len(long)) == (3, 1)
    assert all(seconds > 0 for seconds in short + long)


def test_failures_are_raised() -> None:
    explosive = lambda t, x: x**3 * 1e6  # noqa: E731
    for name in SOLVERS.names():
        with pytest.raises((Diverged, BudgetExceeded)):
            sample(sample_spec(name, steps=10), explosive)
    with pytest.raises(Diverged, match="sampling left the finite numbers"):
        sample(sample_spec("euler"), lambda t, x: x * math.nan)
    with pytest.raises(BudgetExceeded):
        sample(sample_spec({"name": "dopri5", "max_nfe": 7}), Network())


@each_path
def test_solvers_end_where_the_reference_does(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "over-time":
        pytest.skip("its velocity grows without bound at t = 0")
    """Every solver converges to the reference solve, on every path."""
    monkeypatch.setattr(sampling, "SHORT", 0.0)  # timed once
    end = solved(path, n=64).geometry.z1
    field = velocity_field(gaussian(path), None)
    for name in SOLVERS.names():
        try:
            SOLVERS.build(name).check(gaussian(path).path)
        except UserError:
            continue  # refused while planning, by name: a bridge has no signal-to-noise ratio
        errors = []
        budgets: list[Any] = [1e-3, 1e-6] if SOLVERS.get(name).adaptive else [32, 128]
        for budget in budgets:
            solver = {"name": name, "rtol": budget, "atol": budget} if budget < 1 else name
            steps = None if budget < 1 else budget
            x = sample(sample_spec(solver, steps, n=64, flow=gaussian(path)), field).x
            errors.append((x - end).square().mean().sqrt().item())
        assert errors[1] < max(0.5 * errors[0], 1e-4), (name, errors)


# -- the reference solve --


@each_path
def test_the_reported_error_is_honest(path: str) -> None:
    """No smaller than the true one, against eight times the steps in float64; small, and near what was asked for."""
    outcome = solved(path)
    field = velocity_field(gaussian(path), None)
    grid = reference_times(PATHS.build(path), 8 * outcome.steps)
    truth = RK4().integrate(Velocity(field), outcome.geometry.z0.double(), grid).x
    error = (outcome.geometry.z1.double() - truth).square().mean().sqrt().item()
    scale = outcome.geometry.z0.abs().max().item() + outcome.geometry.z1.abs().max().item()
    assert error <= outcome.geometry.error + 10 * torch.finfo(torch.float32).eps * scale
    assert outcome.geometry.error < 1e-4
    assert outcome.nfe == 4 * outcome.steps + 1
    assert (outcome.ledger.accepted, outcome.ledger.rejected, outcome.ledger.startup) == (outcome.steps, 0, 1)


@pytest.mark.parametrize("most", [16, 32, 40, 128])
def test_steps_never_exceed_what_is_allowed(most: int) -> None:
    outcome = solved("vp-linear", tolerance=1e-30, max_steps=most, n=16)
    assert outcome.steps <= most
    assert outcome.geometry.error > 0
    if most < 32:
        assert outcome.geometry.error == math.inf, "nothing to compare with: not known, not zero"


@each_path
def test_energy_is_cost_plus_straightness(path: str) -> None:
    geometry = solved(path).geometry
    assert broken_identity(geometry, PATHS.build(path).end_time) is None


@pytest.mark.parametrize("path", FROM_SOURCE)
def test_geometry_is_the_closed_form_sample_by_sample(path: str) -> None:
    """Z_t = α μ + s(t) Z0, so v = α̇ μ + ṡ Z0: z1, v(0), energy, straightness, length."""
    geometry = solved(path).geometry
    mean, std = (torch.tensor(a, dtype=torch.float64) for a in (MEAN, STD))
    z0 = geometry.z0.double()
    assert torch.allclose(geometry.z1.double(), mean + std * z0, atol=1e-4)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    s = PATHS.build(path).schedule((nodes[:, None, None] + 1) / 2)
    scale = (s.alpha**2 * std**2 + s.sigma**2).sqrt()
    v = s.d_alpha * mean + (s.alpha * s.d_alpha * std**2 + s.sigma * s.d_sigma) / scale * z0  # (T, n, 3)
    chord = mean + (std - 1) * z0

    def integral(values: Tensor) -> Tensor:
        return (weights[:, None] / 2 * values).sum(0)

    assert torch.allclose(geometry.energy, integral(v.square().sum(2)), rtol=1e-4)
    assert torch.allclose(geometry.straightness, integral((v - chord).square().sum(2)), rtol=1e-3, atol=1e-4)
    assert torch.allclose(geometry.length, integral(v.norm(dim=2)), rtol=1e-3)
    start = PATHS.build(path).schedule(torch.zeros((), dtype=torch.float64))
    assert torch.allclose(geometry.start_velocity.double(), start.d_alpha * mean + start.d_sigma * z0, atol=1e-4)


def population_straightness(path: Path) -> float:
    mean, std = np.array(MEAN), np.array(STD)

    def integrand(t: float) -> float:
        s = path.schedule(torch.tensor(t, dtype=torch.float64))
        a, b, da, db = (value.item() for value in (s.alpha, s.sigma, s.d_alpha, s.d_sigma))
        rate = (a * da * std**2 + b * db) / np.sqrt(a**2 * std**2 + b**2)
        return float((mean**2).sum() * (da - 1) ** 2 + ((rate - (std - 1)) ** 2).sum())

    return quad(integrand, 0, 1)[0]


@pytest.mark.parametrize(("path", "known"), [("rectified", 1.5022), ("vp-cosine", 0.5936)])
def test_straightness_and_cost_of_one_gaussian(path: str, known: float) -> None:
    """Cost = ‖μ‖² + Σ (√λ − 1)² = W2², whatever the path; straightness in closed form."""
    geometry = solved(path, n=4096).geometry
    assert population_straightness(PATHS.build(path)) == pytest.approx(known, abs=5e-5)

    def agrees(x: Tensor, value: float) -> bool:
        return x.mean().item() == pytest.approx(value, abs=5 * x.std().item() / 64)

    assert agrees(geometry.straightness, known)
    assert not agrees(geometry.straightness, 1.5022 + 0.5936 - known), "the other path's value must not pass"
    cost = geometry.displacement.square().sum(1)
    assert agrees(cost, sum(m**2 + (s - 1) ** 2 for m, s in zip(MEAN, STD, strict=True)))


def test_cost_does_not_depend_on_the_path() -> None:
    """Sample by sample: the same z0, the same z1."""
    first, second = (solved(path).geometry for path in FROM_SOURCE)
    assert torch.equal(first.z0, second.z0)
    assert torch.allclose(first.z1, second.z1, atol=1e-4)


def test_reference_does_not_depend_on_the_batch() -> None:
    one, many = solved("rectified", batch=512).geometry, solved("rectified", batch=60).geometry
    for name in ("z0", "z1", "energy", "straightness", "length", "start_velocity"):
        assert torch.allclose(getattr(one, name), getattr(many, name), rtol=1e-6)


def test_drawn_trajectories_are_the_solves_own() -> None:
    outcome = solved("vp-linear", n=300)
    assert outcome.times[0] == 0
    assert outcome.times[-1] == PATHS.build("vp-linear").end_time
    assert outcome.trajectories.shape == (len(outcome.times), 256, 3)
    assert torch.equal(outcome.trajectories[0], outcome.geometry.z0[:256])
    assert torch.equal(outcome.trajectories[-1], outcome.geometry.z1[:256])


def test_a_field_without_numbers_has_no_reference() -> None:
    spec = ReferenceSpec(flow=gaussian(), n=16, batch=16, sample_seed=0)
    with pytest.raises(Diverged, match="reference solve"):
        reference(spec, lambda t, x: x * math.nan)


def test_calls_of_each_sample_have_a_spread() -> None:
    """Those of a sample solved alone; where all samples make the same, it is a count without an error."""
    alone = {"name": "dopri5", "per_sample": True, "rtol": 1e-4, "atol": 1e-4}
    asked = sample_spec(alone, n=40, batch=16, flow=gaussian("vp-linear"))
    field = velocity_field(asked.flow, None)
    found = sample(asked, field).resources
    z0 = asked.flow.path.start(noise(asked.flow.source, 0, 40, 0))
    ends, calls = torch.tensor([0.0, asked.flow.path.end_time], dtype=torch.float64), []
    for z in z0:
        velocity = Velocity(field, path=asked.flow.path)
        asked.solver.integrate(velocity, z[None], ends)
        calls.append(float(velocity.nfe))
    assert len(set(calls)) > 1
    assert found.nfe == pytest.approx(sum(calls) / 40)
    assert found.nfe_stderr == pytest.approx(torch.tensor(calls).std().item() / 40**0.5)
    assert sample(sample_spec("heun"), Network()).resources.nfe_stderr == 0


# -- pairs --


def pairs_of(flow: FlowSpec, n: int, **changes: Any) -> PairsSpec:
    solver = SOLVERS.build({"name": "dopri5", "rtol": 1e-6, "atol": 1e-6})
    return PairsSpec(**{"flow": flow, "n": n, "solver": solver, **changes})


def test_pairs() -> None:
    spec = gaussian()
    field = velocity_field(spec, None)
    z0, z1, _ = pairs_from(pairs_of(spec, 200), field)
    assert torch.allclose(z1, torch.tensor(MEAN) + torch.tensor(STD) * z0, atol=1e-4)
    fewer = pairs_from(pairs_of(spec, 50), field)
    assert torch.equal(fewer[0], z0[:50])
    assert torch.allclose(fewer[1], z1[:50], atol=1e-4)
    other = pairs_from(pairs_of(spec.model_copy(update={"seed": 2}), 50), field)
    assert not torch.equal(other[0], z0[:50])
    later = pairs_from(pairs_of(spec.model_copy(update={"reflow": 1}), 50), field)
    assert not torch.equal(later[0], z0[:50]), "every round draws anew"
    for seed in (0, 2):
        evaluated = noise(spec.source, 0, 200, seed)
        assert not (evaluated[:, None] == z0).all(2).any(), "an evaluation sees the noise that training used"
    with pytest.raises(Diverged, match="drawing pairs"):
        pairs_from(pairs_of(spec, 5, solver=RK4(), steps=4), lambda t, x: x * math.inf)


def test_inverted_pairs_end_in_data_and_lie_on_the_same_map() -> None:
    spec = gaussian()
    field = velocity_field(spec, None)
    z0, z1, label = pairs_from(pairs_of(spec, 200, inverted=0.3, solver=RK4(), steps=50), field)
    assert z0.shape == z1.shape == (200, 3)
    assert label is None
    assert torch.allclose(z1, torch.tensor(MEAN) + torch.tensor(STD) * z0, atol=1e-4)
    forward, *_ = pairs_from(pairs_of(spec, 200, solver=RK4(), steps=50), field)
    assert torch.equal(z0[:140], forward[:140])
    data = stream(lambda n, rng: spec.data.draw(n, rng)[0], 0, 60, "inverted pairs", spec.seed)
    assert torch.equal(z1[140:], data)


def test_pairs_are_solved_to_where_their_path_ends() -> None:
    class Half(Rectified):
        name = "half"
        end_time = 0.5

    spec = gaussian().model_copy(update={"path": Half()})
    pairs = pairs_from(pairs_of(spec, 20, inverted=0.5, solver=RK4(), steps=2), lambda t, x: torch.ones_like(x))
    assert torch.allclose(pairs.z1 - pairs.z0, torch.tensor(0.5))


def test_pairs_of_a_solver_that_sees_its_batch_are_not_solved_in_a_smaller_one() -> None:
    spec, adaptive = gaussian(), SOLVERS.build("dopri5")

    def crowded(t: Tensor, x: Tensor) -> Tensor:
        if len(x) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    assert len(pairs_from(pairs_of(spec, 100, solver=RK4(), steps=2), crowded).z0) == 100
    with pytest.raises(UserError, match=r"train\.batch decides it, and solver 'dopri5' behaves differently in another"):
        pairs_from(pairs_of(spec, 100, solver=adaptive), crowded)


# -- memory and arithmetic --


class Crowded(Network):
    """A device that holds no more than a few samples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(t, x)


def test_a_batch_that_the_memory_does_not_hold_is_halved() -> None:
    spec = sample_spec(n=300, batch=128)
    roomy, narrow = sample(spec, Network()), sample(spec, Crowded(40))
    assert (roomy.batch, narrow.batch) == (128, 32)
    assert torch.allclose(roomy.x, narrow.x, atol=1e-5)
    assert narrow.resources.nfe == roomy.resources.nfe
    fine = ReferenceSpec(flow=spec.flow, n=300, batch=128, sample_seed=0, tolerance=1e-3)
    assert reference(fine, Crowded(40)).batch == 32
    assert torch.allclose(reference(fine, Crowded(40)).geometry.z1, reference(fine, Network()).geometry.z1, atol=1e-5)


def test_a_batch_that_matters_is_not_halved() -> None:
    with pytest.raises(UserError, match=r"batch of 128 does not fit.*Lower it: solver 'dopri5' behaves differently"):
        sample(sample_spec({"name": "dopri5", "rtol": 1e-2, "atol": 1e-2}), Crowded(40))
    with pytest.raises(torch.OutOfMemoryError):
        sample(sample_spec(), Crowded(0))


def test_bfloat16_rounds_the_network_and_not_the_state() -> None:
    plain, rounded = (sample(sample_spec(precision=p), Network()).x for p in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    gap = (plain - rounded).abs().max()
    assert 0 < gap < 2**-7 * 20, "8 bits of values up to about 10, over a few products"
    tf32 = sample(sample_spec(precision="tf32"), Network()).x
    assert torch.equal(tf32, plain), "a processor has no such products"


def test_a_graph_is_recorded_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first GPU's stream a graph of another is empty: its replay gives the first velocity again and again."""
    cuda = MagicMock()
    cuda.memory_reserved.return_value = 0
    monkeypatch.setattr(torch, "cuda", cuda)
    Graphed(lambda t, x: t * x, "cpu")(torch.ones(()), torch.ones(3, 2))
    assert cuda.Stream.call_args_list == [call("cpu")]
    assert cuda.graph.call_args.kwargs["stream"] is cuda.Stream.return_value


def test_a_compiled_field_is_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through torch.compile's own front end; its code generator is torch's to test."""
    asked: list[dict[str, Any]] = []
    compiler = torch.compile

    def compiled(field: Any, **options: Any) -> Any:
        asked.append(options)
        return compiler(field, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", compiled)
    field = Network().field
    fixed = sample_spec()
    for precision in ("float32", "bfloat16"):
        spec = fixed.model_copy(update={"precision": precision})
        for solver in (fixed.solver, SOLVERS.build("heun")):
            spec = spec.model_copy(update={"solver": solver})
            fast = sample(spec.model_copy(update={"compile": True}), field)
            assert torch.allclose(fast.x, sample(spec, field).x, atol=1e-5)
    assert asked == [{"dynamic": False}] * 2, "one flow is compiled once, whatever its solver"
    sample(sample_spec("dopri5", compile=True), field)
    assert len(asked) == 2, "batches of adaptive solvers may change their size"
