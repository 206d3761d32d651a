"""The image tier on a processor: the shipped CIFAR-10 sweep with small numbers, through every stage.

On a stand-in drawn here; with FMBENCH_DATA on the first 2,000 pictures of the CIFAR-10 copy that lies there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pictures import write_published
from pyarrow import parquet

from fmbench.api import run

TRAIN, TEST = 1600, 400
REAL = next(iter(sorted(Path(os.environ.get("FMBENCH_DATA") or "/nowhere").glob("cifar10-train*.parquet"))), None)
SMALL = [
    "flow.model={name: unet, channels: 16, multipliers: [1, 2], attention: [16], groups: 8, dropout: 0.1}",
    "train={recipe: torchcfm, samples: 2_560, batch: 64, lr: 2.0e-3, warmup: 512, ema_samples: 1_000, ema_ramp: 0.05}",
    "sample.n=96",
    "sample.batch=64",
    "sample.compile=false",
    "sample.reference={n: 16, tolerance: 1.0, max_steps: 32}",
    "sample.solvers=[{name: euler, nfe: [2, 8]}, {name: heun, nfe: 8}]",
]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with CIFAR-10, or what looks like it, of 2,000 pictures."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    if REAL is None:
        write_published(folder, "cifar10", (TRAIN, TEST))
    else:
        for name, count in (("train", TRAIN), ("test", TEST)):
            first = parquet.ParquetFile(REAL.with_name(REAL.name.replace("train", name))).read().slice(0, count)
            parquet.write_table(first, folder / f"cifar10-{name}.parquet")
    monkeypatch.setenv("FMBENCH_DATA", str(folder))
    return folder


@pytest.mark.slow
def test_the_sweep_trains_samples_measures_and_reports(mirror: Path, tmp_path: Path) -> None:
    metrics = [
        "fid", "{name: fd_own, features: pixels}", "{name: kid, features: pixels, size: 48}",
        "{name: bits_per_dim, n: 8, steps: 8}", "solver_error", "transport_cost", "straightness", "nfe",
    ]  # fmt: skip
    results = run(
        "cifar10-nfe-sweep-small", out=tmp_path / "out", device="cpu", workers=1,
        set=[*SMALL, f"metrics=[{', '.join(metrics)}]"], only=["method=RF,OT-CFM"],
    )  # fmt: skip
    table = results.table
    said = table[table["metric"] == "fid"]
    assert set(said["status"]) <= {"ok", "skipped"}, "without Inception's weights FID says how to get them"
    told = table[table["metric"] != "fid"]
    assert set(told["status"]) == {"ok"}, told[told["status"] != "ok"][["metric", "reason"]]
    assert table["data"].str.startswith("cifar10").all()
    fd = told[told["metric"] == "fd_pixels"]
    assert set(fd["method"]) >= {"RF", "OT-CFM"}
    made = fd[(fd["method"] == "RF") & (fd["solver"] == "euler")].set_index("nfe")["value"]
    floor = fd[fd["model"] == "data"]["value"].item()
    assert floor < made[8] < made[2], "more calls, better pictures, none better than held-out ones"
    bits = told[told["metric"].str.startswith("bits_per_dim")]
    assert bits["value"].between(0, 10).all()
    assert set(bits["protocol"]) == {"1 rademacher probe an image; RK4, 8 steps; 1 dequantisation an image"}
    for metric in ("transport_cost", "straightness"):
        assert (told.loc[told["metric"] == metric, "value"] > 0).all()
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
