"""Sampling: a flow solved by one solver under one budget, and the fine reference solve that explains it.

Both start from the same noise and, of a conditional flow, with the same labels: those of sample i depend on (seed, i)
alone, so all solvers, rounds, paths and guidances are compared in pairs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..data.base import Data, labels_of
from ..errors import UserError
from ..flow.guidance import calls
from ..flow.paths import Path
from ..flow.velocity import Field, Velocity, require_finite
from ..identity import Spec
from ..memory import PeakMemory, fitting
from ..metrics.base import Geometry, Resources
from ..randomness import stream
from ..solvers.base import Solution, Solver
from ..solvers.grids import Grid
from ..solvers.runge_kutta import RK4
from ..statistics import mean
from .arithmetic import Precision, faster, products
from .flow import FlowSpec

PILOT = 512  # samples that decide how fine the reference solve must be
SHORT = 0.1  # seconds; solves that are shorter are timed several times
DRAWN = 256  # samples whose whole trajectory is kept for the report
SOLVED = ("z1", "start_velocity", "energy", "straightness", "length")  # of each sample, by the reference solve


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
    calls: Tensor | None = None  # (n,) of the network, where each sample makes its own

    @property
    def steps(self) -> float:
        return self.ledger.accepted

    @classmethod
    def joined(cls, parts: Sequence[Sampled]) -> Sampled:
        """Spans of one cell, in order. Their seconds add up, as those of one device would; the memory is that of the fullest."""
        if len(parts) == 1:
            return parts[0]
        n = sum(len(part.x) for part in parts)
        costs = [part.resources for part in parts]
        own = [part.calls for part in parts if part.calls is not None]
        calls = torch.cat(own) if own else None
        peaks = [cost.peak_memory_mb for cost in costs if cost.peak_memory_mb is not None]
        resources = Resources(
            nfe=sum(cost.nfe * len(part.x) for cost, part in zip(costs, parts, strict=True)) / n,
            seconds=tuple(sum(repetition) for repetition in zip(*(cost.seconds for cost in costs), strict=False)),
            peak_memory_mb=max(peaks, default=None),
            nfe_stderr=0.0 if calls is None else mean(calls).stderr,
        )
        done = [sum(getattr(part.ledger, name) * len(part.x) for part in parts) / n for name in Ledger.__annotations__]
        x, batch = torch.cat([part.x for part in parts]), min(part.batch for part in parts)
        return cls(x, resources, Ledger(*done), batch, calls)


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

    @classmethod
    def joined(cls, parts: Sequence[Reference]) -> Reference:
        """Spans of one reference solve, in order; the trajectories are the first span's."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        solved = {name: torch.cat([getattr(part.geometry, name) for part in parts]) for name in ("z0", *SOLVED)}
        geometry = Geometry(**solved, error=first.geometry.error, pilot=first.geometry.pilot)
        return replace(first, geometry=geometry, batch=min(part.batch for part in parts))


class Fineness(NamedTuple):
    """How fine a reference solve is: its steps, and the error that a pilot group of samples had with them."""

    steps: int
    error: float
    pilot: int


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


def asked_labels(spec: SampleSpec | ReferenceSpec, span: range | None = None) -> Tensor | None:
    """The labels that the samples of a cell are asked for, `(n,)` or those of a span; None of an unconditional flow."""
    span = range(spec.n) if span is None else span
    return labels(spec.flow, span.start, span.stop, "labels", spec.sample_seed)


def _begun(spec: SampleSpec | ReferenceSpec, span: range) -> tuple[Tensor, Tensor | None]:
    """Where a span of a cell's samples starts, and what they shall be."""
    z0 = noise(spec.flow.source, span.start, span.stop, spec.sample_seed)
    return spec.flow.path.start(z0), asked_labels(spec, span)


def cut(x: Tensor, label: Tensor | None, size: int, device: str = "cpu") -> list[tuple[Tensor, Tensor | None]]:
    """Samples and their labels in batches of `size`, on the device."""
    given = repeat(None) if label is None else label.to(device).split(size)
    return list(zip(x.to(device).split(size), given, strict=False))


@torch.inference_mode()
def sample(spec: SampleSpec, field: Field, device: str = "cpu", span: range | None = None) -> Sampled:
    """Generates spec.n samples in batches, timed after a warm-up call. A batch that the memory does not hold is halved.

    Args:
        span: the samples to make, all of them when None; it begins where a batch begins.

    Raises:
        Diverged: a sample is not finite. BudgetExceeded: an adaptive solver asked for too many calls.
        UserError: the memory does not hold the batch of a solver whose results depend on it.
    """
    fixed = f"solver '{spec.solver.name}' behaves differently in another" if spec.solver.depends_on_batch else None
    compiled = spec.compile and not spec.solver.adaptive

    def work(batch: int) -> Sampled:
        called = faster(field, spec.precision, device, min(batch, spec.n) if compiled else None)
        return _sample(spec, called, batch, device, range(spec.n) if span is None else span)

    with products(spec.precision, device):
        return fitting(work, spec.batch, fixed)[0]


