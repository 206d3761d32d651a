"""torch-fidelity's `inception-v3-compat`: the only features on which the Fréchet distance is called fid."""

from __future__ import annotations

import io
import os
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...disk import sha256_of
from ...errors import Unavailable, UserError
from .base import Extractor, Network

ENVIRONMENT = "FMBENCH_INCEPTION_WEIGHTS"
SHA256 = (
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of weights-inception-2015-12-05-6726825d.pth
)
PATIENCE = 10.0  # seconds until a network that does not answer counts as none


def given() -> Path | None:
    """The file that the user named, if any.

    Raises:
        UserError: it is not there.
    """
    name = os.environ.get(ENVIRONMENT)
    if not name:
        return None
    path = Path(name)
    if not path.is_file():
        raise UserError(f"no Inception weights at '{name}' (--inception-weights, {ENVIRONMENT}): no such file")
    return path


class InceptionCompat(Extractor):
    """2048 features of the Inception v3 that TensorFlow's FID used, as torch-fidelity carries it over.

    Weights: torch-fidelity's published file alone, fetched where there is a network, or given by a path; another file
    is refused, because a number made with it would be called fid and be none.
    """

    name = "inception-v3-compat"

    def weights(self) -> str | None:
        path = given()
        if path is not None and sha256_of(path) != SHA256:
            raise UserError(
                f"{path} has sha256 {sha256_of(path)}, torch-fidelity's published Inception weights have {SHA256}: no "
                "other file makes a fid. For another network of that shape use {name: fd_own, features: inception-v3-other}."
            )
        return SHA256

    def network(self) -> Network:
        self.weights()
        return Inception(given() or fetched())


class InceptionOther(Extractor):
    """The architecture of `inception-v3-compat` with whatever weights the user names: never fid."""

    name = "inception-v3-other"

    def weights(self) -> str | None:
        path = given()
        return None if path is None else sha256_of(path)

    def network(self) -> Network:
        path = given()
        if path is None:
            raise Unavailable(f"'{self.name}' has no weights of its own: give a file with --inception-weights PATH")
        return Inception(path)


class Inception(nn.Module):
    """torch-fidelity's network with its batch norms folded into the convolutions before them, in channels-last order.

    Raises:
        UserError: the file holds no weights of this network.
    """

    def __init__(self, path: Path):
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

        self.body = architecture()
        try:
            self.body.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # what torch raises depends on what the file holds instead
            raise UserError(
                f"{path} holds no weights of torch-fidelity's Inception v3 ({type(error).__name__}). Save its state_dict()."
            ) from error
        self.body.eval()
        for block in self.body.modules():
            if isinstance(block, BasicConv2d):
                block.conv = nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.bn)
                block.bn = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images `(B, 3, H, W)` to features `(B, 2048)`."""
        return self.body(images)[0]

    def logits(self, features: Tensor) -> Tensor:
        """`logits_unbiased` `(B, 1008)`, on which the inception score stands: the last layer without its bias."""
        return features @ self.body.fc.weight.T.to(features.dtype)


def architecture() -> Any:
    """torch-fidelity's network as it is built, without weights: it would unpickle their file without restraint."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        loading = False

        def load_state_dict(self, state: Any, *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict(state, *args, **kwargs) if self.loading else None

    torch.save({}, empty := io.BytesIO())
    empty.seek(0)
    blank = Blank("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)
    blank.loading = True
    return blank


def fetched() -> Path:
    """The published file in torch's cache, downloaded if it is not there.

    Raises:
        Unavailable: there is no network, or the file that came is another.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    remedy = (
        f"Fetch {URL_INCEPTION_V3} where there is a network and give it with --inception-weights PATH ({ENVIRONMENT})."
    )
    if not path.is_file():
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise Unavailable(f"the Inception weights are not at hand and HF_HUB_OFFLINE is set. {remedy}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            head = urllib.request.Request(URL_INCEPTION_V3, method="HEAD")
            urllib.request.urlopen(head, timeout=PATIENCE).close()  # torch's own download would wait without end
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"the Inception weights cannot be fetched ({error}). {remedy}") from None
    if sha256_of(path) != SHA256:
        raise Unavailable(
            f"{path} is not torch-fidelity's published file (sha256 {sha256_of(path)}). Remove it. {remedy}"
        )
    return path
