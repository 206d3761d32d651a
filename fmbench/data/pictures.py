"""Sets of 8-bit pictures: the published ones by name, any other by its place. What they are is decided by their content."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ..errors import UserError
from . import sources
from .base import FiniteData, Split
from .decoded import Decoded, Glance, Reading, decoded, glance
from .sources import Source

SPLITS: tuple[Split, Split] = ("train", "test")
LOSSLESS = ("PNG", "BMP", "GIF", "PPM", "TIFF")


class Pictures(FiniteData):
    """Base of picture sets: samples `(C, H, W)`, float32, level / 127.5 − 1 in [−1, 1].

    The files are found by `sources` and decoded once by `decoded`. Their sha256 is the set's identity, whatever its place:
    without its files a set has a plan and no results. With `flip` each training sample is mirrored left to right with
    probability ½, as the published recipes do; statistics, references and held-out samples never are.
    """

    levels = 256
    hub: ClassVar[str | None] = None
    held_out_split: ClassVar[str] = "test"
    flip: bool = False

    @property
    def reading(self) -> Reading:
        return Reading()

    @property
    def place(self) -> tuple[str, str | None]:
        """The name to look for in mirror folders, and the id on the hub."""
        return self.name, self.hub

    @property
    def splits(self) -> tuple[str, str]:
        """What the files call the training split and the held-out one."""
        return "train", self.held_out_split

    @cached_property
    def source(self) -> Source | None:
        """The files, if they are on this machine; found once, and sent along to worker processes."""
        return sources.find(*self.place, self.splits)

    @cached_property
    def first(self) -> Glance | None:
        """What the first picture tells."""
        return None if self.source is None else glance(self.source, self.reading)

    def prepare(self) -> None:
        """Finds or downloads the files and decodes both splits, if that was not done before.

        Raises:
            UserError: the set is nowhere to be had, or cannot be read.
        """
        self.__dict__["source"] = sources.fetch(*self.place, self.splits)
        self.__dict__.pop("first", None)
        train, test = (self.split(split, verify=True).facts["shape"] for split in SPLITS)
        if train != test:
            raise UserError(
                f"{self.source and self.source.folder}: training pictures are of shape {tuple(train)}, held-out ones of "
                f"{tuple(test)}. Give the data set a resolution or channels, so that they agree."
            )

    def split(self, split: Split, *, verify: bool = False) -> Decoded:
        """A split's bytes, memory-mapped."""
        source = self.source or sources.fetch(*self.place, self.splits)
        return decoded(source, self.splits[split == "test"], self.reading, verify=verify)

    def arrays(self, split: Split) -> tuple[Tensor, Tensor | None]:
        own = self.split(split)
        return own.pixels, own.labels

    def samples(self, stored: Tensor) -> Tensor:
        return stored.float().div_(127.5).sub_(1)

    def augmented(self, stored: Tensor, rng: torch.Generator) -> Tensor:
        if not self.flip:
            return stored
        mirrored = torch.rand(len(stored), generator=rng) < 0.5
        return torch.where(mirrored.to(stored.device)[:, None, None, None], stored.flip(-1), stored)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.split("train").pixels.shape[1:] if self.first is None else self.first.shape

    @property
    def classes(self) -> int | None:
        return self.split("train").facts["classes"]

    def moments(self) -> tuple[float, float]:
        facts = self.split("train").facts
        return facts["mean"] / 127.5 - 1, facts["std"] / 127.5

    def identity(self) -> dict[str, Any]:
        """The parameters, and the files' sha256 in place of where they lie."""
        known = {name: value for name, value in super().identity().items() if name != "path"}
        return {**known, "sha256": None if self.source is None else self.source.digest}

    def provenance(self) -> dict[str, Any]:
        """Where the set came from and what it is, for the manifest."""
        if self.source is None:
            return {}
        splits = {split: self.split(split).facts for split in SPLITS}
        return {
            "source": str(self.source.folder),
            "sha256": self.source.digest,
            **{split: {k: facts[k] for k in ("n", "shape", "classes", "encodings")} for split, facts in splits.items()},
        }


