"""Identity: when two computations are the same.

A stage's key is a readable prefix and the sha256 of the canonical JSON of everything that can change its output. The
same function makes it from the plan and from the record on disk, so a record can prove that it is what it claims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from .registry import Component, changed


class Record(BaseModel):
    """Settings inside a specification; every field shapes the output, but those that `silent` names.

    `unchanged` are fields that came later, as in `Component`. Should a default or a component's version move, the value
    differs from the one named there, and the key moves with it.
    """

    silent: ClassVar[frozenset[str]] = frozenset()
    unchanged: ClassVar[Mapping[str, Any]] = {}

    def identity(self) -> dict[str, Any]:
        shaping = [name for name in type(self).model_fields if name not in self.silent]
        return changed({name: _plain(getattr(self, name)) for name in shaping}, self.unchanged)


class Spec(BaseModel):
    """Base of every stage's specification. Each field must be named in `shaping` or in `silent`.

    `shaping` fields can change the stage's output and enter its key; `silent` ones (where, how fast) cannot and do not.
    `unchanged` are shaping fields that came later, as in `Component`. Raise `version` when the stage's code changes its output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    stage: ClassVar[str]
    version: ClassVar[int] = 1
    shaping: ClassVar[frozenset[str]] = frozenset()
    silent: ClassVar[frozenset[str]] = frozenset()
    unchanged: ClassVar[Mapping[str, Any]] = {}

    def identity(self) -> dict[str, Any]:
        """Everything that shapes the output, as plain JSON; input stages stand in it by their keys."""
        unclassified = set(type(self).model_fields) ^ (self.shaping | self.silent)
        if unclassified or self.shaping & self.silent:
            raise TypeError(f"{type(self).__name__}: classify {sorted(unclassified)} as shaping or silent")
        fields = {name: _plain(getattr(self, name)) for name in sorted(self.shaping)}
        return {"stage": self.stage, "version": self.version, **changed(fields, self.unchanged)}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("key", None)  # that of the original's fields
        return copy

    @cached_property
    def key(self) -> str:
        """`<stage>-<16 hex digits>`."""
        return key_of(self.identity())


def key_of(identity: dict[str, Any]) -> str:
    """The key of an identity, whether it comes from a `Spec` or was read back from a record."""
    return f"{identity['stage']}-{hashlib.sha256(canonical(identity)).hexdigest()[:16]}"


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, shortest floats, no NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.key
    if isinstance(value, (Component, Record)):
        return value.identity()
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
