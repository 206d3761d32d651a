"""What only a GPU shows: the same numbers as on a processor, compiled code and graphs, memory that ends, whole runs.

Skipped where there is none. `python -m pytest -m slow tests/test_gpu.py` runs all of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import write_published
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "stages"))
from toy_flows import flow

from fmbench.api import run
from fmbench.execute.ranks import Ranks
from fmbench.execute.spread import Spread
from fmbench.flow import PATHS
from fmbench.flow.oracles import EmpiricalVelocity
from fmbench.flow.velocity import Velocity
from fmbench.models import MODELS
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS
from fmbench.solvers.grids import UniformGrid
from fmbench.stages import train as training
from fmbench.stages.flow import FlowSpec, velocity_field
from fmbench.stages.minibatches import minibatches
from fmbench.stages.sample import ReferenceSpec, Sampled, SampleSpec, reference, sample
from fmbench.stages.train import Trained, train
from fmbench.store import Store

pytestmark = [
    pytest.mark.slow,  # compilation takes minutes
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]

GPU = "cuda"
UNET = {"name": "unet", "channels": 32, "multipliers": [1, 2], "attention": [4], "groups": 8, "dropout": 0.1}
MODELS_ON_IMAGES = {
    "unet": UNET,
    "transformer": {"name": "transformer", "patch": 2, "width": 64, "depth": 2, "heads": 2},
}
MIXTURE = {"name": "gaussian-mixture", "means": [[2.0, 0.0], [-1.0, 1.0]], "stds": [0.5, 1.0], "weights": [0.3, 0.7]}
SWEEP = [
    "flow.model={name: unet, channels: 32, multipliers: [1, 2], attention: [16], groups: 8, dropout: 0.1}",
    "train.samples=4_096", "train.batch=64", "train.warmup=512", "train.ema_samples=1_000",
    "sample.n=128", "sample.batch=64", "sample.reference={n: 64, tolerance: 1.0e-1, max_steps: 32}",
    "sample.solvers=[{name: euler, nfe: [2, 8]}, {name: heun, nfe: 8}, {name: dopri5, rtol: 1e-2, atol: 1e-2}]",
    "metrics=[{name: fd_own, features: pixels}, {name: bits_per_dim, n: 8, steps: 8}, solver_error, straightness, nfe,"
    " transport_cost, samples_per_second, peak_memory_mb]",
]  # fmt: skip


def gap(a: Tensor, b: Tensor) -> float:
    """Relative distance, root mean square."""
    return ((a.double().cpu() - b.double().cpu()).norm() / b.double().norm()).item()


def noise(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=generator("gpu tests"), dtype=torch.float64)


def trained(spec: FlowSpec, **options: Any) -> Trained:
    (outcome,) = train([spec], device=GPU, **options)
    assert isinstance(outcome, Trained), outcome
    return outcome


def cell(spec: FlowSpec, solver: Any, steps: int | None, **more: Any) -> SampleSpec:
    facts: dict[str, Any] = {"n": 96, "batch": 32, "sample_seed": 0, "grid": UniformGrid() if steps else None}
    return SampleSpec(flow=spec, solver=SOLVERS.build(solver), steps=steps, **{**facts, **more})


@pytest.mark.parametrize("path", PATHS.names())
def test_oracles_agree_with_the_processor(path: str) -> None:
    spec = flow(data=MIXTURE, path=path, model="oracle")
    exact = velocity_field(spec, None)
    x, points = noise(64, 2), noise(500, 2)
    empirical = EmpiricalVelocity(spec.path, points)
    for t in (0.1, 0.5, 0.95):
        for field in (exact, empirical):
            here, there = field(torch.tensor(t), x), field(torch.tensor(t, device=GPU), x.to(GPU))
            assert there.device.type == GPU
            assert gap(there, here) < 1e-10
    rows = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    assert gap(empirical(rows.to(GPU), x.to(GPU)), empirical(rows, x)) < 1e-10


SOLVES = [*SOLVERS.names(), {"name": "dopri5", "per_sample": True, "rtol": 1e-6, "atol": 1e-6}]


@pytest.mark.parametrize("solver", SOLVES, ids=str)
def test_every_solver_agrees_with_the_processor(solver: Any) -> None:
    spec, built = flow(data=MIXTURE, path="fm-ot", model="oracle"), SOLVERS.build(solver)
    times = UniformGrid().times(16, spec.path.end_time)
    field, x = velocity_field(spec, None), noise(64, 2)
    calls, ends = [], []
    for device in ("cpu", GPU):
        velocity = Velocity(field, path=spec.path)
        ends.append(built.integrate(velocity, x.to(device), times.to(device)).x)
        calls.append(velocity.evaluations)
    assert gap(ends[1], ends[0]) < 1e-9
    assert calls[0] == calls[1]


@pytest.mark.parametrize("coupling", ["independent", "minibatch-ot"])
@pytest.mark.parametrize("data", ["digits", "moons"])
def test_minibatches_are_those_of_the_processor(data: str, coupling: str) -> None:
    batch = 512 if data == "digits" else 64  # large steps are prepared beside the training
    specs = [flow(data=data, coupling=coupling, batch=batch)]
    for (_, here), (_, there) in zip(
        minibatches(specs, 0, 6, 1.0), minibatches(specs, 0, 6, 1.0, None, GPU), strict=True
    ):
        assert there.inputs.device.type == GPU
        assert all(gap(a, b) < 1e-6 for a, b in zip(there[:3], here[:3], strict=True))


@pytest.mark.parametrize("compiled", [False, True, "reduce-overhead"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_learns_and_goes_on_where_it_stood(
    precision: str, compiled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a checkpoint the same result, up to a GPU's own order of summation; without noise of that kind bit for bit."""
    settings = {"precision": precision, "compile": compiled}
    spec = flow(data="digits", model=UNET, batch=64, samples=64 * 60, lr=2e-3, ema_samples=640, **settings)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))
    saved: dict[int, Any] = {}
    whole = trained(spec, checkpoint=saved.__setitem__)
    again = trained(spec)
    resumed = trained(spec, states=saved[30])
    assert whole.losses[-1][1] < 0.8 * whole.losses[0][1]
    names = list(whole.weights)

    def distance(a: Trained, b: Trained) -> float:
        return max(gap(a.weights[name], b.weights[name]) for name in names if b.weights[name].norm() > 0)

    print(f"\n{settings}: again {distance(again, whole):.1e}, resumed {distance(resumed, whole):.1e}")
    assert distance(resumed, whole) <= 10 * distance(again, whole) + 1e-7


