"""What the benchmark scripts share: fair timing, the machine's description, a plain table."""

from __future__ import annotations

import gc
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # measure this checkout, installed or not


def peer(module: str, install: str) -> Any:
    """The peer's module; without it the script ends, saying what to install. Peers are no dependency of fmbench."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"this benchmark compares with a peer that is not installed ({error}).\nRun: pip install {install}")


def interleaved(tasks: dict[str, Callable[[], object]], *, repeat: int) -> dict[str, float]:
    """Median milliseconds of each task. Rounds go through all tasks, so that what disturbs the machine disturbs all."""
    for task in tasks.values():
        task()
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    gc.disable()
    for _ in range(repeat):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            taken[name].append(1e3 * (time.perf_counter() - start))
    gc.enable()
    return {name: statistics.median(values) for name, values in taken.items()}


def once(tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each task, done once: for those that take so long that a second time says nothing new."""
    taken = {}
    for name, task in tasks.items():
        start = time.perf_counter()
        task()
        taken[name] = 1e3 * (time.perf_counter() - start)
    return taken


def describe(*packages: str) -> None:
    """Machine, threads and versions, without which a number means nothing."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    print(f"{processor()}, {threads}, Python {platform.python_version()}")
    print(", ".join(f"{package} {version(package)}" for package in ("torch", *packages)), flush=True)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


class Table:
    """Rows printed as they come, right-aligned under their headings."""

    def __init__(self, title: str, headings: Sequence[str]):
        self.widths = [max(len(heading), 9) for heading in headings]
        print(f"\n{title}")
        self.row(*headings)

    def row(self, *cells: object) -> None:
        texts = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells)
        print("  ".join(text.rjust(width) for text, width in zip(texts, self.widths, strict=True)), flush=True)
