"""A flow brought from outside. Its conventions are declared, and turned into ours here, at the door."""

from __future__ import annotations

import os
from pathlib import Path as FilePath
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ..data.base import Data
from ..data.scaled import ScaledNormal
from ..errors import UserError
from ..flow import predictions
from ..flow.couplings import Coupling
from ..flow.paths import Path, column
from ..flow.predictions import Parametrisation, Said, convert
from ..flow.velocity import Field
from ..registry import Component
from . import scheduler
from .base import NO_LABEL, require_labels
from .brought import Arguments, bring, called, in_order, label_argument, short_name, split
from .elsewhere import RANGES, Elsewhere


class External(Elsewhere):
    """A velocity field, network or checkpoint of your own, not trained here. A scheduler beside a checkpoint must agree.

    Args:
        factory: `file.py:name`, `module:name`, or a folder that diffusers' UNet2DModel was saved in. Python must be named on
            the command line, too (`fmbench evaluate`, or --plugin).
        weights: a file with the state of the module that the factory gives (.safetensors, or .pt of tensors alone;
            `file.pt:ema_model` for one of the states in it).
        time: where the data is on its clock. `data-at-0`: it runs from data at 0 to noise at 1; `sigma`: it is told σ of the
            flow's path, as EDM's and VE's networks are, and its velocity is dx/dσ.
        time_scale: its clock reads this times ours; 1000 for most diffusion networks. A velocity is per unit of the clock
            from 0 to 1, or of σ, whatever the network is told.
        images: the range in which it sees the data, ours being −1..1. Its noise is standard normal there.
        output: what it says: the velocity dx/dt along its own clock, the noise ε, the data x1, the score ∇ log p, or
            `v-prediction`, α ε − σ x1; what is not the velocity is read by the flow's path, whose α and σ are those of its
            data and noise. Where the velocity would follow from it at a rate above `predictions.STIFFEST` (data near t = 1;
            noise and score near t = 0, where α vanishes), it is asked at the nearest time at which it does not, and the flow
            is that much another one.
        arguments: the order in which it is called; `auto` goes by their names.
        conditional: it is given each sample's label, a class from 0 on.
        no_label: the label by which it is told that there is none, without which it cannot be guided.
        digest: of the code in the named file or module, the weights and the configuration; not of what the code imports.
    """

    name = "external"
    factory: str = ""
    weights: str | None = None
    time: Literal["data-at-1", "data-at-0", "sigma"] = "data-at-1"
    time_scale: PositiveFloat = 1.0
    images: Literal["-1..1", "0..1", "0..255"] = "-1..1"
    output: Said = "velocity"
    arguments: Arguments = "auto"
    conditional: bool = False
    no_label: int | None = None

    def found(self) -> str | None:
        return bring(self.factory, self.weights).sha256 if self.factory else None

    def method(self) -> str:
        return short_name(self.factory)

    def label(self) -> str:
        places = {"factory": self.factory, "weights": self.weights}
        names = {name: place and os.path.basename(place.rstrip("/")) for name, place in places.items()}
        return Component.label(self.model_copy(update={**names, "digest": None}))

    def identity(self) -> dict[str, Any]:
        """Where the code and the weights lie shapes nothing: what they are does."""
        return {**super().identity(), "factory": split(self.factory)[1], "weights": None}

    def noise(self, path: Path) -> tuple[float, float]:
        """Mean and standard deviation of the source that is standard normal where the field looks at it."""
        a, b = RANGES[self.images]
        sigma = path.start(torch.ones((), dtype=torch.float64)).item()
        return -b / (a * sigma), 1 / a

    def lacks_unconditional(self) -> str | None:
        return None if self.no_label is not None else "has no label for none. Set flow.model.no_label"

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        if self.conditional:
            require_labels(self, data)
        if self.no_label is not None and (not self.conditional or 0 <= self.no_label < (data.classes or 0)):
            one = (
                "is a class of the data, of which it is told that there is none"
                if self.conditional
                else "is told to none"
            )
            raise UserError(
                f"model 'external': no_label = {self.no_label} {one}: set conditional for a model that is given labels, and "
                "no_label beyond the classes"
            )
        if not self.factory:
            raise UserError(
                "model 'external' needs its factory: file.py:function, module:function or a diffusers folder"
            )
        if os.path.isdir(self.factory):
            scheduler.check(FilePath(self.factory), path, self.output, self.time, self.time_scale)
        if self.time == "sigma" and not path.affine:
            raise UserError(f"model 'external': path '{path.label()}' is a bridge, whose σ is not all of its noise")
        mean, std = self.noise(path)
        if self.images == "-1..1":
            source_name = source.name
        elif isinstance(source, ScaledNormal) and source.near(mean, std):
            source_name = "normal"
        else:
            raise UserError(
                f"model 'external' with images {self.images} starts from normal noise in that range; in ours, −1..1, it is "
                f"source {{name: scaled-normal, mean: {mean:g}, std: {std:g}, dims: {list(data.shape)}}}, not "
                f"'{source.label()}'"
            )
        if self.output != "velocity":
            predictions.check(self.output, path, coupling, source_name, 0)
        self._probe(path, coupling, source, data)

    def _probe(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        """A call half-way, so that a mistake is told before anything is computed: with the first label, the last and none."""
        x = path.start(source.take("train", 2))
        asked: dict[str, list[Tensor]] = {"": []}
        if self.conditional:
            last = (data.classes or 1) - 1
            asked = {f" with labels 0 and {last}": [torch.tensor([0, last])]}
            if self.no_label is not None:
                asked[f" with no_label {self.no_label}"] = [torch.tensor([NO_LABEL] * 2)]
        for given, labels in asked.items():
            try:
                with torch.no_grad():
                    v = self.field(path, coupling, source, data)(torch.tensor(0.5, dtype=torch.float64), x, *labels)
            except UserError as error:
                raise UserError(f"model '{self.method()}': {error}") from None
            except Exception as error:
                raise UserError(
                    f"model '{self.method()}' failed at t = 0.5 on x of shape {tuple(x.shape)}{given}: {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:300]}"
                ) from error
            if not torch.isfinite(v).all():
                raise UserError(f"model '{self.method()}' gives numbers that are not finite at t = 0.5{given}")

    def field(self, path: Path, coupling: Coupling, source: Data, data: Data) -> Field:
        brought = bring(self.factory, self.weights)
        if brought.sha256 != self.digest:
            raise UserError(f"{self.factory} gives something else than it did: it was edited, or is not deterministic")
        first = in_order(brought.call, self.arguments) == "t, x"
        reading = Parametrisation(path, self.output, 1.0) if self.output != "velocity" else None
        a, b = RANGES[self.images]
        ahead, told_sigma = self.time == "data-at-1", self.time == "sigma"
        named = label_argument(brought.call) if self.conditional else ""

        def labels(label: Tensor | None, x: Tensor) -> dict[str, Tensor]:
            if not self.conditional:
                return {}
            if label is None:
                label = torch.full((len(x),), NO_LABEL, device=x.device)
            if self.no_label is None and (label == NO_LABEL).any():
                raise UserError("a sample without a label is asked for, and it has no label for none (no_label)")
            return {named: label if self.no_label is None else torch.where(label == NO_LABEL, self.no_label, label)}

        def velocity(t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
            asked = t if reading is None else reading.asked(t)
            now = path.schedule(asked).sigma if told_sigma else asked if ahead else 1 - asked
            clock = self.time_scale * now
            y = x if self.images == "-1..1" else a * x + b
            said = called(brought, first, clock.to(x.device).expand(len(x)), y, **labels(label, x))
            _agree(said, y)
            said = said.to(x.dtype)
            if reading is None:
                said = said * path.schedule(column(t, y)).d_sigma if told_sigma else said if ahead else -said
            else:
                said = convert(said, self.output, "velocity", path.schedule(column(asked, y)), y)
            return (said if self.images == "-1..1" else said / a).to(x.dtype)

        return velocity


def _agree(said: object, x: Tensor) -> None:
    if not isinstance(said, Tensor):
        raise UserError(f"it gives a {type(said).__name__}, not a tensor")
    if said.shape != x.shape:
        raise UserError(f"it gives the shape {tuple(said.shape)} for x of shape {tuple(x.shape)}: they must be equal")
