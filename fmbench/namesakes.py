"""Results that bear one name, told apart where several are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .results import Results


def told_apart(results: Sequence[Results]) -> list[Results]:
    """The results, those of equal names labelled with the shortest end of their folders' paths that tells them apart.

    A folder that is given again is numbered, as are results of one name that have none.
    """
    folders = [None if each.directory is None else each.directory.resolve() for each in results]
    labelled, given = [], Counter[tuple[str, Path | None]]()
    for each, folder in zip(results, folders, strict=True):
        others = [
            f for f, one in zip(folders, results, strict=True) if one.name == each.name and f not in (folder, None)
        ]
        label = each.name if folder is None else _end(folder, others) or each.name
        given[each.name, folder] += 1
        count = given[each.name, folder]
        labelled.append(replace(each, label=f"{label} ({count})" if count > 1 else label))
    return labelled


def _end(folder: Path, others: Sequence[Path]) -> str | None:
    """The shortest end of a path that none of the others ends with; None where there are no others."""
    depths = range(2, len(folder.parts) + 1) if others else ()
    ends = (folder.parts[-depth:] for depth in depths)
    return next((str(Path(*end)) for end in ends if all(other.parts[-len(end) :] != end for other in others)), None)
