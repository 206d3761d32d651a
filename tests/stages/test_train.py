"""Training: bit for bit the same alone, in company and resumed; every path learns; how it steps."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor
from toy_flows import flow

from fmbench.errors import Diverged, UserError
from fmbench.flow import PATHS
from fmbench.flow.predictions import Prediction
from fmbench.flow.velocity import Velocity
from fmbench.models import MODELS
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS
from fmbench.stages import train as training
from fmbench.stages.flow import FlowSpec, NetworkField, Pairs, TrainSettings, parametrisation, velocity_field
from fmbench.stages.train import Trained, seeds_at_once, train

UNET = {"name": "unet", "channels": 8, "dropout": 0.2}
SLOW = "all that images ask for"
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd width, alone": {"model": {"name": "mlp", "width": 7, "depth": 2}},
    "odd batch, alone": {"batch": 33, "samples": 70 * 33},
    "every setting": {"schedule": "cosine", "warmup": 1000, "weight_decay": 0.1, "clip": 0.5, "ema_samples": 500},
    "no average, no clip": {"ema_samples": 0, "clip": None},
    "preconditioned": {"path": "vp-linear"},
    "minibatch-ot": {"coupling": {"name": "minibatch-ot", "batch": 128}},
    "bfloat16": {"precision": "bfloat16"},
    "linear, no ramp": {"schedule": "linear", "warmup": 1000, "ema_ramp": None},
    "unet with dropout": {"data": "digits", "model": UNET, "batch": 4, "samples": 24},
    SLOW: {
        "data": "digits",
        "model": {**UNET, "attention": [4], "conditional": True, "label_dropout": 0.3},
        "path": "ve",
        "coupling": "label-ot",
        "precision": "bfloat16",
        "batch": 512,  # prepared on threads, beside the training
        "samples": 512 * 4,
        "schedule": "cosine",
        "warmup": 1024,
    },
}
every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case == SLOW else []) for case in CASES]
)


def only(outcomes: list[Trained | Diverged]) -> Trained:
    (outcome,) = outcomes
    assert isinstance(outcome, Trained), outcome
    return outcome


def same(a: Trained, b: Trained) -> bool:
    return (
        a.weights.keys() == b.weights.keys()
        and all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
        and a.losses == b.losses
    )


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[training.State]]:
    """Checkpoints of every step; pass `saved.__setitem__`."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))
    return {}


@every_case
def test_company_changes_nothing(case: str) -> None:
    seeds = [3, 0, 1]
    specs = [flow(**CASES[case], seed=seed) for seed in seeds]
    if case in ("odd batch, alone", "unet with dropout", "bfloat16", SLOW):
        assert seeds_at_once(specs[0]) == 1
        with pytest.raises(ValueError, match="one by one"):
            train(specs)
        return
    if case == "odd width, alone":
        assert seeds_at_once(specs[0]) == 1, "unaligned matrices round differently in a stack"
        return
    assert seeds_at_once(specs[0]) > 1
    alone = [only(train([spec])) for spec in specs]
    assert not same(alone[0], alone[1])
    for company in [[0, 1, 2], [2, 0]] if case == "plain" else [[0, 1, 2]]:
        together = train([specs[i] for i in company])
        assert all(same(alone[i], outcome) for i, outcome in zip(company, together, strict=True))


@every_case
def test_a_resumed_training_is_the_undisturbed_one(case: str, saved: dict[int, list[training.State]]) -> None:
    specs = [flow(**CASES[case], seed=seed) for seed in ((0, 1) if case in ("plain", "preconditioned") else (0,))]
    whole = train(specs, checkpoint=saved.__setitem__)
    steps = specs[0].train.steps
    assert set(saved) == set(range(1, steps + 1))
    for step in {1, 64 if steps > 64 else 2, steps - 1, steps}:
        states = [{name: tensor.clone() for name, tensor in state.items()} for state in saved[step]]
        resumed = train(specs, states=states)
        assert all(same(a, b) for a, b in zip(whole, resumed, strict=True)), step
        apart = [only(train([spec], states=[state])) for spec, state in zip(specs, states, strict=True)]
        assert all(same(a, b) for a, b in zip(whole, apart, strict=True)), step


