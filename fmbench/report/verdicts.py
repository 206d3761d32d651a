"""Verdicts as a Markdown table: what a README shows of several results, made by one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = "| claim | suite | verdict | effect (interval) | margin | seeds |\n|---|---|---|---|---|---|"


def verdict_table(results: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """A line for each claim of each result, given by its suite and its verdicts as claims.json holds them."""
    lines = [_line(suite, verdict) for suite, verdicts in results for verdict in verdicts]
    return "\n".join([HEAD, *lines])


def _line(suite: str, verdict: Mapping[str, Any]) -> str:
    effect = f"{number(verdict.get('effect'))} ({number(verdict.get('low'))} … {number(verdict.get('high'))})"
    if verdict.get("guard"):
        effect = f"guard: {verdict['guard']}"
    seeds = "" if verdict.get("n") is None else str(verdict["n"])
    cells = [f"`{verdict['claim']}`", suite, f"**{verdict['verdict']}**", effect, number(verdict.get("margin")), seeds]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: Any) -> str:
    """Three digits; a dash for what is undefined (null in JSON)."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else "–"
