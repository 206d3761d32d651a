"""What a suite must plan for a claim to be tested there: rows, named by columns of the table and values that these take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..table import bare


@dataclass(frozen=True)
class Some:
    """Any value that fulfils a condition, which `words` says."""

    words: str
    fulfils: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.words


Side = Mapping[str, Any]
"""Columns, each with a value (or its bare name), a list of such or a `Some`."""

LATER = Some("1 or more", lambda count: bool(count >= 1))  # of reflow rounds, or of a student's steps
ADAPTIVE = Some("any tolerance", lambda rtol: True)


def holds(row: Mapping[str, Any], side: Side) -> bool:
    """Whether a row, planned or measured, stands on this side."""
    return all(row.get(column) is not None and takes(row[column], wanted) for column, wanted in side.items())


def words(side: Side) -> str:
    return ", ".join(f"{column} = {_said(wanted)}" for column, wanted in side.items()) or "anything"


def takes(value: Any, wanted: Any) -> bool:
    """Whether a column's value is the wanted one, or its bare name, or one of several, or fulfils the condition."""
    if isinstance(wanted, Some):
        return wanted.fulfils(value)
    names = {value, bare(value)} if isinstance(value, str) else {value}
    return bool(names & set(wanted if isinstance(wanted, (list, tuple, set)) else [wanted]))


def _said(wanted: Any) -> str:
    return " or ".join(map(str, wanted)) if isinstance(wanted, (list, tuple, set)) else str(wanted)
