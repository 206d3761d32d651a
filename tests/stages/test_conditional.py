"""Conditional flows: whose label is whose, from minibatches to samples and pairs; what labels leave as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_flows import flow, pairs_from

from fmbench.models import MODELS
from fmbench.models.base import NO_LABEL
from fmbench.solvers import GRIDS, SOLVERS
from fmbench.stages.flow import FlowSpec, Pairs, PairsSpec, velocity_field
from fmbench.stages.minibatches import Step, minibatches
from fmbench.stages.pairs import halves
from fmbench.stages.sample import ReferenceSpec, Sampled, SampleSpec, asked_labels, noise, reference, sample
from fmbench.stages.train import Trained, train

FAR = {"name": "gaussian-mixture", "means": [[-9, 0], [0, 9], [9, 0]], "stds": 0.5, "weights": [0.5, 0.3, 0.2]}
MLP = {"name": "mlp", "width": 16, "depth": 2, "conditional": True}


def labelled(model: dict[str, Any] | None = None, **settings: Any) -> FlowSpec:
    return flow(data=FAR, model={**MLP, **(model or {})}, **settings)


def steps(*specs: FlowSpec, start: int = 0, stop: int = 70, pairs: Any = None) -> list[Step]:
    return [step for _, step in minibatches(specs, start, stop, 1.0, pairs)]


def component(x: Tensor) -> Tensor:
    means = torch.tensor(FAR["means"], dtype=x.dtype)
    return torch.cdist(x.flatten(0, -2), means).argmin(1).reshape(x.shape[:-1])


def ends(step: Step) -> Tensor:
    """x1 of a rectified path, from x_t and x1 − x0."""
    return step.inputs + (1 - step.t[..., None]) * step.targets


@pytest.mark.parametrize("coupling", ["independent", "minibatch-ot", "label-ot"])
def test_a_label_travels_with_its_x1(coupling: str) -> None:
    for step in steps(labelled(coupling=coupling)):
        assert step.label is not None
        assert step.label.shape == step.t.shape
        assert torch.equal(step.label, component(ends(step)))


def test_labels_and_their_withholding_are_a_function_of_seed_and_step() -> None:
    dropping = [labelled({"label_dropout": 0.3}, seed=seed) for seed in (0, 1)]
    whole, late = steps(*dropping), steps(*dropping, start=66)
    alone = steps(dropping[1])
    assert all(torch.equal(a.label, b.label) for a, b in zip(whole[66:], late, strict=True))
    assert all(torch.equal(a.label[1:], b.label) for a, b in zip(whole, alone, strict=True))
    kept = steps(*(spec.model_copy(update={"model": MODELS.build(MLP)}) for spec in dropping))
    dropped = torch.stack([step.label == NO_LABEL for step in whole])  # (steps, S, B)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole, kept, strict=True)), "dropout moved the rest"
    for a, b in zip(whole, kept, strict=True):
        assert torch.equal(a.label, torch.where(a.label == NO_LABEL, NO_LABEL, b.label))
    # each sample by its own chance: 0.3 within 4 standard errors, and no minibatch as one
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / dropped.numel()) ** 0.5)
    assert dropped.double().mean(2).std().item() == pytest.approx((0.21 / 64) ** 0.5, rel=0.3)
    assert not torch.equal(dropped[:, 0], dropped[:, 1])
    assert not torch.equal(dropped[:6], dropped[64:]), "a block withholds what the block before did"


def test_an_unconditional_flow_sees_the_same_minibatches_and_no_labels() -> None:
    plain = flow(data=FAR)
    assert plain.classes is None
    for a, b in zip(steps(labelled({"label_dropout": 0.5})), steps(plain), strict=True):
        assert b.label is None
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)


def test_seeds_trained_together_equal_those_trained_alone() -> None:
    specs = [labelled({"label_dropout": 0.2, "width": 32}, seed=seed) for seed in (0, 1, 2)]
    together = train(specs)
    for spec, one in zip(specs, together, strict=True):
        (alone,) = train([spec])
        assert isinstance(alone, Trained)
        assert isinstance(one, Trained)
        assert alone.losses == one.losses
        assert alone.weights["labels"].shape == (1, 4, 32)
        assert all(torch.equal(alone.weights[name], one.weights[name]) for name in alone.weights)


@pytest.fixture(scope="module")
def learned() -> tuple[FlowSpec, Any]:
    """A flow of three far components, trained for a second."""
    spec = labelled({"label_dropout": 0.2, "width": 64}, samples=800 * 64, lr=5e-3)
    (outcome,) = train([spec])
    assert isinstance(outcome, Trained)
    return spec, velocity_field(spec, outcome.weights)


def cell(spec: FlowSpec, solver: str = "euler", **changes: Any) -> SampleSpec:
    made = SOLVERS.build({"name": "dopri5", "per_sample": True} if solver == "dopri5" else solver)
    known = {"flow": spec, "solver": made, "steps": 16, "grid": GRIDS.build("uniform"), "n": 300, "batch": 64}
    return SampleSpec(**{**known, "sample_seed": 0, **changes})


@pytest.mark.parametrize(("solver", "batch"), [("euler", 64), ("euler", 300), ("heun", 7), ("dopri5", 64)])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_samples_land_in_the_component_that_was_asked_for(
    learned: Any, solver: str, batch: int, guidance: float
) -> None:
    spec, field = learned
    asked = cell(spec, solver, batch=batch, guidance=guidance)
    label = asked_labels(asked)
    assert label is not None
    assert torch.equal(label, asked_labels(cell(spec, "rk4", n=400, batch=5))[:300]), (
        "a label depends on (seed, i) alone"
    )
    x = sample(asked, field).x
    assert (component(x) == label).double().mean() > 0.99


def test_the_law_of_labels_is_the_datas() -> None:
    label = asked_labels(cell(labelled(), n=4096))
    share = torch.bincount(label, minlength=3).double() / 4096
    assert torch.allclose(share, torch.tensor(FAR["weights"]).double(), atol=4 * (0.25 / 4096) ** 0.5)
    assert not torch.equal(label, asked_labels(cell(labelled(), n=4096, sample_seed=1)))
    assert asked_labels(cell(flow(data=FAR))) is None


def test_guided_calls_are_counted_and_the_reference_is_the_guided_flows_own(learned: Any) -> None:
    spec, field = learned
    for guidance, cost in ((0.0, 1), (1.0, 1), (1.5, 2)):
        asked = cell(spec, "rk4", steps=40, guidance=guidance)
        sampled = sample(asked, field)
        assert sampled.resources.nfe == cost * 160
        fine = {"n": 300, "batch": 100, "sample_seed": 0, "tolerance": 1e-3, "max_steps": 128, "guidance": guidance}
        solved = reference(ReferenceSpec(flow=spec, **fine), field)
        assert solved.nfe == cost * (4 * solved.steps + 1)
        assert solved.ledger.startup == cost
        assert (sampled.x - solved.geometry.z1).double().square().mean().sqrt() < 0.05
        if guidance != 1:
            assert not torch.allclose(sample(cell(spec, "rk4", steps=40), field).x, sampled.x, atol=1e-2)


def test_pairs_keep_the_label_that_they_were_drawn_with(learned: Any) -> None:
    spec, field = learned
    drawn = PairsSpec(flow=spec, n=200, solver=SOLVERS.build("rk4"), steps=20, inverted=0.25)
    pairs = pairs_from(drawn, field)
    assert pairs.label is not None
    assert pairs.label.dtype == torch.int64
    right = component(pairs.z1) == pairs.label
    assert right[:150].double().mean() > 0.98, "drawn forward"
    assert right[150:].all(), "the data's own"
    assert not torch.equal(pairs.label[:150], asked_labels(cell(spec, n=150))), "an evaluation's labels"
    for step in steps(spec.model_copy(update={"reflow": 1}), pairs=[pairs]):
        index = (ends(step)[0][:, None] - pairs.z1).square().sum(2).argmin(1)
        given = step.label[0] != NO_LABEL
        assert torch.equal(step.label[0][given], pairs.label[index][given])


def test_unconditional_pairs_have_no_labels() -> None:
    spec = flow(data=FAR, model="oracle")
    drawn = PairsSpec(flow=spec, n=20, solver=SOLVERS.build("rk4"), steps=4, inverted=0.5)
    assert pairs_from(drawn, velocity_field(spec, None)).label is None
    assert Pairs(noise(spec.source, 0, 2, 0), noise(spec.source, 0, 2, 1)).label is None


def test_spans_are_the_whole_cut(learned: Any) -> None:
    """Several devices make the samples and pairs of one, with the labels of one."""
    spec, field = learned
    asked = cell(spec, "euler", batch=64, guidance=1.5)
    parts = [sample(asked, field, span=span) for span in (range(128), range(128, 300))]
    assert torch.equal(Sampled.joined(parts).x, sample(asked, field).x)
    drawn = PairsSpec(flow=spec, n=4000, solver=SOLVERS.build("rk4"), steps=2, inverted=0.4)
    batch = drawn.batch
    apart = [solve(drawn, field, span=s) for solve, n in halves(drawn) for s in (range(batch), range(batch, n))]
    for joined, whole in zip(Pairs.joined(apart), pairs_from(drawn, field), strict=True):
        assert torch.equal(joined, whole)
