"""Results that bear one name, told apart where several are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .results import Results


def told_apart(results: Sequence[Results]) -> list[Results]:
    """The results, those of equal names labelled with the shortest end of their folders' paths that tells them apart.

    A folder that is given again is numbered.
    """
    folders = [None if each.directory is None else each.directory.resolve() for each in results]
    labelled = []
    for place, (each, folder) in enumerate(zip(results, folders, strict=True)):
        if folder is not None:
            namesakes = [f for f, one in zip(folders, results, strict=True) if f is not None and one.name == each.name]
            label = _end(folder, [other for other in namesakes if other != folder]) or each.name
            before = folders[:place].count(folder)
            each = replace(each, label=f"{label} ({before + 1})" if before else label)
        labelled.append(each)
    return labelled


def _end(folder: Path, others: Sequence[Path]) -> str | None:
    """The shortest end of a path that none of the others ends with; None where there are no others."""
    depths = range(2, len(folder.parts) + 1) if others else ()
    ends = (folder.parts[-depth:] for depth in depths)
    return next((str(Path(*end)) for end in ends if all(other.parts[-len(end) :] != end for other in others)), None)
