"""Sampling: a flow solved by one solver under one budget, and the fine reference solve that explains it.

Both start from the same noise and, of a conditional flow, with the same labels: those of sample i depend on (seed, i)
alone, so all solvers, rounds, paths and guidances are compared in pairs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..data.base import Data, labels_of
from ..flow.guidance import calls
from ..flow.paths import Path
from ..flow.velocity import Field, Velocity, require_finite
from ..identity import Spec
from ..metrics.base import Geometry, Resources
from ..randomness import stream
from ..solvers.base import Solver
from ..solvers.fourth_order import RK4
from ..solvers.grids import Grid, UniformGrid
from .arithmetic import Precision, faster, products
from .flow import FlowSpec, Pairs, PairsSpec
from .memory import PeakMemory, fitting

PILOT = 512  # samples that decide how fine the reference solve must be
SHORT = 0.1  # seconds; solves that are shorter are timed several times
DRAWN = 256  # samples whose whole trajectory is kept for the report


class ReferenceSpec(Spec):
    """The fine solve of a flow: RK4, steps doubled until halving them moves the end by less than `tolerance` · data std."""

    stage = "reference"
    shaping = frozenset({"flow", "n", "batch", "sample_seed", "tolerance", "max_steps", "guidance", "precision"})
    silent = frozenset({"compile"})
    unchanged = {"guidance": 1.0, "precision": "float32"}

    flow: FlowSpec
    n: PositiveInt
    batch: PositiveInt
    sample_seed: int
    tolerance: PositiveFloat = 1e-5
    max_steps: PositiveInt = 512
    guidance: float = 1.0
    precision: Precision = "float32"
    compile: bool = False


class SampleSpec(Spec):
    """One cell: a flow, a solver, a budget. `steps` is None for adaptive solvers."""

    stage = "sample"
    shaping = frozenset({"flow", "solver", "steps", "grid", "n", "batch", "sample_seed", "guidance", "precision"})
    silent = frozenset({"compile", "keep"})
    unchanged = {"guidance": 1.0, "precision": "float32"}

    flow: FlowSpec
    solver: Solver
    steps: PositiveInt | None
    grid: Grid | None
    n: PositiveInt
    batch: PositiveInt
    sample_seed: int
    guidance: float = 1.0
    precision: Precision = "float32"
    compile: bool = False
    keep: bool = True  # all samples in the store, not only some to look at


@dataclass(frozen=True)
class Ledger:
    """What a solver did, each a mean over samples."""

    accepted: float  # steps
    rejected: float  # steps tried in vain
    startup: float  # calls that only start the method


@dataclass(frozen=True)
class Sampled:
    """The generated samples `(n, *shape)` on the CPU, what they cost, and the batch that the memory held."""

    x: Tensor
    resources: Resources
    ledger: Ledger
    batch: int

    @property
    def steps(self) -> float:
        return self.ledger.accepted


@dataclass(frozen=True)
class Reference:
    """The reference solve: what the metrics read, and some whole trajectories for the eye."""

    geometry: Geometry
    steps: int
    nfe: int
    trajectories: Tensor  # (T, m, *shape)
    times: Tensor  # (T,)
    batch: int  # that the memory held

    @property
    def ledger(self) -> Ledger:
        """One call starts; then a step's last slope is the next one's first, though the last is asked for all the same."""
        return Ledger(self.steps, 0, self.nfe % (4 * self.steps))


def noise(source: Data, start: int, stop: int, seed: int) -> Tensor:
    """Samples start … stop − 1 of the source, the common random numbers of every comparison."""
    return stream(lambda n, rng: source.draw(n, rng)[0], start, stop, "noise", seed)


def labels(flow: FlowSpec, start: int, stop: int, *names: str | int) -> Tensor | None:
    """What samples start … stop − 1 of a conditional flow shall be `(n,)`, from the stream that `names` name; else None.

    They follow the law of the data's own labels, so that the flow's samples as a whole follow the data's whole law.
    """
    if flow.classes is None:
        return None
    return stream(lambda n, rng: labels_of(flow.data, n, rng), start, stop, *names)


def asked_labels(spec: SampleSpec | ReferenceSpec) -> Tensor | None:
    """The labels `(n,)` that the samples of a cell are asked for; None of an unconditional flow."""
    return labels(spec.flow, 0, spec.n, "labels", spec.sample_seed)


def _cut(x: Tensor, label: Tensor | None, size: int, device: str = "cpu") -> list[tuple[Tensor, Tensor | None]]:
    """Samples and their labels in batches of `size`, on the device."""
    given = repeat(None) if label is None else label.to(device).split(size)
    return list(zip(x.to(device).split(size), given, strict=False))


@torch.inference_mode()
def sample(spec: SampleSpec, field: Field, device: str = "cpu") -> Sampled:
    """Generates spec.n samples in batches, timed after a warm-up call. A batch that the memory does not hold is halved.

    Raises:
        Diverged: a sample is not finite. BudgetExceeded: an adaptive solver asked for too many calls.
        UserError: the memory does not hold the batch of a solver whose results depend on it.
    """
    fixed = f"solver '{spec.solver.name}' behaves differently in another" if spec.solver.depends_on_batch else None
    compiled = spec.compile and not spec.solver.adaptive

    def work(batch: int) -> Sampled:
        called = faster(field, spec.precision, device, min(batch, spec.n) if compiled else None)
        return _sample(spec, called, batch, device)

    with products(spec.precision, device):
        return fitting(work, spec.batch, fixed)[0]


def _sample(spec: SampleSpec, field: Field, size: int, device: str) -> Sampled:
    path = spec.flow.path
    z0 = path.start(noise(spec.flow.source, 0, spec.n, spec.sample_seed))
    ends = torch.tensor([0.0, path.end_time], dtype=torch.float64)
    times = spec.grid.on(path, spec.steps) if spec.grid and spec.steps else ends
    batches = _cut(z0, asked_labels(spec), size, device)

    def velocity_of(label: Tensor | None) -> Velocity:
        return Velocity(field, path=path, label=label, guidance=spec.guidance)

    velocity_of(batches[0][1])(times[0].to(device), batches[0][0])

    def solve() -> tuple[list[Tensor], float, Ledger, float]:
        parts, calls, work = [], 0, [0.0, 0.0, 0.0]
        _synchronise(device)
        started = time.perf_counter()
        for batch, label in batches:
            velocity = velocity_of(label)
            solution = spec.solver.integrate(velocity, batch, times.to(device))
            parts.append(solution.x)
            calls += velocity.evaluations
            done = (solution.steps, solution.rejected, solution.startup * velocity.calls_per_evaluation)
            work = [total + share * len(batch) for total, share in zip(work, done, strict=True)]
        _synchronise(device)
        ledger = Ledger(*(total / spec.n for total in work))
        return parts, calls / spec.n, ledger, time.perf_counter() - started

    with PeakMemory(device) as memory:
        parts, nfe, ledger, took = solve()
    seconds = [took]
    while len(seconds) < 3 and sum(seconds) < SHORT:
        seconds.append(solve()[3])
    x = require_finite(torch.cat(parts).cpu(), "sampling")
    peak_mb = None if memory.peak_mb is None else memory.peak_mb + getattr(field, "held_mb", 0.0)
    return Sampled(x, Resources(nfe, tuple(seconds), peak_mb), ledger, size)


@torch.inference_mode()
def reference(spec: ReferenceSpec, field: Field, device: str = "cpu") -> Reference:
    """The reference solve with its own error, estimated on a pilot group by halving the steps.

    Raises:
        Diverged: the field is not finite along the way.
    """

    def work(batch: int) -> Reference:
        called = faster(field, spec.precision, device, min(batch, spec.n) if spec.compile else None)
        return _reference(spec, called, batch, device)

    with products(spec.precision, device):
        return fitting(work, spec.batch)[0]


def _reference(spec: ReferenceSpec, field: Field, size: int, device: str) -> Reference:
    path, data = spec.flow.path, spec.flow.data
    z0 = path.start(noise(spec.flow.source, 0, spec.n, spec.sample_seed))
    label, tolerance = asked_labels(spec), spec.tolerance * data.moments()[1]
    cut = partial(_cut, z0, label, device=device)

    def velocity_of(label: Tensor | None) -> Velocity:
        return Velocity(field, path=path, label=label, guidance=spec.guidance)

    pilot, label = cut(pilot_size(spec.n, size if size < spec.batch else None))[0]
    steps, error = _enough_steps(velocity_of(label), path, pilot, tolerance, spec.max_steps)
    parts = [_solve(velocity_of(label), path, batch, steps) for batch, label in cut(size)]
    merged = {
        name: torch.cat([getattr(part, name) for part in parts]).cpu()
        for name in ("z1", "start_velocity", "energy", "straightness", "length")
    }
    require_finite(merged["z1"], "the reference solve")
    every = max(1, steps // 32)
    return Reference(
        Geometry(z0=z0, error=error, pilot=len(pilot), **merged),
        steps=steps,
        nfe=calls(spec.guidance) * (4 * steps + 1),
        trajectories=parts[0].states[:, :DRAWN][::every].cpu(),
        times=path.warp(torch.linspace(0, 1, steps + 1, dtype=torch.float64))[::every],
        batch=size,
    )


def pilot_size(n: int, held: int | None) -> int:
    """How many of n samples decide how fine the reference solve must be; `held`: the batch, where the memory held no larger."""
    return min(n, PILOT, held or PILOT)


def reference_times(path: Path, steps: int) -> Tensor:
    """`(steps + 1,)` float64: the grid of the reference solve, crowded where the path needs it."""
    return path.warp(torch.linspace(0, 1, steps + 1, dtype=torch.float64))


def _enough_steps(field: Field, path: Path, z0: Tensor, tolerance: float, most: int) -> tuple[int, float]:
    """The least doubling whose end differs from that of half the steps by at most `tolerance`, and that difference.

    Where rounding stops the decrease, or at `most` steps, the difference reached is reported as it is.
    """
    solver, steps, error = RK4(), 16, float("inf")
    coarse = solver.integrate(Velocity(field), z0, reference_times(path, steps).to(z0.device)).x
    while 2 * steps <= most:
        fine = solver.integrate(Velocity(field), z0, reference_times(path, 2 * steps).to(z0.device)).x
        require_finite(fine, "the reference solve")
        previous, error = error, (fine.double() - coarse.double()).square().mean().sqrt().item()
        steps, coarse = 2 * steps, fine
        if error <= tolerance or (error > 0.5 * previous and error < 100 * tolerance):
            break
    return steps, error


@dataclass(frozen=True)
class _Solved:
    z1: Tensor
    start_velocity: Tensor
    energy: Tensor
    straightness: Tensor
    length: Tensor
    states: Tensor


def _solve(field: Field, path: Path, x: Tensor, steps: int) -> _Solved:
    """RK4 that integrates ‖v‖² and ‖v‖ along with the state; straightness by Simpson's rule in each step.

    RK4 weighs its own stages; Simpson's rule takes the field where a step begins, where it ends and, for the middle,
    the mean of the two inner stages. Two quadratures, so that path_energy = transport_cost + straightness is a check
    and not a tautology.
    """
    grid = reference_times(path, steps)
    times, lengths = grid.to(x.device), grid.diff().tolist()  # as numbers: a device is not waited for at each step
    z0, states = x, [x[:DRAWN]]
    energy = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    length, simpson_energy = torch.zeros_like(energy), torch.zeros_like(energy)
    simpson_v = torch.zeros_like(x, dtype=torch.float64).flatten(1)
    start_velocity = k1 = field(times[0], x)
    for i, h in enumerate(lengths):
        middle = times[i] + 0.5 * h
        k2 = field(middle, torch.add(x, k1, alpha=0.5 * h))
        k3 = field(middle, torch.add(x, k2, alpha=0.5 * h))
        k4 = field(times[i + 1], torch.add(x, k3, alpha=h))
        x = x + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)
        after = field(times[i + 1], x)  # the next step's first stage
        for weight, k in zip((h / 6, h / 3, h / 3, h / 6), (k1, k2, k3, k4), strict=True):
            square = k.flatten(1).double().square().sum(1)
            energy += weight * square
            length += weight * square.sqrt()
        for weight, k in zip((h / 6, 4 * h / 6, h / 6), (k1, 0.5 * (k2 + k3), after), strict=True):
            v = k.flatten(1).double()
            simpson_v += weight * v
            simpson_energy += weight * v.square().sum(1)
        k1 = after
        states.append(x[:DRAWN])
    chord = (x.double() - z0.double()).flatten(1)
    span = (grid[-1] - grid[0]).item()
    straightness = span * chord.square().sum(1) - 2 * (chord * simpson_v).sum(1) + simpson_energy
    return _Solved(x, start_velocity, energy, straightness, length, torch.stack(states))


@torch.inference_mode()
def pairs_from(spec: PairsSpec, field: Field, device: str = "cpu") -> Pairs:
    """Reflow pairs (z0, z1), `n` of them, from noise and data that no evaluation uses.

    The first (1 − inverted) n are solved forward from the source, the others backward from the data; those of a conditional
    flow with labels of the data's own law, and with the data's own labels.
    """
    flow = spec.flow
    names = (flow.seed, *((flow.reflow,) if flow.reflow else ()))  # every round draws anew
    grid = UniformGrid().times(spec.steps or 1, flow.path.end_time).to(device)
    backward = round(spec.inverted * spec.n)

    def solved(x: Tensor, label: Tensor | None, times: Tensor) -> Tensor:
        def inside(size: int) -> Tensor:
            parts = [
                spec.solver.integrate(Velocity(field, path=flow.path, label=given), part, times).x.cpu()
                for part, given in _cut(x, label, size, device)
            ]
            return torch.cat(parts)

        fixed = f"train.batch decides it, and solver '{spec.solver.name}' behaves differently in another"
        return fitting(inside, 16 * flow.train.batch, fixed if spec.solver.depends_on_batch else None)[0]

    label = labels(flow, 0, spec.n - backward, "pairs' labels", *names)
    z0 = stream(lambda n, rng: flow.source.draw(n, rng)[0], 0, spec.n - backward, "pairs", *names)
    z1 = solved(z0, label, grid)
    if backward:
        x1 = stream(lambda n, rng: flow.data.draw(n, rng)[0], 0, backward, "inverted pairs", *names)
        own = labels(flow, 0, backward, "inverted pairs", *names)
        z0, z1 = torch.cat([z0, solved(x1, own, grid.flip(0))]), torch.cat([z1, x1])
        label = None if label is None or own is None else torch.cat([label, own])
    return Pairs(require_finite(z0, "drawing pairs"), require_finite(z1, "drawing pairs"), label)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