def test_seeds_in_a_stack_are_those_alone() -> None:
    specs = [flow(seed=seed, model={"name": "mlp", "width": 64, "depth": 3}) for seed in range(3)]
    together = train(specs, device=GPU)
    for spec, outcome in zip(specs, together, strict=True):
        alone = trained(spec)
        assert isinstance(outcome, Trained)
        assert all(gap(outcome.weights[name], alone.weights[name]) < 1e-3 for name in alone.weights)


@pytest.mark.parametrize("path", ["rectified", "vp-linear", "ve"])
@pytest.mark.parametrize("model", MODELS_ON_IMAGES)
def test_compiled_sampling_is_the_plain_one(model: str, path: str) -> None:
    spec = flow(data="digits", path=path, model=MODELS_ON_IMAGES[model], batch=64, samples=64 * 20)
    weights = trained(spec).weights
    here, there = velocity_field(spec, weights), velocity_field(spec, weights, GPU)
    for solver, steps in (("heun", 4), ("ab2", 8), ("dopri5", None)):
        plain = sample(cell(spec, solver, steps), there, GPU)
        fast = sample(cell(spec, solver, steps, compile=True, batch=40), there, GPU)  # and a shorter last batch
        if steps:
            assert gap(plain.x, sample(cell(spec, solver, steps), here).x) < 1e-4
            assert gap(fast.x, plain.x) < 1e-4
            assert fast.resources.nfe == plain.resources.nfe
    known: dict[str, Any] = {"n": 64, "batch": 32, "sample_seed": 0, "tolerance": 1e-2, "max_steps": 32}
    solved = [
        reference(ReferenceSpec(flow=spec, **known, **more), field, device).geometry
        for field, device, more in ((here, "cpu", {}), (there, GPU, {}), (there, GPU, {"compile": True}))
    ]
    for name in ("z1", "energy", "length"):
        assert all(gap(getattr(each, name), getattr(solved[0], name)) < 1e-3 for each in solved[1:])


def test_a_conditional_flow_is_guided_there() -> None:
    spec = flow(data="digits", model={**UNET, "conditional": True}, batch=64, samples=64 * 20)
    field = velocity_field(spec, trained(spec).weights, GPU)
    plain, fast = (sample(cell(spec, "heun", 4, guidance=2.0, compile=c), field, GPU) for c in (False, True))
    assert plain.resources.nfe == fast.resources.nfe == 16
    assert gap(fast.x, plain.x) < 1e-4


