"""Components (paths, couplings, solvers, metrics, models, data sets) and the registries that find them by name.

A component is a frozen, validated record: its fields are its parameters, its class carries its code. So the same
object is what a suite file says, what a table prints (`label`) and what a cache key names (`identity`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UserError, unknown
from .own_code import digest
from .wording import worded


class Component(BaseModel):
    """Base of everything that a suite names. Subclass it, set `name`, declare parameters as annotated fields.

    Every field shapes the result and therefore the cache key; raise `version` when the code changes the result. Of a component
    of a user's own the key knows the code itself, but not what its file imports. A field that is added later orphans no
    stored result: `unchanged` names it with the value, as plain JSON, at which the code computes what it computed before, and
    at that value the key leaves it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    version: ClassVar[int] = 1
    unchanged: ClassVar[Mapping[str, Any]] = {}
    code: ClassVar[str | None] = None  # `own_code.digest`, set by the registry

    def parameters(self) -> dict[str, Any]:
        """All parameters as plain JSON values."""
        return self.model_dump(mode="json")

    def label(self) -> str:
        """The name with the parameters that differ from their defaults, sorted: `fm-ot[sigma_min=0.1]`."""
        plain = {field: info.get_default(call_default_factory=True) for field, info in type(self).model_fields.items()}
        shown = [
            f"{key}={_show(value)}"
            for key, value in sorted(self.parameters().items())
            if getattr(self, key) != plain[key]
        ]
        return f"{self.name}[{','.join(shown)}]" if shown else self.name

    def identity(self) -> dict[str, Any]:
        """What a cache key must know of this component."""
        own = {} if self.code is None else {"code": self.code}
        return {"name": self.name, "version": self.version, **own, **changed(self.parameters(), self.unchanged)}

    def spec(self) -> dict[str, Any]:
        """The suite-file form, from which `Registry.build` makes an equal component."""
        return {"name": self.name, **self.parameters()}


def changed(fields: Mapping[str, Any], unchanged: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, as plain JSON, less those that came later and still have the value at which nothing changed."""
    return {name: value for name, value in fields.items() if name not in unchanged or value != unchanged[name]}


def _show(value: Any) -> str:
    # The shortest digits that mean this number: two different components never share a label.
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value).replace(" ", "")


T = TypeVar("T", bound=Component)


class Registry(Generic[T]):
    """Names of one kind of component. Built-in ones are imported when first asked for.

    Args:
        kind: singular, as messages say it ("path").
        builtin: name to `module:Class`.
    Packages add theirs through the entry-point group `fmbench.<listing>`, such as fmbench.paths; files named by `--plugin`
    use `@REGISTRY.register`.
    """

    def __init__(self, kind: str, builtin: dict[str, str], *, listing: str = ""):
        self.kind = kind
        self.listing = listing  # what `fmbench list` calls this kind, if it does
        self._where: dict[str, str] = dict(builtin)
        self._loaded: dict[str, type[T]] = {}
        self._entry_points_read = False

    def register(self, component: type[T]) -> type[T]:
        """Class decorator. A name that is taken is an error naming both owners."""
        place = f"{component.__module__}:{component.__qualname__}"
        name = getattr(component, "name", None)
        if not isinstance(name, str) or not name:
            raise UserError(
                f'{place} has no name: write name = "…" into the class, by which suites call the {self.kind}'
            )
        if self._where.get(name, place) != place:
            raise UserError(f"{self.kind} '{name}' is registered twice: by {self._where[name]} and by {place}")
        if lacking := sorted(field for field in component.__class_vars__ if not hasattr(component, field)):
            raise UserError(
                f"{self.kind} '{name}' lacks {', '.join(lacking)}: write {lacking[0]} = … into the class {place}"
            )
        self._where[name] = place
        self._keep(name, component)
        return component

    def names(self) -> list[str]:
        self._read_entry_points()
        return sorted(self._where)

    def get(self, name: str) -> type[T]:
        """The class of that name, or `UserError` with the nearest match."""
        self._read_entry_points()
        if name not in self._where:
            remedy = (
                f"See `fmbench list {self.listing}`; one of your own needs `--plugin FILE`." if self.listing else ""
            )
            raise unknown(self.kind, name, self._where, remedy=remedy)
        if name not in self._loaded:
            module, _, attribute = self._where[name].partition(":")
            self._keep(name, getattr(importlib.import_module(module), attribute))
        return self._loaded[name]

    def _keep(self, name: str, component: type[T]) -> None:
        component.code = digest(component, name)
        self._loaded[name] = component

    def build(self, value: Any) -> T:
        """A component from a name, a mapping `{name: …, parameters…}` or a component itself."""
        if isinstance(value, Component):
            if not isinstance(value, self.get(value.name)):
                raise UserError(f"'{value.name}' is registered as another {self.kind} than {type(value).__name__}")
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise UserError(
                f"{value!r} is no {self.kind}: write a name or a mapping with a name. Valid: {', '.join(self.names())}."
            )
        cls = self.get(value["name"])
        try:
            return cls.model_validate({key: item for key, item in value.items() if key != "name"})
        except ValidationError as error:
            found = worded(
                error, lambda place: () if place else [field.alias or key for key, field in cls.model_fields.items()]
            )
            raise UserError(f"{self.kind} '{cls.name}': {found}") from None

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        for point in entry_points(group=f"fmbench.{self.listing or f'{self.kind}s'}"):
            if self._where.get(point.name, point.value) != point.value:
                raise UserError(
                    f"{self.kind} '{point.name}' is registered twice: by {self._where[point.name]} and by {point.value}"
                )
            self._where[point.name] = point.value
        self._entry_points_read = True  # not before: a quarrel over a name must not be forgotten once told
