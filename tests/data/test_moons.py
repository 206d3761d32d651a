"""The moons' place: one shift for both coordinates, as torchcfm's, or one each, as the authors of OT-CFM had them."""

from __future__ import annotations

import pytest
import torch

from fmbench.data import DATA


def test_a_shift_for_each_coordinate_moves_each() -> None:
    plain, moved = (DATA.build({"name": "moons", "shift": shift}) for shift in (0.0, [-1.0, 2.0]))
    difference = moved.take("test", 50) - plain.take("test", 50)
    torch.testing.assert_close(difference, torch.tensor([-1.0, 2.0]).expand(50, 2))
    assert moved.label() == "moons[shift=[-1.0,2.0]]"
    assert DATA.build(moved.spec()) == moved


def test_scaling_to_the_papers_moments() -> None:
    """(X − mean) / std · 7 over both coordinates, as the moons of moons → eight gaussians are made."""
    x = DATA.build({"name": "moons", "noise": 0.1, "scale": 9.73, "shift": -3.65}).take("test", 20_000).double()
    assert x.mean().item() == pytest.approx(0, abs=4 * 7 / 20_000**0.5)
    assert x.std().item() == pytest.approx(7, rel=0.01)
