"""A transformer on patches of images `(C, N, N)`, of diffusers' blocks."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from ..data.base import Data
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.paths import Path
from .alone import LoneNetwork, own_generator, zeroed
from .base import ConditionalModel


class Transformer(ConditionalModel):
    """DiT (Peebles & Xie 2023): `depth` blocks on patches, told time and label by adaptive layer norms.

    These and the last layer begin at zero, as published: the network then says 0 and its blocks pass on what they get.

    DiT-S/2 of the paper is `width: 384, depth: 12, heads: 6`.

    Args:
        patch: side of a patch, pixels. width: of a token; a multiple of 4 and of heads.
    """

    name = "transformer"
    version = 2  # the last layer did not begin at zero once
    patch: PositiveInt = 2
    width: PositiveInt = 128
    depth: PositiveInt = 4
    heads: PositiveInt = 4

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        super().check(path, coupling, source, data)
        shape = data.shape
        if len(shape) != 3 or shape[1] != shape[2]:
            remedy = "Use 'unet'." if len(shape) == 3 else "Use 'mlp'."
            raise UserError(
                f"flow.model = 'transformer': it needs square images (C, N, N), data '{data.name}' have shape {shape}. {remedy}"
            )
        if shape[1] % self.patch:
            raise UserError(
                f"flow.model = 'transformer': patch = {self.patch} does not divide images of {shape[1]}×{shape[2]}"
            )
        if self.width % 4 or self.width % self.heads:
            raise UserError(
                f"flow.model = 'transformer': width = {self.width} must be a multiple of 4 and of heads = {self.heads}"
            )

    def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> TransformerNetwork:
        with own_generator("transformer", seeds):
            return TransformerNetwork(self, shape, classes)


class _NoTable(nn.Module):
    """Stands where diffusers' network always has a table of labels."""

    def forward(self, row: None) -> float:
        return 0.0


class TransformerNetwork(LoneNetwork):
    """diffusers' `DiTTransformer2DModel`, in which every block has time and label embeddings of its own."""

    def __init__(self, spec: Transformer, shape: tuple[int, ...], classes: int | None = None):
        super().__init__(classes)
        from diffusers import DiTTransformer2DModel

        self.dit = DiTTransformer2DModel(
            num_attention_heads=spec.heads,
            attention_head_dim=spec.width // spec.heads,
            in_channels=shape[0],
            num_layers=spec.depth,
            sample_size=shape[1],
            patch_size=spec.patch,
            num_embeds_ada_norm=classes or 0,
        )
        for block in self.dit.transformer_blocks:
            if classes is None:
                block.norm1.emb.class_embedder = _NoTable()
            else:
                block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are withheld before they come here
        zeroed(
            [*(block.norm1.linear for block in self.dit.transformer_blocks), self.dit.proj_out_1, self.dit.proj_out_2]
        )

    def seen(self, t: Tensor, x: Tensor, row: Tensor | None) -> Tensor:
        out: Tensor = self.dit(x, timestep=1000 * t, class_labels=row, return_dict=False)[0]
        return out
