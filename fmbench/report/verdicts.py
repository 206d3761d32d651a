"""Verdicts as people read them: the rows behind each in words, and a Markdown table that a README can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import UserError
from ..grouping import grouped
from ..results import Results
from ..table import FLOOR, REFERENCE, TRUTH, bare, read_json, records

Verdict = Mapping[str, Any]

HEAD = "| claim | suite | verdict | effect (interval) | margin | seeds | rows |\n|---|---|---|---|---|---|---|"
AXES = (
    "data", "source", "path", "coupling", "prediction", "times", "model", "reflow", "distilled", "guidance",
    "solver", "grid", "nfe", "rtol", "atol", "batch",
)  # fmt: skip
SHOWN = 4  # values of a column that are named


def recorded(results: Results) -> list[dict[str, Any]]:
    """The verdicts of DIR/claims.json, with the rows behind them in words; none where there is no such file.

    Raises:
        UserError: the file holds something else.
    """
    claims = read_json(results.directory / "claims.json") if results.directory else None
    if claims is None:
        return []
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        raise UserError(f"{results.directory}/claims.json is no list of claims. Write it again with `fmbench claims`.")
    return with_rows(claims, results.table)


def told(directory: Path, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """As `with_rows`, by the table of a result's folder, be it kept as text alone."""
    return with_rows(verdicts, Results.load(directory).table) if verdicts else []


def with_rows(verdicts: Sequence[Verdict], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Verdicts as claims.json holds them, each with `used`: the rows behind it in words."""
    rows = records(table)
    return [{**verdict, "used": rows_used(verdict.get("rows") or [], rows)} for verdict in verdicts]


def rows_used(keys: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of a table, given by their keys: how many, of which metrics, at which values of the columns that tell.

    A column tells if it has several values in the table's rows of these metrics. Rows that share a key, as flows share a
    training coupling, are one value: columns in which they differ say nothing of it.
    """
    wanted = set(keys)
    if not wanted:
        return ""
    alike = grouped((row for row in rows if row["key"] in wanted), lambda row: row["key"])
    columns = ("metric", "seed", *AXES)
    used = [{name: _one(row[name] for row in same) for name in columns} for same in alike.values()]
    metrics = {row["metric"] for row in used}
    beside = [row for row in rows if row["metric"] in metrics and row["model"] not in (FLOOR, TRUTH)]
    telling = [name for name in AXES if len(_values(beside, name)) > 1]
    parts = [f"{name} {_named(found, _values(beside, name))}" for name in telling if (found := _values(used, name))]
    if seeds := _values(used, "seed"):
        parts.append(f"seed{'s' if len(seeds) > 1 else ''} {_named(seeds)}")
    about = " of ".join(filter(None, [_named(_values(used, "metric")), " · ".join(parts)]))
    return ": ".join(filter(None, [f"{len(wanted)} row{'s' if len(wanted) > 1 else ''}", about]))


def verdict_table(results: Sequence[tuple[str, Sequence[Verdict]]]) -> str:
    """A line for each claim of each result, given by its suite and its verdicts (`with_rows`)."""
    lines = [_line(suite, verdict) for suite, verdicts in results for verdict in verdicts]
    return "\n".join([HEAD, *lines])


def _line(suite: str, verdict: Verdict) -> str:
    effect = f"{number(verdict.get('effect'))} ({number(verdict.get('low'))} … {number(verdict.get('high'))})"
    if verdict.get("guard"):
        effect = "; ".join([f"guard: {verdict['guard']}", *([effect] if verdict.get("rows") else [])])
    seeds = "" if verdict.get("n") is None else str(verdict["n"])
    cells = [f"`{verdict['claim']}`", suite, f"**{verdict['verdict']}**", effect, number(verdict.get("margin")), seeds]
    cells.append(verdict.get("used") or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: Any) -> str:
    """Three digits; a dash for what is undefined (null in JSON)."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else "–"


def _one(values: Iterable[Any]) -> Any:
    """The value that all are; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _values(rows: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    """What a column holds, each value once; the calls of adaptive solvers and of reference solves are outcomes, no places."""
    chosen = (row for row in rows if name != "nfe" or (row["rtol"] is None and row["solver"] != REFERENCE))
    return [x for x in dict.fromkeys(row[name] for row in chosen) if x is not None]


def _named(values: Sequence[Any], among: Sequence[Any] = ()) -> str:
    """Values in words: numbers in order, runs of whole ones by their ends; components by their names, several counted.

    `among`: what else they might have been; one of several with its name is told with its parameters.
    """
    if all(isinstance(x, (int, float)) for x in values):
        numbers = sorted(values)
        if len(numbers) >= SHOWN and numbers == list(range(int(numbers[0]), int(numbers[0]) + len(numbers))):
            return f"{numbers[0]:g}–{numbers[-1]:g}"
        names = [f"{x:g}" for x in numbers]
    else:
        used, there = (Counter(map(bare, found)) for found in (values, among))
        short = {bare(x): x if there[bare(x)] > used[bare(x)] else bare(x) for x in values}
        names = [text if used[name] == 1 else f"{name} ({used[name]})" for name, text in short.items()]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(names[:SHOWN]) + "".join(f" {x}" for x in more)
