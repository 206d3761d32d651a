"""A made-up but realistic result folder: five flows, four solvers, failures, undefined errors, a floor, pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmbench.results import frame

FLOWS = {  # method: path, coupling, error at many calls, curvature
    "RF": ("rectified", "independent", 0.11, 1.0),
    "FM-OT": ("fm-ot", "independent", 0.12, 0.95),
    "OT-CFM": ("rectified", "minibatch-ot", 0.10, 0.12),
    "VP": ("vp-cosine", "independent", 0.14, 1.9),
    "VE": ("ve", "independent", 0.16, 5.0),
}
SOLVERS = {"euler": (1, [1, 2, 4, 8, 16, 32, 64]), "midpoint": (2, [2, 4, 8, 16, 32, 64]),
           "heun": (2, [2, 4, 8, 16, 32, 64]), "rk4": (4, [4, 8, 16, 32, 64])}  # fmt: skip
UNITS = {"w2": "data units", "sliced_w2": "data units", "mmd": "data units", "solver_error": "data units",
         "nll": "nats", "transport_cost": "data units²", "straightness": "data units²", "seconds": "s"}  # fmt: skip
FLOORS = {"w2": 0.055, "sliced_w2": 0.021, "mmd": 0.0004}
GEOMETRY = {"transport_cost": 2.1, "straightness": 0.8, "nll": 1.7}


def make_rows(
    seeds: int = 3, suite: str = "moons-nfe-sweep", shift: float = 0.0, entropy: int = 0
) -> list[dict[str, Any]]:
    """Rows of a run. `shift` is added to every w2; `entropy` is another draw of the noise."""
    rng = np.random.default_rng(entropy)
    task = {"suite": suite, "data": "moons", "source": "normal", "device": "cpu", "sample_seed": 0, "n": 2000}
    rows: list[dict[str, Any]] = []
    for metric, value in FLOORS.items():
        rows.append(task | {"model": "data", "metric": metric, "value": value, "stderr": value / 15,
                            "unit": UNITS[metric], "higher_is_better": False, "status": "ok"})  # fmt: skip
    for method, (path, coupling, error, bend) in FLOWS.items():
        for seed in range(seeds):
            luck = rng.normal(0, 0.004)
            flow = task | {"method": method, "path": path, "coupling": coupling, "prediction": "velocity",
                           "times": "uniform", "model": "mlp[width=64]", "reflow": 0, "distilled": 0,
                           "seed": seed}  # fmt: skip

            def row(metric: str, value: float, flow: dict[str, Any] = flow, **more: Any) -> None:
                row = flow | {"metric": metric, "value": value, "stderr": abs(value) * 0.02, "unit": UNITS[metric],
                              "higher_is_better": False, "status": "ok", "seconds": 0.2,
                              "key": f"{metric}-{len(rows):05d}"} | more  # fmt: skip
                rows.append(row)

            for metric, value in GEOMETRY.items():
                scale = bend if metric == "straightness" else 1 + 0.05 * bend
                row(metric, value * scale * (1 + luck), solver="reference", nfe=400.0, steps=100)
            budgets = [(name, stages, nfe, None) for name, (stages, grid) in SOLVERS.items() for nfe in grid]
            budgets.append(("dopri5", 6, round(38 + 12 * bend + seed), 1e-5))
            for solver, stages, nfe, rtol in budgets:
                order = {"euler": 1, "rk4": 4, "dopri5": 5}.get(solver, 2)
                off = bend * 1.5 * (nfe / stages) ** -order
                place = {"solver": solver, "nfe": float(nfe), "grid": "adaptive" if rtol else "uniform", "rtol": rtol,
                         "atol": rtol, "steps": nfe // stages}  # fmt: skip
                row("w2", float(np.hypot(error + luck, off)) + shift + rng.normal(0, 0.002), **place)
                row("sliced_w2", 0.4 * float(np.hypot(error + luck, off)), **place)
                if method == "VE" and solver == "euler" and nfe <= 2:
                    row("solver_error", np.nan, stderr=np.nan, status="diverged",
                        reason=f"not finite after {nfe} of {nfe} steps", **place)  # fmt: skip
                else:
                    row("solver_error", off + 1e-6, **place)
                row("seconds", 0.001 * nfe * (1 + rng.uniform(0, 0.1)), stderr=np.inf, **place)
    lost = next(
        r
        for r in rows
        if r.get("method") == "VP" and r.get("solver") == "rk4" and r["metric"] == "w2" and r["seed"] == 0
    )
    lost |= {
        "value": np.nan,
        "stderr": np.nan,
        "status": "failed",
        "reason": "RuntimeError: <b>out of memory</b> & more",
    }
    return rows


def make_manifest(suite: str = "moons-nfe-sweep", **more: Any) -> dict[str, Any]:
    return {
        "fmbench": "0.1.0",
        "suite": {
            "suite": suite,
            "title": "Five flows on two moons, per network call",
            "about": "How do rectified flow, FM-OT, VP, VE and OT-CFM compare when each network call counts? "
            "One MLP of width 64 for all, three seeds, four fixed-step solvers and one adaptive.",
            "metrics": list(UNITS),
        },
        "command": f"fmbench run {suite} --out results",
        "versions": {"torch": "2.6.0", "numpy": "2.0.0"},
        "commit": "0123abc",
        "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
        "seeds": [0, 1, 2],
        "data": {"moons": {"mean": 0.25, "std": 0.7}},
        "paths": {
            path: {"alpha_0": float(path == "ve"), "sigma_0": 1.0, "sigma_end": 0.01 * (path == "ve"), "end_time": 1.0}
            for path, *_ in FLOWS.values()
        },
        "started": "2025-01-01T10:00:00+00:00",
        "finished": "2025-01-01T10:01:40+00:00",
        "seconds": 100.0,
        "flows": list(FLOWS),
        **more,
    }


def moons(n: int, rng: np.random.Generator) -> np.ndarray:
    angle, side = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    arc = np.where(side[:, None] == 0, arc, [1, 0.5] - arc)
    return arc + rng.normal(0, 0.06, (n, 2))


def make_pictures(image: bool = False, methods: list[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of pictures.npz, index included."""
    rng, arrays, index = np.random.default_rng(1), {}, []

    def add(kind: str, array: np.ndarray, times: np.ndarray | None = None, **place: Any) -> None:
        name = f"a{len(index)}"
        arrays[name] = array.astype(np.float32)
        if times is not None:
            arrays[f"{name}_times"] = times.astype(np.float32)
        index.append({"array": name, "kind": kind, "data": "digits" if image else "moons", **place})

    times = np.linspace(0, 1, 25)
    real = np.clip(rng.normal(-0.6, 0.4, (64, 1, 8, 8)), -1, 1) if image else moons(1000, rng)
    add("data", real)
    for method in methods or list(FLOWS):
        bend = FLOWS.get(method, ("", "", 0.1, 1.0))[3]
        if not image:
            z0, z1 = rng.normal(size=(60, 2)), moons(60, rng)
            wave = np.sin(np.pi * times)[:, None, None] * 0.3 * np.sqrt(bend) * (z1 - z0)[None, :, ::-1] * [1, -1]
            path = (1 - times)[:, None, None] * z0 + times[:, None, None] * z1 + wave
            add("trajectory", path, times, method=method, seed=0, solver="reference", nfe=400)
        for solver, (_, grid) in list(SOLVERS.items())[:2]:
            for nfe in grid[:: 2 if solver == "euler" else 3]:
                noise = bend / nfe
                sample = np.clip(real[:32] + rng.normal(0, noise, (32, 1, 8, 8)), -1, 1) if image else (
                    moons(500, rng) + rng.normal(0, noise * 0.4, (500, 2)))  # fmt: skip
                add("samples", sample, method=method, seed=0, solver=solver, nfe=nfe)
    return arrays | {"index": np.array(json.dumps(index))}