def test_a_batch_that_the_memory_does_not_hold_is_halved() -> None:
    spec = flow(data="digits", model={**UNET, "channels": 64}, batch=64, samples=64)
    field = velocity_field(spec, trained(spec).weights, GPU)
    few = sample(cell(spec, "euler", 2, n=2**13, batch=2**8), field, GPU)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 6e8) / total))
    try:
        many = sample(cell(spec, "euler", 2, n=2**13, batch=2**13), field, GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert many.batch < 2**13
    assert gap(many.x, few.x) < 1e-4


def test_processes_that_share_a_solve_make_the_samples_of_one() -> None:
    """On two GPUs where they are, else twice on one."""
    spec = flow(data=MIXTURE, model="oracle")
    asked = cell(spec, "heun", 4, n=300, batch=100)
    spread = Spread(Store(), ["cuda:0", f"cuda:{torch.cuda.device_count() - 1}"])
    try:
        shared = Sampled.joined(spread.solve(sample, asked, 300))
    finally:
        spread.close()
    whole = sample(asked, velocity_field(spec, None, GPU), GPU)
    assert gap(shared.x, whole.x) < 1e-6
    assert shared.resources.nfe == whole.resources.nfe == 8


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16", "compile": True}], ids=str)
def test_two_gpus_train_one_flow(settings: dict[str, Any], plugin: Any) -> None:
    """What one trains, up to rounding; and from a checkpoint what an undisturbed training gives, up to a GPU's own order."""
    network = {**UNET, "dropout": 0.0}
    spec = flow(data="digits", model=network, batch=64, samples=64 * 20, ema_samples=640, **settings)
    saved: dict[int, Any] = {}
    ranks = Ranks(["cuda:0", "cuda:1"], [plugin("checkpoints_of_every_step")])
    (whole,), (again,) = ranks.train([spec], checkpoint=saved.__setitem__), ranks.train([spec])
    (resumed,), alone = ranks.train([spec], states=saved[10]), trained(spec)
    assert isinstance(whole, Trained)
    assert isinstance(again, Trained)
    assert isinstance(resumed, Trained)

    def distance(a: Trained, b: Trained) -> float:
        return max(gap(a.weights[name], w) for name, w in b.weights.items() if w.norm() > 0)

    assert distance(resumed, whole) <= 10 * distance(again, whole) + 1e-7
    assert abs(whole.losses[-1][1] / alone.losses[-1][1] - 1) < 0.02
    if not settings:
        assert distance(whole, alone) < 1e-2


@pytest.mark.parametrize("model", MODELS.names())
def test_every_model_is_covered_here(model: str) -> None:
    assert MODELS.get(model).given or not MODELS.get(model).trained or model in {*MODELS_ON_IMAGES, "mlp"}


def test_the_sweep_runs_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_values: Any) -> None:
    """The shipped suite on pictures drawn here: compiled, in bfloat16, in this process and on two workers of one GPU."""
    (tmp_path / "mirror").mkdir()
    write_published(tmp_path / "mirror", "cifar10", (1600, 400))
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path / "mirror"))
    only = ["method=RF,OT-CFM,VE"]
    results = run("cifar10-nfe-sweep-small", out=tmp_path / "one", device=GPU, set=SWEEP, only=only)
    table = results.table
    assert set(table["status"]) == {"ok"}, table[table["status"] != "ok"][["metric", "status", "reason"]].to_string()
    assert (table.loc[table["metric"] == "peak_memory_mb", "value"] > 0).all()
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "other"))
    eager = [*SWEEP, "train.compile=false", "sample.compile=false", "train.samples=512"]
    beside = run("cifar10-nfe-sweep-small", out=tmp_path / "two", device=GPU, workers=2, set=eager, only=only).table
    assert set(beside["status"]) == {"ok"}


def test_the_oracle_suite_has_the_processors_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = [
        "sample.n=500",
        "metrics=[straightness, transport_cost, solver_error, path_energy, nll, {name: w2, n: 500}]",
    ]
    tables = []
    for device in ("cpu", GPU):
        monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / f"cache {device}"))
        tables.append(run("oracle-mixture", out=tmp_path / device, device=device, workers=1, set=fewer).table)
    here, there = (table.set_index("key").sort_index() for table in tables)
    assert set(there["status"]) <= {"ok", "skipped"}
    assert (here.index == there.index).all()
    both = here["value"].notna()
    scale = here.loc[both, "value"].abs().clip(lower=1e-3)
    assert ((there.loc[both, "value"] - here.loc[both, "value"]).abs() / scale).max() < 1e-3
