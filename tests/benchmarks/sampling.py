"""What a solver costs beside the network: each library over a bare hand-written loop of the same network calls.

    OMP_NUM_THREADS=1 python tests/benchmarks/sampling.py

Needs flow_matching, torchdyn and torchcde. 1.08 means 8 % above the bare loop. Every library calls the same network
equally often. (rk4 is the 3/8 rule in torchdiffeq and flow_matching, the classical method elsewhere: four calls each.)
"""

from __future__ import annotations

from collections.abc import Callable

import harness

flow_matching = harness.peer("flow_matching.solver", "flow_matching")
torchdyn = harness.peer("torchdyn.numerics", "--no-deps torchdyn torchcde torchsde trampoline")

import torch  # noqa: E402
import torchdiffeq  # noqa: E402
from torch import Tensor  # noqa: E402

from fmbench.flow.velocity import Velocity  # noqa: E402
from fmbench.models import MODELS, Network  # noqa: E402
from fmbench.solvers import SOLVERS  # noqa: E402

Sampler = Callable[[], Tensor]


def bare(net: Network, x0: Tensor, method: str, steps: int) -> Sampler:
    """The loop that a careful user writes by hand."""
    h = 1 / steps
    times = torch.linspace(0, 1, 2 * steps + 1).unbind()  # with the half steps

    def euler() -> Tensor:
        x = x0
        for i in range(steps):
            x = torch.add(x, net(times[2 * i], x), alpha=h)
        return x

    def rk4() -> Tensor:
        x = x0
        for i in range(steps):
            start, middle, end = times[2 * i : 2 * i + 3]
            k1 = net(start, x)
            k2 = net(middle, torch.add(x, k1, alpha=h / 2))
            k3 = net(middle, torch.add(x, k2, alpha=h / 2))
            k4 = net(end, torch.add(x, k3, alpha=h))
            x = x.add(k1, alpha=h / 6).add_(k2, alpha=h / 3).add_(k3, alpha=h / 3).add_(k4, alpha=h / 6)
        return x

    return {"euler": euler, "rk4": rk4}[method]


def ours(net: Network, x0: Tensor, method: str, steps: int) -> Sampler:
    solver, times = SOLVERS.build(method), torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return lambda: solver.integrate(Velocity(net), x0, times).x


def by_flow_matching(net: Network, x0: Tensor, method: str, steps: int) -> Sampler:
    solver = flow_matching.ODESolver(velocity_model=lambda x, t: net(t, x))
    times = torch.tensor([0.0, 1.0])
    return lambda: solver.sample(x0, step_size=1 / steps, method=method, time_grid=times)


def by_torchdiffeq(net: Network, x0: Tensor, method: str, steps: int) -> Sampler:
    times = torch.linspace(0, 1, steps + 1)
    return lambda: torchdiffeq.odeint(net, x0, times, method=method)[-1]


def by_torchdyn(net: Network, x0: Tensor, method: str, steps: int) -> Sampler:
    times = torch.linspace(0, 1, steps + 1)
    return lambda: torchdyn.odeint(lambda t, x: net(t, x), x0, times, solver=method)[1][-1]


LIBRARIES = {
    "bare": bare,
    "fmbench": ours,
    "flow_matching": by_flow_matching,
    "torchdiffeq": by_torchdiffeq,
    "torchdyn": by_torchdyn,
}
CASES = [  # model, shape, batch, method, steps, rounds
    ({"name": "mlp", "width": 64, "depth": 3}, (2,), 256, "euler", 64, 150),
    ({"name": "mlp", "width": 64, "depth": 3}, (2,), 256, "rk4", 16, 150),
    ({"name": "unet", "channels": 32}, (1, 8, 8), 64, "euler", 8, 7),
    ({"name": "unet", "channels": 32}, (1, 8, 8), 64, "rk4", 2, 7),
]


def main() -> None:
    harness.describe("flow_matching", "torchdiffeq", "torchdyn")
    table = harness.Table(
        "Sampling, time over the bare loop's (median of interleaved rounds)",
        ["model ", "batch", "method", "calls", "bare ms", "fmbench", "flow_matching", "torchdiffeq", "torchdyn"],
    )
    for model, shape, batch, method, steps, rounds in CASES:
        net = MODELS.build(model).network(shape, [0]).eval().requires_grad_(False)
        x0 = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            samplers = {name: make(net, x0, method, steps) for name, make in LIBRARIES.items()}
            calls = count(net, samplers)
            agreement = (samplers["bare"]() - samplers["fmbench"]()).abs().max()
            assert agreement < 1e-4, f"fmbench and the bare loop differ by {agreement:.1e}"
            times = harness.interleaved(samplers, repeat=rounds)
        reference = times.pop("bare")
        table.row(model["name"], batch, method, calls, reference, *(value / reference for value in times.values()))


def count(net: Network, samplers: dict[str, Sampler]) -> int:
    """Calls of the network in one solve, the same for all or the comparison is void."""
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle, seen = net.register_forward_pre_hook(hook), {}
    for name, sampler in samplers.items():
        calls = 0
        sampler()
        seen[name] = calls
    handle.remove()
    assert len(set(seen.values())) == 1, f"unequal numbers of network calls: {seen}"
    return calls


if __name__ == "__main__":
    main()
