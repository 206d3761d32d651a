from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fmbench.contrasts import combination
from fmbench.errors import UserError
from fmbench.report.compare import BETTER, INCOMPARABLE, SAME, WORSE, compare, regressed, summary
from fmbench.results import Results, frame

MACHINE = {"hardware": {"cpu": "one"}}


def row(metric: str = "w2", value: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"suite": "s", "method": "RF", "data": "moons", "source": "normal", "model": "mlp", "seed": 0,
            "sample_seed": 0, "solver": "euler", "nfe": 4.0, "metric": metric, "value": value, "stderr": 0.01, "n": 100,
            "unit": "data units", "higher_is_better": False, "status": "ok"} | more  # fmt: skip


def results(*rows: dict[str, Any], label: str = "x", **manifest: Any) -> Results:
    return Results(frame(rows), manifest or MACHINE, label=label)


def verdict(a: dict[str, Any], b: dict[str, Any], **manifest: Any) -> tuple[str, str]:
    (line,) = compare(results(a, label="a"), results(b, label="b", **manifest)).to_dict("records")
    return line["verdict"], "" if not isinstance(line["reason"], str) else line["reason"]


@pytest.mark.parametrize(
    ("higher", "shift", "expected"),
    [(False, 0.1, WORSE), (False, -0.1, BETTER), (True, 0.1, BETTER), (True, -0.1, WORSE), (False, 0.01, SAME)],
)
def test_a_known_shift_gets_its_verdict(higher: bool, shift: float, expected: str) -> None:
    """stderr 0.01 a side: a shift of 0.1 is 7 standard errors, 0.01 less than one."""
    found, reason = verdict(row(higher_is_better=higher), row(value=1 + shift, higher_is_better=higher))
    assert found == expected
    assert reason.startswith("one seed")


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ({}, {"unit": "nats"}, "unit differs"),
        ({}, {"n": 200}, "n differs: 100 against 200"),
        ({}, {"status": "diverged", "value": None, "reason": "NaN"}, "1 of 1 diverged in b: NaN"),
        ({"stderr": math.inf}, {"value": 2.0}, "uncertainty undefined"),
        ({"stderr": None}, {"value": 2.0}, "uncertainty undefined"),
        ({"higher_is_better": None}, {"value": 2.0, "higher_is_better": None}, "no direction"),
        (
            {"protocol": "features inception; reference cifar10 train, 50000 images; uint8"},
            {"protocol": "features inception; reference cifar10 test, 10000 images; uint8"},
            "protocol differs: reference cifar10 train, 50000 images against reference cifar10 test, 10000 images",
        ),
        ({"protocol": "a; b"}, {"protocol": "a"}, "protocol differs: b against no such"),
        ({"protocol": "features inception"}, {}, "protocol differs: features inception against none told"),
        ({"metric": "seconds", "device": "cpu"}, {"metric": "seconds", "device": "cuda"}, "hardware differs"),
        ({"value": math.inf}, {}, "no finite value in a"),
    ],
)
def test_what_cannot_be_compared_says_why(a: dict[str, Any], b: dict[str, Any], reason: str) -> None:
    found, why = verdict(row(**a), row(**b))
    assert found == INCOMPARABLE
    assert why.startswith(reason)


def test_without_a_direction_there_is_no_better_and_still_a_same() -> None:
    same = row("w2_squared", higher_is_better=None)
    assert verdict(same, same)[0] == SAME
    assert verdict(same, same | {"value": 1.005})[0] == SAME  # stderr 0.01 a side
    told = verdict(same | {"protocol": "a; b"}, same | {"protocol": "a; b"})
    assert told[0] == SAME


def test_hardware_data_scale_and_missing_cells() -> None:
    assert verdict(row("seconds"), row("seconds"), hardware={"cpu": "two"}) == (INCOMPARABLE, "hardware differs")
    assert verdict(row("w2"), row("w2"), hardware={"cpu": "two"})[0] == SAME
    scales = [{"data": {"moons": {"mean": 0.0, "std": std}}} for std in (1.0, 2.0)]
    table = compare(results(row(), **scales[0]), results(row(), **scales[1]))
    assert table["reason"][0].startswith("data scale differs")
    table = compare(results(row(), row("nll")), results(row(), label="other"))
    assert table["reason"][1] == "missing in other"
    with pytest.raises(UserError, match="no cell in common"):
        compare(results(row()), results(row("nll")))
    with pytest.raises(UserError, match="alpha = 5"):
        compare(results(row()), results(row()), alpha=5)