def test_a_checkpoint_matters(saved: dict[int, list[training.State]]) -> None:
    """The broken twins of the test above: a lost moment or average changes the outcome."""
    spec = flow(ema_samples=5000)
    whole = only(train([spec], checkpoint=saved.__setitem__))
    for name in ("parameters", "average", "exp_avg", "exp_avg_sq", "loss_sum"):
        state = dict(saved[50][0])
        state[name] = state[name] + 0.01
        assert (
            not same(whole, only(train([spec], states=[state]))) or name == "loss_sum"
        )  # logged every step: all spent


@pytest.mark.parametrize("case", ["plain", "minibatch-ot", "unet with dropout"])
def test_no_global_generator_is_read(case: str) -> None:
    spec = flow(**CASES[case])
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = only(train([spec]))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(999)
        assert same(first, only(train([spec])))


# -- what it learns --


def w2(x: Tensor, y: Tensor) -> float:
    return math.sqrt(ot.emd2([], [], ot.dist(x.double().numpy(), y.double().numpy())))


def generated(spec: FlowSpec, field: Any) -> Tensor:
    z0 = spec.path.start(torch.randn(500, 2, generator=generator("test train")))
    times = spec.path.warp(torch.linspace(0, 1, 17, dtype=torch.float64))
    with torch.no_grad():
        return SOLVERS.build("heun").integrate(Velocity(field), z0, times).x


@pytest.mark.parametrize(
    "path", [name for name in PATHS.names() if name != "over-time"]
)  # whose target is the wrong one
def test_every_path_learns(path: str) -> None:
    spec = flow(path=path, model={"name": "mlp", "width": 64}, samples=80_000, batch=256, lr=4e-3, ema_samples=5000)
    outcome = only(train([spec]))
    real = spec.data.take("test", 500)
    untrained = NetworkField(spec.model.network((2,), [0]).eval(), parametrisation(spec, spec.data.moments()[1]))
    before = w2(generated(spec, untrained), real)
    after = w2(generated(spec, velocity_field(spec, outcome.weights)), real)
    assert after < before / 3, (before, after)
    losses = [loss for _, loss in outcome.losses]
    if spec.path.start_time == 0:  # else the target's variance has no bound
        assert np.mean(losses[-20:]) < 0.95 * np.mean(losses[:5])


def test_a_field_reads_its_network_and_asks_it_where_its_velocity_is_not_too_stiff() -> None:
    """v = (x − ε) / t on the straight path, t no less than 0.05; on vp-linear the network sees c_in x."""
    seen: list[tuple[float, Tensor]] = []

    def network(t: Tensor, x: Tensor) -> Tensor:
        seen.append((t.item(), x))
        return torch.full_like(x, 3.0)

    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    field = NetworkField(network, parametrisation(flow(prediction="epsilon"), 1.0))
    for t, read in ((0.5, 0.5), (0.0, 0.05)):
        assert torch.allclose(field(torch.tensor(t, dtype=torch.float64), x), (x - 3) / read)
        assert seen[-1][0] == pytest.approx(read)
    reading, t = parametrisation(flow(path="vp-linear"), 4.0), torch.tensor(0.9, dtype=torch.float64)
    head = reading.head(t)
    assert torch.allclose(NetworkField(network, reading)(t, x), head.c_skip * x + 3 * head.c_out)
    assert torch.equal(seen[-1][1], head.c_in * x)
    assert abs(head.c_in.item() - 1) > 0.1


def test_the_last_batch_is_trained_whole_and_no_batch_is_larger_than_the_training() -> None:
    assert [TrainSettings(samples=n, batch=64).steps for n in (64, 65, 128)] == [1, 2, 2]
    with pytest.raises(ValueError, match="batch = 64 is larger than samples = 63"):
        TrainSettings(samples=63, batch=64)


@pytest.mark.parametrize("prediction", ["epsilon", "data", "score"])
def test_every_prediction_learns_the_same_flow(prediction: Prediction) -> None:
    """Nearer to the data than noise, and near to what the velocity's network generates from the same noise."""
    settings = {"model": {"name": "mlp", "width": 64}, "samples": 80_000, "batch": 256, "lr": 4e-3, "ema_samples": 5000}
    made, spec = {}, flow()
    for wanted in ("velocity", prediction):
        spec = flow(prediction=wanted, path="vp-cosine", **settings)
        made[wanted] = generated(spec, velocity_field(spec, only(train([spec])).weights))
    real = spec.data.take("test", 500)
    start = w2(torch.randn(500, 2, generator=generator("start")), real)
    assert w2(made[prediction], real) < start / 3
    apart = (made[prediction] - made["velocity"]).square().sum(1).mean().sqrt().item()
    assert apart < start / 3


