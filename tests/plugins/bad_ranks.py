"""Rank 1 does not survive the training of two paths: it is killed, or raises."""

from __future__ import annotations

import os
import signal
from typing import Any

import fmbench.stages.train

learning_rate = fmbench.stages.train._learning_rate
build = fmbench.stages.train.untrained
path = ""


def untrained(spec: Any, seeds: Any) -> Any:
    global path
    path = spec.path.name
    return build(spec, seeds)


def until(settings: Any, step: int) -> float:
    if os.environ.get("RANK") == "1" and step == 3:
        if path == "ve":
            os.kill(os.getpid(), signal.SIGKILL)
        if path == "fm-ot":
            raise ValueError("a rank of its own mind")
    return learning_rate(settings, step)


fmbench.stages.train.untrained = untrained
fmbench.stages.train._learning_rate = until
