"""What sampling costs, and what the solver alone gets wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import Skip
from ..statistics import Estimate, added, mean, root
from . import truth
from .base import Evidence, Exact, Metric


class SolverError(Metric):
    """√(E‖Z1 of the solver − Z1 of the reference‖² / D), same model, same z0: discretisation alone.

    The reference's own error stands in the standard error, beside that of the mean: below it, nothing is resolved.
    """

    name = "solver_error"
    version = 2
    unit = "data units"
    scope = "samples"
    source = "global error against a reference solve (Hairer, Nørsett, Wanner 1993, II.3)"

    def measure(self, evidence: Evidence) -> Estimate:
        error = root(mean(_squared_errors(evidence)))
        return added(error, (1, Estimate(0.0, evidence.geometry.error, 0)))

    def true_value(self, flow: Exact) -> float | None:
        return truth.solver_error(flow)

    def has_true_value(self, flow: Exact) -> bool:
        return flow.solve is not None and truth.is_solved(flow)


class WorstSolverError(Metric):
    """The largest of `solver_error`'s samples: √(max ‖Z1 of the solver − Z1 of the reference‖² / D).

    A maximum of n grows with n and is one observation: its standard error is unknown (infinite).
    """

    name = "solver_error_worst"
    unit = "data units"
    scope = "samples"
    source = "the maximum norm of the global error over samples"

    def measure(self, evidence: Evidence) -> Estimate:
        squares = _squared_errors(evidence)
        return Estimate(squares.max().sqrt().item(), math.inf, len(squares))


def _squared_errors(evidence: Evidence) -> Tensor:
    """Mean square over dimensions of each sample's gap to the reference `(n,)`."""
    n = min(len(evidence.generated), len(evidence.geometry.z1))
    gap = evidence.generated[:n].double() - evidence.geometry.z1[:n].double()
    return gap.flatten(1).square().mean(1)


class NFE(Metric):
    """Calls of the network per sample, counted at the network: a count, whose standard error is 0.

    Where samples make calls of their own (`per_sample: true`), the mean over them, with its standard error.
    """

    name = "nfe"
    version = 2  # that error was 0 once
    unit = "calls"
    scope = "samples"
    source = "counted by the velocity wrapper"

    def measure(self, evidence: Evidence) -> Estimate:
        n, error = len(evidence.generated), evidence.resources.nfe_stderr
        return Estimate(evidence.resources.nfe, error, n, freedom=n - 1 if error else math.inf)


class Seconds(Metric):
    """Wall seconds of one device to make all the samples (several devices' seconds add up): the mean over timed repetitions."""

    name = "seconds"
    unit = "s"
    scope = "samples"
    source = "wall clock"

    def measure(self, evidence: Evidence) -> Estimate:
        timed = mean(torch.tensor(evidence.resources.seconds, dtype=torch.float64))
        return replace(timed, n=len(evidence.generated))


class SamplesPerSecond(Metric):
    """Samples over the mean of `seconds`, so of one device; the same relative standard error."""

    name = "samples_per_second"
    unit = "samples/s"
    higher_is_better: ClassVar = True
    scope = "samples"
    source = "wall clock"

    def measure(self, evidence: Evidence) -> Estimate:
        n = len(evidence.generated)
        timed = mean(torch.tensor(evidence.resources.seconds, dtype=torch.float64))
        if timed.value <= 0:
            raise Skip("sampling took no time that the clock can see: draw more samples")
        return replace(timed, value=n / timed.value, stderr=n / timed.value**2 * timed.stderr, n=n)


class PeakMemory(Metric):
    """Peak memory of the sampling on a device, in MiB: one observation, so its standard error is unknown (infinite)."""

    name = "peak_memory_mb"
    unit = "MiB"
    scope = "samples"
    source = "the allocator's or the operating system's record"

    def measure(self, evidence: Evidence) -> Estimate:
        peak = evidence.resources.peak_memory_mb
        if peak is None:
            raise Skip("this platform does not tell the peak memory of a solve")
        return Estimate(peak, math.inf, len(evidence.generated))