@pytest.mark.parametrize(
    "settings",
    [{"loss": "pseudo-huber"}, {"weight": "velocity"}, {"weight": "min-snr", "loss": "pseudo-huber"}],
    ids=str,
)
def test_losses_and_weights_are_heard_in_company_too(settings: dict[str, Any]) -> None:
    specs = [flow(seed=seed, prediction="epsilon", samples=640, **settings) for seed in (0, 1)]
    alone = [only(train([spec])) for spec in specs]
    assert all(same(one, outcome) for one, outcome in zip(alone, train(specs), strict=True))
    assert not same(alone[0], only(train([flow(prediction="epsilon", samples=640)])))


def test_a_seed_that_diverges_leaves_its_companions_alone() -> None:
    good, bad = flow(seed=0), flow(seed=1)
    x0, x1 = torch.randn(256, 2, generator=generator("a")), torch.randn(256, 2, generator=generator("b"))
    poison = Pairs(x0, torch.full_like(x1, math.inf))
    alone = only(train([good], pairs=[Pairs(x0, x1)]))
    first, second = train([good, bad], pairs=[Pairs(x0, x1), poison])
    assert isinstance(first, Trained)
    assert same(alone, first)
    assert isinstance(second, Diverged)
    assert "training left the finite numbers by 64 samples" in str(second)


def test_a_hopeless_training_stops_early() -> None:
    seen: list[int] = []
    pairs = Pairs(torch.zeros(8, 2), torch.full((8, 2), math.inf))
    (outcome,) = train([flow()], pairs=[pairs], progress=seen.append)
    assert isinstance(outcome, Diverged)
    assert sum(seen) == 64, "it went on after the loss was lost"


def test_loss_curve_and_progress() -> None:
    seen: list[int] = []
    outcomes = train([flow(samples=64 * 250, seed=seed) for seed in (0, 1)], progress=seen.append)
    for outcome in outcomes:
        assert isinstance(outcome, Trained)
        samples = [at for at, _ in outcome.losses]
        assert samples == sorted(set(samples))
        assert samples[-1] == 64 * 250
        assert 100 <= len(samples) <= 200
        assert outcome.seconds > 0
    assert sum(seen) == 2 * 64 * 250


# -- how it steps --


def test_learning_rate() -> None:
    def rates(**settings: Any) -> list[float]:
        chosen = TrainSettings(samples=1000, batch=10, lr=2.0, **settings)
        return [training._learning_rate(chosen, step) for step in range(chosen.steps)]

    assert rates() == [2.0] * 100
    assert rates(warmup=200) == pytest.approx([2 * min(1, (i + 1) / 20) for i in range(100)])
    assert rates(schedule="cosine") == pytest.approx([1 + math.cos(math.pi * i / 100) for i in range(100)])
    both = rates(schedule="cosine", warmup=200)
    assert max(both) < 2
    assert both[-1] < 1e-3 * 2
    triangle = rates(schedule="linear", warmup=200)
    assert triangle == pytest.approx([2 * min((i + 1) / 20, (99 - i) / 80) for i in range(100)])


@pytest.mark.parametrize("batch", [64, 256])
def test_average_forgets_half_in_its_half_life(batch: int) -> None:
    late, settings = 10**6, TrainSettings(batch=batch, ema_samples=51_200)
    kept = training._ema_decay(settings, late) ** (51_200 / batch)
    assert kept == pytest.approx(0.5, rel=1e-12)
    assert training._ema_decay(settings, 0) < 1e-12, "the untrained weights are not averaged in"
    assert training._ema_decay(TrainSettings(batch=batch, ema_samples=0), late) == 0


def test_average_without_a_ramp_begins_at_its_half_life() -> None:
    """As a constant decay a step does: 0.9999 at batch 128 forgets half in 887,000 images."""
    settings = TrainSettings(batch=128, ema_samples=887_184, ema_ramp=None)
    assert all(training._ema_decay(settings, step) == pytest.approx(0.9999, abs=1e-9) for step in (0, 10, 10**6))


