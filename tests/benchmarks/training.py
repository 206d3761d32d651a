"""Training speed in the plane: torchcfm as its notebook uses it, and fmbench, with the same network and batch.

    OMP_NUM_THREADS=1 python tests/benchmarks/training.py

Needs torchcfm==1.0.7, torchdyn, torchcde and matplotlib. 8-gaussians → moons, batch 256, three hidden layers of 64
SELU units, time as one more input. Drawing data and coupling are part of a step; fmbench clips and averages besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import harness

INSTALL = "torchcfm==1.0.7 matplotlib && pip install --no-deps torchdyn torchcde torchsde trampoline"
matchers = harness.peer("torchcfm.conditional_flow_matching", INSTALL)
networks = harness.peer("torchcfm.models.models", INSTALL)
toys = harness.peer("torchcfm.utils", INSTALL)

import torch  # noqa: E402

from fmbench.data import DATA  # noqa: E402
from fmbench.flow import COUPLINGS, PATHS  # noqa: E402
from fmbench.flow.times import TIMES  # noqa: E402
from fmbench.models import MODELS  # noqa: E402
from fmbench.stages.flow import FlowSpec, TrainSettings  # noqa: E402
from fmbench.stages.train import train  # noqa: E402

BATCH = 256
TARGET = 3.0  # times torchcfm's speed
TARGET_SEEDS = 2.3  # times one seed's time for five, at width 64


def notebook(matcher: type, steps: int) -> Callable[[], None]:
    """The usual user's loop on torchcfm's parts."""
    network = networks.MLP(dim=2, w=64, time_varying=True)
    optimiser = torch.optim.Adam(network.parameters())
    flow = matcher(sigma=0.1)

    def run() -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            t, x, u = flow.sample_location_and_conditional_flow(toys.sample_8gaussians(BATCH), toys.sample_moons(BATCH))
            v = network(torch.cat([x, t[:, None]], dim=-1))
            loss = ((v - u) ** 2).mean()
            loss.backward()
            optimiser.step()

    return run


def seeds(width: int, which: Sequence[int]) -> None:
    ours("independent", 640, which, width)()


def ours(coupling: str, steps: int, seeds: Sequence[int] = (0,), width: int = 64) -> Callable[[], None]:
    specs = [
        FlowSpec(
            data=DATA.build("moons"),
            source=DATA.build("eight-gaussians"),
            path=PATHS.build("rectified"),
            coupling=COUPLINGS.build(coupling),
            prediction="velocity",
            times=TIMES.build("uniform"),
            model=MODELS.build({"name": "mlp", "width": width, "depth": 3, "activation": "selu", "frequencies": 0}),
            train=TrainSettings(samples=steps * BATCH, batch=BATCH),
            seed=seed,
        )
        for seed in seeds
    ]

    def run() -> None:
        for outcome in train(specs):
            if isinstance(outcome, Exception):
                raise outcome

    return run


def main() -> None:
    harness.describe("torchcfm")
    table = harness.Table("One flow, steps per second", ["coupling    ", "torchcfm", "fmbench", "ratio", "target"])
    for coupling, matcher, steps in [
        ("independent", matchers.ConditionalFlowMatcher, (100, 1280)),
        ("minibatch-ot", matchers.ExactOptimalTransportConditionalFlowMatcher, (60, 256)),
    ]:
        tasks = {"torchcfm": notebook(matcher, steps[0]), "fmbench": ours(coupling, steps[1])}
        times = harness.interleaved(tasks, repeat=5)
        theirs, mine = (1e3 * n / ms for n, ms in zip(steps, times.values(), strict=True))
        table.row(coupling, theirs, mine, mine / theirs, TARGET)

    table = harness.Table(
        "Five seeds, seconds for 640 steps, independent coupling; two workers take three and two of them, as a run does",
        ["width", "one seed", "stacked", "ratio", "two workers", "ratio", "target"],
    )
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for width in (64, 256):
            tasks = {
                "one": partial(seeds, width, [0]),
                "stacked": partial(seeds, width, range(5)),
                "workers": lambda width=width: list(pool.map(seeds, [width] * 2, [range(3), range(3, 5)])),
            }
            times = harness.interleaved(tasks, repeat=7 if width == 64 else 1)
            one, stacked, workers = (1e-3 * ms for ms in times.values())
            table.row(width, one, stacked, stacked / one, workers, workers / one, TARGET_SEEDS if width == 64 else "-")


if __name__ == "__main__":
    main()
