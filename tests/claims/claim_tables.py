"""Made-up tables on which each shipped claim must be supported, must be refuted, and must lose each of its guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fmbench.claims import CLAIMS, Claim
from fmbench.paired import REUSED
from fmbench.table import COLUMNS

Rows = list[dict[str, Any]]

UNITS = {"w2": "data units", "energy_coefficient": "1", "marginal_gap": "1", "marginal_p_value": "1", "gradient_gap": "1",
         "straightness_normalized": "1", "solver_error": "data units", "reference_error": "data units", "nfe": "calls",
         "transport_cost_l1": "data units", "transport_cost_l2": "data units"}  # fmt: skip
FLOW = {"suite": "s", "method": "RF", "data": "d", "source": "normal", "path": "rectified", "coupling": "independent",
        "prediction": "velocity", "times": "uniform", "model": "mlp", "reflow": 0, "distilled": 0}  # fmt: skip
SEEDS = 5


class Sheet:
    """Rows by the dozen: every value is spread by a thousandth over seeds and known to a thousandth within one."""

    def __init__(self) -> None:
        self.rows: Rows = []
        self.rng = np.random.default_rng(0)

    def add(self, metric: str, value: float, seeds: int = SEEDS, *, exact: bool = False, **columns: Any) -> None:
        for seed in range(seeds):
            spread = 0.0 if exact else 0.001 * abs(value)
            row = {**dict.fromkeys(COLUMNS), **FLOW, "solver": "reference", **columns, "metric": metric, "seed": seed,
                   "sample_seed": 0, "n": 1000, "value": value + spread * self.rng.normal(), "stderr": spread,
                   "unit": UNITS.get(metric, "data units²"), "higher_is_better": False, "status": "ok"}  # fmt: skip
            self.rows.append({**row, "key": f"{metric}-{len(self.rows)}"})

    def coupling(self, metric: str, value: float, **columns: Any) -> None:
        """A value of the training coupling: no training seed before the first round."""
        before = len(self.rows)
        self.add(metric, value, **columns)
        if not columns.get("reflow"):
            del self.rows[before + 1 :]
            self.rows[before]["seed"] = None

    def flow(self, cost: float = 4.0, straightness: float = 1.0, error: float = 0.1, **columns: Any) -> None:
        """The geometry of a flow that reaches its data."""
        self.add("transport_cost", cost, **columns)
        self.add("straightness", straightness, **columns)
        self.add("straightness_normalized", straightness / cost, **columns)
        self.add("reference_error", 1e-5, exact=True, **columns)
        self.add("w2", error, **{**columns, "solver": "rk4", "steps": 25, "nfe": 100.0, "grid": "uniform"})

    def curve(self, metric: str, solver: str, values: dict[int, float], calls: int = 1, **columns: Any) -> None:
        for steps, value in values.items():
            place = {"solver": solver, "steps": steps, "nfe": float(steps * calls), "grid": "uniform"}
            self.add(metric, value, **{**columns, **place})

    def floor(self) -> None:
        self.add("w2", 0.05, seeds=1, model="data", method="data", path=None, coupling=None, prediction=None, times=None,
                 reflow=None, distilled=None, solver=None)  # fmt: skip
        self.rows[-1]["seed"] = None


def rounds(good: bool) -> Rows:
    """Three rounds; the bad one costs more than what it was trained on, and bends again."""
    sheet = Sheet()
    sheet.floor()
    for k, (cost, trained, straightness) in enumerate(((4.0, 10.0, 2.0), (3.9, 4.02, 0.02), (3.88, 3.92, 0.01))):
        if k == 2 and not good:
            cost, straightness = 5.0, 7.0
        sheet.flow(cost, straightness, reflow=k)
        sheet.add("transport_cost_l1", cost / 2, reflow=k)
        sheet.add("transport_cost_l2", cost / 3, reflow=k)
        sheet.add("transport_cost_power", cost / 4, reflow=k)
        sheet.add("one_step_error", 0.001 if good else 0.5, reflow=k)
        sheet.add("balance_residual", 0.002 if good or k < 2 else 2.0, reflow=k)
        sheet.coupling("train_coupling_cost", trained, reflow=k)
    return sheet.rows


def never_straight(good: bool) -> Rows:
    """S stays where it was: beyond the rate of the theorem, which by K = 2 asks for less than 1."""
    rows = rounds(True)
    if not good:
        for row in rows:
            if row["metric"] == "straightness":
                row["value"] = 5.5 + 0.001 * row["seed"]
    return rows


def marginals(good: bool) -> Rows:
    sheet = Sheet()
    sheet.flow()
    sheet.add("marginal_gap", 0.002 if good else 0.04)
    sheet.add("marginal_p_value", 0.001)
    return sheet.rows


def ends(left: dict[str, Any], right: dict[str, Any], gaps: tuple[float, float]) -> Rows:
    """Two flows by how far their ends are from held-out data."""
    sheet = Sheet()
    for columns, gap in ((left, gaps[0]), (right, gaps[1])):
        sheet.flow(**columns)
        sheet.add("marginal_gap", gap, **columns)
    return sheet.rows


def gradients(good: bool) -> Rows:
    sheet = Sheet()
    sheet.add("gradient_gap", 1e-5 if good else 0.01)
    return sheet.rows


def students(good: bool) -> Rows:
    """A student of two steps and its teacher at 50 calls and, worse, at 2."""
    sheet = Sheet()
    for steps, error, distilled in ((50, 0.002, 0), (2, 0.1, 0), (2, 0.004 if good else 0.04, 2)):
        times = "steps[k=2]" if distilled else "uniform"
        sheet.curve("energy_coefficient", "euler", {steps: error}, distilled=distilled, times=times, reflow=1)
    return sheet.rows


def two(left: dict[str, Any], right: dict[str, Any], good: bool) -> Rows:
    """Two flows: the left one is cheaper, straighter and takes fewer calls, or all the opposite."""
    sheet = Sheet()
    sheet.floor()
    adaptive = {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5}
    for columns, low in ((left, good), (right, not good)):
        sheet.flow(3.0 if low else 4.0, 1.0 if low else 2.0, error=0.1 if low else 0.12, **columns)
        sheet.add("nfe", 44.0, **{**columns, **adaptive, "nfe": 44.0 if low else 80.0, "steps": 9})
        for row in sheet.rows[-SEEDS:]:
            row |= {"value": row["nfe"] + row["seed"], "nfe": row["nfe"] + row["seed"], "stderr": 0.0}
    return sheet.rows


def calls(good: bool) -> Rows:
    sheet = Sheet()
    for path, low in (("fm-ot", good), ("vp-linear", not good)):
        sheet.flow(path=path)
        sheet.curve("solver_error", "heun", {n: (1 if low else 3) / n**2 for n in (4, 8, 16, 32)}, 2, path=path)
    return sheet.rows


def ranks(good: bool) -> Rows:
    sheet = Sheet()
    for place, path in enumerate(("rectified", "fm-ot", "vp-linear", "vp-cosine", "ve")):
        sheet.add("straightness", 1.0 + place, path=path)
        value = 80.0 + 10 * (place if good else -place)
        sheet.add("nfe", value, exact=True, path=path, solver="dopri5", rtol=1e-5, atol=1e-5, nfe=value)
    return sheet.rows


def predictions(good: bool) -> Rows:
    sheet = Sheet()
    for prediction, cost in (("velocity", 4.0), ("epsilon", 4.01 if good else 5.0)):
        sheet.flow(cost, prediction=prediction)
        sheet.add("path_energy", cost + 1, prediction=prediction)
    return sheet.rows


def orders(good: bool) -> Rows:
    """RK4 that converges with its order, or with the first only."""
    sheet = Sheet()
    sheet.flow()
    sheet.curve("solver_error", "rk4", {n: 1.0 / n ** (4 if good else 1) for n in (2, 4, 6, 8)}, 4)
    return sheet.rows


def budgets(good: bool) -> Rows:
    sheet = Sheet()
    sheet.flow()
    sheet.curve("solver_error", "rk4", {25: 0.001 if good else 0.1}, 4)
    sheet.curve("solver_error", "euler", {100: 0.02})
    return sheet.rows


def fifty(good: bool) -> Rows:
    sheet = Sheet()
    sheet.flow(error=0.1)
    sheet.curve("w2", "euler", {10: 0.3, 25: 0.15 if good else 0.1, 50: 0.101})
    return sheet.rows


OT, INDEPENDENT = {"coupling": "minibatch-ot", "method": "OT-CFM"}, {"coupling": "independent"}
VP, VE = {"path": "vp-linear", "method": "VP"}, {"path": "ve[sigma_max=9]", "method": "VE"}
SCORE, OVER_TIME = (
    {"prediction": "score", "method": "RF, score"},
    {"path": "over-time[hold=0.2]", "method": "RF over t"},
)
LOGIT = {"times": "logit-normal[m=1]"}

SCENES: dict[str, tuple[Callable[[bool], Rows], dict[str, Any]]] = {
    # claim: its table (good or bad), and the columns that name the left side of its comparison
    "reflow-cost-nonincreasing": (rounds, {"reflow": 1}),
    "reflow-straightens": (rounds, {"reflow": 1}),
    "straightness-rate": (never_straight, {"reflow": 2}),
    "reflow-1d-straight": (rounds, {"reflow": 1}),
    "balance-sheet": (rounds, {"reflow": 1}),
    "euler-one-step-exact": (rounds, {"reflow": 1}),
    "marginals-preserved": (marginals, {}),
    "ot-cfm-cheaper": (lambda good: two(OT, INDEPENDENT, good), OT),
    "ot-cfm-straighter": (lambda good: two(OT, INDEPENDENT, good), OT),
    "ot-cfm-fewer-calls": (lambda good: two(OT, INDEPENDENT, good), OT),
    "linear-straighter-than-vp": (lambda good: two({}, VP, good), {"path": "rectified"}),
    "linear-straighter-than-ve": (lambda good: two({}, VE, good), {"path": "rectified"}),
    "fm-ot-fewer-calls": (calls, {"path": "fm-ot"}),
    "adaptive-calls-follow-straightness": (ranks, {}),
    "fm-gradient-identity": (gradients, {}),
    "rectified-has-score": (lambda good: ends(SCORE, {}, (0.003 if good else 0.04, 0.002)), SCORE),
    "wrong-target-fails": (lambda good: ends({}, OVER_TIME, (0.002, 0.4 if good else 0.01)), {"path": "rectified"}),
    "few-step-students-match": (students, {"distilled": 2}),
    "predictions-same-ode": (predictions, {"prediction": "epsilon"}),
    "logit-normal-helps": (lambda good: two(LOGIT, {}, good), LOGIT),
    "solver-orders": (orders, {}),
    "rk4-25-beats-euler-100": (budgets, {"solver": "rk4"}),
    "euler-needs-50-steps": (fifty, {"solver": "euler"}),
    "comparison": (lambda good: two(OT, INDEPENDENT, good), OT),
}


SPECS = {"comparison": {"name": "comparison", "metric": "w2", "at": {"coupling": "minibatch-ot"},
                        "than": {"coupling": "independent"}}}  # fmt: skip


def built(name: str) -> Claim:
    """The claim as it comes, or with what it cannot do without."""
    return CLAIMS.build(SPECS.get(name, name))


def spoiled(rows: Rows, guard: str, left: dict[str, Any]) -> Rows:
    """The table as a run would have left it that this guard is there to catch."""
    rows = [dict(row) for row in rows]
    for row in rows:
        is_left = all(row[column] == value for column, value in left.items()) and row["model"] != "data"
        if guard == "same z0" and is_left and not row["metric"].startswith("train_"):
            row["sample_seed"] = 7
        elif guard == "marginal error" and is_left and row["metric"] == "w2":
            row["value"] = 1.5
        elif guard == "marginal error" and row["metric"] in ("marginal_gap", "energy_coefficient"):
            row["value"] += 0.5
        elif guard == "integration error" and row["metric"] == "reference_error":
            row["value"] = 2.0
    return rows


def on_training_noise(rows: Rows, guard: str, left: dict[str, Any]) -> dict[str, Any]:
    """What `by_sample.gather` says where this guard is to fail: all that the left side was measured on were its own pairs."""
    keys = [row["key"] for row in rows if all(row[column] == value for column, value in left.items())]
    return {REUSED: keys} if guard == "fresh z0" else {}
