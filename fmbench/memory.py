"""Memory: the peak of a piece of work, and work in batches that fit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch

from .errors import UserError

T = TypeVar("T")


def fitting(work: Callable[[int], T], batch: int, fixed: str | None = None) -> tuple[T, int]:
    """The outcome of `work(batch)` and the batch: the one given, halved as often as the device runs out of memory.

    Args:
        fixed: why the batch must not be halved, for the error.

    Raises:
        UserError: the batch must not be halved. torch.OutOfMemoryError: a single sample is too much.
    """
    while True:
        try:
            return work(batch), batch
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            if fixed:
                raise UserError(f"a batch of {batch} does not fit into the memory. Lower it: {fixed}") from None
        batch = -(-batch // 2)  # outside of the handler, whose traceback keeps the tensors of the attempt
        torch.cuda.empty_cache()


class PeakMemory:
    """Context manager: `peak_mb` is how much memory the work took at its peak beyond what was in use before.

    On a GPU, of torch's allocator. On Linux, of the resident set, whose high-water mark the kernel lets us reset;
    None where that is not possible.
    """

    def __init__(self, device: str):
        self.device = device
        self.peak_mb: float | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before: float | None = torch.cuda.memory_allocated(self.device) / 2**20
            return self
        self.before = None
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _resident("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.startswith("cuda"):
            self.peak_mb = torch.cuda.max_memory_allocated(self.device) / 2**20 - (self.before or 0.0)
        elif self.before is not None:
            self.peak_mb = max(0.0, _resident("VmHWM") - self.before)


def _resident(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0
