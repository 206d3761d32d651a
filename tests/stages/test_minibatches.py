"""Minibatches: a function of seed and step alone, coupled as asked, scaled as sampling will undo it."""

from __future__ import annotations

from typing import Any

import ot
import pytest
import torch
from torch import Tensor
from toy_flows import flow

from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS, Coupling
from fmbench.flow.paths import Rectified
from fmbench.flow.predictions import PREDICTIONS, Prediction
from fmbench.randomness import generator
from fmbench.stages.flow import FlowSpec, NetworkField, Pairs, parametrisation
from fmbench.stages.minibatches import minibatches, steps_in_advance


def steps(spec: FlowSpec, start: int, stop: int, std: float = 1.0, pairs: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """t `(K, B)`, inputs and targets `(K, B, *shape)` of the steps start … stop − 1."""
    seen = list(minibatches([spec], start, stop, std, None if pairs is None else [pairs]))
    assert [step for step, _ in seen] == list(range(start, stop))
    t, inputs, targets = (torch.cat(parts) for parts in zip(*[step[:3] for _, step in seen], strict=True))
    assert t.shape == (stop - start, spec.train.batch)
    assert inputs.shape == targets.shape == (*t.shape, *spec.data.shape)
    assert t.dtype == inputs.dtype == targets.dtype == torch.float32
    return t, inputs, targets


def pieces(spec: FlowSpec, start: int = 0, stop: int = 8, pairs: Any = None) -> tuple[Tensor, Tensor]:
    """x0 and x1 of a rectified flow, recovered from inputs and targets."""
    t, x, u = (part.double() for part in steps(spec, start, stop, pairs=pairs))
    return x - t[..., None] * u, x + (1 - t[..., None]) * u


def test_minibatches_depend_on_seed_and_step_alone() -> None:
    first = pieces(flow())
    others = {
        "longer training, other model and settings": flow(samples=10**6, lr=0.1, model={"name": "mlp", "width": 9}),
        "another path": flow(path={"name": "fm-ot", "sigma_min": 0}),
    }
    for what, other in others.items():
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first, pieces(other), strict=True)), what
    for other in (flow(seed=1), flow().model_copy(update={"reflow": 1})):
        assert not torch.allclose(first[0], pieces(other)[0], atol=0.1)
    assert not torch.allclose(first[0], pieces(flow(), 8, 16)[0], atol=0.1)


@pytest.mark.parametrize("coupling", COUPLINGS.names())
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (63, 66), (65, 66), (5, 5)])
def test_a_stretch_of_steps_is_cut_from_the_whole(coupling: str, start: int, stop: int) -> None:
    """Wherever it starts, across blocks, and in company."""
    specs = [flow(coupling=coupling, batch=16, seed=seed) for seed in (0, 1)]
    whole = list(minibatches(specs, 0, 66, 1.0))
    part = list(minibatches(specs, start, stop, 1.0))
    alone = list(minibatches(specs[1:], start, stop, 1.0))
    assert len(part) == len(alone) == stop - start
    for (i, all_), (j, cut), (k, one) in zip(whole[start:stop], part, alone, strict=True):
        assert i == j == k
        assert all(torch.equal(a, b) for a, b in zip(all_[:3], cut[:3], strict=True))
        assert all(torch.equal(a[1:], b) for a, b in zip(all_[:3], one[:3], strict=True))


@pytest.mark.parametrize("path", PATHS.names())
def test_times_stay_within_the_path(path: str) -> None:
    spec = flow(path=path, batch=4096)
    t, inputs, targets = steps(spec, 0, 8, spec.data.moments()[1])
    assert t.min() >= 0
    assert t.max() <= spec.path.end_time + 1e-7
    assert t.max() > 0.999 * spec.path.end_time
    assert t.min() >= spec.path.start_time * (1 - 1e-6)
    assert inputs.isfinite().all()
    assert targets.isfinite().all()
    if spec.path.preconditioned:
        for x in (inputs, targets):
            assert x.var().item() == pytest.approx(1, abs=0.05)


def test_what_is_drawn_before_a_path_starts_is_trained_where_it_starts() -> None:
    class Late(Rectified):
        name = "late"
        start_time = 0.25

    t, _, _ = steps(flow().model_copy(update={"path": Late()}), 0, 8)
    assert t.min() == 0.25
    assert (t == 0.25).double().mean().item() == pytest.approx(0.25, abs=5 * (0.1875 / t.numel()) ** 0.5)


