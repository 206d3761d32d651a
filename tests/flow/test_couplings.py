"""Couplings: every one pairs; minibatch-ot finds the optimum, and the check would notice if it did not."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist
from torch import Tensor

from fmbench.data import DATA
from fmbench.errors import Diverged, UserError
from fmbench.flow import COUPLINGS, Coupling, assignment
from fmbench.flow.couplings import LabelOT, MinibatchOT, indices
from fmbench.metrics.transport import squared

ENGINES = ["auto", "pot", "lapjv"]


@pytest.mark.parametrize(
    ("given", "words"),
    [((torch.arange(5), torch.arange(8)), r"\[\(5,\), \(8,\)\]"), (torch.arange(8), "Tensor"), (None, "NoneType")],
)
def test_pairs_of_another_form_are_refused(given: Any, words: str) -> None:
    class Wrong(Coupling):
        name = "wrong"

        def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> Any:
            return given

    with pytest.raises(UserError, match=rf"coupling 'wrong': pair gives {words} for a minibatch of 8, not two index"):
        indices(Wrong(), torch.zeros(8, 2), torch.zeros(8, 2), None, rng())


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def problem(kind: str, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Minibatches of several characters: the engines' speed and their ties depend on them."""
    x0, x1 = normal(n, d, 1), normal(n, d, 2)
    if kind == "clusters":  # far apart on both sides, unequally filled
        centre = torch.arange(n) % 3 * 100.0
        return x0 + centre[:, None], 0.3 * x1 + centre.roll(n // 5)[:, None]
    if kind == "duplicates":
        return x0[torch.arange(n) // 4], x1[torch.arange(n) // 3]
    if kind == "offset":  # an uncentred product in float64 would lose ten digits
        return x0 + 1e5, x1 + 1e5
    if kind == "correlated":  # like images: few directions carry the variance
        return x0, x1.cumsum(1) / 5
    if kind == "sorted":
        return x0[x0[:, 0].argsort()], x1[x1[:, 0].argsort()]
    return x0, x1


def optimum(x0: Tensor, x1: Tensor) -> float:
    """The independent judge: network simplex on explicit differences."""
    n = len(x0)
    costs = cdist(x0.double().flatten(1), x1.double().flatten(1), "sqeuclidean")
    return float(ot.emd2(np.full(n, 1 / n), np.full(n, 1 / n), costs, numItermax=10**8))


def is_optimal(x0: Tensor, x1: Tensor, j: Tensor) -> bool:
    return squared(x0, x1[j]).mean().item() == pytest.approx(optimum(x0, x1), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", COUPLINGS.names())
@pytest.mark.parametrize("shape", [(1, 2), (7, 2), (64, 1, 4, 4)])
def test_every_coupling_pairs(name: str, shape: tuple[int, ...]) -> None:
    x0, x1 = torch.randn(shape, generator=rng()), torch.randn(shape, generator=rng().manual_seed(1))
    coupling, label = COUPLINGS.build(name), torch.arange(len(x0)) % 3
    global_state = torch.get_rng_state()
    i, j = coupling.pair_labelled(x0, x1, label, rng())
    for index in (i, j):
        assert index.shape == shape[:1]
        assert index.dtype == torch.int64
        assert index.min() >= 0
        assert index.max() < shape[0]
    again = coupling.pair_labelled(x0.clone(), x1.clone(), label, rng())
    assert all(torch.equal(a, b) for a, b in zip((i, j), again, strict=True)), "same draw, same pairs"
    assert torch.equal(torch.get_rng_state(), global_state), "the global generator was read"
    assert COUPLINGS.build(coupling.spec()) == coupling


@pytest.mark.parametrize("kind", ["normal", "clusters", "duplicates", "offset", "correlated", "sorted"])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (33, 2), (256, 2), (150, 5), (256, 64), (200, 800)])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_pairing_is_the_optimal_permutation(kind: str, n: int, d: int, engine: str) -> None:
    x0, x1 = problem(kind, n, d)
    i, j = MinibatchOT(engine=engine).pair(x0, x1, rng())
    assert torch.equal(i, torch.arange(n))
    assert torch.equal(j.sort().values, i)
    assert is_optimal(x0, x1, j)


@pytest.mark.parametrize("engine", ["pot", "lapjv"])
def test_optimal_where_the_simplex_default_stops_early(engine: str) -> None:
    x0, x1 = problem("normal", 2048, 2)
    _, j = MinibatchOT(engine=engine).pair(x0, x1, rng())
    assert is_optimal(x0, x1, j)


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 0.0])
def test_pairs_closer_than_the_product_resolves(scale: float) -> None:
    x0 = normal(64, 32, 1).double() + 3
    shuffle = torch.randperm(64, generator=rng())
    x1 = x0[shuffle] + scale * normal(64, 32, 2)
    _, j = MinibatchOT().pair(x0, x1, rng())
    assert torch.equal(shuffle[j], torch.arange(64))


