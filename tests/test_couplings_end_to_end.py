"""Couplings from the suite file to the table: larger problems than the batch, entropic plans, labels, their diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from fmbench.errors import UserError
from fmbench.execute import missing
from fmbench.plan import make_plan
from fmbench.store import Store
from fmbench.suite import load, parse

Tiny = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("batch", [32, pytest.param(256, marks=pytest.mark.slow)])
def test_flows_train_on_every_coupling(batch: int, tiny: Tiny, measured: Callable[..., pd.DataFrame]) -> None:
    """Problems of four training batches and of half of one; the cheaper the pairs, the larger the problem."""
    wide, half = 4 * batch, batch // 2
    couplings = ["independent", "minibatch-ot", {"name": "minibatch-ot", "batch": wide},
                 {"name": "sinkhorn", "batch": half}, {"name": "label-ot", "batch": wide}]  # fmt: skip
    table = measured(
        tiny(
            flow__coupling=couplings,
            flow__seed=0,
            train={"samples": 16 * batch, "batch": batch},
            metrics=["transport_cost", {"name": "train_coupling_cost", "n": 16 * batch}],
        )
    )
    assert set(table["status"]) == {"ok"}, table[["metric", "reason"]].dropna()
    cost, reached = (
        table[table["metric"] == m].set_index("coupling")["value"] for m in ("train_coupling_cost", "transport_cost")
    )
    assert cost[f"minibatch-ot[batch={wide}]"] < cost["minibatch-ot"] < cost[f"sinkhorn[batch={half}]"]
    assert max(cost[f"sinkhorn[batch={half}]"], cost[f"label-ot[batch={wide}]"]) < cost["independent"]
    assert reached.nunique() == len(couplings), "every coupling made a flow of its own"


def test_label_ot_without_labels_is_refused_before_anything_is_computed(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"data set 's-curve' has none\. Use 'minibatch-ot'"):
        make_plan(parse(tiny(data="s-curve", flow__coupling="label-ot")))


def test_coupling_lab_trains_and_solves_nothing() -> None:
    suite = load("coupling-lab")
    work = missing(make_plan(suite), Store())
    assert (work.train_samples, work.solves) == (0, 0)
    assert work.values == len(suite.tasks) * len(suite.flow.coupling) * len(suite.metrics)
