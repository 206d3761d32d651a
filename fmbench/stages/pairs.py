"""Reflow pairs: noise and data that a flow joins, for the next round and for students to learn from (Liu 2022, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..flow.velocity import Field, Velocity, require_finite
from ..memory import fitting
from ..randomness import stream
from ..solvers.grids import UniformGrid
from .flow import FlowSpec, Pairs, PairsSpec
from .sample import cut, labels


def halves(spec: PairsSpec) -> list[tuple[Callable[..., Pairs], int]]:
    """What solves a flow's pairs, joined in this order, and how many each: from noise and data that no evaluation uses.

    The first (1 − inverted) n are solved forward from the source, the others backward from the data; those of a conditional
    flow with labels of the data's own law, and with the data's own labels.
    """
    both = ((forward_pairs, spec.forward), (inverted_pairs, spec.n - spec.forward))
    return [(solve, n) for solve, n in both if n]


@torch.inference_mode()
def forward_pairs(spec: PairsSpec, field: Field, device: str = "cpu", span: range | None = None) -> Pairs:
    """The pairs that are solved from the source, or a span of them that begins where a batch begins."""
    flow, span = spec.flow, range(spec.forward) if span is None else span
    label = labels(flow, span.start, span.stop, "pairs' labels", *_names(flow))
    z0 = stream(lambda n, rng: flow.source.draw(n, rng)[0], span.start, span.stop, "pairs", *_names(flow))
    return Pairs(z0, _ends(spec, field, device, z0, label), label)


@torch.inference_mode()
def inverted_pairs(spec: PairsSpec, field: Field, device: str = "cpu", span: range | None = None) -> Pairs:
    """The pairs that are solved backward from the data, or a span of them that begins where a batch begins."""
    flow, span = spec.flow, range(spec.n - spec.forward) if span is None else span
    label = labels(flow, span.start, span.stop, "inverted pairs", *_names(flow))
    z1 = stream(lambda n, rng: flow.data.draw(n, rng)[0], span.start, span.stop, "inverted pairs", *_names(flow))
    return Pairs(_ends(spec, field, device, z1, label, backward=True), z1, label)


def _names(flow: FlowSpec) -> tuple[int, ...]:
    return (flow.seed, *((flow.reflow,) if flow.reflow else ()))  # every round draws anew


def _ends(
    spec: PairsSpec, field: Field, device: str, x: Tensor, label: Tensor | None, backward: bool = False
) -> Tensor:
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