def test_a_new_failure_is_a_regression() -> None:
    broken = row(status="diverged", value=None)
    assert regressed(compare(results(row()), results(broken)))
    assert not regressed(compare(results(broken), results(row())))
    assert not regressed(compare(results(broken), results(broken)))
    assert regressed(compare(results(row()), results(row(value=2.0))))


def test_a_result_is_the_same_as_itself() -> None:
    run = results(*[row(value=1 + 0.1 * seed, seed=seed, stderr=stderr) for seed in range(3) for stderr in (0.1,)])
    table = compare(run, run)
    assert table[["verdict", "reason", "p_value"]].to_numpy().tolist() == [[SAME, "identical", 1.0]]


def test_undefined_errors_leave_the_seeds() -> None:
    """Without standard errors three paired seeds still decide: differences 1, 1.1, 0.9 against t with 2 degrees."""
    a = results(*[row(value=float(10 * seed), seed=seed, stderr=math.inf) for seed in range(3)])
    b = results(*[row(value=10 * seed + d, seed=seed, stderr=math.inf) for seed, d in enumerate([1, 1.1, 0.9])])
    (line,) = compare(a, b).to_dict("records")
    assert line["verdict"] == WORSE
    assert line["p_value"] == pytest.approx(0.0033, abs=0.0002)  # t = 1 / (0.1 / √3) = 17.32
    apart = results(*[row(value=10 * s + 1.0, seed=s + 5, stderr=math.inf) for s in range(3)])
    assert compare(a, apart)["verdict"][0] == INCOMPARABLE  # other seeds are no pairs


def test_adaptive_cells_match_whatever_they_cost_and_floors_stay_out() -> None:
    rows = [
        [row(solver="dopri5", rtol=1e-5, nfe=nfe), row(model="data", method=None, solver=None)] for nfe in (40.0, 46)
    ]
    table = compare(results(*rows[0]), results(*rows[1], label="y"))
    assert table["verdict"].tolist() == [SAME]


@pytest.mark.parametrize("spread", [0.0, 0.05], ids=["samples dominate", "seeds dominate"])
def test_the_null_is_rejected_at_most_at_its_rate(spread: float) -> None:
    """1,000 single-cell comparisons of equal laws, three seeds, 5 %: at most 5 % + 3 binomial standard errors (2.1 %).

    A normal test would reject 19 % where seeds dominate (Student's t with two degrees exceeds 1.96 so often).
    """
    rng, rejected, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        sides = [
            [row(value=1 + rng.normal(0, spread) + rng.normal(0, 0.01), seed=seed) for seed in range(3)] for _ in "ab"
        ]
        rejected += _verdict_of(sides) != SAME
    assert rejected / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def _verdict_of(sides: list[list[dict[str, Any]]]) -> str:
    return SAME if combination([(1, sides[1]), (-1, sides[0])]).p_value > 0.05 else WORSE


def test_many_cells_are_corrected_and_counted() -> None:
    """200 null cells and 5 shifted by ten standard errors: exactly the five are found."""
    rng = np.random.default_rng(1)
    sides: list[list[dict[str, Any]]] = [[], []]
    for cell in range(205):
        for place, side in enumerate(sides):
            shift = 0.15 * place * (cell < 5)
            side.extend(row(value=1 + shift + rng.normal(0, 0.01), nfe=float(cell + 1), seed=s) for s in range(3))
    table = compare(results(*sides[0]), results(*sides[1]))
    assert summary(table).loc["w2"].to_dict() == {BETTER: 0, WORSE: 5, SAME: 200, INCOMPARABLE: 0}
    assert (table["low"] < 0.15).all()
    assert table.loc[:4, "difference"].to_numpy() == pytest.approx(0.15, abs=0.04)
