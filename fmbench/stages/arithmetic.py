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


def faster(field: Field, precision: Precision, device: str, compiled_for: int | None = None) -> Field:
    """A field that is called in this precision and, if asked, compiled; its velocities have the state's dtype.

    Compiled is what is called with `compiled_for` samples: other sizes (a pilot group, a last batch) are rare, and each would
    cost a compilation of its own. On a GPU all sizes are replayed as CUDA graphs: for solvers whose batches keep their size.
    """
    if compiled_for is not None:
        return _compiled(field, precision, device, compiled_for)
    return field if precision != "bfloat16" else _cast(field, precision, device)


def _cast(field: Field, precision: Precision, device: str) -> Field:
    def called(t: Tensor, x: Tensor, *label: Tensor | None) -> Tensor:
        with cast(precision, device):
            return field(t, x, *label).to(x.dtype)

    return called


@lru_cache(maxsize=1)  # a worker does the cells of one flow after the other
def _compiled(field: Field, precision: Precision, device: str, size: int) -> Field:
    torch.compiler.reset()  # lets go of the code of the flow before
    code = field.compiled() if hasattr(field, "compiled") else torch.compile(field, dynamic=False)

    def called(t: Tensor, x: Tensor, *label: Tensor | None) -> Tensor:
        return (code if len(x) == size else field)(t, x, *label)

    inner = _cast(called, precision, device)
    return Graphed(inner, device) if device.startswith("cuda") else inner


class Graphed:
    """A field recorded once for each shape as a CUDA graph: a call then costs one launch and not one a kernel.

    `held_mb` is the memory that the recordings keep, which torch's statistics of a later call do not see.
    """

    def __init__(self, field: Field, device: str):
        self.field, self.device = field, device
        self.stream = torch.cuda.Stream(device)  # torch's own is of the current GPU: nothing of another is recorded
        self.recorded: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.held_mb = 0.0

    def __call__(self, *given: Tensor) -> Tensor:
        """`given` are t, x and, of a conditional flow, the label; t may stand on the processor."""
        kind = tuple((tensor.shape, tensor.dtype) for tensor in given)
        if kind not in self.recorded:
            self.recorded[kind] = self._record(given)
        graph, inputs, output = self.recorded[kind]
        for kept, tensor in zip(inputs, given, strict=True):
            kept.copy_(tensor)
        graph.replay()
        return output.clone()  # the next replay overwrites it, and multi-stage solvers still need it

    def _record(self, given: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        inputs = [tensor.to(self.device, copy=True) for tensor in given]
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(3):  # compiles, and lets libraries choose their kernels: nothing of that may be recorded
                self.field(*inputs)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        torch.cuda.synchronize(self.device)
        before, graph = torch.cuda.memory_reserved(self.device), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            output = self.field(*inputs)
        self.held_mb += max(0, torch.cuda.memory_reserved(self.device) - before) / 2**20
        return graph, inputs, output
