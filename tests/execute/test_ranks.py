"""One flow on several devices: processes on CPUs, joined by gloo. `tests/stages/test_share.py` holds the arithmetic."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

sys.path += [str(Path(__file__).parent.parent / "stages"), str(Path(__file__).parent.parent)]
from test_kill import alive, eventually
from toy_flows import flow

from fmbench.api import outline, run
from fmbench.errors import UserError
from fmbench.execute import devices_for, execute, missing
from fmbench.execute.ranks import Ranks, neighbours
from fmbench.plan import make_plan
from fmbench.results import Results
from fmbench.stages.flow import FlowSpec
from fmbench.stages.train import State, Trained, train
from fmbench.store import Store
from fmbench.suite import parse
from fmbench.table import read_table

Tiny = Callable[..., dict[str, Any]]
Plugin = Callable[[str], str]
in_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")

CASES: dict[str, FlowSpec] = {
    "mlp": flow(samples=20 * 64),
    "unet with dropout": flow(
        data="digits", model={"name": "unet", "channels": 8, "dropout": 0.2}, samples=6 * 16, batch=16
    ),
}


def only(outcomes: Any) -> Trained:
    (outcome,) = outcomes
    assert isinstance(outcome, Trained), outcome
    return outcome


def same(a: Trained, b: Trained) -> bool:
    return a.losses == b.losses and all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.mark.parametrize("case", ["mlp", pytest.param("unet with dropout", marks=pytest.mark.slow)])
def test_a_resumed_training_is_the_undisturbed_one(case: str, plugin: Plugin) -> None:
    """Bit for bit; and, where nothing is dropped out, that of one device up to rounding."""
    spec, saved, heard = CASES[case], dict[int, list[State]](), list[int]()
    ranks = Ranks(["cpu", "cpu"], [plugin("checkpoints_of_every_step")])
    whole = only(ranks.train([spec], checkpoint=saved.__setitem__, progress=heard.append))
    steps = spec.train.steps
    assert set(saved) == set(range(1, steps + 1))
    assert sum(heard) == steps * spec.train.batch
    resumed = only(ranks.train([spec], states=saved[steps // 2]))
    assert same(whole, resumed)
    alone = only(train([spec]))
    assert not same(whole, alone), "nothing was shared"
    if "dropout" not in case:
        gaps = [(whole.weights[name] - w).norm() / w.norm() for name, w in alone.weights.items()]
        assert max(gaps) < 1e-5  # as in test_share, of a network that normalises nothing
        assert [loss for _, loss in whole.losses] == pytest.approx([loss for _, loss in alone.losses], rel=1e-5)


@in_proc
def test_a_rank_that_dies_or_raises_is_a_failed_row(tiny: Tiny, plugin: Plugin, cache: Path) -> None:
    """And no more: the next flow's training is begun, nobody waits for the lost rank, and nobody is left."""
    plan, store = make_plan(parse(tiny(flow__path=["ve", "fm-ot"], flow__seed=0))), Store()
    plugins = [plugin("bad_ranks")]
    outcomes = execute(missing(plan, store, 1, 2), store, devices=["cpu"], devices_per_flow=2, plugins=plugins)
    lost, raised = (outcomes[next(f.key for f in plan.flows() if f.path.name == path)] for path in ("ve", "fm-ot"))
    assert lost.status == raised.status == "failed"
    assert lost.reason == "RuntimeError: rank 1 of 2: the worker process ended (exit code -9); out of memory?"
    assert raised.reason == "ValueError: a rank of its own mind"
    assert "on rank 1 of 2:" in str(raised.trace)
    assert "in until" in str(raised.trace)
    assert {outcomes[cell.spec.key].status for cell in plan.cells if cell.columns["model"] != "data"} == {"failed"}
    assert alive(cache) == []


