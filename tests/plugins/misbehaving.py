"""Metrics that go wrong in every way that a stranger's code can."""

from __future__ import annotations

import os
import sys
from typing import ClassVar

from fmbench.errors import Skip
from fmbench.metrics import METRICS
from fmbench.metrics.base import Evidence, Metric
from fmbench.statistics import Estimate


class _Misbehaving(Metric):
    unit = "1"
    scope: ClassVar = "samples"
    source = "none"


@METRICS.register
class Raises(_Misbehaving):
    """Raises an exception."""

    name = "raises"

    def measure(self, evidence: Evidence) -> Estimate:
        raise ZeroDivisionError("no\ngood")


@METRICS.register
class Dies(_Misbehaving):
    """Takes its process down where the solver makes more than one step's worth of calls."""

    name = "dies"

    def measure(self, evidence: Evidence) -> Estimate:
        if evidence.resources.nfe == 2:
            os._exit(9)
        return Estimate(1.0, 0.0, 1)


@METRICS.register
class Exits(_Misbehaving):
    """Calls sys.exit, which no `except Exception` catches."""

    name = "exits"

    def measure(self, evidence: Evidence) -> Estimate:
        sys.exit(3)


@METRICS.register
class NoNumber(_Misbehaving):
    """Its value is nan."""

    name = "no_number"

    def measure(self, evidence: Evidence) -> Estimate:
        return Estimate(float("nan"), 0.1, 1)


@METRICS.register
class WrongKind(_Misbehaving):
    """Returns no Estimate."""

    name = "wrong_kind"

    def measure(self, evidence: Evidence) -> Estimate:
        return "much"  # type: ignore[return-value]


@METRICS.register
class Skips(_Misbehaving):
    """Says that it makes no sense here, and counts how often it is asked."""

    name = "skips"
    asked: ClassVar[list[int]] = []

    def measure(self, evidence: Evidence) -> Estimate:
        self.asked.append(1)
        raise Skip("not on a Tuesday")


@METRICS.register
class Prints(_Misbehaving):
    """Prints, where a worker process keeps its messages."""

    name = "prints"

    def measure(self, evidence: Evidence) -> Estimate:
        print("hello from a metric", flush=True)
        os.write(1, b"and from below python\n")
        return Estimate(2.0, 0.0, 1)
