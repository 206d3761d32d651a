"""The flow: what a suite compares, as a specification; and the velocity field it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor, nn

from ..averaging import half_life
from ..data.base import Data
from ..errors import UserError
from ..fields import built
from ..flow.couplings import Coupling
from ..flow.losses import LOSSES, MSE, WEIGHTS, Loss, Uniform, Weight
from ..flow.paths import Path, column
from ..flow.predictions import Parametrisation, Prediction
from ..flow.times import TIMES, TimeLaw
from ..flow.velocity import Field as VelocityField
from ..identity import Record, Spec
from ..models.alone import PlainNetwork
from ..models.base import Model, Network
from ..randomness import lent_generators
from ..solvers.base import Solver
from .arithmetic import Precision


class TrainSettings(Record):
    """How a network is trained. Sizes are in samples seen, so that the batch size never changes their meaning.

    `ema_decay`, the share of the average that a step keeps, may be given in place of the half-life `ema_samples`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    samples: PositiveInt = 500_000
    batch: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # after the warm-up; the others end at 0
    warmup: NonNegativeInt = 0  # samples over which the learning rate rises from 0
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = 1.0  # largest norm of a network's gradient
    ema_samples: NonNegativeInt = 50_000  # half-life of the averaged weights; 0: no averaging
    ema_ramp: PositiveFloat | None = 0.05  # the half-life never exceeds this share of the samples seen; None: no ramp
    precision: Precision = "float32"
    loss: Annotated[Loss, built(LOSSES)] = MSE()
    weight: Annotated[Weight, built(WEIGHTS)] = Uniform()
    compile: bool | Literal["reduce-overhead"] = False  # by torch.compile; by name: its mode of CUDA graphs

    silent = frozenset({"compile"})
    unchanged = {"loss": {"name": "mse", "version": 1}, "weight": {"name": "uniform", "version": 1}, "ema_ramp": 0.05}

    @model_validator(mode="before")
    @classmethod
    def _half_life_of_decay(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or "ema_decay" not in settings:
            return settings
        decay, batch = settings["ema_decay"], settings.get("batch", cls.model_fields["batch"].default)
        if settings.get("ema_samples") is not None:
            raise ValueError("ema_decay and ema_samples say the same: give one of them, or null for the other")
        if not isinstance(decay, int | float) or not 0 < decay < 1:
            raise ValueError(f"ema_decay = {decay}: the share that a step keeps lies between 0 and 1, such as 0.9999")
        rest = {name: value for name, value in settings.items() if name != "ema_decay"}
        return rest | ({"ema_samples": half_life(decay, batch)} if isinstance(batch, int) and batch > 0 else {})

    @model_validator(mode="after")
    def _one_batch_at_least(self) -> TrainSettings:
        if self.batch > self.samples:
            raise ValueError(f"batch = {self.batch} is larger than samples = {self.samples}: lower it or train longer")
        return self

    @property
    def steps(self) -> int:
        return -(-self.samples // self.batch)


class PairsSettings(BaseModel):
    """How reflow pairs are drawn from a flow (Liu 2022, algorithm 1), and how the next round or a student learns from them.

    `times` and `loss`, where given, take the place of the first round's own (Lee 2024: u-shaped, pseudo-Huber).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    n: PositiveInt = 20_000
    solver: Solver
    steps: PositiveInt | None = None  # of a fixed-step solver
    inverted: float = Field(0.0, ge=0, lt=1)  # share of pairs that are data, solved backward (Lee 2024, section 3.3)
    init: Literal["scratch", "previous"] = "scratch"  # from where the weights start
    times: Annotated[TimeLaw, built(TIMES)] | None = None
    loss: Annotated[Loss, built(LOSSES)] | None = None


class Pairs(NamedTuple):
    """Fixed pairs of a reflow round or a student, with the labels that a conditional teacher drew them with."""

    z0: Tensor  # (n, *shape)
    z1: Tensor  # (n, *shape)
    label: Tensor | None = None  # (n,)

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Spans of pairs, in order."""
        label = [part.label for part in parts if part.label is not None]
        z0, z1 = torch.cat([part.z0 for part in parts]), torch.cat([part.z1 for part in parts])
        return cls(z0, z1, torch.cat(label) if label else None)


class FlowSpec(Spec):
    """One flow and the training that makes it. `pairs` is set from the first reflow round on, and for students.

    A student (`distilled` = k > 0) learns the pairs of the flow of its own round, to be solved in k Euler steps.
    """

    stage = "train"
    shaping = frozenset(
        {"data", "source", "path", "coupling", "prediction", "times", "model", "train", "seed", "reflow", "pairs"}
    ) | {"distilled", "init"}
    unchanged = {"distilled": 0, "init": "scratch"}

    data: Data
    source: Data
    path: Path
    coupling: Coupling
    prediction: Prediction
    times: TimeLaw
    model: Model
    train: TrainSettings
    seed: int
    reflow: NonNegativeInt = 0
    distilled: NonNegativeInt = 0
    pairs: PairsSpec | None = None
    init: Literal["scratch", "previous"] = "scratch"

    @property
    def classes(self) -> int | None:
        """How many labels the network is given; None for an unconditional flow."""
        return self.data.classes if getattr(self.model, "conditional", False) else None

    @property
    def teacher(self) -> FlowSpec | None:
        """The flow that drew the pairs."""
        return None if self.pairs is None else self.pairs.flow


class PairsSpec(Spec):
    """Pairs (z0, z1): z1 the end of the flow's own solve from z0, or z0 that of data z1 solved backward.

    A conditional flow's pairs keep the label that they were solved with: drawn from the data's law, or the data's own.
    """

    stage = "pairs"
    version = 2  # a later round once drew the noise of the round before
    shaping = frozenset({"flow", "n", "solver", "steps", "inverted"})
    unchanged = {"steps": None, "inverted": 0.0}

    flow: FlowSpec
    n: PositiveInt = 20_000
    solver: Solver
    steps: PositiveInt | None = None
    inverted: float = 0.0

    @property
    def forward(self) -> int:
        """How many pairs are solved from the source; the others are solved from the data."""
        return self.n - round(self.inverted * self.n)

    @property
    def batch(self) -> int:
        """How many are solved at once."""
        return 16 * self.flow.train.batch


FlowSpec.model_rebuild()


class NetworkField:
    """A trained network as velocity v(t, x), whatever it predicts."""

    def __init__(self, network: Callable[..., Tensor], reading: Parametrisation):
        self.network, self.reading = network, reading

    def __call__(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        given = () if label is None else (label,)
        if self.reading.plain:
            return self.network(t, x, *given)
        t = self.reading.asked(t)
        p = self.reading.head(column(t, x))
        c_in, c_skip, c_out = (c.to(x.dtype) for c in (p.c_in, p.c_skip, p.c_out))
        return c_skip * x + c_out * self.network(t, c_in * x, *given)

    def compiled(self) -> NetworkField:
        """The same velocity by compiled code: the network's alone, which flows of one network then share in torch's cache."""
        return NetworkField(torch.compile(self.network, dynamic=False), self.reading)


def parametrisation(spec: FlowSpec, data_std: float) -> Parametrisation:
    """How the flow's network is read, in training and in sampling."""
    return Parametrisation(spec.path, spec.prediction, data_std)


def untrained(spec: FlowSpec, seeds: Sequence[int]) -> Network:
    """Fresh networks of a flow, one a seed. A model that knows no labels need not take the number of classes.

    A user's module may draw its weights from the global generator, which is lent the seed's own stream.
    """
    labels = () if spec.classes is None else (spec.classes,)
    with lent_generators("cpu", "init", spec.model.name, *seeds):
        network = spec.model.network(spec.data.shape, seeds, *labels)
    if not isinstance(network, nn.Module):  # of a user's own
        raise UserError(
            f"model '{spec.model.name}': network(shape, seeds) gives {type(network).__name__}, not a torch.nn.Module"
        )
    if others := sorted(network.state_dict().keys() - dict(network.named_parameters())):
        raise UserError(
            f"model '{spec.model.name}': its network's state holds {others[0]}, which is no parameter of its own, and parameters "
            "are all that is kept of a flow: register a constant buffer with persistent=False; running statistics "
            "(BatchNorm) and tied weights cannot be kept"
        )
    return network if isinstance(network, Network) else PlainNetwork(network, spec.data.shape, spec.classes)


def velocity_field(spec: FlowSpec, weights: dict[str, Tensor] | None, device: str = "cpu") -> VelocityField:
    """The field of a flow: its network with these weights, or its oracle when the model needs none."""
    if not spec.model.trained:
        return spec.model.field(spec.path, spec.coupling, spec.source, spec.data)
    network = untrained(spec, [spec.seed])
    network.load_state_dict(weights or {})
    network.to(device).eval().requires_grad_(False)
    if device.startswith("cuda") and len(spec.data.shape) == 3:
        network.to(memory_format=torch.channels_last)
    return NetworkField(network, parametrisation(spec, spec.data.moments()[1]))
