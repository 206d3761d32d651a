"""The models one by one: stacking of the perceptron, the U-Net's images, the oracle's limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fmbench.data import DATA, Data
from fmbench.data.toys import Normal
from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.models import MODELS
from fmbench.models.mlp import ACTIVATIONS
from fmbench.randomness import generator
from fmbench.recipes import RECIPES

NORMAL, RECTIFIED, INDEPENDENT = DATA.build("normal"), PATHS.build("rectified"), COUPLINGS.build("independent")


def normal(*size: int) -> Tensor:
    return torch.randn(*size, generator=generator("test models", *size))


@pytest.mark.parametrize("width", [7, 64, 128])
@pytest.mark.parametrize("seeds", [(0, 1, 2), (5, 0)])
def test_a_stack_is_its_networks_bit_for_bit(width: int, seeds: tuple[int, ...]) -> None:
    mlp = MODELS.build({"name": "mlp", "width": width})
    t, x = normal(len(seeds), 64).sigmoid(), normal(len(seeds), 64, 2)
    together = mlp.network((2,), seeds)(t, x)
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i], mlp.network((2,), [seed])(t[i : i + 1], x[i : i + 1])[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("frequencies", [0, 4])
def test_mlp_is_the_textbooks(activation: str, frequencies: int) -> None:
    mlp = MODELS.build({"name": "mlp", "width": 8, "depth": 2, "activation": activation, "frequencies": frequencies})
    network = mlp.network((1, 2, 2), [0])
    t, x = normal(5).sigmoid(), normal(5, 1, 2, 2)
    k = torch.pi * torch.arange(1, frequencies + 1)
    h = torch.cat([x.flatten(1), t[:, None], torch.sin(t[:, None] * k), torch.cos(t[:, None] * k)], 1)
    layers = list(zip(network.weights, network.biases, strict=True))
    assert len(layers) == 3
    for i, (w, b) in enumerate(layers):
        h = (ACTIVATIONS[activation](h) if i else h) @ w[0] + b[0]
    assert torch.allclose(network(t, x), h.reshape(x.shape), atol=1e-6)


def test_selu_is_torchs_own() -> None:
    """Value and both derivatives, from where the exponential vanishes to where it does not matter. The slope jumps at 0."""
    x = torch.cat([torch.linspace(-40, 40, 4001, dtype=torch.float64), torch.tensor([-1e3, -1e-9, 1e-9, 1e3])])
    x.requires_grad_()
    for ours, theirs in zip(_jet(ACTIVATIONS["selu"], x), _jet(torch.selu, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)


def _jet(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, ...]:
    y = f(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y, slope, *torch.autograd.grad(slope.sum(), x)


def test_mlp_starts_small_and_even() -> None:
    """U(±1/√in): the variance of every layer's weights is 1 / (3 in)."""
    network = MODELS.build({"name": "mlp", "width": 256}).network((2,), [0])
    for w in list(network.weights)[1:3]:
        assert w.abs().max() <= 256**-0.5
        assert w.var().item() == pytest.approx(1 / (3 * 256), rel=0.03)


def unet(**parameters: object) -> object:
    return MODELS.build({"name": "unet", "channels": 8, **parameters})


@pytest.mark.parametrize("parameters", [{}, {"attention": [4]}, {"multipliers": [1, 1, 2], "blocks": 2}])
def test_unet_on_digits(parameters: dict) -> None:
    network = unet(**parameters).network((1, 8, 8), [0]).eval()
    with torch.no_grad():
        assert network(torch.rand(3, generator=generator("t")), normal(3, 1, 8, 8)).shape == (3, 1, 8, 8)
    attended = any("attentions" in name for name, _ in network.named_parameters())
    assert attended == bool(parameters.get("attention"))


