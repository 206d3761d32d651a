"""What pydantic finds wrong, in our words: the key's path, the value, what is valid, the nearest match."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pydantic import ValidationError

from .errors import suggestion

Place = tuple[str | int, ...]

KINDS = {
    "float": "a number", "int": "a whole number", "string": "text", "bool": "true or false", "tuple": "a list",
    "list": "a list", "dict": "a mapping", "model": "a mapping",
}  # fmt: skip


def worded(error: ValidationError, keys_at: Callable[[Place], Collection[str]]) -> str:
    """All findings as sentences.

    Args:
        keys_at: the keys that are valid inside the value at a place; none where it has no keys.
    """
    groups: dict[Place, list[tuple[Place, Any]]] = {}
    for item in error.errors(include_url=False):
        place, outside = _without_branches(item["loc"], keys_at, item["type"])
        groups.setdefault(outside, []).append((place, item))
    *others, last = [_sentence(findings, keys_at) for findings in groups.values()]
    return "; ".join([*(sentence.removesuffix(".") for sentence in others), last])


def _without_branches(loc: Place, keys_at: Callable[[Place], Collection[str]], kind: str) -> tuple[Place, Place]:
    """The place without the names that pydantic gives to the branches of a union, and the place of the first union."""
    place: Place = ()
    outside: Place | None = None
    for depth, part in enumerate(loc):
        last = depth == len(loc) - 1
        if isinstance(part, int) or part in keys_at(place) or (last and kind in ("extra_forbidden", "missing")):
            place = (*place, part)
        elif outside is None:
            outside = place
    return place, place if outside is None else outside


def _sentence(findings: Sequence[tuple[Place, Any]], keys_at: Callable[[Place], Collection[str]]) -> str:
    """Of a union's branches, each of which says why it is not the one, the finding that went deepest."""
    deepest = max(len(place) for place, _ in findings)
    found = [(place, item) for place, item in findings if len(place) == deepest]
    place, item = next(((p, i) for p, i in found if _kind(i) is None), found[0])
    path, value = ".".join(map(str, place)), item["input"]
    if item["type"] == "extra_forbidden":
        return f"unknown key '{path}'.{suggestion(place[-1], keys_at(place[:-1])) or ' It takes none.'}"
    if item["type"] == "missing":
        return f"key '{path}' is missing"
    if item["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        return f"{path} = {value!r}: unknown.{suggestion(value, valid)}"
    if item["type"] == "string_pattern_mismatch":
        return f"{path} = {value!r}: a name of lower-case letters, digits, '.', '_' and '-', for it becomes a folder's"
    kinds = list(dict.fromkeys(filter(None, (_kind(i) for _, i in found))))
    if _kind(item) is not None:
        message = f"must be {' or '.join(kinds)}"
    else:
        message = item["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
    shown = repr(value)
    return f"{path} = {shown}: {message}" if path and len(shown) < 80 else f"{path}: {message}" if path else message


def _kind(item: Any) -> str | None:
    """What would have been right, where the finding is only that the value is of another kind."""
    kind, _, rest = str(item["type"]).partition("_")
    return KINDS.get(kind) if rest in ("type", "parsing", "attributes_type") else None
