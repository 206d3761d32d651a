"""A user's own claim: `fmbench claims DIR --claim slow-is-exact --plugin own_claim.py`."""

from __future__ import annotations

from fmbench.claims import CLAIMS, Pairwise


@CLAIMS.register
class SlowIsExact(Pairwise):
    """100 Euler steps have a smaller error than 8."""

    name = "slow-is-exact"
    source = "common sense"
    metrics = ("solver_error",)
    metric, at, than = "solver_error", {"solver": "euler", "steps": 100}, {"solver": "euler", "steps": 8}
