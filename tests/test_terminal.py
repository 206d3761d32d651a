from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import typer
from rich.console import Console

from fmbench.execute import missing
from fmbench.plan import make_plan
from fmbench.store import Store
from fmbench.suite import parse
from fmbench.terminal import Bars, carry_out, print_frame, print_verdicts


def test_a_run_s_first_line_counts_every_flow_once_and_every_solve(tiny: Callable[..., dict[str, Any]]) -> None:
    plan = make_plan(parse(tiny(flow__reflow=1, flow__distilled=[0, 1], flow__seed=0)))
    work = missing(plan, Store())
    said = io.StringIO()
    bars = Bars(Console(file=said, width=100))
    bars.planned(plan, work, ["cpu", "cpu"])
    bars.stop()
    # One flow alone is no "1 flows".
    alone = make_plan(parse(tiny(flow__seed=0, metrics=["nfe"], sample__solvers=[{"name": "euler", "nfe": 1}])))
    told = io.StringIO()
    bars = Bars(Console(file=told, width=200))
    bars.planned(alone, missing(alone, Store()), ["cpu"])
    bars.stop()
    assert told.getvalue().startswith("tiny: 1 flow, 2 solves, 1 value; 0 values are already there.")
    # Round 0, which draws round 1's pairs, round 1 and its student; the reference solve of round 1 explains both.
    assert said.getvalue().startswith("tiny: 3 flows, 5 solves, ")
    assert work.solves == 5


def test_an_interrupted_run_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars that are drawn to a file come when they stop: before the message, not after it."""
    told = Console(file=io.StringIO(), width=100)
    monkeypatch.setattr("fmbench.terminal.new_console", lambda stderr=False: told)
    stop = Bars.stop
    monkeypatch.setattr(Bars, "stop", lambda bars: (told.print("bars"), stop(bars)))

    def work(bars: Bars | None) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit):
        carry_out(work, quiet=False)
    said = told.file.getvalue().split("\n")  # type: ignore[attr-defined]
    assert said.index("bars") < said.index("Interrupted. Run the same command again to go on from here.")


def test_a_long_claim_breaks_and_its_numbers_do_not() -> None:
    told = {"claim": "reflow-cost-nonincreasing[costs=['transport_cost']]", "verdict": "supported", "effect": -0.0499,
            "low": -0.0968, "high": -0.00295, "margin": 0.0603, "p_value": 5.02e-06}  # fmt: skip
    console = Console(width=80, file=io.StringIO())
    print_verdicts(console, [told])
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert any("supported" in line and "-0.0499  -0.0968 … -0.00295  0.0603  5.02e-06" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_title_wider_than_its_table_stays_on_one_line() -> None:
    console = Console(width=80, file=io.StringIO())
    print_frame(console, pd.DataFrame({"nfe": [1], "RF": ["0.5"]}), "energy_coefficient (data units, lower is better)")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[0].strip() == "energy_coefficient (data units, lower is better)"
