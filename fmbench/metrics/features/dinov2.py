"""DINOv2 features by torch-fidelity's extractor."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...disk import sha256_of
from ...errors import Unavailable
from .base import Extractor, Network

REPOSITORY, MODEL = "facebookresearch/dinov2", "dinov2_vitl14"


class DINOv2(Extractor):
    """1024 features of DINOv2 ViT-L/14 (Oquab et al. 2023; as a metric Stein et al. 2023).

    The network is code from a repository, which torch.hub runs: fmbench neither fetches nor trusts it in your name. It
    is used once you have fetched it yourself, as the skipped row says.
    """

    name = "dinov2-vit-l-14"

    def weights(self) -> str | None:
        path = _hub() / "checkpoints" / f"{MODEL}_pretrain.pth"
        return sha256_of(path) if path.is_file() else None

    def network(self) -> Network:
        code = _hub() / f"{REPOSITORY.replace('/', '_')}_main"
        if self.weights() is None or not code.is_dir():
            raise Unavailable(
                f"'{self.name}' is not at hand. Fetch it, where there is a network, by: python -c \"import torch; "
                f"torch.hub.load('{REPOSITORY}', '{MODEL}', trust_repo=True)\""
            )
        from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

        return First(FeatureExtractorDinoV2(self.name, ["dinov2"]))


def _hub() -> Path:
    return Path(torch.hub.get_dir())


class First(nn.Module):
    """The first of the tensors that a torch-fidelity extractor gives."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)[0]
