from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from fmbench.execute import missing
from fmbench.plan import make_plan
from fmbench.store import Store
from fmbench.suite import parse
from fmbench.terminal import Bars, print_verdicts


def test_a_run_s_first_line_counts_every_flow_once_and_every_solve(tiny: Callable[..., dict[str, Any]]) -> None:
    plan = make_plan(parse(tiny(flow__reflow=1, flow__distilled=[0, 1], flow__seed=0)))
    work = missing(plan, Store())
    said = io.StringIO()
    bars = Bars(Console(file=said, width=100))
    bars.planned(plan, work, ["cpu", "cpu"])
    bars.stop()
    # Round 0, which draws round 1's pairs, round 1 and its student; the reference solve of round 1 explains both.
    assert said.getvalue().startswith("tiny: 3 flows, 5 solves, ")
    assert work.solves == 5


def test_a_long_claim_breaks_and_its_numbers_do_not() -> None:
    told = {"claim": "reflow-cost-nonincreasing[costs=['transport_cost']]", "verdict": "supported", "effect": -0.0499,
            "low": -0.0968, "high": -0.00295, "margin": 0.0603, "p_value": 5.02e-06}  # fmt: skip
    console = Console(width=80, file=io.StringIO())
    print_verdicts(console, [told])
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert any("supported" in line and "-0.0499  -0.0968 … -0.00295  0.0603  5.02e-06" in line for line in lines)
    assert max(map(len, lines)) <= 80
