"""Diagnostics of couplings: values known by hand and in closed form, honest errors, twins that must be noticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import ot
import pytest
import torch
from torch import Tensor

from fmbench.data import DATA, Data
from fmbench.errors import Skip
from fmbench.flow import COUPLINGS, PATHS, Coupling
from fmbench.metrics import METRICS
from fmbench.metrics.base import Exact, Geometry, Pairing, PerSampleMetric
from fmbench.metrics.coupling import (
    CouplingBias,
    CouplingMilliseconds,
    DistinctPairs,
    IndependentCost,
    LabelSkew,
    Minibatch,
    median,
    problem_size,
)
from fmbench.stages.measure import coupled
from fmbench.statistics import Estimate, mean


class Replaced(Coupling):
    """The broken twin of an assignment: each x0 takes its nearest x1, used or not."""

    name = "nearest"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.arange(len(x0)), torch.cdist(x0.flatten(1), x1.flatten(1)).argmin(1)


class Redrawn(Coupling):
    """Pairs drawn uniformly with replacement."""

    name = "redrawn"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.arange(len(x0)), torch.randint(len(x0), (len(x0),), generator=rng)


class Steps(Data):
    """x1 = +-10 by a fair coin, which is its label; x0 = 0, 1, 2, … where it is the source."""

    name = "steps"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(2, (n,), generator=rng)
        return 20.0 * label[:, None] - 10, label


def pairing(coupling: Any = "independent", batch: int = 64, seed: int = 0, **laws: Any) -> Pairing:
    data, source = DATA.build("moons"), DATA.build("eight-gaussians")
    if not isinstance(coupling, Coupling):
        coupling = COUPLINGS.build(coupling)
    known = {"data": data, "source": source, **laws}
    draw = coupled(known["data"], known["source"], coupling, batch, seed)
    return Pairing(**known, coupling=coupling, train_batch=batch, coupled=draw, seed=seed)


def measure(name: str, of: Pairing, **parameters: Any) -> Estimate:
    return METRICS.build({"name": name, **parameters}).measure(of)  # type: ignore[arg-type]


def near(estimate: Estimate, value: float, errors: float = 4) -> bool:
    return abs(estimate.value - value) < errors * estimate.stderr


# -- costs --


def test_independent_cost_is_the_closed_form() -> None:
    """E‖x1 − x0‖² = ‖μ1 − μ0‖² + tr Σ1 + tr Σ0 of independent Gaussians: 5 + (0.25 + 4) + 2."""
    data = DATA.build({"name": "gaussian-mixture", "means": [[1, 2]], "stds": [[0.5, 2]]})
    laws = {"data": data, "source": DATA.build({"name": "normal", "dims": [2]})}
    for coupling in ("independent", "minibatch-ot"):
        estimate = measure("independent_cost", pairing(coupling, **laws), n=4096)
        assert near(estimate, 11.25)
        assert (estimate.stderr < 0.2, estimate.n) == (True, 4096)
    assert near(measure("train_coupling_cost", pairing(**laws), n=4096), 11.25)
    assert not near(measure("train_coupling_cost", pairing("minibatch-ot", **laws), n=4096), 11.25)


def test_true_costs_from_a_source_that_is_not_centred() -> None:
    """N(−2, 1) to N(1, 0.5²), independent: x1 − x0 ~ N(3, 1.25), a folded normal for ‖·‖₁ and ‖·‖."""
    laws = [
        DATA.build({"name": "gaussian-mixture", "means": [[m]], "stds": [[s]]}) for m, s in ((-2.0, 1.0), (1.0, 0.5))
    ]
    known = Exact(PATHS.build("rectified"), *laws, COUPLINGS.build("independent"))
    folded = math.sqrt(2.5 / math.pi) * math.exp(-9 / 2.5) + 3 * math.erf(3 / math.sqrt(2.5))
    for cost, value in (("", 9 + 1.25), ("_l1", folded), ("_l2", folded)):
        assert METRICS.build(f"train_coupling_cost{cost}").true_value(known) == pytest.approx(value, rel=1e-9)


def test_coupling_cost_in_one_dimension_is_that_of_sorted_samples() -> None:
    line = {name: DATA.build({"name": "gaussian-mixture", "means": [[m]], "stds": s}) for name, m, s in
            (("data", 3.0, 2.0), ("source", 0.0, 1.0))}  # fmt: skip
    of = pairing("minibatch-ot", batch=32, **line)
    expected = []
    for k in range(4):
        m = Minibatch.draw(of.data, of.source, of.coupling, 32, 0, k)
        expected.append((m.x1.double().sort(0).values - m.x0.double().sort(0).values).square().mean())
    estimate = measure("train_coupling_cost", of, n=128)
    values = torch.stack(expected)
    assert estimate.value == pytest.approx(values.mean().item(), rel=1e-9)
    assert estimate.stderr == pytest.approx(values.std().item() / 2, rel=1e-9)
    large = measure("train_coupling_cost", pairing("minibatch-ot", batch=1024, **line), n=8192)
    assert near(large, 3**2 + (2 - 1) ** 2, 5)  # W2² of the laws, n^(−1) log n away from it


@pytest.mark.parametrize(
    ("cost", "c"), {"_l1": lambda d: 3 + d, "_l2": lambda d: (9 + d * d) ** 0.5, "_power": lambda d: (9 + d * d) ** 0.75,
                    "": lambda d: 9 + d * d}.items()
)  # fmt: skip
def test_every_cost_of_the_coupling_is_that_of_the_same_displacements(cost: str, c: Any) -> None:
    """Displacements (3, 0) and (3, 4), as often: twice the same cost, whether the pairs are a round's or a minibatch's."""
    x0 = torch.zeros(100, 2)
    x1 = x0 + torch.tensor([3.0, 4.0]) * torch.tensor([[1.0, k % 2] for k in range(100)])
    of = replace(pairing(), coupled=lambda n: (x0[:n], x1[:n]), fixed=100)
    found = measure(f"train_coupling_cost{cost}", of)
    assert (found.value, found.n) == (pytest.approx((c(0) + c(4)) / 2), 100)
    whole = replace(of, coupling=COUPLINGS.build("minibatch-ot"), train_batch=20, fixed=None)
    assert measure(f"train_coupling_cost{cost}", whole, n=99) == Estimate(found.value, 0.0, 100, 4)
    wrong = measure(f"train_coupling_cost{cost}", replace(of, coupled=lambda n: (x0[:n], x1[:n].abs().sqrt())))
    assert abs(wrong.value - found.value) > 10 * found.stderr, "roots of the pairs' ends are other pairs"


@pytest.mark.parametrize("cost", ["", "_l1", "_l2", "_power"])
def test_a_cost_of_the_coupling_is_its_flow_s_on_the_same_pairs(cost: str) -> None:
    """`reflow-cost-nonincreasing` holds one against the other: they must be the same c."""
    rng = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(50, 3, generator=rng) for _ in range(2))
    zero = torch.zeros(50, dtype=torch.float64)
    geometry = Geometry(x0, x1, x0, zero, zero, zero, error=0.0)
    own = METRICS.build(f"transport_cost{cost}")
    coupling = measure(f"train_coupling_cost{cost}", replace(pairing(), coupled=lambda n: (x0, x1), fixed=50))
    assert isinstance(own, PerSampleMetric)
    assert coupling == mean(own.per_sample(geometry))
    assert own.unit == METRICS.build(f"train_coupling_cost{cost}").unit


def test_n_is_rounded_up_to_whole_problems_and_one_problem_has_no_error() -> None:
    for name in ("train_coupling_cost", "independent_cost", "distinct_pairs", "coupling_label_skew"):
        assert measure(name, pairing("minibatch-ot"), n=100).n == 128
    for name in ("train_coupling_cost", "distinct_pairs", "coupling_label_skew"):
        assert measure(name, pairing("minibatch-ot"), n=64).stderr == math.inf
    assert measure("train_coupling_cost", pairing({"name": "minibatch-ot", "batch": 256}), n=100).n == 256


def test_errors_cover_what_another_seed_changes() -> None:
    for name in ("train_coupling_cost", "coupling_label_skew", "coupling_bias"):
        n = {"n": 512, **({"repeats": 1} if name == "coupling_bias" else {})}
        seen = [measure(name, pairing("minibatch-ot", batch=32, seed=seed), **n) for seed in range(24)]
        values = torch.tensor([e.value for e in seen])
        typical = torch.tensor([e.stderr for e in seen]).square().mean().sqrt()
        assert 0.65 < values.std() / typical < 1.45, name  # 24 draws: 1 ± 3 / √46


# -- distinct pairs --


def test_distinct_pairs_of_known_couplings() -> None:
    for coupling in ("independent", "minibatch-ot", "label-ot"):
        assert measure("distinct_pairs", pairing(coupling), n=256) == Estimate(1.0, 0.0, 256, 3)
    redrawn = measure("distinct_pairs", pairing(Redrawn()), n=8192)
    assert near(redrawn, 1 - (1 - 1 / 64) ** 64)
    assert measure("distinct_pairs", pairing(Replaced()), n=256).value < 0.6
    assert measure("distinct_pairs", pairing({"name": "sinkhorn", "reg": 2}), n=1024).value == pytest.approx(
        0.7, abs=0.1
    )


# -- bias --


def test_bias_is_the_excess_over_the_plan_of_all_samples() -> None:
    of = pairing("minibatch-ot", batch=16)
    excess = []
    for repeat in range(2):  # of fresh minibatches each
        parts = [Minibatch.draw(of.data, of.source, of.coupling, 16, 0, 4 * repeat + k) for k in range(4)]
        x0, x1 = (torch.cat(side).double().numpy() for side in zip(*[(m.x0, m.x1) for m in parts], strict=True))
        excess.append(sum(m.cost() for m in parts) / 4 - ot.emd2([], [], ot.dist(x0, x1)))
        estimate = measure("coupling_bias", of, n=64, repeats=repeat + 1)
        assert estimate.value == pytest.approx(sum(excess) / len(excess), rel=1e-9)
        assert (estimate.n, estimate.value > 0) == (64, True)


def test_bias_by_hand() -> None:
    """Minibatches of one sample pair as drawn: x0 = 0, 1 with x1 = 1, 0 cost 1 + 1, the full plan nothing."""

    class Two(Data):
        name = "two"

        def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
            return torch.randint(2, (n, 1), generator=rng).float(), None

    of = pairing("minibatch-ot", batch=1, data=Two(), source=Two())
    parts = [Minibatch.draw(of.data, of.source, of.coupling, 1, 0, k) for k in range(50)]
    x0, x1 = (torch.cat(side) for side in zip(*[(m.x0, m.x1) for m in parts], strict=True))
    crossed, surplus = (x0 != x1).double().mean().item(), abs(x0.sum() - x1.sum()).item() / 50
    assert measure("coupling_bias", of, n=50, repeats=1).value == pytest.approx(crossed - surplus)


def test_bias_falls_with_the_batch() -> None:
    biases = [measure("coupling_bias", pairing("minibatch-ot", batch=b), n=512, repeats=2) for b in (8, 32, 128)]
    assert all(a.value > b.value + 2 * (a.stderr + b.stderr) for a, b in pairwise(biases))
    assert biases[-1].value > 0


def test_a_coupling_that_spoils_a_marginal_is_noticed_by_its_sign() -> None:
    estimate = measure("coupling_bias", pairing(Replaced()), n=512, repeats=1)
    assert estimate.value < -5 * estimate.stderr


# -- labels --


def test_label_skew_in_closed_form() -> None:
    """x0 ~ N(0, 1), x1 = ±10 labelled: transport sends the sign of x0 with the label, E[x0 | label] = ±√(2/π)."""
    laws = {"data": Steps(), "source": DATA.build({"name": "normal", "dims": [1]})}
    skewed = measure("coupling_label_skew", pairing("minibatch-ot", batch=1024, **laws), n=16384)
    assert skewed.value == pytest.approx(2 / math.pi, abs=0.02)
    for coupling in ("independent", "label-ot"):
        estimate = measure("coupling_label_skew", pairing(coupling, **laws), n=8192)
        assert near(estimate, 0)
        assert estimate.stderr < 0.002
    with pytest.raises(Skip, match="'s-curve' has no labels"):
        measure("coupling_label_skew", pairing(data=DATA.build("s-curve")))


def test_label_skew_by_hand() -> None:
    """x0 = 0, 0, 2, 2 labelled a, a, b, b: all between; labelled a, b, a, b: (0 − 1 · 2) / (4 + 2)."""

    class Fixed(Data):
        name = "fixed"
        labels: tuple[int, ...]

        def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            return torch.tensor([[0.0], [0.0], [2.0], [2.0]]), torch.tensor(self.labels)

    for labels, value in (((0, 0, 1, 1), 1.0), ((0, 1, 0, 1), -2 / 6)):
        law = Fixed(labels=labels)
        estimate = measure("coupling_label_skew", pairing(batch=4, data=law, source=law), n=4)
        assert (estimate.value, estimate.stderr) == (pytest.approx(value), math.inf)


def test_the_label_skews_error_is_the_jackknifes() -> None:
    """√((K − 1)/K Σ_k (θ_k − mean θ)²), θ_k the share without the k-th of K minibatches, on K − 1 degrees of freedom."""
    of, count = pairing("minibatch-ot", batch=16), 5
    parts = [Minibatch.draw(of.data, of.source, of.coupling, 16, 0, k) for k in range(count)]

    def share(kept: list[Minibatch]) -> float:
        x = torch.cat([m.x0[m.i] for m in kept]).double()
        label = torch.cat([m.label[m.j] for m in kept if m.label is not None])
        groups = [x[label == value] for value in label.unique()]
        apart = sum(len(g) * (g.mean(0) - x.mean(0)).square().sum().item() for g in groups)
        rest = sum((g - g.mean(0)).square().sum().item() for g in groups)
        within = rest / (len(x) - len(groups))
        return (apart - (len(groups) - 1) * within) / (apart + rest + within)

    without = torch.tensor([share(parts[:k] + parts[k + 1 :]) for k in range(count)], dtype=torch.float64)
    error = math.sqrt((count - 1) / count * (without - without.mean()).square().sum().item())
    expected = (share(parts), error, 16 * count, count - 1)
    found = measure("coupling_label_skew", of, n=16 * count)
    assert (found.value, found.stderr, found.n, found.freedom) == pytest.approx(expected, rel=1e-9)


# -- time --


class Asleep(Coupling):
    """Takes the seconds that a script of a clock says."""

    name = "asleep"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.arange(len(x0)), torch.arange(len(x0))


WARM_UP = [9.0, 0.005, 0.001, 0.002, 0.004, 0.003]  # seconds, the first problem's first


def test_milliseconds_are_the_median_per_training_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([tick for k, seconds in enumerate(WARM_UP) for tick in (10.0 * k, 10.0 * k + seconds)])
    monkeypatch.setattr("fmbench.metrics.coupling.time.perf_counter", lambda: next(clock))
    estimate = measure("coupling_milliseconds", pairing(Asleep()), repeats=5)
    assert (estimate.value, estimate.n) == (pytest.approx(3.0), 5)
    assert estimate.stderr == pytest.approx(4 / (2 * 1.96))
    monkeypatch.undo()
    large = pairing({"name": "minibatch-ot", "batch": 256})
    plain = pairing("minibatch-ot", batch=256)
    ratio = (
        measure("coupling_milliseconds", plain, repeats=5).value
        / measure("coupling_milliseconds", large, repeats=5).value
    )
    assert 1 < ratio < 16, "a problem of four batches serves four of them"
    assert measure("coupling_milliseconds", plain, repeats=3).stderr == math.inf


def test_the_median_s_error_is_about_that_of_normal_draws() -> None:
    x = torch.randn(2000, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(1).values
    seen = [median(row.tolist()) for row in x]
    spread = torch.tensor([e.value for e in seen]).std().item()
    assert sum(e.stderr for e in seen) / len(seen) == pytest.approx(spread, rel=0.15)
    assert median([1.0, 2.0, 4.0, 8.0]) == Estimate(3.0, math.inf, 4)
    ranks = [float(k) for k in range(1, 26)]  # c = 13 − 1.96 · 2.5 rounded down = 8: the 8th and the 18th of 25
    assert median(ranks) == Estimate(13.0, pytest.approx(10 / (2 * 1.96)), 25, 24)


# -- reflow, and broken twins of the metrics --


def test_a_reflow_round_has_a_cost_and_no_minibatches() -> None:
    z0 = torch.arange(200.0)[:, None]
    draw = coupled(DATA.build("moons"), DATA.build("normal"), COUPLINGS.build("independent"), 64, 0, (z0, z0 + 3))
    plain = pairing()
    of = Pairing(**{**vars(plain), "fixed": 200, "coupled": draw})
    assert measure("train_coupling_cost", of, n=150) == Estimate(9.0, 0.0, 150, 149)
    assert measure("train_coupling_cost", of, n=1000).n == 200, "all that there are"
    for name in METRICS.names():
        if METRICS.get(name).scope == "coupling" and not name.startswith("train_coupling_cost"):
            with pytest.raises(Skip, match="reflow round trains on fixed pairs"):
                measure(name, of)


class CountsRows(DistinctPairs):
    def measure(self, evidence: Pairing) -> Estimate:
        shares = [len(m.i.unique()) / len(m.x0) for m in self.minibatches(evidence)]
        return Estimate(sum(shares) / len(shares), 0.0, self.n)


class AgainstItself(CouplingBias):
    def measure(self, evidence: Pairing) -> Estimate:
        return super().measure(Pairing(**{**vars(evidence), "coupling": COUPLINGS.build("minibatch-ot")}))


class DrawnLabels(LabelSkew):
    """Forgets that labels travel with x1."""

    def minibatches(self, pairing: Pairing) -> list[Minibatch]:
        return [Minibatch(m.x0, m.x1, m.label, m.i, m.i) for m in super().minibatches(pairing)]


class AsPaired(IndependentCost):
    """The cost after pairing."""

    def measure(self, evidence: Pairing) -> Estimate:
        return mean(torch.tensor([m.cost() for m in self.minibatches(evidence)], dtype=torch.float64))


class FromTheFirst(CouplingMilliseconds):
    """Times the warm-up as well, and takes the mean."""

    def measure(self, evidence: Pairing) -> Estimate:
        seconds = [self.seconds(evidence, problem_size(evidence), k) for k in range(self.repeats + 1)]
        return mean(1e3 * torch.tensor(seconds, dtype=torch.float64))


def test_a_twin_that_counts_the_warm_up_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine seconds before five of 1 to 5 ms, a median of 3."""
    found = []
    for metric in (CouplingMilliseconds(repeats=5), FromTheFirst(repeats=5)):
        clock = iter([tick for k, took in enumerate(WARM_UP) for tick in (10.0 * k, 10.0 * k + took)])
        monkeypatch.setattr("fmbench.metrics.coupling.time.perf_counter", lambda clock=clock: next(clock))
        found.append(metric.measure(pairing(Asleep())).value)
    assert found == [pytest.approx(3.0), pytest.approx(9015 / 6)]


