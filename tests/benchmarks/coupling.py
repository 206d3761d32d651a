"""Minibatch OT against torchcfm: cost matrix, solve and pairing, the same minibatch, the same process.

    OMP_NUM_THREADS=1 python tests/benchmarks/coupling.py

Needs torchcfm==1.0.7. `equal` compares our plan's cost with ot.emd2's to 1e-9. torchcfm draws pairs from its plan
with replacement; ours uses every sample once.
"""

from __future__ import annotations

from collections.abc import Callable

import harness

peer_ot = harness.peer("torchcfm.optimal_transport", "torchcfm==1.0.7")

import numpy as np  # noqa: E402
import ot  # noqa: E402
import torch  # noqa: E402
from scipy.spatial.distance import cdist  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from fmbench.data import DATA  # noqa: E402
from fmbench.flow.couplings import MinibatchOT, taken  # noqa: E402
from fmbench.metrics.transport import squared  # noqa: E402

Draw = Callable[[int, torch.Generator], torch.Tensor]


def law(name: str) -> Draw:
    return lambda n, rng: DATA.build(name).draw(n, rng)[0]


def normal(d: int) -> Draw:
    return lambda n, rng: torch.randn(n, d, generator=rng)


def digits(n: int, rng: torch.Generator) -> torch.Tensor:
    images = torch.from_numpy(load_digits().data).float() / 8 - 1
    return images[torch.randperm(len(images), generator=rng)[:n]]


def smooth_images(n: int, rng: torch.Generator) -> torch.Tensor:
    """3×32×32 with the power spectrum of photographs, 1/f², clipped to [−1, 1]."""
    f = torch.fft.fftfreq(32)[:, None] ** 2 + torch.fft.rfftfreq(32)[None] ** 2
    x = torch.fft.irfft2(torch.fft.rfft2(torch.randn(n, 3, 32, 32, generator=rng)) / (f + 1e-3))
    return (0.5 * x / x.std()).clamp(-1, 1).flatten(1)


PROBLEMS: dict[str, tuple[Draw, Draw]] = {
    "normal → 8-gaussians": (normal(2), law("eight-gaussians")),
    "8-gaussians → moons": (law("eight-gaussians"), law("moons")),
    "normal → normal": (normal(64), normal(64)),
    "normal → digits": (normal(64), digits),
    "normal → normal ": (normal(3072), normal(3072)),
    "normal → images": (normal(3072), smooth_images),
}
TARGETS = {(256, 2): 1.5, (1024, 2): 1.1, (256, 64): 5, (1024, 64): 5, (256, 3072): 4, (1024, 3072): 4}


def main() -> None:
    harness.describe("torchcfm", "pot", "lapx", "scipy", "numpy")
    plan = peer_ot.OTPlanSampler(method="exact")
    ours = MinibatchOT()
    table = harness.Table(
        "Minibatch OT, whole step, milliseconds (median)",
        ["problem             ", "n", "d", "torchcfm", "fmbench", "ratio", "target", "equal"],
    )
    for n in (128, 256, 512, 1024):
        for name, (source, data) in PROBLEMS.items():
            rng = torch.Generator().manual_seed(n)
            batches = [(source(n, rng), data(n, rng)) for _ in range(4)]
            turn = {"torchcfm": 0, "fmbench": 0}

            def batch(who: str, batches: list = batches, turn: dict = turn) -> tuple[torch.Tensor, torch.Tensor]:
                turn[who] += 1
                return batches[turn[who] % len(batches)]

            def theirs() -> object:
                return plan.sample_plan(*batch("torchcfm"))

            def mine(rng: torch.Generator = rng) -> object:
                x0, x1 = batch("fmbench")
                i, j = ours.pair(x0, x1, rng)
                return taken(x0, i), taken(x1, j)

            times = harness.interleaved({"torchcfm": theirs, "fmbench": mine}, repeat=20 if n <= 256 else 6)
            x0, x1 = batches[0]
            optimum = ot.emd2([], [], cdist(x0.double(), x1.double(), "sqeuclidean"), numItermax=10**9)
            i, j = ours.pair(x0, x1, rng)
            equal = abs(squared(x0[i], x1[j]).mean() / optimum - 1) < 1e-9
            ratio = times["torchcfm"] / times["fmbench"]
            d = x0.shape[1]
            table.row(name, n, d, *times.values(), ratio, TARGETS.get((n, d), "-"), "yes" if equal else "NO")
            assert np.isfinite(ratio)


if __name__ == "__main__":
    main()
