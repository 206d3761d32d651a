"""How a suite's plain values become components: one, several, or the product of the lists inside them."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .errors import UserError
from .registry import Component, Registry


def built(registry: Registry[Any]) -> BeforeValidator:
    def build(value: Any) -> Any:
        try:
            return registry.build(value)
        except UserError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(build)


def several(registry: Registry[Any]) -> BeforeValidator:
    """A name, a mapping or a list of them; inside a mapping, a list where one value belongs is a product too."""

    def build(value: Any) -> list[Any]:
        try:
            return [registry.build(one) for item in listed(value) for one in product(registry, item)]
        except UserError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(build)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def product(registry: Registry[Any], item: Any) -> Iterable[Any]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return [item]
    fields = registry.get(item["name"]).model_fields
    axes = {
        key: value if isinstance(value, list) and key in fields and not _takes_list(fields[key].annotation) else [value]
        for key, value in item.items()
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _takes_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return origin in (list, tuple) or any(
        _takes_list(part) for part in typing.get_args(annotation) if origin is not None
    )


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def label_of(value: Any) -> str:
    """What the table prints for a value of an axis."""
    return value.label() if isinstance(value, Component) else str(value)


def name_of(value: Any) -> str:
    return value.name if isinstance(value, Component) else str(value)


def distinct(values: list[Any]) -> list[Any]:
    labels = [label_of(value) for value in values]
    if not labels:
        raise ValueError("the list is empty: give at least one value")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"'{twice[0]}' is listed twice")
    return values
