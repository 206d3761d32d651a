"""Reflow pairs: noise and data that a flow joins, for the next round and for students to learn from (Liu 2022, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..flow.velocity import Field, Velocity, require_finite
from ..memory import fitting
from ..randomness import stream
from ..solvers.grids import UniformGrid
from .flow import Pairs, PairsSpec
from .sample import cut, labels


def halves(spec: PairsSpec) -> list[tuple[Callable[..., Pairs], int]]:
    """What solves a flow's pairs, joined in this order, and how many each: from noise and data that no evaluation uses.

    The first (1 − inverted) n are solved forward from the source, the others backward from the data; those of a conditional
    flow with labels of the data's own law, and with the data's own labels.
    """
    both = ((False, spec.forward), (True, spec.n - spec.forward))
    return [(partial(_half, inverted=inverted), n) for inverted, n in both if n]


@torch.inference_mode()
def _half(spec: PairsSpec, field: Field, device: str = "cpu", span: range | None = None, *, inverted: bool) -> Pairs:
    """The pairs that are solved from the source or, inverted, from the data; or a span that begins where a batch begins."""
    flow = spec.flow
    span = range(spec.n - spec.forward if inverted else spec.forward) if span is None else span
    law, drawn, asked = flow.source, "pairs", "pairs' labels"
    if inverted:
        law, drawn, asked = flow.data, "inverted pairs", "inverted pairs"
    names = (flow.seed, *((flow.reflow,) if flow.reflow else ()))  # every round draws anew
    label = labels(flow, span.start, span.stop, asked, *names)
    x = stream(lambda n, rng: law.draw(n, rng)[0], span.start, span.stop, drawn, *names)
    solved = _ends(spec, field, device, x, label, backward=inverted)
    return Pairs(solved, x, label) if inverted else Pairs(x, solved, label)


def _ends(spec: PairsSpec, field: Field, device: str, x: Tensor, label: Tensor | None, backward: bool) -> Tensor:
    """Where the flow takes x from one end of time to the other."""
    path, solver = spec.flow.path, spec.solver
    times = UniformGrid().times(spec.steps or 1, path.end_time).to(device)
    times = times.flip(0) if backward else times

    def solved(size: int) -> Tensor:
        parts = cut(x, label, size, device)
        return torch.cat(
            [solver.integrate(Velocity(field, path=path, label=own), part, times).x.cpu() for part, own in parts]
        )

    fixed = f"train.batch decides it, and solver '{solver.name}' behaves differently in another"
    ends, _ = fitting(solved, spec.batch, fixed if solver.depends_on_batch else None)
    return require_finite(ends, "drawing pairs")
