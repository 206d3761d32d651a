"""Runs that end before their time: killed, interrupted, beside each other. What they leave is whole, and is gone on from."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fmbench.store import ResultFolder, Store
from fmbench.table import read_table

Start = Callable[..., "subprocess.Popen[str]"]
TinyFile = Callable[..., Path]
Same = Callable[[pd.DataFrame, pd.DataFrame], None]

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")

LONG = {
    "flow__path": ["rectified", "ve"],
    "flow__model": {"name": "mlp", "width": 32, "depth": 2},
    "flow__seed": [0, 1],
    "train__batch": 128,
    "sample__n": 256,
    "metrics": ["sliced_w2", "solver_error", "straightness", "transport_cost", "nfe", "seconds", "peak_memory_mb"],
}


def alive(cache: Path) -> list[int]:
    """Processes whose environment names this cache, the test's own aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and str(cache).encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], Any], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def sound(cache: Path) -> None:
    """Every artefact that claims to be finished can be read, and no write was left half done."""
    store = Store()
    for record in cache.rglob("*.json"):
        if record.name.startswith("."):
            continue  # a file that was being written: never looked at again
        assert store.info(record.stem) is not None, record
        if record.with_suffix(".safetensors").exists():
            store.read(record.stem)


def killed_again_and_again(
    start: Start, suite: Path, cache: Path, tmp_path: Path, plugin: str, times: int, longest: float, seed: int
) -> int:
    """SIGKILLs runs at random points, then lets one end. How many were killed while they trained."""
    rng, amid = random.Random(seed), 0
    command = ("run", suite, "--out", "out", "--workers", 2, "--quiet", "--plugin", plugin)
    for _ in range(times):
        before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.checkpoint")}
        with start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:

            def moved(run: Any = run, before: Any = before) -> bool:
                """The run got somewhere (or ended): there is a new checkpoint."""
                return run.poll() is not None or any(
                    before.get(path) != path.stat().st_mtime_ns for path in cache.rglob("*.checkpoint") if path.exists()
                )

            if rng.random() < 0.8:  # else anywhere, also while Python starts
                eventually(moved, 60)
            time.sleep(rng.uniform(0, longest))
            amid += bool(list(cache.rglob("*.checkpoint")))
            run.kill()
        assert eventually(lambda: not alive(cache), 2.0), "worker processes outlive their parent"
        sound(cache)
    last = start(*command)
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    return amid


@pytest.mark.parametrize(
    ("samples", "times", "longest", "seed"),
    [
        (200_000, 1, 0.3, 1),
        *(pytest.param(600_000, 8, 2.5, seed, marks=pytest.mark.slow) for seed in (1, 2)),
    ],
)
def test_a_killed_run_goes_on_to_the_same_table(
    start: Start, tiny_file: TinyFile, tiny: Callable[..., dict[str, Any]], measured: Callable[..., pd.DataFrame],
    cache: Path, tmp_path: Path, plugin: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, same_values: Same,
    samples: int, times: int, longest: float, seed: int,
) -> None:  # fmt: skip
    suite = tiny_file(**LONG, train__samples=samples)
    with monkeypatch.context() as patch:
        patch.setenv("FMBENCH_CACHE", str(tmp_path / "undisturbed"))
        expected = measured(tiny(**LONG, train__samples=samples))
    quick = plugin("quick_checkpoints")
    assert killed_again_and_again(start, suite, cache, tmp_path, quick, times, longest, seed) > 0
    same_values(read_table(tmp_path / "out" / "results.parquet"), expected)
    assert not list(cache.rglob("*.checkpoint"))  # of finished trainings none is kept
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker hears of it only once it has started")
def test_workers_that_are_still_starting_die_with_the_run(start: Start, tiny_file: TinyFile, cache: Path) -> None:
    """While it imports torch, for seconds on a busy machine, a worker hears nothing that its parent could say."""
    with start("run", tiny_file(**LONG), "--out", "out", "--workers", 2, "--quiet", stderr=subprocess.DEVNULL) as run:
        assert eventually(lambda: len(alive(cache)) == 3, 60)
        run.kill()
        run.wait()
        assert eventually(lambda: not alive(cache), 1.0)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c(
    start: Start, tiny_file: TinyFile, cache: Path, tmp_path: Path, plugin: Callable[[str], str], workers: int
) -> None:
    suite = tiny_file(**LONG, train__samples=5_000_000)
    command = ("run", suite, "--out", "out", "--workers", workers, "--plugin", plugin("quick_checkpoints"))
    with start(*command) as run:
        assert eventually(lambda: list(cache.rglob("*.checkpoint")), 60)
        started = time.monotonic()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert time.monotonic() - started < 8  # measured: 1 to 3 s on a busy machine, most of it Python's own end
    assert run.returncode == 130, err
    assert err.strip() == "Interrupted. Run the same command again to go on from here."
    assert eventually(lambda: not alive(cache), 2.0)
    sound(cache)
    assert not (tmp_path / "out" / ".lock").exists()


