"""What likelihood costs beside its forward passes: the same RK4 solve with and without the divergence.

    OMP_NUM_THREADS=1 python tests/benchmarks/likelihood.py

2.0 means that the vector-Jacobian product costs one forward pass; the aim for one probe is at most 2.2.
"""

from __future__ import annotations

import harness
import torch
from torch import Tensor

from fmbench.metrics.likelihood import NLL, backward, divergence_of, hutchinson
from fmbench.models import MODELS

CASES = [  # model, shape, batch, RK4 steps, rounds, exact as well
    ({"name": "unet", "channels": 32}, (1, 8, 8), 64, 1, 7, True),
    ({"name": "mlp", "width": 64, "depth": 3}, (2,), 1024, 8, 30, True),
]


def main() -> None:
    harness.describe()
    table = harness.Table(
        "Likelihood, time over the forward passes' (median of interleaved rounds)",
        ["model", "batch", "calls", "forward ms", "1 probe", "4 probes", "exact"],
    )
    for model, shape, batch, steps, rounds, exact in CASES:
        net = MODELS.build(model).network(shape, [0]).eval().requires_grad_(False)
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        probes = NLL(probes=4).draw_probes(x.shape, 0)

        @torch.inference_mode()
        def forward(net=net, x=x, times=times) -> Tensor:  # type: ignore[no-untyped-def]
            return backward(net, x, times, lambda v, t, z: (v(t, z), z.new_zeros(len(z))))[0]

        tasks = {
            "forward": forward,
            "one": lambda n=net, x=x, t=times, p=probes: backward(n, x, t, hutchinson(p[:, :1])),
            "four": lambda n=net, x=x, t=times, p=probes: backward(n, x, t, hutchinson(p)),
        }
        taken = harness.interleaved(tasks, repeat=rounds)
        whole = {"exact": lambda n=net, x=x, t=times: backward(n, x, t, divergence_of)} if exact else {}
        taken |= harness.interleaved(whole, repeat=1)
        base = taken.pop("forward")
        table.row(model["name"], batch, 4 * steps, base, *(value / base for value in taken.values()))


if __name__ == "__main__":
    main()
