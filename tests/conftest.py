"""What every test may use: a cache of its own, a suite that runs in a second, the command line in this process."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = (
    "1"  # as runs on a CPU compute: with more threads a product's bits depend on its neighbours
)

PLUGINS = Path(__file__).parent / "plugins"

TINY: dict[str, Any] = {
    "suite": "tiny",
    "data": "moons",
    "flow": {"path": "rectified", "model": {"name": "mlp", "width": 16, "depth": 1}, "seed": [0, 1]},
    "train": {"samples": 1024, "batch": 64, "lr": 2e-3, "ema_samples": 256},
    "pairs": {"n": 128, "solver": {"name": "dopri5", "rtol": 1e-2, "atol": 1e-2}},
    "sample": {
        "n": 64,
        "reference": {"tolerance": 1e-2, "max_steps": 32},
        "solvers": [{"name": "euler", "nfe": [1, 2]}, {"name": "heun", "nfe": 4}],
    },
    "metrics": ["sliced_w2", "solver_error", "transport_cost", "nfe"],
}
TIMED = {"seconds", "samples_per_second", "peak_memory_mb"}  # metrics that no two runs share


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FMBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def plugin() -> Callable[[str], str]:
    """The path of one of the plug-in files in tests/plugins."""
    return lambda name: str(PLUGINS / f"{name}.py")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., dict[str, Any]]:
    """A suite mapping that runs in a second; dotted keys with `__` for dots change it: `tiny(flow__seed=0)`."""

    def make(**changes: Any) -> dict[str, Any]:
        suite = copy.deepcopy(TINY)
        for key, value in changes.items():
            *outer, last = key.split("__")
            node = suite
            for name in outer:
                node = node.setdefault(name, {})
            node[last] = value
        return suite

    return make


@pytest.fixture
def tiny_file(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """The same as a YAML file."""
    import yaml

    def write(name: str = "tiny.yaml", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tiny(**changes)))
        return path

    return write


@pytest.fixture
def measured() -> Callable[..., pd.DataFrame]:
    """Runs a suite mapping without the report, in this process, and gives its table."""

    def run(suite: dict[str, Any], only: tuple[str, ...] = (), workers: int = 1, plugins: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
        from fmbench.api import rows
        from fmbench.execute import execute, missing
        from fmbench.plan import make_plan
        from fmbench.plugins import load_plugins
        from fmbench.store import Store
        from fmbench.suite import parse
        from fmbench.table import frame

        load_plugins(plugins)
        plan, store = make_plan(parse(suite), only), Store()
        outcomes = execute(missing(plan, store), store, devices=["cpu"] * workers, plugins=plugins)
        return frame(rows(plan, outcomes))

    return run


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def fmbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Answer]:
    """The command line in this process: `fmbench("run", "tiny.yaml")`, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> Answer:
        from fmbench.cli import main

        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["fmbench", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


def started(*words: Any, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own, which Ctrl-C interrupts also where these tests run in the background."""
    code = "from fmbench.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(
        command, cwd=cwd, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes
    )


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the command line in a process of its own: `start("run", "tiny.yaml")`."""

    def begin(*words: Any, **more: Any) -> subprocess.Popen[str]:
        return started(*words, cwd=tmp_path, **more)

    return begin


def values(table: pd.DataFrame) -> pd.DataFrame:
    """What must not depend on where, when or beside what a table was made."""
    kept = table[~table["metric"].str.partition("[")[0].isin(TIMED)]
    return kept.drop(columns=["seconds", "device"]).sort_values("key").reset_index(drop=True)


@pytest.fixture
def same_values() -> Callable[[pd.DataFrame, pd.DataFrame], None]:
    """Fails unless two tables agree bit for bit in everything but times."""
    return lambda a, b: pd.testing.assert_frame_equal(values(a), values(b), check_exact=True)
