"""One solve on several devices: processes on CPUs. What comes out is what one device makes, bit for bit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parent.parent / "stages"), str(Path(__file__).parent.parent)]
from test_kill import alive, eventually
from toy_flows import gaussian, pairs_from

from fmbench.api import run
from fmbench.errors import Diverged
from fmbench.execute import execute, missing
from fmbench.execute.child import NotShared
from fmbench.execute.jobs import Bench, CellJob
from fmbench.execute.spread import Spread, spans
from fmbench.plan import make_plan
from fmbench.solvers import GRIDS, SOLVERS
from fmbench.stages.flow import Pairs, PairsSpec, velocity_field
from fmbench.stages.pairs import halves
from fmbench.stages.sample import Reference, ReferenceSpec, Sampled, SampleSpec, fineness, reference, sample
from fmbench.store import Store
from fmbench.suite import parse
from fmbench.table import read_table

Same = Callable[[pd.DataFrame, pd.DataFrame], None]
Tiny = Callable[..., dict[str, Any]]
PLUGINS = Path(__file__).parent.parent / "plugins"
in_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
FLOW = gaussian("vp-cosine")
STORE = Store()  # an oracle is read from nowhere


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 9))
def test_spans(n: int, batch: int, count: int) -> None:
    cut = spans(n, batch, count)
    assert [i for span in cut for i in span] == list(range(n))
    assert all(span.start % batch == 0 for span in cut)
    batches = -(-n // batch)
    assert len(cut) == min(count, batches)
    sizes = [-(-len(span) // batch) for span in cut]
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture(scope="module")
def three() -> Iterator[Spread]:
    spread = Spread(STORE, ["cpu"] * 3, [str(PLUGINS / "bad_spans.py")])
    yield spread
    spread.close()


def cell(solver: Any, seed: int = 0) -> SampleSpec:
    chosen = SOLVERS.build(solver)
    budget = {"steps": None, "grid": None} if chosen.adaptive else {"steps": 4, "grid": GRIDS.build("uniform")}
    return SampleSpec(flow=FLOW, solver=chosen, n=330, batch=32, sample_seed=seed, **budget)


@pytest.mark.parametrize("solver", ["midpoint", "dopri5", {"name": "dopri5", "per_sample": True}], ids=str)
def test_samples(solver: Any, three: Spread) -> None:
    """Also of a solver whose steps depend on who stands in a batch: batches are never cut."""
    spec = cell(solver)
    whole, parts = sample(spec, velocity_field(FLOW, None)), three.solve(sample, spec, spec.n)
    assert [len(part.x) for part in parts] == [96, 128, 106]
    joined = Sampled.joined(parts)
    assert torch.equal(joined.x, whole.x)
    assert joined.resources.nfe == pytest.approx(whole.resources.nfe)
    assert joined.resources.nfe_stderr == pytest.approx(whole.resources.nfe_stderr)
    assert vars(joined.ledger) == pytest.approx(vars(whole.ledger))
    assert joined.batch == 32
    seconds = [part.resources.seconds[0] for part in parts]
    assert joined.resources.seconds[0] == pytest.approx(sum(seconds)), "those of one device"
    peaks = [part.resources.peak_memory_mb or 0.0 for part in parts]
    assert (joined.resources.peak_memory_mb or 0.0) == max(peaks)


def test_a_reference_solve(three: Spread) -> None:
    spec, field = ReferenceSpec(flow=FLOW, n=300, batch=100, sample_seed=0, tolerance=1e-4), velocity_field(FLOW, None)
    whole, fine = reference(spec, field), fineness(spec, field)
    joined = Reference.joined(three.solve(reference, spec, spec.n, fine))
    for name, value in vars(whole.geometry).items():
        other = getattr(joined.geometry, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    assert (joined.steps, joined.nfe, joined.batch) == (whole.steps, whole.nfe, whole.batch)
    assert torch.equal(joined.trajectories, whole.trajectories)


def test_pairs(three: Spread) -> None:
    """Each direction is cut for itself, or batches of the second would begin elsewhere."""
    solver = SOLVERS.build({"name": "dopri5", "rtol": 1e-3, "atol": 1e-3})
    spec = PairsSpec(flow=FLOW, n=4 * 1024 + 700, solver=solver, inverted=0.3)  # batches of 16 · 64
    drawn = Pairs.joined([part for solve, n in halves(spec) for part in three.solve(solve, spec, n)])
    whole = pairs_from(spec, velocity_field(FLOW, None))
    assert torch.equal(drawn.z0, whole.z0)
    assert torch.equal(drawn.z1, whole.z1)


def test_what_fails_on_a_device_is_raised_and_the_next_solve_is_made(
    three: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Diverged, match=r"from sample (96|224) on") as caught:
        three.solve(sample, cell("euler", seed=13), 330)
    assert "on cpu:" in caught.value.__notes__[0]
    assert "in until" in caught.value.__notes__[0]
    whole = sample(cell("euler"), velocity_field(FLOW, None)).x
    assert torch.equal(Sampled.joined(three.solve(sample, cell("euler"), 330)).x, whole), (
        "an answer to what was asked before"
    )
    with monkeypatch.context() as patch:
        patch.setattr("fmbench.stages.sample.require_finite", diverge)
        with pytest.raises(Diverged, match="here"):
            three.solve(sample, cell("euler", seed=1), 330)
    assert torch.equal(Sampled.joined(three.solve(sample, cell("euler"), 330)).x, whole)


def diverge(*_: Any) -> Any:
    raise Diverged("here")


def known_here(*given: Any) -> Sampled:
    return sample(*given)


def test_what_another_process_cannot_know_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a row's failure it left that process deaf, and the next solve waited for it for ever."""
    monkeypatch.setattr("fmbench.execute.jobs.sample", known_here)  # of this module, which no other process imports
    spec, spread = cell("euler"), Spread(STORE, ["cpu"] * 2)
    try:
        with pytest.raises(NotShared, match="given with --plugin"):
            Bench(STORE, "cpu", spread=spread).run(CellJob((spec.key,), cell=spec))
    finally:
        spread.close()


