"""What raw values stand on: the data's own scale, and how far a path's ends are from its source and its data."""

from __future__ import annotations

import math

from ..results import Results
from .tables import Cell, Grid


def variances(results: Results) -> dict[str, float]:
    """D s² of each data set, its dimensions times its variance, as far as the manifest has them."""
    data = results.manifest.get("data") or {}
    return {name: facts["dims"] * facts["std"] ** 2 for name, facts in data.items() if {"dims", "std"} <= facts.keys()}


def ends_grid(results: Results) -> Grid | None:
    """The paths that miss an end: the data part α x1 that the start drops, the noise that the end keeps, the time at which
    integration stops. None where every path runs from the source to the data."""
    lines = []
    for label, ends in (results.manifest.get("paths") or {}).items():
        left = math.hypot(ends["sigma_end"], ends.get("gamma_end", 0.0))
        short = 1 - ends["end_time"]
        if ends["alpha_0"] or left or short:
            cells = [ends["alpha_0"], ends["sigma_0"], left, short]
            lines.append(((label,), tuple(Cell(f"{value:.3g}") for value in cells)))
    heads = ("α at 0, dropped", "σ at 0, of the start", "σ at the end, kept", "ε: ends at 1 − ε")
    return Grid("Paths that miss an end", ("path",), heads, tuple(lines)) if lines else None
