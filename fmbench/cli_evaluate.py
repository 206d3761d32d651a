"""`fmbench evaluate`: its words become the arguments of `evaluation.evaluate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from . import cli_options as options
from . import terminal
from .disk import named
from .errors import UserError


def convention(help: str, *names: str) -> Any:
    """An option that says how the model was made."""
    return typer.Option(*names, help=help, rich_help_panel="Conventions of the model")


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help="file.py:function, module:function, or the folder of a diffusers UNet2DModel."),
    ] = None,
    data: Annotated[str, typer.Option(help="Measured against this: a name, or {name: …, parameters}.")] = "",
    samples: Annotated[
        str | None, typer.Option(help="In place of a model: a folder of pictures, a .npy or an .npz file.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="The module's state: .safetensors, .pt of tensors alone, or .pt:ema_model, a part of one."),
    ] = None,
    time: Annotated[
        str | None, convention("Where its data is: data-at-1 (default), data-at-0; or sigma: told σ.")
    ] = None,
    time_scale: Annotated[float | None, convention("Its clock reads this times 0 … 1, as 1000.")] = None,
    images: Annotated[str | None, convention("Its data's range: -1..1 (default), 0..1, 0..255.")] = None,
    output: Annotated[str | None, convention("velocity (default), epsilon, data, score, v-prediction.")] = None,
    path: Annotated[str, convention("Its data's and noise's α and σ, for outputs but velocity.")] = "rectified",
    arguments: Annotated[str | None, convention("'t, x' or 'x, t'. Default: by their names.")] = None,
    conditional: Annotated[bool | None, convention("It is given labels.", "--conditional")] = None,
    no_label: Annotated[int | None, convention("The label that tells it of none; guidance needs it.")] = None,
    guidance: Annotated[str | None, convention("Weights of guidance: 1,2.")] = None,
    guidance_as: Annotated[str, convention("s (s = 1: conditional) or w (w = 0: conditional).")] = "s",
    solver: Annotated[
        list[str] | None, typer.Option(help="A solver, or {name: …, nfe: […]}. Default: euler. Repeatable.")
    ] = None,
    nfe: Annotated[str | None, typer.Option(help="Network calls of fixed-step solvers: 1,2,4,8.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric, or {name: …, parameters}. Repeatable.")] = None,
    n: Annotated[int | None, typer.Option(help="Samples. Default: 10,000, or all that are given.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.", min=0)] = 0,
    out: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="DIR", help="Folder of the results. Default: results/<name of the model>."),
    ] = None,
    overrides: options.Overrides = None,
    device: options.Device = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    devices_per_flow: options.DevicesPerFlow = 1,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    plugin: options.Plugins = None,
    data_root: options.DataRoot = None,
    inception_weights: options.InceptionWeights = None,
) -> None:
    """Measure a flow of your own, or samples alone: the same table and report as `run` leaves.

    The Python that MODEL names is imported and run. Conventions that differ are declared and converted.

    \b
    Examples:
      fmbench evaluate my.py:velocity --data moons --solver euler --nfe 1,2,4,8 --metric w2
      fmbench evaluate my_package.nets:load --data digits --time data-at-0 --images 0..1
      fmbench evaluate ddpm-folder --data digits --output epsilon --path vp-linear --time data-at-0 --time-scale 1000
      fmbench evaluate --samples pictures/ --data digits --metric fd_pixels
    """
    if not data:
        raise UserError("--data is missing: the data set to measure against (see `fmbench list data`)")
    what: dict[str, Any] = {
        "data": _yaml("--data", data), "samples": samples, "weights": weights, "time": time, "time_scale": time_scale,
        "images": images, "output": output, "path": _yaml("--path", path),
        "arguments": arguments and re.sub(r"\s*,\s*", ", ", arguments),
        "solvers": [_yaml("--solver", item) for item in solver or []], "nfe": _numbers("--nfe", nfe),
        "metrics": [_yaml("--metric", item) for item in metric or []], "n": n, "seed": seed,
        "conditional": conditional, "no_label": no_label, "guidance": _numbers("--guidance", guidance),
        "guidance_as": guidance_as,
        "set": overrides or [], "plugins": [str(file) for file in plugin or []], "device": device, "workers": workers, "ray": ray,
        "devices_per_flow": devices_per_flow,
    }  # fmt: skip
    from . import evaluation

    if dry_run:
        terminal.print_outline(evaluation.evaluation(model, **what))
        return
    terminal.carry_out(lambda watcher: evaluation.evaluate(model, out=out, watcher=watcher, **what), quiet)


def _yaml(option: str, text: str) -> Any:
    """A name, or a mapping as suites write it."""
    from .suite import value_of

    return value_of(text, option)


def _numbers(option: str, text: str | None) -> list[Any]:
    return list(_yaml(option, f"[{text}]")) if text is not None else []
