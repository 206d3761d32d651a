"""What the scheduler beside a checkpoint of diffusers says of its network: held against what is declared, never guessed from."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import Any

import torch

from ..errors import UserError
from ..flow.paths import Path

FILE = "scheduler_config.json"
OUTPUTS = {"epsilon": "epsilon", "sample": "data", "v_prediction": "v-prediction"}
NEAR = 0.02  # by which α may differ: named paths are limits of the discrete schedules
NAMED = {"linear": "vp-linear", "squaredcos_cap_v2": "vp-cosine"}
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


def check(folder: FilePath, path: Path, output: str, time: str, time_scale: float) -> None:
    """Raises `UserError` where the declared conventions are not those of the folder's scheduler, if it has one."""
    file = _file(folder)
    if file is None:
        return
    try:
        said = json.loads(file.read_text())
        kind, steps = str(said["_class_name"]), int(said.get("num_train_timesteps", 1000))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {type(error).__name__}: {error}") from None
    sigmas = said.get("sigma_min", 0.01), said.get("sigma_max", 1348.0)
    if "EDM" in kind or "Karras" in kind:
        raise UserError(
            f"{folder}: its scheduler, {kind}, scales what the network is given and says. Bring a function that does so and "
            "gives the data: --output data --time sigma --path '{name: ve, …}'"
        )
    if kind == "ScoreSdeVeScheduler":
        own = f"'{{name: ve, sigma_min: {sigmas[0]}, sigma_max: {sigmas[1]}}}'"
        wanted, fits = ("score", "sigma", 1), path.name == "ve"
    elif kind.startswith("FlowMatch") or said.get("prediction_type") == "flow_prediction":
        own, wanted, fits = "rectified", ("velocity", "data-at-0", steps), True
    elif "beta_schedule" in said or "trained_betas" in said:
        own = NAMED.get(said.get("beta_schedule", "linear"), "one of your own, with its α and σ")
        wanted = (OUTPUTS.get(said.get("prediction_type", "epsilon"), "?"), "data-at-0", steps)
        try:
            fits = _near(path, said, steps)
        except Exception as error:  # whatever diffusers makes of a schedule it does not know
            raise UserError(f"{file} has no schedule that can be read: {type(error).__name__}: {error}") from None
    else:
        return
    if fits and (output, time) == wanted[:2] and abs(time_scale / wanted[2] - 1) <= NEAR:
        return
    raise UserError(
        f"{folder}: its scheduler, {kind}, says otherwise. Declare --output {wanted[0]} --time {wanted[1]} "
        f"--time-scale {wanted[2]} --path {own}; declared are {output}, {time}, {time_scale:g} and {path.label()}"
    )


def _file(folder: FilePath) -> FilePath | None:
    """Beside the network's own configuration, as small pipelines have it, or where a pipeline keeps its parts."""
    places = (folder / FILE, folder / "scheduler" / FILE, folder.resolve().parent / "scheduler" / FILE)
    return next((place for place in places if place.is_file()), None)


def _near(path: Path, said: dict[str, Any], steps: int) -> bool:
    """Whether α is the square root of the scheduler's ᾱ, and σ that of 1 − ᾱ."""
    from diffusers import DDPMScheduler

    kept = DDPMScheduler(**{name: said[name] for name in BETAS if name in said}).alphas_cumprod.double()
    s = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    own, alpha2 = path.schedule(1 - s), kept[(s * steps).long() - 1]
    gaps = torch.cat([own.alpha - alpha2.sqrt(), own.sigma - (1 - alpha2).sqrt()])
    return bool((gaps.abs() < NEAR).all())
