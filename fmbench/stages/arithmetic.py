"""How a device computes: in which precision, and whether through compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ..flow.velocity import Field

Precision = Literal["float32", "tf32", "bfloat16"]
"""float32: in every product. tf32: a GPU's products may round their factors to 10 bits; a CPU has no such products.
bfloat16: products in bfloat16 by autocast; weights, optimiser, loss and the state of solvers stay float32."""


@contextmanager
def products(precision: Precision, device: str) -> Iterator[None]:
    """Sets how a GPU multiplies float32 matrices and images, and leaves torch's switches as they were."""
    if not device.startswith("cuda"):
        yield
        return
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = precision != "float32"
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def cast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """The context in which networks are called."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def faster(field: Field, precision: Precision, device: str, compiled: bool = False) -> Field:
    """A field that is called in this precision and, if asked, compiled; its velocities have the state's dtype.

    Compiled code is replayed as CUDA graphs on a GPU, one for each shape: for solvers whose batches keep their size.
    """
    if not compiled and precision != "bfloat16":
        return field
    inner = _compiled(field) if compiled else field

    def called(t: Tensor, x: Tensor, *label: Tensor | None) -> Tensor:
        if compiled:
            torch.compiler.cudagraph_mark_step_begin()
        with cast(precision, device):
            v = inner(t, x, *label)
        # A graph's next replay overwrites its output, which multi-stage solvers still need.
        return v.to(x.dtype, copy=compiled)

    return called


@lru_cache(maxsize=1)  # a worker does the cells of one flow after the other
def _compiled(field: Field) -> Field:
    torch.compiler.reset()  # lets go of the graphs of the flow before
    compiled: Field = torch.compile(field, mode="reduce-overhead", dynamic=False)
    return compiled
