"""A U-Net of diffusers' blocks for images `(C, H, W)`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from ..data.base import Data
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.paths import Path
from .alone import LoneNetwork, own_generator, zeroed
from .base import ConditionalModel


class UNet(ConditionalModel):
    """Residual U-Net (Ho 2020): one level for each entry of `multipliers`, attention at the resolutions listed.

    The last layer of every block and that of the whole begin at zero, as published: the network then says 0 and its blocks
    pass on what they get. A label's vector is added to that of the time (Dhariwal & Nichol 2021). `fmbench.recipes` has the
    parameters of the published networks for CIFAR-10.

    Args:
        groups: of every group norm. head_channels: of one attention head.
    """

    name = "unet"
    version = 2  # layers that begin at zero did not once
    channels: PositiveInt = 32
    multipliers: tuple[PositiveInt, ...] = (1, 2)
    blocks: PositiveInt = 1
    attention: tuple[PositiveInt, ...] = ()
    dropout: NonNegativeFloat = 0.0
    groups: PositiveInt = 8
    head_channels: PositiveInt = 8

    unchanged = {**ConditionalModel.unchanged, "groups": 8, "head_channels": 8}

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        super().check(path, coupling, source, data)
        shape = data.shape
        if len(shape) != 3:
            raise UserError(
                f"flow.model = 'unet': it needs images (C, H, W), data '{data.name}' have shape {shape}. Use 'mlp'."
            )
        if any(side % 2 ** (len(self.multipliers) - 1) for side in shape[1:]):
            side = math.gcd(*shape[1:])
            raise UserError(
                f"flow.model = 'unet': {len(self.multipliers)} levels do not divide images of {shape[1]}×{shape[2]}. Give at "
                f"most {(side & -side).bit_length()} multipliers, or data {{name: images, …}} a resolution such as 32"
            )
        if self.channels % self.groups:
            raise UserError(
                f"flow.model = 'unet': channels = {self.channels} must be a multiple of {self.groups} (groups)"
            )
        attended = [self.channels * m for m, a in zip(self.multipliers, self.attended(shape[1]), strict=True) if a]
        if self.attention and not attended:
            sides = [shape[1] // 2**level for level in range(len(self.multipliers))]
            raise UserError(
                f"flow.model = 'unet': attention at {list(self.attention)}, but its levels are {sides} pixels high"
            )
        if odd := [c for c in attended if c % self.head_channels]:
            raise UserError(
                f"flow.model = 'unet': head_channels = {self.head_channels} does not divide {odd[0]} channels"
            )

    def attended(self, size: int) -> list[bool]:
        """Which levels, from the finest, have attention in images of this height."""
        return [size // 2**level in self.attention for level in range(len(self.multipliers))]

    def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> UNetNetwork:
        with own_generator("unet", seeds):
            return UNetNetwork(self, shape, classes)


class UNetNetwork(LoneNetwork):
    """diffusers' `UNet2DModel`."""

    def __init__(self, spec: UNet, shape: tuple[int, ...], classes: int | None = None):
        super().__init__(classes)
        from diffusers import UNet2DModel

        attended = spec.attended(shape[1])
        self.unet = UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=spec.blocks,
            block_out_channels=tuple(spec.channels * m for m in spec.multipliers),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attended),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)),
            norm_num_groups=spec.groups,
            attention_head_dim=spec.head_channels,
            add_attention=bool(spec.attention),
            dropout=spec.dropout,
            num_class_embeds=self.rows,
        )
        zeroed(m for name, m in self.unet.named_modules() if name.endswith(("conv2", "to_out.0", "conv_out")))

    def seen(self, t: Tensor, x: Tensor, row: Tensor | None) -> Tensor:
        return self.unet(x, 1000 * t, class_labels=row).sample
