"""The literature in reports: published numbers as a table, and ours beside those that they can be held against."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .. import published
from ..grouping import grouped
from ..results import Results
from ..table import REFERENCE, bare, of_flows, records
from .tables import Cell, Grid, interval_cell

Row = dict[str, Any]

FINE = 50  # calls from which a solve is held against our reference solve as if it were one
UNBIASED = {"npe", "path_energy", "nll", "bits_per_dim", "nfe"}
"""More samples make these surer, not lower (npe: hardly)."""


class Notes:
    """Numbered remarks under a table, each once: `marks` gives "[1]" for where a value is from, "[1] [2]" with a remark."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def marks(self, row: Row) -> str:
        """Publication, place and protocol of a published value, and what else is to be said of it."""
        texts = [f"{row['publication']}, {row['url']}: {row['protocol']}."]
        texts += [f"{row['note'][0].upper()}{row['note'][1:]}."] if row["note"] else []
        return " ".join(map(self.mark, texts))

    def mark(self, text: str) -> str:
        return f"[{self.texts.setdefault(text, len(self.texts) + 1)}]"

    def lines(self) -> tuple[str, ...]:
        return tuple(self.texts)


def published_grid(table: pd.DataFrame) -> Grid:
    """Published numbers (rows of `published.load`), one a line; who measured them and how stands in the notes."""
    notes = Notes()
    lines = tuple(
        (
            (task_text(row), str(row["published_as"])),
            tuple(
                Cell(str(text))
                for text in (row["metric"], value_text(row), sampler_text(row), row["evidence"], notes.marks(row))
            ),
        )
        for row in records(table)
    )
    columns = ("metric", "value", "sampled by", "evidence", "notes")
    return Grid("Published numbers (sd: over the runs)", ("data", "method"), columns, lines, notes=notes.lines())


def beside_grid(results: Results) -> Grid | None:
    """Ours beside every published value of the same data, source, method and metric; None where there is none.

    Our cell is the one with the same solver and calls; else the flow's most careful solve, and the last column says so.
    Errors apart: the difference over the root of both squared standard errors (theirs from the spread over their runs).
    Comparable: data, solver, calls and (where n biases the metric) n agree as far as both sides state them, and the
    published value states its error. What the suite knows of the difference (its `differences`) is noted there, too.
    """
    summary, known = results.summary(), results.suite.get("differences") or []
    measured = [row for row in records(summary[of_flows(summary)]) if row["mean"] is not None]
    ours = grouped(measured, lambda row: _place(*(row[name] for name in ("data", "source", "method", "metric"))))
    notes, lines = Notes(), []
    for theirs in records(published.load()):
        found = ours.get(_place(theirs["dataset"], theirs["source"], theirs["method"], theirs["metric"]), [])
        if not found or theirs["distilled"] or theirs["condition"]:
            continue
        row = max(found, key=lambda row: _likeness(row, theirs))
        because = [item["because"] for item in known if _is_about(item, row)]
        lines.append((
            (str(task_text(theirs)), str(theirs["method"]), str(theirs["metric"])),
            (
                interval_cell(row),
                Cell(f"{value_text(theirs)} {notes.marks(theirs)}"),
                Cell(_errors_apart(row, theirs)),
                Cell(str(theirs["evidence"])),
                Cell(" ".join(["; ".join(obstacles(row, theirs)) or "comparable", *map(notes.mark, because)])),
            ),
        ))  # fmt: skip
    if not lines:
        return None
    columns = ("here", "published", "errors apart", "evidence", "comparable, or why not")
    return Grid("Beside published numbers", ("data", "method", "metric"), columns, tuple(lines), notes=notes.lines())


def _is_about(difference: Row, ours: Row) -> bool:
    """Whether a `schema.Difference` of the resolved suite speaks of this value."""
    names = {"data": {ours["data"], bare(ours["data"])}, "method": {ours["method"]}, "metric": {ours["metric"]}}
    return all(not difference[what] or names[what].intersection(difference[what]) for what in names)


def obstacles(ours: Row, theirs: Row) -> list[str]:
    """Why two values of one metric are not to be held against each other; empty where nothing speaks against it."""
    found = []
    for what, mine, other in (("data", ours["data"], theirs["dataset"]), ("source", ours["source"], theirs["source"])):
        if mine != other:
            found.append(f"{what} {mine}, theirs {other}")
    mine, other = (_sampler(row) for row in (ours, theirs))
    if ours["solver"] == REFERENCE:
        mine = other if theirs["nfe"] is None or theirs["nfe"] >= FINE else "a fine solve"
    if theirs["solver"] is not None and mine != other:
        found.append(f"by {mine}, theirs {other}")
    if theirs["metric"] not in UNBIASED and ours["n"] != theirs["n"] and None not in (ours["n"], theirs["n"]):
        found.append(f"n = {ours['n']:,}, theirs {theirs['n']:,}: not the same bias")
    if theirs["stderr"] is None:
        found.append("published without an error")
    return found


def task_text(row: Row) -> str:
    """ "moons", "eight-gaussians from moons", "cifar10, class-conditional"."""
    source = f" from {row['source']}" if row["source"] not in (None, "normal") else ""
    return f"{row['dataset']}{source}" + (f", {row['condition']}-conditional" if row["condition"] else "")


def value_text(row: Row) -> str:
    """ "0.373 (sd 0.103)", "3.58"."""
    spread = "" if row["spread"] is None else f" (sd {row['spread']:g})"
    return f"{row['value']:.10g}{spread}"


def sampler_text(row: Row) -> str:
    """ "euler, nfe 100", "dopri5 1e-5, nfe 142", "1-step student, euler, nfe 1"."""
    calls = "" if row["nfe"] is None else f"nfe {row['nfe']:g}"
    student = f"{row['distilled']}-step student" if row["distilled"] else ""
    return ", ".join(filter(None, [student, _solver(row), calls]))


def _solver(row: Row) -> str:
    tolerance = row.get("rtol", row.get("tolerance"))
    exact = "" if tolerance is None else f" {tolerance:.0e}".replace("e-0", "e-")
    return "" if row["solver"] is None else f"{row['solver']}{exact}"


def _sampler(row: Row) -> str:
    """The solver with its budget; the calls of an adaptive one are an outcome."""
    adapts = row.get("rtol", row.get("tolerance")) is not None or row["solver"] in ("adaptive", "dopri5", "rk45")
    return _solver(row) + ("" if adapts or row["nfe"] is None else f" {row['nfe']:g}")


def _place(data: str | None, source: str | None, method: str | None, metric: str | None) -> tuple[str, ...]:
    return tuple(map(bare, (data, source, method, metric)))


def _likeness(ours: Row, theirs: Row) -> tuple[bool, bool, bool, float]:
    same = _sampler(ours) == _sampler(theirs)
    return ours["data"] == theirs["dataset"], same, ours["rtol"] is not None, ours["nfe"] or 0.0


def _errors_apart(ours: Row, theirs: Row) -> str:
    error = math.hypot(math.inf if ours["stderr"] is None else ours["stderr"], theirs["stderr"] or 0)
    gap = ours["mean"] - theirs["value"]
    return f"{gap / error:+.1f}" if 0 < error < math.inf else "?"
