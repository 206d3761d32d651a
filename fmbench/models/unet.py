"""A U-Net of diffusers' blocks for images `(C, H, W)`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from ..data.base import Data
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.paths import Path
from ..randomness import seed_of
from .base import NO_LABEL, ConditionalModel, Network

GROUPS = 8  # of every group norm


class UNet(ConditionalModel):
    """Residual U-Net (Ho 2020): one level for each entry of `multipliers`, attention at the resolutions listed.

    A label's vector is added to that of the time (Dhariwal & Nichol 2021).
    """

    name = "unet"
    channels: PositiveInt = 32
    multipliers: tuple[PositiveInt, ...] = (1, 2)
    blocks: PositiveInt = 1
    attention: tuple[PositiveInt, ...] = ()
    dropout: NonNegativeFloat = 0.0

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        super().check(path, coupling, source, data)
        shape = data.shape
        if len(shape) != 3:
            raise UserError(f"model 'unet' needs images (C, H, W); this data has shape {shape}. Use 'mlp'.")
        if any(side % 2 ** (len(self.multipliers) - 1) for side in shape[1:]):
            raise UserError(
                f"model 'unet': {len(self.multipliers)} levels do not divide images of {shape[1]}×{shape[2]}"
            )
        if self.channels % GROUPS:
            raise UserError(f"model 'unet': channels = {self.channels} must be a multiple of {GROUPS}")

    def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> UNetNetwork:
        if len(seeds) != 1:
            raise ValueError("a U-Net is trained alone")
        return UNetNetwork(self, shape, seeds[0], classes)


class UNetNetwork(Network):
    """One U-Net; parameters get their leading axis S = 1 when they are packed (stages.train)."""

    def __init__(self, spec: UNet, shape: tuple[int, ...], seed: int, classes: int | None = None):
        super().__init__()
        self.rows = None if classes is None else classes + 1  # the last one is that of no label
        from diffusers import UNet2DModel

        size = shape[1]
        attended = [size // 2**level in spec.attention for level in range(len(spec.multipliers))]
        down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attended)
        up = tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended))
        # diffusers draws initial weights from the global generator: lend it ours, and give it back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("init", "unet", seed))
            self.unet = UNet2DModel(
                sample_size=size,
                in_channels=shape[0],
                out_channels=shape[0],
                layers_per_block=spec.blocks,
                block_out_channels=tuple(spec.channels * m for m in spec.multipliers),
                down_block_types=down,
                up_block_types=up,
                norm_num_groups=GROUPS,
                attention_head_dim=8,
                add_attention=bool(spec.attention),
                dropout=spec.dropout,
                num_class_embeds=self.rows,
            )

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        if x.dim() == 5:
            return self.forward(t[0], x[0], None if label is None else label[0])[None]
        rows = None
        if self.rows is not None:
            rows = (x.new_full((len(x),), NO_LABEL, dtype=torch.int64) if label is None else label) % self.rows
        return self.unet(x, 1000 * t.to(x.dtype), class_labels=rows).sample