def test_a_run_on_two_devices_has_the_same_table(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    same_values: Same,
) -> None:  # fmt: skip
    """To the last bit, for nothing is trained."""
    data = {"name": "gaussian-mixture", "means": [[-1.0, 0.0], [1.0, 0.0]], "stds": 0.5}
    suite = tiny(data=data, flow__model="oracle", flow__seed=0, sample__n=100, sample__batch=30)
    one = run(suite, out=tmp_path / "one", device="cpu", workers=1)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "another"))
    two = run(suite, out=tmp_path / "two", device="cpu", workers=1, devices_per_flow=2)
    assert set(two.table["status"]) == {"ok"}
    same_values(one.table, two.table)


def test_a_flow_from_outside(fmbench: Callable[..., Any], tmp_path: Path, same_values: Same) -> None:
    """Its code was named on the command line: that counts for every process."""
    (tmp_path / "mine.py").write_text("def velocity(t, x):\n    return x * (1 + t[:, None])\n")
    command = "evaluate mine.py:velocity --data moons --nfe 2,4 --metric sliced_w2 --metric transport_cost --n 100"
    more = "--set sample.batch=40 --device cpu --workers 1"
    tables = []
    for devices in (1, 2):
        answer = fmbench(*command.split(), *more.split(), "--devices-per-flow", devices, "--out", f"out{devices}")
        assert answer.code == 0, answer
        shutil.rmtree(os.environ["FMBENCH_CACHE"])
        tables.append(read_table(tmp_path / f"out{devices}" / "results.parquet"))
    same_values(*tables)


@in_proc
def test_a_process_that_dies_fails_its_solve_alone(tiny: Tiny, plugin: Callable[[str], str], cache: Path) -> None:
    suite = tiny(data="gaussian-mixture", flow__model="oracle", flow__seed=0, sample__batch=32)
    plan, store = make_plan(parse(suite)), Store()
    outcomes = execute(
        missing(plan, store, 1, 2), store, devices=["cpu"], devices_per_flow=2, plugins=[plugin("bad_spans")]
    )
    of = {cell.spec.key: cell.columns.get("solver") for cell in plan.cells}
    assert {of[key] for key in of if outcomes[key].status != "ok"} == {"heun"}
    assert {of[key] for key in of if outcomes[key].status == "ok"} >= {"euler", "reference"}
    reasons = {outcomes[key].reason for key in of if outcomes[key].status == "failed"}
    assert reasons == {"the process on cpu: the worker process ended (exit code -9); out of memory?"}
    assert eventually(lambda: not alive(cache), 2.0)
