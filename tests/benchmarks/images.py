"""Training speed on images: a loop in the manner of torchcfm's CIFAR-10 example, and fmbench, with one network on one device.

    OMP_NUM_THREADS=1 python tests/benchmarks/images.py                       # a tiny network on a processor
    python tests/benchmarks/images.py --device cuda --network published      # the 35.7 M parameters, on a GPU
    python tests/benchmarks/images.py --device cuda --network small          # that of cifar10-nfe-sweep-small

Needs torchcfm==1.0.7 and torchvision. The example's own U-Net is not in its package's reach on equal terms, so both sides
train diffusers' network of the recipe. Its loop: a DataLoader with random flips, float32, Adam, a clipped gradient, an
averaged copy of the weights, parameter by parameter. Ours computes in bfloat16 and compiled on a GPU, in float32 on a processor;
`--precision float32 --eager` takes the loop alone. Drawing, flipping and coupling are part of a step on both sides. Timed is
what follows the first tenth of the steps: compilation is told apart.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import harness

INSTALL = "torchcfm==1.0.7 torchvision"
matchers = harness.peer("torchcfm.conditional_flow_matching", INSTALL)
vision = harness.peer("torchvision", INSTALL)

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from fmbench.data.base import FiniteData, Split  # noqa: E402
from fmbench.flow import COUPLINGS, PATHS  # noqa: E402
from fmbench.flow.times import TIMES  # noqa: E402
from fmbench.metrics.operations import operations  # noqa: E402
from fmbench.models import MODELS, Model  # noqa: E402
from fmbench.randomness import generator  # noqa: E402
from fmbench.recipes import RECIPES  # noqa: E402
from fmbench.stages.flow import FlowSpec, TrainSettings  # noqa: E402
from fmbench.stages.train import train  # noqa: E402

TARGET = 2.0  # times the example's speed
TARGET_OT = 0.95  # of independent coupling's speed
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 products a second, as the maker states them
TINY = {"name": "unet", "channels": 32, "multipliers": [1, 2, 2], "attention": [16], "groups": 32, "dropout": 0.1}


SMALL = {
    "name": "unet", "channels": 64, "multipliers": [1, 2, 2, 2], "blocks": 2, "attention": [16], "groups": 32,
    "head_channels": 64, "dropout": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class Speed:
    images: float  # a second
    start: float  # seconds until the first tenth of the steps was done


class Noise(FiniteData):
    """As many pictures as CIFAR-10 has, of noise: what they show does not matter for speed."""

    name = "noise pictures"
    levels = 256
    flip: bool = True

    def arrays(self, split: Split) -> tuple[Tensor, Tensor | None]:
        return PICTURES, None

    def samples(self, stored: Tensor) -> Tensor:
        return stored.float().div_(127.5).sub_(1)

    def augmented(self, stored: Tensor, rng: torch.Generator) -> Tensor:
        mirrored = torch.rand(len(stored), generator=rng) < 0.5
        return torch.where(mirrored.to(stored.device)[:, None, None, None], stored.flip(-1), stored)

    def moments(self) -> tuple[float, float]:
        return 0.0, 0.58


PICTURES = torch.randint(0, 256, (50_000, 3, 32, 32), generator=generator("pictures"), dtype=torch.uint8)


def example(model: Model, matcher: type, steps: int, batch: int, device: str) -> Speed:
    """The usual user's loop on torchcfm's parts: its CIFAR-10 example with another network."""
    network = model.network((3, 32, 32), [0]).to(device).train()
    average = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(step + 1, 5000) / 5000)
    flow = matcher(sigma=0.0)
    steps_of = vision.transforms
    ready = steps_of.Compose(
        [steps_of.RandomHorizontalFlip(), steps_of.ToTensor(), steps_of.Normalize([0.5] * 3, [0.5] * 3)]
    )
    pictures = [vision.transforms.functional.to_pil_image(picture) for picture in PICTURES[:2048]]

    class Set(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(PICTURES)

        def __getitem__(self, i: int) -> Tensor:
            return ready(pictures[i % len(pictures)])

    workers = 0 if device == "cpu" else 4
    loader = torch.utils.data.DataLoader(Set(), batch_size=batch, shuffle=True, num_workers=workers, drop_last=True)

    def endless() -> Iterator[Tensor]:
        while True:
            yield from loader

    batches = endless()

    began = time.perf_counter()
    warm = max(1, steps // 10)
    for step in range(steps):
        if step == warm:
            waited(device)
            started = time.perf_counter()
        optimiser.zero_grad()
        x1 = next(batches).to(device)
        t, x, u = flow.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((network(t, x) - u) ** 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for mine, new in zip(average.parameters(), network.parameters(), strict=True):
                mine.copy_(0.9999 * mine + 0.0001 * new)
    waited(device)
    return Speed((steps - warm) * batch / (time.perf_counter() - started), started - began)


def ours(model: Model, coupling: str, steps: int, batch: int, device: str, **settings: Any) -> Speed:
    spec = FlowSpec(
        data=Noise(),
        source=_normal(),
        path=PATHS.build("rectified"),
        coupling=COUPLINGS.build(coupling),
        prediction="velocity",
        times=TIMES.build("uniform"),
        model=model,
        train=TrainSettings(**{**RECIPES["torchcfm"].train, "samples": steps * batch, "batch": batch, **settings}),
        seed=0,
    )

    began, seen, points = time.perf_counter(), 0, []

    def heard(samples: int) -> None:  # when the device has done them
        nonlocal seen
        seen += samples
        points.append((seen, time.perf_counter()))

    (outcome,) = train([spec], device=device, progress=heard)
    if isinstance(outcome, Exception):
        raise outcome
    warm = next(point for point in points if point[0] >= steps * batch // 10)
    return Speed((points[-1][0] - warm[0]) / (points[-1][1] - warm[1]), warm[1] - began)


def _normal() -> Any:
    from fmbench.data import DATA

    return DATA.build({"name": "normal", "dims": [3, 32, 32]})


def waited(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def flops(model: Model) -> int:
    """Operations of one training image: the network's products forward, and twice as many backward."""
    network = model.network((3, 32, 32), [0])
    return 3 * operations(lambda n: network(torch.zeros(n), torch.zeros(n, 3, 32, 32)))


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--network", choices=["tiny", "small", "published"], default="tiny")
    asked.add_argument("--batch", type=int, default=None)
    asked.add_argument("--steps", type=int, default=None)
    asked.add_argument("--precision", choices=["float32", "tf32", "bfloat16"], default=None)
    asked.add_argument("--eager", action="store_true", help="without torch.compile")
    asked.add_argument("--graphs", action="store_true", help="torch.compile's mode reduce-overhead: CUDA graphs")
    args = asked.parse_args()
    gpu = args.device.startswith("cuda")
    networks = {"tiny": TINY, "small": SMALL, "published": RECIPES["torchcfm"].model}
    model = MODELS.build(dict(networks[args.network]))
    batch, steps = args.batch or (128 if gpu else 32), args.steps or (1000 if gpu else 10)
    settings = {
        "precision": args.precision or ("bfloat16" if gpu else "float32"),
        "compile": "reduce-overhead" if args.graphs else gpu and not args.eager,
    }
    each = flops(model)
    harness.describe("torchcfm", "diffusers")
    name = torch.cuda.get_device_name(args.device) if gpu else "this processor"
    print(f"{name}: network '{args.network}', {each / 1e9:.2f} GFLOP a training image, batch {batch}, {settings}")
    peak = next((peak for card, peak in PEAKS.items() if card in name), None)
    table = harness.Table(
        "Images a second", ["coupling    ", "torchcfm", "fmbench", "ratio", "target", "TFLOP/s", "of peak", "start, s"]
    )
    speeds = []
    for coupling, matcher in [
        ("independent", matchers.ConditionalFlowMatcher),
        ("minibatch-ot", matchers.ExactOptimalTransportConditionalFlowMatcher),
    ]:
        mine = ours(model, coupling, steps, batch, args.device, **settings)
        theirs = example(model, matcher, max(10, steps // 10) if gpu else steps, batch, args.device)
        used = mine.images * each
        share = "-" if peak is None else f"{used / peak:.1%}"
        row = (
            theirs.images,
            mine.images,
            mine.images / theirs.images,
            TARGET if gpu else "-",
            used / 1e12,
            share,
            mine.start,
        )
        table.row(coupling, *row)
        speeds.append(mine.images)
    print(
        f"\nminibatch-ot trains at {speeds[1] / speeds[0]:.1%} of independent coupling's speed (target {TARGET_OT:.0%})"
    )


if __name__ == "__main__":
    main()