def test_a_run_on_two_devices_says_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same keys, the same values up to rounding, and a record of the devices; a run on one has no word of it."""
    suite = tiny(flow__seed=0)
    one = run(suite, out=tmp_path / "one", device="cpu", workers=1)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "another"))
    two = run(suite, out=tmp_path / "two", device="cpu", workers=1, devices_per_flow=2)
    trained = [[facts for facts in results.manifest["flows"] if "loss" in facts] for results in (one, two)]
    assert [facts.get("devices") for facts in trained[0]] == [None]
    assert [facts.get("devices") for facts in trained[1]] == [2]
    assert two.manifest["hardware"]["devices"] == ["cpu", "cpu"]
    a, b = (results.table.sort_values("key", ignore_index=True) for results in (one, two))
    assert a["key"].tolist() == b["key"].tolist()
    assert set(b["status"]) == {"ok"}
    assert (a["value"] - b["value"]).abs().max() < 1e-3


@pytest.mark.slow
def test_all_kinds_of_flows(tiny: Tiny, tmp_path: Path) -> None:
    """Seeds that would be stacked, rounds, students, labels; on two workers of two ranks."""
    labelled = {"name": "mlp", "width": 16, "depth": 1, "conditional": True, "label_dropout": 0.2}
    suite = tiny(data="gaussian-mixture", flow__reflow=[0, 1], flow__distilled=[0, 1], flow__model=labelled)
    results = run(suite, out=tmp_path / "out", device="cpu", workers=2, devices_per_flow=2)
    assert set(results.table["status"]) == {"ok"}, results.table["reason"].dropna().unique()
    assert {facts["devices"] for facts in results.manifest["flows"] if "loss" in facts} == {2}


LONG = {"flow__seed": 0, "train__samples": 60_000}


@in_proc
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_table(
    start: Callable[..., subprocess.Popen[str]], tiny: Tiny, tiny_file: Callable[..., Path], cache: Path, tmp_path: Path,
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch, same_values: Callable[[pd.DataFrame, pd.DataFrame], None],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setenv("FMBENCH_CACHE", str(tmp_path / "undisturbed"))
        expected = run(tiny(**LONG), out=tmp_path / "whole", device="cpu", workers=1, devices_per_flow=2).table
    command = ("run", tiny_file(**LONG), "--out", "out", "--device", "cpu", "--devices-per-flow", 2, "--quiet")
    quick = ("--plugin", plugin("quick_checkpoints"))
    for workers in (1, 2):  # ranks are the children of the run itself, or of its worker
        with start(*command, *quick, "--workers", workers) as run_:
            before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.checkpoint")}
            assert eventually(
                lambda before=before: any(before.get(p) != p.stat().st_mtime_ns for p in cache.rglob("*.checkpoint")),
                90,
            )
            run_.kill()
        assert eventually(lambda: not alive(cache), 2.0), "ranks outlive their parent"
    assert list(cache.rglob("*.checkpoint"))
    with start(*command, "--workers", 1) as run_:
        _, err = run_.communicate(timeout=120)
        assert run_.returncode == 0, err
    same_values(read_table(tmp_path / "out" / "results.parquet"), expected)
    assert Results.load(tmp_path / "out").manifest["flows"][0]["devices"] == 2


@in_proc
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_nobody(
    start: Callable[..., subprocess.Popen[str]],
    tiny_file: Callable[..., Path],
    cache: Path,
    plugin: Plugin,
    workers: int,
) -> None:
    suite = tiny_file(flow__seed=[0, 1], train__samples=5_000_000)
    command = ("run", suite, "--device", "cpu", "--devices-per-flow", 2, "--workers", workers, "--plugin")
    with start(*command, plugin("quick_checkpoints")) as run_:
        assert eventually(lambda: list(cache.rglob("*.checkpoint")), 90)
        run_.send_signal(signal.SIGINT)
        _, err = run_.communicate(timeout=30)
    assert run_.returncode == 130, err
    assert err.strip() == "Interrupted. Run the same command again to go on from here."
    assert eventually(lambda: not alive(cache), 2.0)


def test_devices_of_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_for("cpu", 3, None, 2) == ["cpu"] * 3
    assert len(devices_for("cpu", None, None, 2)) == max(1, len(devices_for("cpu", None)) // 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert devices_for(None, None, None, 2) == ["cuda:0", "cuda:2"]
    assert devices_for("cuda", 3, None, 2) == ["cuda:0", "cuda:2", "cuda:0"]
    assert devices_for("cuda", None, None, 5) == ["cuda:0"]
    assert devices_for("cuda:1", None, None, 1) == ["cuda:1"]
    assert neighbours("cuda:2", 2) == ["cuda:2", "cuda:3"]
    assert neighbours("cpu", 2) == ["cpu", "cpu"]
    assert neighbours("cuda", 1) == ["cuda"]  # of a cluster


@pytest.mark.parametrize(
    ("device", "ray", "count", "words"),
    [
        ("cpu", None, 0, ["--devices-per-flow 0", "at least 1"]),
        ("cuda", None, 3, ["--devices-per-flow 3", "2 CUDA devices", "at most"]),
        (None, None, 3, ["--devices-per-flow 3", "2 CUDA devices"]),
        ("cuda:1", None, 2, ["--devices-per-flow 2", "--device cuda:1", "1 CUDA device"]),
        (None, "auto", 2, ["--devices-per-flow", "--ray", "one device"]),
    ],
)
def test_devices_that_no_flow_can_have(
    monkeypatch: pytest.MonkeyPatch, device: str | None, ray: str | None, count: int, words: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError) as caught:
        devices_for(device, None, ray, count)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_a_batch_that_cannot_be_shared(tiny: Tiny, fmbench: Callable[..., Any], tiny_file: Callable[..., Path]) -> None:
    for call in (outline, run):
        with pytest.raises(UserError, match=r"--devices-per-flow 3: train\.batch = 64 .* divisor"):
            call(tiny(), device="cpu", devices_per_flow=3)
    answer = fmbench("run", tiny_file(), "--device", "cpu", "--devices-per-flow", 3)
    assert answer.code == 2
    assert "train.batch = 64" in answer.err
    assert outline(tiny(flow__model="oracle", data="gaussian-mixture"), device="cpu", devices_per_flow=3).work.jobs