def write(
    directory: Path, rows: list[dict[str, Any]], manifest: dict[str, Any], arrays: dict[str, np.ndarray] | None
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    table = frame(rows)
    table.to_parquet(directory / "results.parquet", index=False)
    table.to_csv(directory / "results.csv", index=False)
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if arrays is not None:
        np.savez_compressed(directory / "pictures.npz", **arrays)  # type: ignore[arg-type]
    return directory


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One result folder, with claims; read only."""
    directory = write(tmp_path_factory.mktemp("results") / "moons", make_rows(), make_manifest(), make_pictures())
    claims = [
        {"claim": "ot-straighter", "statement": "OT-CFM is straighter than RF", "verdict": "supported",
         "effect": -0.7, "low": -0.75, "high": -0.65, "p_value": 1e-9, "n": 3, "guard": None, "margin": 0.125,
         "contrast": "OT-CFM against RF", "note": "one seed alone"},
        {"claim": "ve-best", "statement": "VE has the lowest w2 at 8 calls", "verdict": "refuted",
         "effect": 0.4, "low": 0.3, "high": None, "p_value": 0.4, "n": 3, "guard": "marginal error"},
    ]  # fmt: skip
    (directory / "claims.json").write_text(json.dumps(claims), encoding="utf-8")
    return directory


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Makes result folders in this test's own place."""

    def build(
        name: str = "run", *, pictures: bool = False, manifest: dict[str, Any] | None = None, **rows: Any
    ) -> Path:
        return write(
            tmp_path / name, make_rows(**rows), manifest or make_manifest(), make_pictures() if pictures else None
        )

    return build