def test_clusters_so_far_apart_that_products_lose_what_is_within() -> None:
    """At ±1e8 a product of double precision is off by about 10; neighbours are some units apart, partners a thousandth."""
    side = torch.where(torch.arange(64) % 2 == 0, 1e8, -1e8).double()[:, None]
    x0 = normal(64, 8, 1).double() + side
    shuffle = torch.randperm(64, generator=rng())
    _, j = MinibatchOT().pair(x0, x0[shuffle] + 1e-3 * normal(64, 8, 2), rng())
    assert torch.equal(shuffle[j], torch.arange(64))


points = st.integers(1, 6).flatmap(lambda n: st.integers(1, 6).map(lambda d: (n, d)))
values = st.floats(-100, 100, width=32)


@settings(deadline=None)
@given(st.data(), points)
def test_no_permutation_is_cheaper(data: st.DataObject, shape: tuple[int, int]) -> None:
    x0, x1 = (torch.from_numpy(data.draw(arrays(np.float32, shape, elements=values))) for _ in range(2))
    i, j = MinibatchOT().pair(x0, x1, rng())
    best = min(squared(x0[i], x1[list(p)]).mean() for p in permutations(range(len(i))))
    assert squared(x0[i], x1[j]).mean() <= best * (1 + 1e-9) + 1e-12


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 16]))
def test_order_and_offset_do_not_matter(seed: int, d: int) -> None:
    x0, x1 = normal(48, d, seed), normal(48, d, seed + 1)
    p, q = (torch.randperm(48, generator=rng().manual_seed(seed + s)) for s in (2, 3))
    _, j = MinibatchOT().pair(x0, x1, rng())
    _, k = MinibatchOT().pair(x0[p], x1[q] + 5, rng())
    assert torch.equal(q[k], j[p]), "the same samples are paired: without ties the optimum is unique"


def test_labels_travel() -> None:
    x1 = torch.arange(8.0)[:, None] * torch.ones(8, 3)
    labels = torch.arange(8) * 10
    x0 = x1.flip(0) + 0.1
    _, j = MinibatchOT().pair(x0, x1, rng())
    assert torch.equal(labels[j], labels.flip(0))


def test_in_one_dimension_sorted_goes_to_sorted() -> None:
    x0, x1 = normal(300, 1, 3), normal(300, 1, 4)
    _, j = MinibatchOT().pair(x0, x1, rng())
    assert torch.equal(x1[j][x0[:, 0].argsort()], x1.sort(0).values)


@pytest.mark.filterwarnings("ignore:numItermax")
@pytest.mark.parametrize("engine", ["pot", "lapjv"])  # lapjv starts from duals of the simplex
def test_an_engine_that_stops_early_is_an_error(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "_MAX_ITERATIONS", 10)
    x0, x1 = problem("normal", 256, 2)
    with pytest.raises(RuntimeError, match="stopped before the optimum"):
        MinibatchOT(engine=engine).pair(x0, 5 * x1, rng())


def test_an_answer_that_is_no_permutation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(assignment._ENGINES, "lapjv", lambda costs: costs.argmin(1))
    with pytest.raises(RuntimeError, match="no permutation"):
        MinibatchOT().pair(*problem("normal", 64, 2), rng())


@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(d: int, bad: float) -> None:
    x0, x1 = problem("normal", 16, d)
    x1[3, 1] = bad
    with pytest.raises(Diverged, match="not finite"):
        MinibatchOT().pair(x0, x1, rng())


def test_sides_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        MinibatchOT().pair(normal(4, 2, 0), normal(5, 2, 0), rng())


