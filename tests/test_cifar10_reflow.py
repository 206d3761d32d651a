"""The suite cifar10-reflow, made tiny by the overrides that its text names, through every stage on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from pictures import write_published

from fmbench.suite import find, load

TINY = (
    "flow.model={name: unet, channels: 8, multipliers: [1, 1], blocks: 1, groups: 4}",
    "train.samples=64",
    "train.batch=16",
    "train.precision=float32",
    "train.compile=false",
    "pairs.n=24",
    "pairs.solver={name: rk4, steps: 2}",
    "sample.n=20",
    "sample.precision=float32",
    "sample.compile=false",
    "sample.reference={n: 16, tolerance: 1.0e-2, max_steps: 32}",
    "sample.solvers=[{name: euler, nfe: [1, 2]}, {name: dopri5, rtol: 1.0e-1, atol: 1.0e-1}]",
)
FEATURES = {"fid", "kid"}  # of a network whose weights are a download


@pytest.mark.slow  # three trainings, six solves of each round of a U-Net: some 40 s
def test_it_runs_through_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[..., pd.DataFrame]
) -> None:
    write_published(tmp_path / "data", "cifar10")
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path / "data"))
    asked = [
        m if isinstance(m, str) else m["name"] for m in yaml.safe_load(find("cifar10-reflow").read_text())["metrics"]
    ]
    metrics = [name for name in asked if name not in FEATURES]
    table = measured(load("cifar10-reflow", [*TINY, f"metrics={metrics}"]).resolved())
    bad = table[~table["status"].isin(["ok", "skipped"])]
    assert bad.empty, bad[["method", "metric", "reason"]].to_string()
    assert set(table["metric"]) == set(metrics)
    flows = table[table["model"] != "data"].drop_duplicates("method").set_index("method")
    assert flows["trained_on"].to_dict() == {
        "RF": "independent", "2-RF": "pairs of round 0", "3-RF": "pairs of round 1", "RF, 1 step": "pairs of round 0",
        "2-RF, 1 step": "pairs of round 1", "3-RF, 1 step": "pairs of round 2",
    }  # fmt: skip