@pytest.mark.parametrize(
    ("parameters", "data", "message"),
    [
        ({}, Normal(dims=(2,)), r"needs images \(C, H, W\).*Use 'mlp'"),
        (
            {"multipliers": [1, 2, 2]},
            Normal(dims=(1, 6, 8)),
            "3 levels do not divide images of 6×8. Give at most 2 multipliers",
        ),
        (
            {"multipliers": [1, 2, 2]},
            Normal(dims=(1, 8, 10)),
            "3 levels do not divide images of 8×10. Give at most 2 multipliers",
        ),
        ({"multipliers": [1, 2, 2, 2]}, Normal(dims=(1, 28, 28)), "28×28. Give at most 3 multipliers, .* resolution"),
        ({"multipliers": [1, 2]}, Normal(dims=(1, 7, 7)), "Give at most 1 multipliers"),
        ({"channels": 12}, Normal(dims=(1, 8, 8)), "channels = 12 must be a multiple of 8"),
    ],
)
def test_unet_says_what_it_cannot(parameters: dict, data: Data, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unet(**parameters).check(RECTIFIED, INDEPENDENT, NORMAL, data)
    unet().check(RECTIFIED, INDEPENDENT, NORMAL, Normal(dims=(3, 8, 12)))


@pytest.mark.parametrize(("model", "layers"), [({"name": "unet", "attention": [4]}, 13), ({"name": "transformer"}, 6)])
def test_networks_of_images_begin_at_zero(model: dict, layers: int) -> None:
    """As published: each block's last layer (Ho 2020) or adaptive norm (DiT) and the last of all; what is known adds to that."""
    network = MODELS.build(model).network((1, 8, 8), [0])
    assert not network(torch.rand(3), normal(3, 1, 8, 8)).any()
    asleep = [name for name, p in network.named_parameters() if name.endswith("weight") and not p.any()]
    assert len(asleep) == layers


def test_the_published_unet_is_that_of_torchcfm() -> None:
    """torchcfm 1.0.7's for CIFAR-10, built and counted: its parameters, and its layers that begin at zero."""
    network = MODELS.build(dict(RECIPES["torchcfm"].model)).network((3, 32, 32), [0])
    assert sum(p.numel() for p in network.parameters()) == 35_746_307
    assert sum(name.endswith("weight") and not p.any().item() for name, p in network.named_parameters()) == 29


def test_unets_are_not_stacked() -> None:
    with pytest.raises(ValueError, match="alone"):
        unet().network((1, 8, 8), [0, 1])


@pytest.mark.parametrize(
    ("source", "data", "coupling"),
    [
        ("normal", "moons", "independent"),
        ("eight-gaussians", "gaussian-mixture", "independent"),
        ("normal", "gaussian-mixture", "minibatch-ot"),
    ],
)
def test_the_oracle_knows_its_limits(source: str, data: str, coupling: str) -> None:
    with pytest.raises(UserError, match=f"data '{data}', source '{source}', coupling '{coupling}'"):
        MODELS.build("oracle").check(RECTIFIED, COUPLINGS.build(coupling), DATA.build(source), DATA.build(data))
    MODELS.build("oracle").check(RECTIFIED, INDEPENDENT, NORMAL, DATA.build("gaussian-mixture"))


@pytest.mark.parametrize(
    ("source", "data", "coupling"),
    [("normal", "moons", "independent"), ("moons", "digits", "independent"), ("normal", "digits", "minibatch-ot")],
)
def test_the_empirical_oracle_knows_its_limits(source: str, data: str, coupling: str) -> None:
    with pytest.raises(UserError, match=f"knows finite data sets.*data '{data}', source '{source}'.*'{coupling}'"):
        MODELS.build("empirical").check(RECTIFIED, COUPLINGS.build(coupling), DATA.build(source), DATA.build(data))
    MODELS.build("empirical").check(RECTIFIED, INDEPENDENT, NORMAL, DATA.build("digits"))


def test_the_oracle_knows_full_covariances() -> None:
    """One Gaussian: v = (t Σ − (1 − t) I) (t² Σ + (1 − t)² I)⁻¹ x."""
    sigma, t = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=torch.float64), 0.4
    data = DATA.build({"name": "gaussian-mixture", "means": [[0, 0]], "covariances": [sigma.tolist()]})
    x, one = normal(9, 2).double(), torch.eye(2, dtype=torch.float64)
    matrix = (t * sigma - (1 - t) * one) @ torch.linalg.inv(t**2 * sigma + (1 - t) ** 2 * one)
    field = MODELS.build("oracle").field(RECTIFIED, INDEPENDENT, NORMAL, data)
    assert torch.allclose(field(torch.tensor(t, dtype=torch.float64), x), x @ matrix.T, rtol=1e-9, atol=1e-12)


def test_the_empirical_oracle_knows_every_training_sample() -> None:
    """Just before the end, where t x1 is far from all but x1, the velocity there is x1 itself: the noise is 0."""
    digits = DATA.build("digits")
    field = MODELS.build("empirical").field(RECTIFIED, INDEPENDENT, Normal(dims=digits.shape), digits)
    x1 = digits.take("train", None)[[0, 100, -1]]
    t = torch.tensor(0.99, dtype=torch.float64)
    assert torch.allclose(field(t, 0.99 * x1), x1, atol=1e-4)
