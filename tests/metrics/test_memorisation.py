from __future__ import annotations

import dataclasses

import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.errors import Skip
from fmbench.metrics import METRICS, Evidence, Geometry
from fmbench.metrics.memorisation import errors

FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))
METRIC = METRICS.build({"name": "pair_memorisation", "n": 400})


def evidence(n: int = 400, gap: float = 0.0, misfit: float = 0.0, **changes: object) -> Evidence:
    """A reflow round of the Gaussian flow whose pairs are straight; its velocity is off by `misfit`, and on fresh pairs alone
    by `gap` more.
    """
    teacher = FLOW.geometry(n, seed=1)
    own = FLOW.geometry(n, seed=2)
    mean, std = torch.tensor(FLOW.mean), torch.tensor(FLOW.std)
    fresh = teacher.z0.float()

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        scale = 1 - t[:, None].float() + t[:, None].float() * std
        z0 = (x - t[:, None].float() * mean) / scale  # the start of the straight line through x
        known = (z0[:, None] - fresh).abs().amax(2).amin(1) < 1e-3
        return mean + (std - 1) * z0 + misfit + gap * known[:, None]

    pairs = {"teacher": teacher, "coupled": lambda k: (own.z0[:k], own.z1[:k]), "velocity": velocity}
    return FLOW.evidence(n, **{**pairs, **changes})


def test_a_field_that_knows_no_pair_better_has_none() -> None:
    found = METRIC.measure(evidence())
    assert abs(found.value) < 1e-6
    assert found.n == 400


def test_the_gap_is_measured_exactly() -> None:
    found = METRIC.measure(evidence(gap=0.5))
    assert found.value == pytest.approx(2 * 0.5**2, abs=0.02), "two dimensions, each off by a half on fresh pairs"


def test_what_is_wrong_on_all_pairs_is_no_memorisation_but_to_a_twin() -> None:
    """(0.3 + 0.5)² − 0.3² in two dimensions; the twin forgets the training pairs, whose error is to be taken away."""
    seen = evidence(gap=0.5, misfit=0.3)
    assert seen.teacher is not None
    twin = errors(seen, seen.teacher.z0, seen.teacher.z1).mean().item()
    assert METRIC.measure(seen).value == pytest.approx(2 * (0.8**2 - 0.3**2), abs=0.02)
    assert twin == pytest.approx(2 * 0.8**2, abs=0.02)


def test_a_twin_that_forgets_fresh_pairs_is_noticed() -> None:
    """Held against the training pairs twice, the metric would be blind to memorisation."""
    seen = evidence(gap=0.5)
    x0, x1 = seen.coupled(400)
    zero = torch.zeros(400, dtype=torch.float64)
    blind = dataclasses.replace(seen, teacher=Geometry(x0, x1, x0, zero, zero, zero, error=0.0))
    assert abs(METRIC.measure(blind).value) < 1e-6


@pytest.mark.parametrize("k", [1, 4])
def test_a_student_is_asked_at_its_own_times(k: int) -> None:
    """A student of k steps whose velocity is right at 0, 1/k, … and nowhere else: stratified times are its own, each as often."""
    asked: list[Tensor] = []
    right = evidence().velocity
    assert right is not None

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        asked.append(t)
        return torch.where(((k * t) % 1 == 0)[:, None], right(t, x), torch.nan)

    found = METRIC.measure(evidence(velocity=velocity, distilled=k))
    assert abs(found.value) < 1e-6
    times, counts = torch.cat(asked).unique(return_counts=True)
    assert times.tolist() == [j / k for j in range(k)]
    assert counts.tolist() == [2 * 400 / k] * k, "of fresh and of training pairs"


def test_the_first_round_has_nothing_to_memorise() -> None:
    with pytest.raises(Skip, match="the first round has no fixed pairs"):
        METRIC.measure(evidence(teacher=None))


def test_each_pair_is_asked_with_its_own_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks too. A label is the side on which a pair starts, and whoever is told the other is off by one."""
    monkeypatch.setattr("fmbench.metrics.memorisation.CHUNK", 150)
    plain, own = evidence(), FLOW.geometry(400, seed=2)
    assert plain.teacher is not None
    mean, std = torch.tensor(FLOW.mean), torch.tensor(FLOW.std)

    def conditional(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        t = t[:, None].float()
        z0 = (x - t * mean) / (1 - t + t * std)
        return mean + (std - 1) * z0 + (label != (z0[:, 0] > 0))[:, None]

    known = {
        "label": (plain.teacher.z0[:, 0] > 0).long(),
        "labelled": lambda k: (own.z0[:k], own.z1[:k], (own.z0[:k, 0] > 0).long()),
        "conditional": conditional,
    }
    assert METRIC.measure(dataclasses.replace(plain, **known)).value == pytest.approx(0, abs=0.02)
    turned = {**known, "label": 1 - known["label"]}  # type: ignore[operator]
    assert METRIC.measure(dataclasses.replace(plain, **turned)).value == pytest.approx(2, abs=0.02)


def test_a_path_that_ends_early_is_asked_within_it() -> None:
    asked: list[Tensor] = []
    right = evidence().velocity
    assert right is not None

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        asked.append(t)
        return right(t, x)

    METRIC.measure(evidence(velocity=velocity, end_time=0.5))
    assert 0.49 < torch.cat(asked).max() < 0.5