def _sample(spec: SampleSpec, field: Field, size: int, device: str, span: range) -> Sampled:
    path = spec.flow.path
    ends = torch.tensor([0.0, path.end_time], dtype=torch.float64)
    times = spec.grid.on(path, spec.steps) if spec.grid and spec.steps else ends
    batches = cut(*_begun(spec, span), size, device)

    _velocity(spec, field, batches[0][1])(times[0].to(device), batches[0][0])

    def solve() -> tuple[list[Tensor], list[Tensor], float, Ledger, float]:
        parts, own, calls, work = list[Tensor](), list[Tensor](), 0, [0.0, 0.0, 0.0]
        _synchronise(device)
        started = time.perf_counter()
        for batch, label in batches:
            velocity = _velocity(spec, field, label)
            # A copy: a solver that writes into x would start the next repetition where this one ends.
            solution = spec.solver.integrate(velocity, batch.clone(), times.to(device))
            x = solution.x if isinstance(solution, Solution) else solution
            if x is solution or not isinstance(x, Tensor) or x.shape != batch.shape:
                given = tuple(x.shape) if isinstance(x, Tensor) and x is not solution else type(x).__name__
                raise UserError(
                    f"solver '{spec.solver.name}': integrate gives {given}, not a Solution of shape {tuple(batch.shape)}"
                )
            parts.append(solution.x)
            if solution.evaluations is not None:
                own.append(solution.evaluations * velocity.calls_per_evaluation)
            calls += velocity.evaluations
            done = (solution.steps, solution.rejected, solution.startup * velocity.calls_per_evaluation)
            work = [total + share * len(batch) for total, share in zip(work, done, strict=True)]
        _synchronise(device)
        ledger = Ledger(*(total / len(span) for total in work))
        return parts, own, calls / len(span), ledger, time.perf_counter() - started

    with PeakMemory(device) as memory:
        parts, own, nfe, ledger, took = solve()
    if not spec.solver.adaptive and spec.steps and nfe != (wanted := spec.solver.calls_for(spec.steps, spec.guidance)):
        raise UserError(
            f"solver '{spec.solver.name}' makes {nfe:g} network calls in {spec.steps} steps, and declares {wanted}: "
            "mend its calls_per_step and extra_calls"
        )
    seconds = [took]
    while len(seconds) < 3 and sum(seconds) < SHORT:
        seconds.append(solve()[-1])
    x = require_finite(torch.cat(parts).cpu(), "sampling")
    peak_mb = None if memory.peak_mb is None else memory.peak_mb + getattr(field, "held_mb", 0.0)
    each = torch.cat(own).cpu() if own else None
    resources = Resources(nfe, tuple(seconds), peak_mb, 0.0 if each is None else mean(each).stderr)
    return Sampled(x, resources, ledger, size, each)


@torch.inference_mode()
def fineness(spec: ReferenceSpec, field: Field, device: str = "cpu") -> Fineness:
    """How many steps the reference solve of a flow needs: doubled on a pilot group until halving them changes little.

    Raises:
        Diverged: the field is not finite along the way.
    """
    path, tolerance = spec.flow.path, spec.tolerance * spec.flow.data.moments()[1]
    called = faster(field, spec.precision, device, min(spec.batch, spec.n) if spec.compile else None)

    def work(size: int) -> tuple[int, float]:
        ((x, label),) = cut(*_begun(spec, range(size)), size, device)
        return _enough_steps(_velocity(spec, called, label), path, x, tolerance, spec.max_steps)

    with products(spec.precision, device):
        found, pilot = fitting(work, min(spec.n, PILOT))
    return Fineness(*found, pilot)


@torch.inference_mode()
def reference(
    spec: ReferenceSpec, field: Field, device: str = "cpu", span: range | None = None, fine: Fineness | None = None
) -> Reference:
    """The reference solve with its own error.

    Args:
        span: the samples to solve, all of them when None. fine: what `fineness` found, for which it is asked when None.

    Raises:
        Diverged: the field is not finite along the way.
    """
    fine = fine or fineness(spec, field, device)

    def work(batch: int) -> Reference:
        called = faster(field, spec.precision, device, min(batch, spec.n) if spec.compile else None)
        return _reference(spec, called, batch, device, range(spec.n) if span is None else span, fine)

    with products(spec.precision, device):
        return fitting(work, spec.batch)[0]


def _reference(spec: ReferenceSpec, field: Field, size: int, device: str, span: range, fine: Fineness) -> Reference:
    path, steps = spec.flow.path, fine.steps
    z0, label = _begun(spec, span)
    parts = [_solve(_velocity(spec, field, asked), path, batch, steps) for batch, asked in cut(z0, label, size, device)]
    merged = {name: torch.cat([getattr(part, name) for part in parts]).cpu() for name in SOLVED}
    require_finite(merged["z1"], "the reference solve")
    every = max(1, steps // 32)
    return Reference(
        Geometry(z0=z0, error=fine.error, pilot=fine.pilot, **merged),
        steps=steps,
        nfe=calls(spec.guidance) * (4 * steps + 1),
        trajectories=parts[0].states[:, :DRAWN][::every].cpu(),
        times=reference_times(path, steps)[::every],
        batch=size,
    )


def _velocity(spec: SampleSpec | ReferenceSpec, field: Field, label: Tensor | None) -> Velocity:
    return Velocity(field, path=spec.flow.path, label=label, guidance=spec.guidance)


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


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
