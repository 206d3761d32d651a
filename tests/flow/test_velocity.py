"""Velocity counts what is called, where it is called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmbench.errors import BudgetExceeded, Diverged
from fmbench.flow.velocity import Velocity, count_vjps, require_finite


def test_counts_and_holds_to_its_budget() -> None:
    calls = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        calls.append(t)
        return 2 * x

    velocity, t, x = Velocity(field, max_nfe=3), torch.tensor(0.5), torch.ones(2)
    assert torch.equal(velocity(t, x), 2 * x)
    velocity(t, x)
    velocity(t, x)
    assert velocity.nfe == len(calls) == 3
    with pytest.raises(BudgetExceeded, match="max_nfe = 3"):
        velocity(t, x)
    assert len(calls) == 3, "the call beyond the budget was made"


def test_a_guided_evaluation_costs_two() -> None:
    velocity = Velocity(lambda t, x, label=None: x, label=torch.zeros(4), guidance=2)
    velocity(torch.tensor(0.0), torch.ones(3, 1))
    assert (velocity.nfe, velocity.evaluations) == (2, 6)


def test_what_leaves_the_batch_is_called_no_more() -> None:
    velocity, t = Velocity(lambda t, x: x), torch.tensor(0.0)
    velocity(t, torch.ones(5, 2))
    velocity(t, torch.ones(2, 2))
    assert (velocity.nfe, velocity.evaluations) == (2, 7)


def test_products_are_counted_where_the_field_counts() -> None:
    velocity, x = Velocity(lambda t, x: x), torch.ones(4, 2)
    count_vjps(velocity, x, 3)
    count_vjps(velocity.field, x)  # a bare function keeps no books
    assert velocity.vjps == 12


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_require_finite(bad: float) -> None:
    fine = torch.tensor([1.0, 2.0])
    assert require_finite(fine, "x") is fine
    with pytest.raises(Diverged, match="sampling left the finite numbers"):
        require_finite(torch.tensor([1.0, bad]), "sampling")
