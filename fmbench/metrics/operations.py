"""How much arithmetic sampling is: a measure of cost that no machine changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import Skip
from ..statistics import Estimate
from .base import Evidence, Metric
from .cost import NFE


def operations(call: Callable[[int], Any]) -> int:
    """Floating-point operations of one sample in a call on n: those of matrix products, convolutions and attention.

    Counted are two for each multiplication with its addition; papers that count one (as DiT's do) have half as many. What a
    call does once, whatever its batch, is left out, such as embedding a time that all samples share.

    Args:
        call: asks a network about n samples.
    """

    def counted(n: int) -> int:
        # As plain products: torch's counter does not know every device's fused attention.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call(n)
        return counter.get_total_flops()

    return counted(2) - counted(1)


class FLOPs(Metric):
    """Floating-point operations of the network per sample: `nfe` times those of one call, two a multiply-add.

    Matrix products, convolutions and attention are counted, as torch sees them done; the solver's own arithmetic is not.
    """

    name = "flops"
    unit = "FLOP"
    scope = "samples"
    source = "counted by torch.utils.flop_counter"

    def measure(self, evidence: Evidence) -> Estimate:
        if evidence.ask is None:
            raise Skip("this needs the flow's network")
        each = operations(evidence.ask)
        if each == 0:
            raise Skip("the velocity makes no product or convolution that torch's counter sees: it is no network's")
        calls = NFE().measure(evidence)
        return replace(calls, value=each * calls.value, stderr=each * calls.stderr)
