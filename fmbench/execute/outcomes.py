"""How a stage ended: a value, or why there is none."""

from __future__ import annotations

import math
import traceback
from dataclasses import dataclass

from ..errors import BudgetExceeded, Diverged, Skip, Unavailable, UserError
from ..statistics import Estimate


@dataclass(frozen=True)
class Outcome:
    """How one stage ended. A measured one carries its value; a failed one its reason."""

    status: str = "ok"  # ok | skipped | diverged | failed | timeout
    reason: str | None = None
    value: float | None = None
    stderr: float | None = None
    n: int | None = None
    seconds: float | None = None
    device: str | None = None
    nfe: float | None = None
    steps: int | None = None
    accepted: float | None = None
    rejected: float | None = None
    startup: float | None = None
    vjp: float | None = None
    freedom: float | None = None  # degrees of freedom of the standard error; None, infinitely many
    probe_stderr: float | None = None  # the part of stderr that random probes leave; None, there are none
    protocol: str | None = None
    batch: int | None = None  # that the memory held, where it did not hold the one asked for
    trace: str | None = None  # of an unexpected exception, for the manifest
    again: bool = False  # skipped for want of something that may still come: not stored


class Lost(Exception):
    """Something that is needed has failed before, as `outcome` says."""

    def __init__(self, outcome: Outcome):
        super().__init__(outcome.reason)
        self.outcome = outcome


def valued(estimate: Estimate) -> Outcome:
    if estimate.stderr < 0 or estimate.n < 1:
        raise UserError(
            f"the metric gives stderr = {estimate.stderr}, n = {estimate.n}: stderr ≥ 0 and n ≥ 1 are meant"
        )
    if math.isnan(estimate.value):
        return Outcome(status="failed", reason="the metric's value is not a number (nan)")
    return Outcome(
        value=float(estimate.value),
        stderr=float(estimate.stderr),
        n=int(estimate.n),
        freedom=float(estimate.freedom) if math.isfinite(estimate.freedom) else None,
        probe_stderr=estimate.probe_stderr,
        protocol=estimate.protocol,
    )


def failure(error: Exception) -> Outcome:
    """An exception as a row: every planned cell yields one."""
    if isinstance(error, Lost):
        return error.outcome
    status = {Skip: "skipped", Unavailable: "skipped", Diverged: "diverged", BudgetExceeded: "timeout"}.get(
        type(error), "failed"
    )
    reason = str(error) if status != "failed" else f"{type(error).__name__}: {error}".removesuffix(": ")
    trace = "".join(traceback.format_exception(error)) if status == "failed" else None
    again = isinstance(error, Unavailable)
    return Outcome(status=status, reason=" ".join(reason.split()), trace=trace, again=again)
