"""Training: flow matching on minibatches, several seeds as one batched computation where that is faster.

The batch of step i is a function of (seed, i) alone, and every number of one seed's training is computed by the same
arithmetic however many seeds run beside it: a flow trained in company or resumed from a checkpoint equals, bit for
bit, the flow trained alone and undisturbed (on one thread, as workers on a CPU compute). So does one that several devices
share, of the flow that as many have trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import Diverged, UserError
from ..randomness import seed_of
from .arithmetic import cast, products
from .flow import FlowSpec, Pairs, TrainSettings, parametrisation, untrained
from .minibatches import minibatches
from .packed import ALIGNMENT, PackedParameters
from .share import WHOLE, Share

CHECKPOINT_SECONDS = 15.0
CHECKPOINT_SHARE = 0.02  # of the time may go into checkpoints: large networks are saved less often

State = dict[str, Tensor]


@dataclass
class Trained:
    """The outcome for one seed: averaged weights by parameter name, and the loss curve `(samples seen, loss)`."""

    weights: dict[str, Tensor]
    losses: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


def seeds_at_once(spec: FlowSpec) -> int:
    """How many seeds may be trained as one computation, each as if it were alone.

    The scalar tail of a vectorised loop rounds differently, and where it falls must not depend on S: a seed's part of
    every tensor `(S, B, …)` must fill whole registers. Other batch sizes are trained seed by seed, and so is bfloat16: on
    processors that multiply it natively, a product's order of summation depends on how many stand beside it.
    """
    return 1 if _alone(spec.train) else max(1, spec.model.stack())


def _alone(settings: TrainSettings) -> bool:
    return settings.batch % ALIGNMENT != 0 or settings.precision == "bfloat16"


def train(
    specs: Sequence[FlowSpec],
    *,
    device: str = "cpu",
    pairs: Sequence[Pairs | None] | None = None,
    initial: Sequence[dict[str, Tensor]] | None = None,
    states: Sequence[State | None] | None = None,
    checkpoint: Callable[[int, list[State]], None] | None = None,
    progress: Callable[[int], None] = lambda samples: None,
    curves: Callable[[int, Tensor], None] | None = None,
    share: Share = WHOLE,
) -> list[Trained | Diverged]:
    """Trains flows that differ in nothing but their seed.

    Args:
        specs: one a seed; several only where `seeds_at_once` allows it.
        pairs: for reflow rounds, each seed's fixed pairs.
        initial: each seed's weights to start from, by parameter name; freshly drawn ones when None.
        states: where to go on, as `checkpoint` received it; all of the same step.
        checkpoint: called every few seconds with the step and each seed's state.
        progress: called with the samples seen since the last call, summed over seeds.
        curves: called about a hundred times with the samples that each seed has seen, and their mean losses `(S,)` since.
        share: the part of every minibatch that is computed here; the other ranks train the same flows at the same time. States
            are those of the whole: another number of ranks goes on from them, equal up to rounding and dropout.

    Returns:
        For each spec its weights, or `Diverged` where the loss left the finite numbers.
    """
    first, settings = specs[0], specs[0].train
    stack, batch, steps = len(specs), settings.batch, settings.steps
    if stack > 1 and _alone(settings):
        raise ValueError(f"flows with train.batch = {batch} in {settings.precision} are trained one by one")
    network = untrained(first, [s.seed for s in specs])
    if initial is not None:
        stacked = {name: [w[name] for w in initial] for name in initial[0]}
        network.load_state_dict({name: torch.cat(w) if stack > 1 else w[0] for name, w in stacked.items()})
    network = network.to(device).train()
    gpu, brief = device.startswith("cuda"), settings.precision == "bfloat16"
    packed = PackedParameters(network, stack, channels_last=gpu, half=gpu and brief)
    mode = settings.compile if isinstance(settings.compile, str) else None
    called = torch.compile(network, dynamic=False, mode=mode) if settings.compile else network
    average = packed.flat.clone()
    optimiser = torch.optim.AdamW([packed.flat], lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    curve: list[Tensor] = []  # (S, 2) each: samples seen, mean loss since the last point
    start, since, loss_sum = 0, 0, torch.zeros(stack, device=device)
    known = [state for state in states or () if state is not None]
    if len(known) == stack:
        _restore(known, packed, average, optimiser)
        start, since = int(known[0]["step"]), int(known[0]["since"])
        loss_sum = torch.stack([state["loss_sum"] for state in known]).to(device)
        curve = list(torch.stack([state["curve"] for state in known], dim=1).unbind(0))
    data_std = first.data.moments()[1]
    reading = parametrisation(first, data_std)
    log_every = max(1, steps // 100)
    draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules())
    started = last_saved = time.monotonic()
    pause = CHECKPOINT_SECONDS

    with products(settings.precision, device):
        for step, minibatch in minibatches(specs, start, steps, data_std, pairs, device):
            t, inputs, targets, label = share.of(minibatch)
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(settings, step)
            packed.refresh()
            with ExitStack() as during:  # contexts cost as much as a small network's layer: only those that are needed
                if brief:
                    during.enter_context(cast(settings.precision, device))
                if draws:
                    during.enter_context(
                        _own_randomness(device, "dropout", first.reflow, first.seed, step, *share.names)
                    )
                predicted = called(t, inputs) if label is None else called(t, inputs, label)
            if predicted.shape != targets.shape:  # they may broadcast, and another loss would be trained in silence
                raise UserError(
                    f"model '{first.model.name}': its network gives the shape {tuple(predicted.shape)} for x of shape "
                    f"{tuple(inputs.shape)}: they must be equal"
                )
            loss = settings.loss.of(predicted.float() - targets, settings.weight.at(reading, t))
            gradient = packed.backward(loss.sum(), share)
            if settings.clip is not None:
                gradient *= (settings.clip / (gradient.norm(dim=1, keepdim=True) + 1e-12)).clamp(max=1.0)
            optimiser.step()
            average.lerp_(packed.flat, 1 - _ema_decay(settings, step))
            loss_sum += share.mean(loss.detach())
            # The device is waited for here alone: at the points of the curve and where a checkpoint is due.
            if (step + 1) % log_every == 0 or step + 1 == steps:
                mean_loss = (loss_sum / (step + 1 - since)).cpu().double()  # float32 cannot count beyond 2²⁴ samples
                curve.append(torch.stack([torch.full_like(mean_loss, (step + 1) * batch), mean_loss], dim=1))
                progress((step + 1 - since) * batch * stack)
                if curves:
                    curves((step + 1) * batch, mean_loss)
                since, loss_sum = step + 1, torch.zeros_like(loss_sum)
                if not torch.isfinite(curve[-1][:, 1]).any():  # no seed has a finite loss
                    break
            if checkpoint and (began := time.monotonic()) - last_saved > pause:
                flats = {"parameters": packed.flat, "average": average, **_moments(optimiser)}
                rows = {name: packed.canonical(flat) for name, flat in flats.items()}
                checkpoint(step + 1, _capture(step + 1, since, {**rows, "loss_sum": loss_sum}, curve))
                last_saved = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, (last_saved - began) / CHECKPOINT_SHARE)

    weights = packed.canonical(average if settings.ema_samples else packed.flat).cpu()
    seconds = (time.monotonic() - started) / stack
    outcomes: list[Trained | Diverged] = []
    for i in range(stack):
        losses = [(int(point[i, 0]), float(point[i, 1])) for point in curve]
        bad = next((seen for seen, loss in losses if not math.isfinite(loss)), None)
        if bad is None and not torch.isfinite(weights[i]).all():
            bad = losses[-1][0]
        if bad is not None:
            outcomes.append(Diverged(f"training left the finite numbers by {bad:,} samples (lr = {settings.lr:g})"))
        else:
            outcomes.append(Trained(packed.unpack(weights[i]), losses, seconds))
    return outcomes


@contextmanager
def _own_randomness(device: str, *parts: str | int) -> Iterator[None]:
    """Dropout knows the global generator alone: lends it the step's own stream, and gives it back as it was."""
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed_of(*parts))
        yield