def test_broken_twins_are_noticed() -> None:
    of = pairing("minibatch-ot", batch=32)
    apart = measure("independent_cost", of, n=2048)
    assert near(measure("train_coupling_cost", pairing(), n=2048), apart.value, 6)
    assert AsPaired(n=2048).measure(of).value < 0.9 * apart.value
    assert CountsRows(n=256).measure(pairing(Redrawn())).value == 1.0 != pytest.approx(1 - (1 - 1 / 64) ** 64, abs=0.1)
    of = pairing(batch=32)
    assert AgainstItself(n=128).measure(of).value < 0.5 * measure("coupling_bias", of, n=128).value
    laws = {"data": Steps(), "source": DATA.build({"name": "normal", "dims": [1]})}
    assert DrawnLabels(n=2048).measure(pairing("minibatch-ot", batch=256, **laws)).value < 0.1


@pytest.mark.parametrize(
    ("metric", "value", "twin"),
    [
        ("train_coupling_cost", 25, lambda d: d.norm(dim=1)),  # not squared
        ("train_coupling_cost_l1", 7, lambda d: d.norm(dim=1)),
        ("train_coupling_cost_l2", 5, lambda d: d.square().sum(1)),
        ("train_coupling_cost_power", 5**1.5, lambda d: d.abs().pow(1.5).sum(1)),  # coordinate by coordinate
    ],
)
def test_costs_of_known_pairs_and_their_twins(metric: str, value: float, twin: Callable[[Tensor], Tensor]) -> None:
    """Each pair is (3, −4) apart: ‖·‖₁ = 7, ‖·‖ = 5, ‖·‖² = 25, ‖·‖^1.5 = 5^1.5."""
    apart = torch.tensor([3.0, -4.0])
    known = replace(pairing(), coupled=lambda n: (torch.zeros(n, 2), apart.expand(n, 2)))
    assert measure(metric, known, n=128).value == pytest.approx(value, rel=1e-6)
    assert twin(apart[None]).item() != pytest.approx(value, rel=1e-2)


def test_a_full_plan_must_be_more_than_the_minibatch() -> None:
    with pytest.raises(Skip, match="the minibatch's own: raise the metric's n above 256"):
        measure("coupling_bias", pairing("minibatch-ot", batch=256), n=256)