@pytest.mark.parametrize(("key", "value"), [("engine", "sinkhorn"), ("batch", 1), ("batch", 0), ("reg", 0.1)])
def test_bad_parameters_are_user_errors(key: str, value: object) -> None:
    with pytest.raises(UserError, match=key):
        COUPLINGS.build({"name": "minibatch-ot", key: value})


# -- labels --


class Reversed(Coupling):
    """As users wrote them before there were labels."""

    name = "reversed"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.arange(len(x0))
        return index, index.flip(0)


@pytest.mark.parametrize("label", [None, torch.arange(5)])
def test_a_coupling_that_knows_no_labels_pairs_all_the_same(label: Tensor | None) -> None:
    x = normal(5, 2, 0)
    i, j = Reversed().pair_labelled(x, x, label, rng())
    assert (i.tolist(), j.tolist()) == ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])
    assert Reversed().size(256) == MinibatchOT().size(256) == 256
    assert MinibatchOT(batch=1024).size(256) == 1024


def test_within_each_label_the_pairing_is_the_optimal_permutation() -> None:
    x0, x1, label = normal(90, 2, 1), normal(90, 2, 2), torch.arange(90) % 4 * 7
    i, j = LabelOT().pair_labelled(x0, x1, label, rng())
    assert torch.equal(i, torch.arange(90))
    assert torch.equal(j.sort().values, i)
    assert torch.equal(label[j], label)
    for value in label.unique():
        own = label == value
        part = MinibatchOT().pair(x0[own], x1[own], rng())[1]
        assert torch.equal(x1[j][own], x1[own][part])
        assert is_optimal(x0[own], x1[own], part)


def test_labels_by_hand() -> None:
    """0 and 1 go to 10 and 11, labels a and b: without labels in order, with them as they must."""
    x0, x1 = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[12.0], [10.0], [11.0]])
    assert MinibatchOT().pair(x0, x1, rng())[1].tolist() == [1, 2, 0]
    assert LabelOT().pair_labelled(x0, x1, torch.tensor([0, 1, 0]), rng())[1].tolist() == [2, 1, 0]
    assert LabelOT().pair_labelled(x0, x1, torch.tensor([0, 1, 2]), rng())[1].tolist() == [0, 1, 2]
    assert LabelOT().pair_labelled(x0, x1, torch.tensor([5, 5, 5]), rng())[1].tolist() == [1, 2, 0]


def test_label_ot_refuses_what_has_no_labels() -> None:
    coupling, normal_law = LabelOT(), DATA.build("normal")
    coupling.check(normal_law, DATA.build("moons"))
    with pytest.raises(UserError, match=r"flow.coupling = 'label-ot': .* data set 's-curve' has none. Use 'minib"):
        coupling.check(normal_law, DATA.build("s-curve"))
    x = normal(4, 2, 0)
    with pytest.raises(TypeError, match="needs labels, these data have none"):
        coupling.pair_labelled(x, x, None, rng())
    with pytest.raises(TypeError, match="call pair_labelled"):
        coupling.pair(x, x, rng())


# -- broken twins: assignments that look right and are not optimal must fail the check above --


def greedy(costs: np.ndarray) -> np.ndarray:
    """Each row in turn takes the cheapest column left."""
    left, j = costs.copy(), np.empty(len(costs), dtype=np.int64)
    for row in range(len(costs)):
        j[row] = left[row].argmin()
        left[:, j[row]] = np.inf
    return j


def unsquared(costs: np.ndarray) -> np.ndarray:
    return assignment._pot(np.sqrt(costs))


@pytest.mark.parametrize("twin", [greedy, unsquared])
def test_broken_twins_are_noticed(twin: assignment.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    x0, x1 = problem("normal", 128, 2)
    monkeypatch.setitem(assignment._ENGINES, "lapjv", twin)
    _, j = MinibatchOT(engine="lapjv").pair(x0, x1, rng())
    assert not is_optimal(x0, x1, j)


def test_engines_and_batch_shape_the_identity() -> None:
    variants = [MinibatchOT(), MinibatchOT(engine="pot"), MinibatchOT(batch=512)]
    assert len({str(v.identity()) for v in variants}) == 3
    assert MinibatchOT(batch=512).label() == "minibatch-ot[batch=512]"
