"""Whole runs by the command line, from an empty cache and again: import, training, measuring, report.

python tests/benchmarks/suites.py                       # those that have a target
python tests/benchmarks/suites.py coupling-lab tong-2d  # any others
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

TARGETS = {  # seconds on two cores: from an empty cache, again
    "moons-nfe-sweep": (120, 8),
    "oracle-mixture": (20, None),
    "digits-nfe-sweep": (480, None),
    "reflow-2d": (600, None),
    "reflow-digits": (1500, None),
}


def main() -> None:
    harness.describe()
    table = harness.Table("Whole runs, seconds", ["suite             ", "cold", "target", "again", "target"])
    for suite in sys.argv[1:] or TARGETS:
        cold, again = TARGETS.get(suite, (None, None))
        with tempfile.TemporaryDirectory() as folder:
            table.row(suite, run(suite, folder), cold or "-", run(suite, folder), again or "-")


def run(suite: str, folder: str) -> float:
    """Wall seconds; its cache and its results live in the folder."""
    environment = {**os.environ, "FMBENCH_CACHE": f"{folder}/cache", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", "from fmbench.cli import main; main()", "run", suite, "--out", "out", "--quiet"]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
