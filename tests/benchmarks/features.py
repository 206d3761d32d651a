"""Feature extraction against torch-fidelity's own on this machine's CPU, and the Fréchet step against scipy's square root.

    OMP_NUM_THREADS=1 python tests/benchmarks/features.py [images] [rounds]

The network has random weights: speed and equality are what is measured. Aims: 1.5 times torch-fidelity's extraction at
features equal to 1e-5; the Fréchet step at 2048 dimensions 5 times scipy's sqrtm, and within 1e-6 of it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import harness
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "metrics"))

from fmbench.metrics.features.base import loaded
from fmbench.metrics.features.inception import ENVIRONMENT, InceptionOther
from fmbench.metrics.features.summary import stream
from fmbench.metrics.frechet import frechet_distance, moments


def extraction(count: int, rounds: int) -> None:
    from inception import write_weights

    peer = harness.peer("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity")
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = write_weights(Path(folder) / "random.pth")
        os.environ[ENVIRONMENT] = str(path)
        theirs = peer.FeatureExtractorInceptionV3("compat", ["2048"], feature_extractor_weights_path=str(path))
        ours = InceptionOther()
        loaded(ours, "cpu")

        def features() -> Tensor:
            return torch.cat([part for part, _ in stream([images], ours)])

        @torch.inference_mode()
        def their_features() -> Tensor:
            return torch.cat([theirs(part)[0] for part in images.split(64)])  # 64: its default batch

        apart = ((features() - their_features()).norm() / their_features().norm()).item()
        taken = harness.interleaved({"ours": features, "theirs": their_features}, repeat=rounds)
    table = harness.Table(
        "Inception features, images a second", ["ours", "torch-fidelity", "ratio", "relative difference"]
    )
    per_second = {name: 1e3 * count / value for name, value in taken.items()}
    table.row(per_second["ours"], per_second["theirs"], taken["theirs"] / taken["ours"], f"{apart:.1e}")


def frechet_step(dims: int = 2048, n: int = 10_000) -> None:
    from scipy.linalg import sqrtm

    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(dims, dims, generator=rng, dtype=torch.float64) * torch.linspace(0.01, 1, dims) / dims**0.5
    sides = [
        moments(torch.randn(n, dims, generator=rng, dtype=torch.float64) @ m + s)
        for m, s in ((mix, 0), (1.1 * mix, 0.1))
    ]
    (m1, c1), (m2, c2) = sides
    values: dict[str, float] = {}

    def ours() -> None:
        values["ours"] = frechet_distance(m1, c1, m2, c2)

    def scipys() -> None:
        root = sqrtm((c1 @ c2).numpy()).real
        values["scipy"] = ((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * root.trace()).item()

    taken = harness.once({"ours": ours, "scipy": scipys})
    table = harness.Table(
        f"Fréchet step, {dims} dimensions, seconds", ["ours", "sqrtm", "ratio", "relative difference"]
    )
    apart = abs(values["ours"] / values["scipy"] - 1)
    table.row(taken["ours"] / 1e3, taken["scipy"] / 1e3, taken["scipy"] / taken["ours"], f"{apart:.1e}")


if __name__ == "__main__":
    harness.describe("torch-fidelity", "scipy")
    with torch.no_grad():
        extraction(*(int(word) for word in (sys.argv[1:] or ["64", "3"])))
        frechet_step()