def _learning_rate(settings: TrainSettings, step: int) -> float:
    seen = (step + 1) * settings.batch
    rise = min(1.0, seen / settings.warmup) if settings.warmup else 1.0
    fall = 1.0
    if settings.schedule == "cosine":
        fall = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    elif settings.schedule == "linear" and settings.samples > settings.warmup:  # a triangle with its top at `warmup`
        fall = min(1.0, max(0.0, (settings.samples - seen) / (settings.samples - settings.warmup)))
    return settings.lr * rise * fall


def _ema_decay(settings: TrainSettings, step: int) -> float:
    """Decay of one step; by the ramp the half-life grows with the samples seen until it reaches its value (Karras 2022's EMA)."""
    half_life: float = settings.ema_samples
    if settings.ema_ramp is not None:
        half_life = min(half_life, max(1.0, settings.ema_ramp * step * settings.batch))
    return 0.5 ** (settings.batch / half_life) if half_life else 0.0


def _moments(optimiser: torch.optim.AdamW) -> dict[str, Tensor]:
    state = next(iter(optimiser.state.values()))
    return {name: state[name] for name in ("exp_avg", "exp_avg_sq")}


def _capture(step: int, since: int, rows: dict[str, Tensor], curve: list[Tensor]) -> list[State]:
    """Each seed's own part of everything that the next step depends on."""
    stack = len(rows["loss_sum"])
    points = torch.stack(curve) if curve else torch.zeros(0, stack, 2, dtype=torch.float64)
    counters = {"step": torch.tensor(step), "since": torch.tensor(since)}
    return [
        {**{name: tensor[i].cpu().clone() for name, tensor in rows.items()}, **counters, "curve": points[:, i].clone()}
        for i in range(stack)
    ]


def _restore(states: list[State], packed: PackedParameters, average: Tensor, optimiser: torch.optim.AdamW) -> None:
    def rows(name: str) -> Tensor:
        return packed.laid(torch.stack([state[name] for state in states]).to(packed.flat.device))

    packed.flat.copy_(rows("parameters"))
    average.copy_(rows("average"))
    optimiser.state[packed.flat] = {
        "step": states[0]["step"].to(packed.flat.device, torch.float32),
        "exp_avg": rows("exp_avg"),
        "exp_avg_sq": rows("exp_avg_sq"),
    }