def test_average_is_the_recurrence_over_all_steps(saved: dict[int, list[training.State]]) -> None:
    spec = flow(ema_samples=600)
    outcome = only(train([spec], checkpoint=saved.__setitem__))
    average = saved[1][0]["parameters"].double()
    for step in range(2, 71):
        memory = min(600, 0.05 * (step - 1) * 64)  # samples: the half-life, reached by a ramp
        kept = 0.5 ** (64 / memory)
        average = kept * average + (1 - kept) * saved[step][0]["parameters"].double()
    assert torch.allclose(average, saved[70][0]["average"].double(), atol=1e-6)
    flat = torch.cat([weights.flatten() for weights in outcome.weights.values()])
    assert torch.equal(flat, saved[70][0]["average"][: len(flat)])
    assert not torch.allclose(saved[70][0]["average"], saved[70][0]["parameters"], atol=1e-3)


def test_without_average_the_last_weights_count(saved: dict[int, list[training.State]]) -> None:
    outcome = only(train([flow(ema_samples=0)], checkpoint=saved.__setitem__))
    flat = torch.cat([weights.flatten() for weights in outcome.weights.values()])
    assert torch.equal(flat, saved[70][0]["parameters"][: len(flat)])


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_training_goes_on_from_the_weights_given(seeds: list[int]) -> None:
    flows = [flow(seed=seed, samples=64, ema_samples=0, lr=1e-9) for seed in seeds]
    given = [t.weights for t in train([flow(seed=s + 10, samples=640) for s in seeds]) if isinstance(t, Trained)]
    for start, outcome in zip(given, train(flows, initial=given), strict=True):
        assert isinstance(outcome, Trained)
        assert set(outcome.weights) == set(start)
        assert all(torch.allclose(outcome.weights[name], start[name], atol=1e-7) for name in start)


def test_clipping_and_weight_decay_are_heard() -> None:
    plain = only(train([flow()]))
    assert not same(plain, only(train([flow(clip=1e-3)])))
    decayed = only(train([flow(weight_decay=10.0)]))
    assert sum(w.norm() for w in decayed.weights.values()) < 0.9 * sum(w.norm() for w in plain.weights.values())


@pytest.mark.parametrize("name", [name for name in MODELS.names() if MODELS.get(name).trained])
def test_every_model_trains_and_its_weights_are_its_own(name: str) -> None:
    data = "digits" if name in ("unet", "transformer") else "gaussian-mixture"
    model = UNET if name == "unet" else name
    spec = flow(data=data, model=model, batch=64, samples=192, lr=0.01)
    weights = only(train([spec])).weights
    network = spec.model.network(spec.data.shape, [spec.seed])
    assert weights.keys() == dict(network.named_parameters()).keys()
    assert all(weights[key].shape == p.shape for key, p in network.named_parameters())
    field = velocity_field(spec, weights)
    assert not torch.equal(weights[key := next(iter(weights))], dict(network.named_parameters())[key])
    x = spec.data.take("test", 3)
    assert field(torch.tensor(0.5, dtype=torch.float64), x).shape == x.shape


def test_a_compiled_training_is_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through torch.compile's own front end; its code generator is torch's to test."""
    compiler, modes = torch.compile, list[str | None]()

    def compiled(network: Any, *, dynamic: bool, mode: str | None) -> Any:
        modes.append(mode)
        return compiler(network, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compiled)
    plain, *fast = (only(train([flow(samples=640, compile=c)])) for c in (False, True, "reduce-overhead"))
    assert modes == [None, "reduce-overhead"]
    for outcome in fast:
        assert all(torch.allclose(plain.weights[name], outcome.weights[name], atol=1e-6) for name in plain.weights)
    with pytest.raises(ValueError, match="reduce-overhead"):
        flow(compile="fast")


def test_curves_are_told_as_they_are_kept() -> None:
    seen: list[tuple[int, list[float]]] = []
    outcomes = train(
        [flow(seed=s, samples=640) for s in (0, 1)], curves=lambda n, loss: seen.append((n, loss.tolist()))
    )
    for i, outcome in enumerate(outcomes):
        assert isinstance(outcome, Trained)
        assert outcome.losses == [(n, losses[i]) for n, losses in seen]


def test_a_network_of_another_shape_is_refused_though_it_broadcasts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = type(MODELS.build("mlp").network((2,), [0]))
    whole = network.forward
    monkeypatch.setattr(network, "forward", lambda *given: whole(*given)[..., :1])
    with pytest.raises(UserError, match=r"its network gives the shape .* for x of shape .*: they must"):
        train([flow(**CASES[next(iter(CASES))])])


def test_a_model_without_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS.get("mlp"), "network", lambda *given: None)
    with pytest.raises(UserError, match=r"model 'mlp': network\(shape, seeds\) gives NoneType, not a torch.nn.Module"):
        train([flow(**CASES["plain"])])
