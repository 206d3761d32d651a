"""Measuring what was made elsewhere, a flow or samples alone: a suite of one is composed and run like any other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .api import Outline, Watcher, check_lists, outline, run
from .data import DATA
from .data.base import Data
from .errors import UserError, unknown
from .flow import PATHS
from .metrics import METRICS
from .models import MODELS
from .models.brought import split
from .models.external import External
from .plugins import admit, load_plugins
from .results import Results
from .solvers import SOLVERS

CALLS = [1, 2, 4, 8, 16, 32]  # network calls of Euler's method, unless solvers are named
OF_VECTORS = ["w2", "sliced_w2", "transport_cost", "straightness"]
OF_IMAGES = ["fd_pixels", "transport_cost", "straightness"]
WHERE = ("device", "workers", "ray", "devices_per_flow")  # it is computed


def evaluate(
    model: str | None = None,
    *,
    out: str | Path | None = None,
    watcher: Watcher | None = None,
    **what: Any,
) -> Results:
    """Measures a flow that was made elsewhere, or samples alone; leaves what `run` leaves.

    Args:
        model: `file.py:function`, `module:function` or the folder of a diffusers UNet2DModel.
        out, watcher: as in `run`.
        what: as in `composed`; and set, plugins, device, workers, ray, devices_per_flow as in `run`.

    Raises:
        UserError: the model cannot be loaded or called as declared, or does not fit the data.
    """
    suite, options = _prepared(model, **what)
    return run(suite, out=out, watcher=watcher, **options)


def evaluation(model: str | None = None, **what: Any) -> Outline:
    """What `evaluate` would do."""
    suite, options = _prepared(model, **what)
    return outline(suite, **options)


def _prepared(
    model: str | None, *, set: Sequence[str] = (), plugins: Sequence[str] = (), **what: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The suite, and the arguments of `run` and `outline` beside it."""
    where = {name: what.pop(name) for name in WHERE if name in what}
    lists = {name: what[name] for name in ("solvers", "nfe", "metrics", "guidance") if name in what}
    check_lists(set=set, plugins=plugins, **lists)
    load_plugins(plugins)
    place, function = ("", "") if model is None or Path(model).is_dir() else split(model)
    code = [place] if function else []
    if function:
        admit(place)  # it is named on the command line
    return composed(model, **what), {"set": set, "plugins": [*plugins, *code], **where}


def composed(
    model: str | None,
    *,
    data: Any,
    samples: str | None = None,
    path: Any = "rectified",
    solvers: Sequence[Any] = (),
    nfe: Sequence[int] = (),
    metrics: Sequence[Any] = (),
    n: int | None = None,
    seed: int = 0,
    guidance: Sequence[float] = (),
    guidance_as: str = "s",
    name: str | None = None,
    **conventions: Any,
) -> dict[str, Any]:
    """The suite, as a plain mapping.

    Args:
        data: the data set to measure against, a name or a mapping with its parameters.
        samples: a folder of pictures or an array's file, in place of a model.
        path: whose α and σ are those of the model's data and noise; of a velocity only its start and end matter.
        solvers: names or mappings; `nfe` are the network calls of those fixed-step ones that do not say their own.
        metrics: names or mappings; by default some that suit the data.
        n: how many samples; all that are given, else 10,000.
        seed: of the noise.
        guidance: weights of a conditional model: s of v_uncond + s (v_cond − v_uncond); with `guidance_as` "w" those w of
            v_cond + w (v_cond − v_uncond), which is s − 1. The table has s.
        name: of the suite; from the model's or the folder's if not given.
        conventions: fields of the model `external`, or of `samples`.
    """
    if (model is None) == (samples is None):
        raise UserError("evaluate a model or --samples FOLDER: one of the two")
    target = DATA.build(data)
    chosen = {key: value for key, value in conventions.items() if value is not None}
    if samples is not None:
        flows = {"--solver": solvers, "--nfe": nfe, "--guidance": guidance, "--path": path != "rectified"}
        flows |= {f"--{key.replace('_', '-')}": key != "images" for key in chosen}
        if meant := [option for option, told in flows.items() if told]:
            raise UserError(
                f"{', '.join(meant)}: of a model; --samples gives samples alone, for which nothing is solved"
            )
        given = MODELS.build({"name": "samples", "folder": samples, **chosen})
        wanted = list(metrics) or [m for m in _usual(target) if METRICS.build(m).scope == "samples"]
        for metric in map(METRICS.build, wanted):
            if metric.scope != "samples":
                of_samples = ", ".join(m for m in METRICS.names() if METRICS.get(m).scope == "samples")
                raise UserError(
                    f"metric '{metric.name}' needs the flow, --samples gives samples alone. Of samples: {of_samples}."
                )
        sample: dict[str, Any] = {"n": n or len(given.samples(target)), "seed": seed}
        flow: dict[str, Any] = {"model": given.spec()}
        return _suite(name or given.method() or "samples", data, flow, sample, wanted)
    brought = MODELS.build({"name": "external", "factory": model, **chosen})
    assert isinstance(brought, External)
    flow = {"path": path, "model": brought.spec()}
    sample = {"n": n or 10_000, "seed": seed, "solvers": [_budgeted(s, list(nfe)) for s in solvers or ["euler"]]}
    if guidance:
        sample["guidance"] = _weights(guidance, guidance_as)
    called = " ".join(filter(None, [brought.method(), _stem(brought.weights)]))
    suite = _suite(name or called, data, flow, sample, list(metrics) or _usual(target))
    mean, std = brought.noise(PATHS.build(path))
    if brought.images != "-1..1":
        suite["source"] = {"name": "scaled-normal", "mean": mean, "std": std, "dims": list(target.shape)}
    return suite


def _stem(weights: str | None) -> str:
    """What tells one checkpoint of a network from another: the file's name, and the part of it that is named."""
    return re.sub(r"\.(safetensors|pt|pth|ckpt)\b", "", Path(weights).name) if weights else ""


def _weights(guidance: Sequence[Any], convention: str) -> list[Any]:
    if convention not in ("s", "w"):
        raise unknown("convention of guidance", convention, ("s", "w"))
    return [weight + (convention == "w") if isinstance(weight, (int, float)) else weight for weight in guidance]


def _suite(name: str, data: Any, flow: Any, sample: Any, metrics: list[Any]) -> dict[str, Any]:
    word = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "evaluation"
    about = "A flow that was made elsewhere, measured here."
    parts = {"data": data, "flow": flow, "sample": sample, "metrics": metrics}
    return {"suite": word, "title": name, "about": about, **parts}


def _budgeted(solver: Any, nfe: list[int]) -> Any:
    """The solver with its budget: a fixed-step one takes the calls given to all."""
    item = {"name": solver} if isinstance(solver, str) else solver
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or item.keys() & {"nfe", "steps"}:
        return item
    return item if SOLVERS.get(item["name"]).adaptive else {**item, "nfe": nfe or CALLS}


def _usual(data: Data) -> list[str]:
    return OF_IMAGES if data.levels is not None else OF_VECTORS
