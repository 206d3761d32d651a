"""Recipes: published settings of a training, and the network they were published with, by name.

`train: {recipe: torchcfm}` in a suite stands for the plain settings below; keys beside it take their place one by one, and the
recipe's network is used where `flow.model` is not given. A training of fewer `samples` than published warms up and averages
over the same share of it: whole, the published warm-up and average outlast a short training, whose average is then its
untrained start. So does a suite of its own settings that `--set train.samples=…` shortens. Everything that follows sees
settings, never the recipe's name, so a flow's key is the same however they were written. All sizes are in images: iterations
times the batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .averaging import half_life
from .errors import UserError, unknown


@dataclass(frozen=True)
class Recipe:
    """Settings of a training, the network they belong to, and where both are published."""

    about: str
    source: str
    train: Mapping[str, Any]
    model: Mapping[str, Any]


_UNET = {"name": "unet", "multipliers": [1, 2, 2, 2], "blocks": 2, "attention": [16], "groups": 32, "head_channels": 64}

RECIPES: dict[str, Recipe] = {
    "torchcfm": Recipe(
        about="CIFAR-10, 400,000 steps of 128 at a constant rate, averaged at 0.9999 a step; 35.7 M parameters",
        source="Tong 2024 (TMLR, arXiv 2302.00482), table 5, and its example examples/images/cifar10; flip the images",
        train={
            "samples": 400_000 * 128,
            "batch": 128,
            "lr": 2e-4,
            "warmup": 5_000 * 128,
            "clip": 1.0,
            "ema_samples": half_life(0.9999, 128),
            "ema_ramp": None,
        },
        model={**_UNET, "channels": 128, "dropout": 0.1},
    ),
    "lipman": Recipe(
        about="CIFAR-10, 391,000 steps of 256 that rise for 45,000 and fall to 0, not averaged; a network twice as wide",
        source="Lipman 2023 (ICLR, arXiv 2210.02747), table 3 and appendix E; no average and no clipping are mentioned",
        train={
            "samples": 391_000 * 256,
            "batch": 256,
            "lr": 5e-4,
            "schedule": "linear",
            "warmup": 45_000 * 256,
            "clip": None,
            "ema_samples": 0,
        },
        model={**_UNET, "channels": 256, "dropout": 0.0},
    ),
    "edm": Recipe(
        about="CIFAR-10 in the manner of EDM: 200 M images in batches of 512, half-life 0.5 M images with its ramp",
        source="Karras 2022 (NeurIPS, arXiv 2206.00364), table 7 (DDPM++), without its augmentation and its own residual blocks",
        train={
            "samples": 200_000_000,
            "batch": 512,
            "lr": 1e-3,
            "warmup": 10_000_000,
            "clip": None,
            "ema_samples": 500_000,
            "ema_ramp": 0.05,
        },
        model={**_UNET, "channels": 128, "multipliers": [2, 2, 2], "blocks": 4, "dropout": 0.13},
    ),
}


def with_recipe(suite: Any) -> Any:
    """A suite's plain mapping with `train.recipe`, if there is one, written out.

    Raises:
        UserError: there is no such recipe.
    """
    train = suite.get("train") if isinstance(suite, dict) else None
    if not isinstance(train, dict) or "recipe" not in train:
        return suite
    name = train["recipe"]
    if name not in RECIPES:
        raise (
            unknown("recipe", name, RECIPES)
            if isinstance(name, str)
            else UserError(f"train.recipe = {name!r}: write one of {', '.join(RECIPES)}")
        )
    recipe, own = RECIPES[name], {key: value for key, value in train.items() if key != "recipe"}
    flow = suite.get("flow")
    if isinstance(flow, dict):
        flow = {**flow, "model": flow.get("model", dict(recipe.model))}
    published = {**recipe.train, **_in_proportion(recipe.train, recipe.train["samples"], own.get("samples"))}
    if "ema_decay" in own:  # takes the place of the half-life
        del published["ema_samples"]
    return {**suite, "flow": flow, "train": {**published, **own}}


def shortened(suite: Any, longer: Any, named: Collection[str]) -> Any:
    """A suite's plain mapping that overrides made of `longer`; trained on fewer samples, it keeps the proportions of `longer`.

    Args:
        named: the keys that were overridden: what they set stays as it is.
    """
    if "train.samples" not in named or "train" in named or not isinstance(longer.get("train"), dict):
        return suite
    own, whole = longer["train"], with_recipe(longer)["train"]
    less = _in_proportion(own, whole.get("samples"), suite["train"]["samples"])
    return {**suite, "train": suite["train"] | {k: v for k, v in less.items() if f"train.{k}" not in named}}


def _in_proportion(train: Mapping[str, Any], whole: Any, samples: Any) -> dict[str, int]:
    """Those sizes among a training's settings that follow from its seeing fewer `samples` than the `whole`, in proportion."""
    if not _counts(samples) or not _counts(whole) or not 0 < samples < whole:
        return {}
    sizes = {name: train.get(name) for name in ("warmup", "ema_samples")}
    return {name: math.ceil(size * samples / whole) for name, size in sizes.items() if _counts(size)}


def _counts(size: Any) -> bool:
    """Whether the schema takes it for a whole number, as 2.0e+4 too; what else stands there, it refuses."""
    return isinstance(size, int) or (isinstance(size, float) and size.is_integer())