def test_what_an_interrupted_run_has_measured_is_a_result(
    start: Start, tiny_file: TinyFile, cache: Path, tmp_path: Path, fmbench: Callable[..., Any]
) -> None:
    """Its table, how it was made, and that it is not whole: also where another run had ended in the same folder."""
    assert fmbench("run", tiny_file(flow__seed=1), "--out", "out").code == 0
    slow = {"name": "mlp", "width": 512, "depth": 4}  # the second flow's training is still under way
    suite = tiny_file(flow__model=["oracle", slow], data="gaussian-mixture", flow__seed=0, train__samples=10_000_000)
    command = ("run", suite, "--out", "out", "--workers", 2, "--quiet")
    before = len(list(cache.rglob("measure-*.json")))
    with start(*command) as run:
        assert eventually(lambda: len(list(cache.rglob("measure-*.json"))) >= before + 5, 60)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    table, manifest = (
        read_table(tmp_path / "out" / "results.parquet"),
        ResultFolder(tmp_path / "out").read_json("manifest.json"),
    )
    assert set(table["suite"]) == {manifest["suite"]["suite"]} == {"tiny"}
    assert manifest["finished"] is None
    assert sum(manifest["statuses"].values()) == len(table) < manifest["planned"]
    assert fmbench("report", "out").code == 0
    assert (
        f"{len(table)} of {manifest['planned']} values: the run did not finish"
        in (tmp_path / "out" / "report.html").read_text()
    )


def test_two_runs_that_share_a_cache_train_once(
    start: Start, tiny_file: TinyFile, cache: Path, tmp_path: Path, same_values: Same
) -> None:
    """Each flow is trained by one of them; the other waits for it."""
    counting = tmp_path / "counting.py"
    counting.write_text(
        "import os, pathlib\n"
        "from fmbench.execute import jobs\n"
        "train = jobs.train\n"
        "def counted(specs, **more):\n"
        "    for spec in specs:\n"
        f"        (pathlib.Path({str(tmp_path)!r}) / f'trained-{{spec.key}}-{{os.getpid()}}').touch()\n"
        "    return train(specs, **more)\n"
        "jobs.train = counted\n"
    )
    suite = tiny_file(flow__path=["rectified", "ve", "fm-ot"], flow__seed=[0, 1], train__samples=40_000)
    command = ("run", suite, "--workers", 1, "--quiet", "--plugin", counting)
    runs = [start(*command, "--out", name) for name in ("a", "b")]
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    trained = [path.name for path in tmp_path.glob("trained-*")]
    assert len(trained) == 6
    same_values(*(read_table(tmp_path / name / "results.parquet") for name in ("a", "b")))


@pytest.mark.slow
def test_a_second_run_on_the_same_output_is_refused(
    start: Start, tiny_file: TinyFile, cache: Path, tmp_path: Path, plugin: Callable[[str], str]
) -> None:
    suite = tiny_file(**LONG, train__samples=5_000_000)
    command = ("run", suite, "--out", "out", "--workers", 1, "--quiet", "--plugin", plugin("quick_checkpoints"))
    with start(*command) as first:
        assert eventually(lambda: list(cache.rglob("*.checkpoint")), 60)
        with start(*command) as second:
            out, err = second.communicate(timeout=60)
        assert second.returncode == 2
        assert err.startswith("Error: another fmbench process is writing to out.")
        assert "--out" in err
        assert out == ""
        assert first.poll() is None
        first.kill()
    with ResultFolder(tmp_path / "out").locked():
        pass  # the lock went with its holder