@pytest.mark.parametrize("path", PATHS.names())
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_hits_its_targets_is_the_velocity(path: str, prediction: Prediction) -> None:
    """Training and sampling must read the network alike, whatever it predicts."""
    spec, std = flow(path=path, prediction=prediction), 2.1
    if not spec.path.affine:
        pytest.skip("the bridge's own noise is not seen from outside")
    seen_times, seen, wanted = (part[0] for part in steps(spec, 0, 1, std))
    plain = spec.model_copy(update={"path": PATHS.build("rectified"), "prediction": "velocity"})
    x0, x1 = (piece[0] for piece in pieces(plain, 0, 1))
    t = seen_times.double()
    x, u = spec.path.point(x0, x1, t)
    reading = parametrisation(spec, std)
    field = NetworkField(lambda t, inputs: wanted.double(), reading)  # type: ignore[arg-type]
    near = (t < 0.99) & (reading.asked(t) == t)  # where the network is asked; and t, rounded to float32, still fixes u
    assert torch.allclose(field(t, x)[near], u[near], rtol=1e-3, atol=1e-3 * u.std().item())
    if spec.path.preconditioned:
        shown: list[Tensor] = []
        NetworkField(lambda t, inputs: shown.append(inputs) or inputs, reading)(t, x)  # type: ignore[arg-type,func-returns-value]
        assert torch.allclose(shown[0].float()[near], seen[near], atol=1e-4)


@pytest.mark.parametrize("path", ["icfm", "sb-cfm"])
def test_a_bridges_noise_moves_nothing_else(path: str) -> None:
    """x0, x1 and t are those of the affine path; the noise, recovered, is standard normal and not theirs."""
    t, x, _ = (part.double().flatten(0, 1) for part in steps(flow(path=path), 0, 64))
    same_t, line, u = (part.double().flatten(0, 1) for part in steps(flow(), 0, 64))
    assert torch.allclose(t, same_t.clamp(1e-5, 1 - 1e-5), atol=1e-4)
    s = PATHS.build(path).schedule(t)
    assert s.gamma is not None
    inside = (t > 0.01) & (t < 0.99)
    noise = ((x - line) / s.gamma[:, None])[inside]
    n = noise.numel()
    assert abs(noise.mean()) < 5 / n**0.5
    assert abs(noise.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((noise * u[inside]).mean()) < 5 * u.std() / n**0.5


@pytest.mark.parametrize("size", [None, 16, 64, 256])
def test_coupling_batch(size: int | None) -> None:
    """Every problem of `size` samples is solved to its optimum, across training batches where it is larger."""
    spec = flow(coupling={"name": "minibatch-ot", "batch": size})
    x0, x1 = (piece.flatten(0, 1) for piece in pieces(spec))
    size = size or 64
    assert len(x0) % size == 0
    for a, b in list(zip(x0.split(size), x1.split(size), strict=True))[:3]:
        least = ot.emd2([], [], ot.dist(a.numpy(), b.numpy()))
        assert (b - a).square().sum(1).mean().item() == pytest.approx(least, rel=1e-4)
    independent = pieces(flow())
    assert (x1 - x0).square().sum() < 0.9 * (independent[1] - independent[0]).square().sum()


def test_labels_reach_the_coupling_across_training_batches() -> None:
    """Two moons: problems of 256 are assignments inside each moon, as `LabelOT` makes them of the same draws."""
    spec = flow(coupling={"name": "label-ot", "batch": 256})
    length = steps_in_advance(64, 2, spec.coupling)
    rng = generator("train", 0, 0, 0)
    (x1, label), (x0, _) = (law.draw(64 * length, rng) for law in (spec.data, spec.source))
    assert label is not None
    seen = [piece.flatten(0, 1)[:256] for piece in pieces(spec)]
    i, j = spec.coupling.pair_labelled(x0[:256], x1[:256], label[:256], rng)
    assert all(torch.allclose(a, b.double(), atol=1e-4) for a, b in zip(seen, (x0[i], x1[j]), strict=True))
    assert not torch.equal(j, i)


def test_each_problem_is_paired_with_random_numbers_of_its_own() -> None:
    """Across the problems of a block and across blocks."""
    drawn: list[float] = []

    class Noting(Coupling):
        name = "noting"

        def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            drawn.append(torch.rand((), generator=rng, dtype=torch.float64).item())
            index = torch.arange(len(x0))
            return index, index

    steps(flow().model_copy(update={"coupling": Noting()}), 0, 130)
    assert len(drawn) == len(set(drawn)) >= 130


@pytest.mark.parametrize("size", [48, 100, 7])
def test_a_coupling_batch_that_does_not_fit_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=r"must be a multiple or a divisor of train\.batch = 64"):
        steps_in_advance(64, 2, COUPLINGS.build({"name": "minibatch-ot", "batch": size}))


@pytest.mark.parametrize("size", [None, 256])
def test_couplings_alike_in_batch_prepare_whole_problems(size: int | None) -> None:
    coupling = COUPLINGS.build({"name": "minibatch-ot", "batch": size})
    for batch, d in [(64, 2), (64, 10**5), (128, 3072)]:
        assert steps_in_advance(batch, d, coupling) * batch % (size or batch) == 0


def test_reflow_trains_on_its_pairs() -> None:
    z0 = torch.arange(20.0).reshape(10, 2)
    pairs = Pairs(z0, z0 + 100)
    x0, x1 = (piece.flatten(0, 1) for piece in pieces(flow(), pairs=pairs))
    assert torch.allclose(x1 - x0, torch.full_like(x0, 100), atol=1e-2)
    index = (x0[:, 0] / 2).round().long()
    assert torch.allclose(z0[index].double(), x0, atol=1e-2)
    assert len(index.unique()) == 10
