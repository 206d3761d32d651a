"""A user's own model: an ordinary torch module of (t, x), or of (t, x, label)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from toy_flows import flow

from fmbench.errors import UserError
from fmbench.models import Model
from fmbench.models.base import NO_LABEL, ConditionalModel
from fmbench.plan import make_plan
from fmbench.stages.flow import FlowSpec, untrained, velocity_field
from fmbench.stages.train import Trained, train
from fmbench.suite import parse


class Plain(nn.Module):
    """As everybody writes it: t `(B,)`, x `(B, D)`; a label's row, one more for none."""

    def __init__(self, d: int, rows: int, *more: nn.Module):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d + 1, 16), nn.SiLU(), *more, nn.Linear(16, d))
        self.label = nn.Embedding(rows, d) if rows else None

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        v: Tensor = self.body(torch.cat([x, t[:, None]], dim=1))
        return v if self.label is None else v + self.label(label)


class PlainModel(ConditionalModel):
    """One such network."""

    name: ClassVar[str] = "test-plain"

    def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> nn.Module:
        return Plain(shape[0], 0 if classes is None else classes + 1)


def owned(model: Model, **changes: Any) -> FlowSpec:
    return flow(**changes).model_copy(update={"model": model})


def weights(spec: FlowSpec) -> dict[str, Tensor]:
    (outcome,) = train([spec])
    assert isinstance(outcome, Trained)
    return outcome.weights


def test_an_ordinary_module_is_trained_and_solved() -> None:
    spec = owned(PlainModel())
    v = velocity_field(spec, weights(spec))
    x, t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5, dtype=torch.float64)
    assert v(t, x).shape == x.shape
    assert torch.equal(v(t, x), v(t.expand(5), x))


def test_its_weights_are_a_function_of_its_seed_whatever_the_global_generator_says() -> None:
    def drawn(seed: int) -> Tensor:
        return torch.cat([p.flatten() for p in untrained(owned(PlainModel(), seed=seed), [seed]).parameters()])

    torch.manual_seed(1)
    first, state = drawn(0), torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state()), "the generator is given back as it was"


def test_labels_are_rows_of_a_table_whose_last_is_none() -> None:
    spec = owned(PlainModel(conditional=True, label_dropout=0.2), data={"name": "gaussian-mixture"})
    classes = spec.classes
    assert classes
    v = velocity_field(spec, weights(spec))
    x, t = torch.zeros(classes + 1, 2), torch.tensor(0.5, dtype=torch.float64)
    label = torch.cat([torch.arange(classes), torch.tensor([NO_LABEL])])
    said = v(t, x, label)
    assert len({tuple(row.tolist()) for row in said}) == classes + 1
    assert torch.equal(v(t, x)[-1], said[-1]), "no labels at all say that of the whole batch"


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.register_buffer("frequencies", torch.ones(3)),
        lambda net: net.body.append(nn.BatchNorm1d(2)),
        lambda net: setattr(net, "again", net.body[0]),
    ],
)
def test_what_is_no_parameter_cannot_be_kept_and_is_told_before_any_training(change: Callable[[Any], None]) -> None:
    class Holding(PlainModel):
        name = "test-holding"

        def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> nn.Module:
            change(network := super().network(shape, seeds, classes))
            return network

    with pytest.raises(UserError, match=r"model 'test-holding': its network's state holds .* persistent=False"):
        untrained(owned(Holding()), [0])


class Labelled(Model):
    """Takes labels, and knows of no dropout."""

    name: ClassVar[str] = "test-labelled"
    conditional: bool = True


def test_guidance_needs_a_model_that_was_trained_without_labels_too(tiny: Callable[..., dict[str, Any]]) -> None:
    from fmbench.models import MODELS

    if "test-labelled" not in MODELS.names():
        MODELS.register(Labelled)
    known: dict[str, Any] = {
        "flow__model": "test-labelled",
        "flow__reflow": 0,
        "metrics": ["nfe"],
        "sample__guidance": [2],
        "sample__solvers": [{"name": "euler", "nfe": 2}],
    }
    with pytest.raises(UserError, match=r"never trained without labels.*ConditionalModel"):
        make_plan(parse(tiny(data="gaussian-mixture", **known)))
    with pytest.raises(UserError, match="'test-labelled' is conditional, and data set 's-curve' has no labels"):
        make_plan(parse(tiny(data="s-curve", **{**known, "sample__guidance": [1]})))
