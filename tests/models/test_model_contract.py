"""What every model must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from fmbench.data import DATA, Data
from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.models import MODELS, Model, Network
from fmbench.models.base import NO_LABEL
from fmbench.randomness import generator

EVERY = [MODELS.build(name) for name in MODELS.names()]
TRAINED = [model for model in EVERY if model.trained]
EXACT = [model for model in EVERY if model.exact]
CONDITIONAL = [
    MODELS.build({"name": model.name, "conditional": True})
    for model in EVERY
    if "conditional" in type(model).model_fields
]
CANDIDATES = ["gaussian-mixture", "digits"]
NORMAL, RECTIFIED, INDEPENDENT = DATA.build("normal"), PATHS.build("rectified"), COUPLINGS.build("independent")


def named(models: list[Model]) -> dict:
    return {"argvalues": models, "ids": [model.name for model in models]}


def serves(model: Model, data: Data) -> bool:
    try:
        model.check(RECTIFIED, INDEPENDENT, NORMAL, data)
    except UserError:
        return False
    return True


PAIRS = [
    pytest.param(model, data, id=f"{model.name}-{data.name}")
    for model in TRAINED
    for data in map(DATA.build, CANDIDATES)
    if serves(model, data)
]
on_every_data = pytest.mark.parametrize(("model", "data"), PAIRS)


def inputs(data: Data, *lead: int) -> tuple[Tensor, Tensor]:
    rng = generator("test models")
    return torch.rand(lead, generator=rng), torch.randn(*lead, *data.shape, generator=rng)


def awake(network: Network) -> Network:
    """The network with what begins at zero moved away from it."""
    rng = generator("awake")
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=rng)
    return network.eval()


def same(a: Network, b: Network) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_every_model_serves_something() -> None:
    assert {pair.values[0].name for pair in PAIRS} == {model.name for model in TRAINED}
    assert all(any(serves(model, DATA.build(name)) for name in CANDIDATES) for model in EXACT)


@on_every_data
def test_forward_and_initialisation(model: Model, data: Data) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    network = awake(model.network(data.shape, [3]))
    t, x = inputs(data, 5)
    with torch.no_grad():
        out = network(t, x)
        assert out.shape == x.shape
        assert out.dtype == torch.float32
        assert out.isfinite().all()
        assert out.std() > 0
        # a scalar time, float64 as solvers give it, is the same time for all
        scalar = network(torch.tensor(0.3, dtype=torch.float64), x)
        assert torch.allclose(scalar, network(torch.full((5,), 0.3), x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(scalar, network(torch.tensor(0.9), x), rtol=1e-3), "time is not seen"
        # the stacked form that training calls
        stacked = network(t[None], x[None])
        assert torch.allclose(stacked[0], out, rtol=1e-4, atol=1e-5)
        # samples do not see each other
        assert torch.allclose(network(t[1:2], x[1:2]), out[1:2], rtol=1e-4, atol=1e-5)
    first = model.network(data.shape, [3])
    assert same(first, model.network(data.shape, [3]))
    assert not same(first, model.network(data.shape, [4]))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


@on_every_data
def test_initialisation_does_not_depend_on_the_global_generator(model: Model, data: Data) -> None:
    first = model.network(data.shape, [0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert same(first, model.network(data.shape, [0]))


@on_every_data
def test_weights_survive_their_state(model: Model, data: Data) -> None:
    first, second = (awake(model.network(data.shape, [seed])) for seed in (0, 1))
    named_parameters = {name: p.detach().clone() for name, p in first.named_parameters()}
    second.load_state_dict(named_parameters)  # what training hands on: parameters, and nothing but parameters
    t, x = inputs(data, 3)
    with torch.no_grad():
        assert torch.equal(first(t, x), second(t, x))


@on_every_data
def test_every_parameter_learns(model: Model, data: Data) -> None:
    network = model.network(data.shape, [0])
    t, x = inputs(data, 1, 4)
    network(t, x).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert not idle


@pytest.mark.parametrize(
    ("model", "data"), [pair for pair in PAIRS if "conditional" in type(pair.values[0]).model_fields]
)
def test_conditional_networks_see_labels(model: Model, data: Data) -> None:
    model, plain = model.model_copy(update={"conditional": True}), model
    network, alike = awake(model.network(data.shape, [3], 4)), plain.network(data.shape, [3])
    t, x = inputs(data, 6)
    label = torch.tensor([0, 1, 2, 3, NO_LABEL, 1])
    with torch.no_grad():
        out, none = network(t, x, label), network(t, x)
        assert torch.allclose(network(t[None], x[None], label[None])[0], out, rtol=1e-4, atol=1e-5)
        assert torch.allclose(
            network(torch.tensor(0.3).double(), x, label), network(torch.full((6,), 0.3), x, label), atol=1e-5
        )
        assert torch.allclose(none[4], out[4], rtol=1e-4, atol=1e-5), "no labels and a missing label are the same"
        assert torch.allclose(none, network(t, x, torch.full((6,), NO_LABEL)), rtol=1e-4, atol=1e-5)
        for k in (0, 1, 2, 3, 5):
            assert not torch.allclose(none[k], out[k], rtol=1e-3), "the label is not seen"
    with pytest.raises(IndexError):
        network(t, x, torch.full((6,), 5))
    network(t[None], x[None], label[None]).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    assert dict(alike.named_parameters()).keys() <= dict(network.named_parameters()).keys()
    assert model.identity() != plain.identity()
    assert not {"conditional", "label_dropout"} & plain.identity().keys()


@pytest.mark.parametrize("model", **named(CONDITIONAL))
def test_a_conditional_model_needs_labels(model: Model) -> None:
    shape = (1, 8, 8) if model.name == "unet" else (2,)
    with pytest.raises(UserError, match=f"'{model.name}' is conditional, and data set 'normal' has no labels"):
        model.check(RECTIFIED, INDEPENDENT, NORMAL, DATA.build({"name": "normal", "dims": shape}))


@pytest.mark.parametrize("model", **named(EVERY))
def test_round_trip(model: Model) -> None:
    assert MODELS.build(model.spec()) == model
    assert model.label() == model.name
    assert model.stack() >= 1


@pytest.mark.parametrize("model", **named(EXACT))
def test_exact_models_are_velocities(model: Model) -> None:
    data = next(data for data in map(DATA.build, CANDIDATES) if serves(model, data))
    field = model.field(RECTIFIED, INDEPENDENT, NORMAL, data)
    t, x = inputs(data, 6)
    assert field(t, x).shape == x.shape
    assert field(torch.tensor(0.5, dtype=torch.float64), x).dtype == torch.float32
