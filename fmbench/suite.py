"""Suites as files: finding, reading and overriding `suites/*.yaml`, and saying what is wrong with one."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from . import disk
from .errors import UserError, unknown
from .recipes import shortened
from .schema import Suite
from .wording import worded

__all__ = ["SHIPPED", "Suite", "find", "load", "override_value", "parse", "shipped"]

SHIPPED = disk.shipped("suites")


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key may stand only once, and whose every finding has a place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # its own let them through: `!!bool x`
            value = repr(node.value)[:40] if isinstance(node, yaml.ScalarNode) else "this"
            why = f": {error}" if isinstance(error, ValueError) else ""
            found = f"{value} is no {node.tag.rpartition(':')[2]}{why}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):  # else the base class says what is wrong
            keys: list[Any] = []  # a key may be unhashable: the base class says so
            for place, _ in node.value:
                if place.tag.endswith(":merge"):
                    continue
                if (key := self.construct_object(place, deep=True)) in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", place.start_mark)
                keys.append(key)
        return super().construct_mapping(node, deep)


BROKEN_YAML = (yaml.YAMLError, RecursionError)


def shipped() -> list[str]:
    """Names of the suites that come with fmbench."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> FilePath:
    """The file of a suite: a shipped name or a path to a user's own YAML."""
    if name in shipped():
        return SHIPPED / f"{name}.yaml"
    path = FilePath(name)
    if path.is_file():
        return path
    if is_file(name):
        raise UserError(f"no suite file at '{name}'. Give a path to a YAML file or one of: {', '.join(shipped())}.")
    raise unknown("suite", name, shipped(), remedy="A path to your own YAML file works too.")


def is_file(name: str) -> bool:
    """Whether a name is meant as a file's, be it there or not."""
    path = FilePath(name)
    return path.suffix in (".yaml", ".yml") or "/" in name or path.exists()


def load(name: str, overrides: Sequence[str] = ()) -> Suite:
    """A suite by shipped name or path, with `--set` overrides such as `flow.seed=[0,1]`.

    Raises:
        UserError: the file is missing, empty, no YAML or not a valid suite.
    """
    path = find(name)
    return parse(_read(path), overrides, where=str(name))


def parse(raw: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "suite") -> Suite:
    """A suite from its plain mapping. A training that an override shortens warms up and averages over the same share of it."""
    changed = raw
    for override in overrides:
        changed = override_value(changed, override)
    try:
        return Suite.model_validate(
            shortened(changed, raw, {override.partition("=")[0].strip() for override in overrides})
        )
    except ValidationError as error:
        raise UserError(f"{where}: {worded(error, _keys_at)}") from None


def _read(path: FilePath) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise UserError(
            f"{path} is not a text file. A suite is YAML, such as `fmbench show moons-nfe-sweep` prints."
        ) from None
    except BROKEN_YAML as error:
        raise UserError(f"{path} is no valid YAML: {_broken(error)}") from None
    if not isinstance(raw, dict):
        held = "is empty" if raw is None else f"holds a {type(raw).__name__}, not a mapping"
        raise UserError(
            f"{path} {held}. A suite needs the keys suite, data, flow, sample, metrics; see `fmbench show moons-nfe-sweep`."
        )
    return raw


def override_value(raw: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy of `raw` with `key.path=value` applied; the value is YAML, numbers index lists."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set '{override}': write key=value, such as flow.seed=[0,1]")
    value = value_of(text, f"--set '{override}'")
    return typing.cast(dict[str, Any], _put(raw, key.strip().split("."), value, key.strip()))


def value_of(text: str, option: str) -> Any:
    """What a user wrote behind an option, as YAML: a number, a name, a list, a mapping."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except BROKEN_YAML as error:
        raise UserError(f"{option}: the value is no valid YAML: {_broken(error)}") from None


def _broken(error: Exception) -> str:
    """What PyYAML found in one line: where, what is wrong there, inside of what."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return " ".join(str(error).split())
    around, begun = error.context, error.context_mark
    inside = f", {around}{f' that begins on line {begun.line + 1}' if begun else ''}" if around else ""
    place = error.problem_mark or begun
    return f"{f'line {place.line + 1}, column {place.column + 1}: ' if place else ''}{error.problem}{inside}"


def _put(node: Any, keys: list[str], value: Any, whole: str) -> Any:
    if not keys:
        return value
    head, rest = keys[0], keys[1:]
    above = whole.split(".")[: -len(keys)]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            places = ", ".join(f"{i} ({_called(item)})" for i, item in enumerate(node))
            inside = rest if head.isdigit() else keys
            raise UserError(
                f"--set {whole}: {'.'.join(above)} is a list, and '{head}' no place in it. Valid: {places or 'none'}. "
                f"Name one, as in {'.'.join([*above, '0', *inside])}=…, or set the whole list."
            )
        return [_put(item, rest, value, whole) if i == int(head) else item for i, item in enumerate(node)]
    if isinstance(node, str) and above[-1:] == ["name"]:
        raise UserError(
            f"--set {whole}: {'.'.join(above)} is '{node}', a name, which has no keys. Its parameters stand beside it: "
            f"--set {'.'.join([*above[:-1], *keys])}=…"
        )
    if isinstance(node, str):
        node = {"name": node}  # `model: mlp` with --set flow.model.width=64
    if node is None:
        node = {}
    if not isinstance(node, dict):
        raise UserError(f"--set {whole}: '{head}' would stand inside the value {node!r}, which has no keys")
    return {**node, head: _put(node.get(head), rest, value, whole)}


def _called(value: Any) -> str:
    """What a plain value of a suite is called: a mapping by its name."""
    return str(value.get("name", value) if isinstance(value, dict) else value)


def _keys_at(place: Sequence[str | int]) -> list[str]:
    node: Any = Suite
    for part in place:
        if isinstance(part, int):
            continue
        field = node.model_fields.get(part) if isinstance(node, type) and issubclass(node, BaseModel) else None
        if field is None:
            return []
        node = _model_in(field.annotation)
    return sorted(node.model_fields) if isinstance(node, type) and issubclass(node, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part)) is not None), None)
