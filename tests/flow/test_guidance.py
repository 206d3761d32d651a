"""Guidance: its formula, what it costs, whose label is whose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmbench.data import DATA
from fmbench.flow import PATHS
from fmbench.flow.guidance import calls
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.velocity import Velocity
from fmbench.solvers import GRIDS, SOLVERS

T = torch.tensor(0.25)


class Linear:
    """v = a x with a label's own a, and a = 10 without: noting how it was called."""

    def __init__(self) -> None:
        self.called: list[Tensor | None] = []

    def __call__(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        self.called.append(label)
        return x * (10.0 if label is None else label[:, None].to(x.dtype))


@pytest.mark.parametrize(
    ("guidance", "factors", "cost"),
    [
        (1.0, (2, 3, 4), 1),
        (0.0, (10, 10, 10), 1),
        (3.0, (-14, -11, -8), 2),
        (0.5, (6, 6.5, 7), 2),
        (-1.0, (18, 17, 16), 2),
    ],
)
def test_formula_and_calls(guidance: float, factors: tuple[float, ...], cost: int) -> None:
    field, x = Linear(), torch.tensor([[1.0], [1.0], [2.0]])
    velocity = Velocity(field, label=torch.tensor([2, 3, 4]), guidance=guidance)
    assert torch.allclose(velocity(T, x), torch.tensor(factors)[:, None] * x)
    assert velocity.nfe == len(field.called) == calls(guidance) == cost
    assert velocity.evaluations == cost * 3


def test_a_twin_with_the_other_convention_is_another_field() -> None:
    """(1 + w) v_cond − w v_uncond with w = s: one more of the difference."""
    label, x = torch.tensor([2, 3]), torch.ones(2, 1)
    ours = Velocity(Linear(), label=label, guidance=3.0)(T, x)
    twin = 4 * Linear()(T, x, label) - 3 * Linear()(T, x)
    assert torch.allclose(twin, Velocity(Linear(), label=label, guidance=4.0)(T, x))
    assert not torch.allclose(twin, ours)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_gives_each_sample_its_own_label(name: str, guidance: float) -> None:
    """Two components far apart: whatever leaves the batch on the way, each sample lands in the one that it was asked for."""
    law, path = (
        DATA.build({"name": "gaussian-mixture", "means": [[-9, 0], [9, 3]], "stds": 0.2}).mixture(),
        PATHS.build("fm-ot"),
    )
    velocity = Velocity(MixtureVelocity(path, law.means, law.stds, law.weights), path=path)
    solver = SOLVERS.build({"name": name, "per_sample": True} if name == "dopri5" else name)
    label = torch.arange(40) % 2
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 40)[:, None]
    velocity.label, velocity.guidance = label, guidance
    times = GRIDS.build(solver.default_grid).on(path, 60)
    end = solver.integrate(velocity, x, times).x
    assert torch.equal((end[:, 0] > 0).long(), label)


def test_a_labelled_oracle_is_the_oracle_of_its_component() -> None:
    law = DATA.build("gaussian-mixture").mixture()
    path, x, t = PATHS.build("vp-cosine"), torch.randn(6, 2), torch.rand(6)
    whole = MixtureVelocity(path, law.means, law.stds, law.weights)
    label = torch.tensor([0, 1, 1, 0, 0, 1])
    alone = [MixtureVelocity(path, law.means[k : k + 1], law.stds[k : k + 1], torch.ones(1)) for k in (0, 1)]
    expected = torch.stack([alone[k](t[i : i + 1], x[i : i + 1])[0] for i, k in enumerate(label.tolist())])
    assert torch.allclose(whole(t, x, label), expected, atol=1e-6)
    assert not torch.allclose(whole(t, x), expected, atol=1e-2)