class Published(Pictures):
    """Base of published sets. A copy in a lossy encoding, or of a part, is another set and is labelled as one."""

    dims: ClassVar[tuple[int, int, int]]
    count: ClassVar[int]  # training pictures
    labels: ClassVar[int] = 10
    image: ClassVar[str] = "image"

    @property
    def reading(self) -> Reading:
        return Reading(self.image)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dims

    @property
    def classes(self) -> int:
        return self.labels

    def prepare(self) -> None:
        super().prepare()
        for split in SPLITS:
            facts = self.split(split).facts
            lossy = {encoding not in LOSSLESS for encoding in facts["encodings"]}
            if tuple(facts["shape"]) != self.dims or facts["classes"] != self.labels or len(lossy) > 1:
                raise UserError(
                    f"{self.source and self.source.folder} is no copy of '{self.name}': its {split} pictures are of shape "
                    f"{tuple(facts['shape'])} in {facts['classes']} classes, encoded as {', '.join(facts['encodings'])}; "
                    f"expected {self.dims} in {self.labels} classes and one encoding"
                )

    def label(self) -> str:
        """`cifar10`; `cifar10-jpeg` where the pictures are a JPEG copy; `cifar10-part` where some are missing."""
        words = [self.name]
        if self.first is not None and self.first.encoding not in LOSSLESS:
            words.append(self.first.encoding.lower())
        if self.first is not None and self.first.count != self.count:
            words.append("part")
        return "-".join(words) + super().label().removeprefix(self.name)


class CIFAR10(Published):
    """CIFAR-10 (Krizhevsky 2009): 50,000 colour pictures of 32 × 32 in 10 classes, 10,000 held out.

    Mirrored at random in training unless told otherwise, as all the published recipes do.
    """

    name = "cifar10"
    hub = "uoft-cs/cifar10"
    dims, count, image = (3, 32, 32), 50_000, "img"
    flip: bool = True


class MNIST(Published):
    """MNIST (LeCun 1998): 60,000 hand-written digits of 28 × 28, 10,000 held out."""

    name = "mnist"
    hub = "ylecun/mnist"
    dims, count = (1, 28, 28), 60_000


class FashionMNIST(Published):
    """Fashion-MNIST (Xiao 2017): 60,000 grey pictures of clothes, 28 × 28, 10,000 held out."""

    name = "fashion-mnist"
    hub = "zalando-datasets/fashion_mnist"
    dims, count = (1, 28, 28), 60_000


class ImageNet32(Published):
    """ImageNet-1k at 32 × 32: 1,281,167 pictures in 1,000 classes, the 50,000 of the validation set held out.

    The hub's copy: central squares, Lanczos. It is not the box-filtered set of Chrabaszcz et al. 2017.
    """

    name = "imagenet-32"
    hub = "benjamin-paine/imagenet-1k-32x32"
    held_out_split = "validation"
    dims, count, labels = (3, 32, 32), 1_281_167, 1000


class ImageNet64(ImageNet32):
    """ImageNet-1k at 64 × 64, as `imagenet-32`."""

    name = "imagenet-64"
    hub = "benjamin-paine/imagenet-1k-64x64"
    dims = (3, 64, 64)


class Images(Pictures):
    """Any set of pictures: a folder of parquet files or of pictures, or a data set of the Hugging Face hub.

    Args:
        path: a folder, or the hub's `owner/name` (`owner/name/folder` where it holds several sets). Looked up as it stands,
            below the mirror folder, then on the hub.
        image: the column that holds the pictures.
        label: the column of their labels; null: none. In folders of pictures the folder's name is the label.
        resolution: side of the square that pictures are cropped and scaled to; they must agree in size without it.
        channels: 1 or 3, to which grey and coloured pictures are brought; they must agree without it.
        held_out: what the files call the held-out split.
    """

    name = "images"
    unchanged = {"channels": None}
    path: str = Field(min_length=1)
    image: str = "image"
    label_: str | None = Field("label", alias="label")
    resolution: PositiveInt | None = None
    channels: Literal[1, 3] | None = None
    held_out: Literal["test", "validation"] = "test"

    @property
    def reading(self) -> Reading:
        return Reading(self.image, self.label_, self.resolution, self.channels)

    @property
    def place(self) -> tuple[str, str | None]:
        return self.path, self.path if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)+", self.path) else None

    @property
    def splits(self) -> tuple[str, str]:
        return "train", self.held_out

    def parameters(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def label(self) -> str:
        """`images[cats#1a2b3c]`: the place's last name and the beginning of the content's sha256."""
        content = "" if self.source is None else f"#{self.source.digest[:6]}"
        more = [f"{name}={getattr(self, name)}" for name in ("flip", "resolution", "channels") if getattr(self, name)]
        return f"{self.name}[{','.join([self.path.rstrip('/').rpartition('/')[2] + content, *more])}]"
