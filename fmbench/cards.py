"""What `fmbench list` and `fmbench show` tell of components and recipes: what their classes and docstrings already hold."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import yaml

from .claims import CLAIMS
from .claims.axes import words
from .claims.base import Claim
from .data import DATA
from .flow import COUPLINGS, PATHS
from .flow.losses import LOSSES, WEIGHTS
from .flow.times import TIMES
from .metrics import METRICS
from .models import MODELS
from .recipes import RECIPES
from .registry import Component, Registry
from .solvers import GRIDS, SOLVERS

KINDS: dict[str, Registry[Any]] = {
    "paths": PATHS, "couplings": COUPLINGS, "times": TIMES, "losses": LOSSES, "weights": WEIGHTS, "solvers": SOLVERS,
    "grids": GRIDS, "metrics": METRICS, "models": MODELS, "data": DATA, "claims": CLAIMS,
}  # fmt: skip
"""Every registry, by what `fmbench list` calls it."""

FACTS = {
    "path": ("method", "start_time", "end_time"),
    "solver": ("order", "adaptive", "calls_per_step"),
    "metric": ("unit", "scope"),
}
"""Class constants that a card shows beside the source."""

BETTER = {True: "higher", False: "lower", None: "-"}


def lines(kind: str) -> list[tuple[str, ...]]:
    """Name and first paragraph of every component of a kind, as `fmbench list` calls it; of a metric unit and direction, too."""
    if kind == "recipes":
        return [(name, recipe.about) for name, recipe in RECIPES.items()]
    registry, told = KINDS[kind], []
    for name in registry.names():
        component = registry.get(name)
        about = " ".join((component.__doc__ or "").split("\n\n")[0].split())
        facts = (component.unit, BETTER[component.higher_is_better]) if kind == "metrics" else ()
        told.append((name, about, *facts))
    return told


def names() -> set[str]:
    """Of all components and recipes."""
    return {name for registry in KINDS.values() for name in registry.names()} | RECIPES.keys()


def written(name: str) -> str:
    """All that is called so, each as a document of YAML: a time law, a weight and a grid may share a name."""
    cards = [_card(registry, registry.get(name)) for registry in KINDS.values() if name in registry.names()]
    if name in RECIPES:
        cards.append({"recipe": name, **vars(RECIPES[name])})
    return yaml.dump_all(cards, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=118)


def _card(registry: Registry[Any], component: type[Any]) -> dict[str, Any]:
    """Plain values by heading; what the component does not have is left out."""
    if registry is CLAIMS:
        return claim_card(component)
    found = {registry.kind: component.name, "about": inspect.cleandoc(component.__doc__ or "")}
    found |= {fact: getattr(component, fact) for fact in FACTS.get(registry.kind, ())}
    if registry is METRICS:
        found["better"] = BETTER[component.higher_is_better]
    source = getattr(component, "source", "")  # of picture sets a property: where each was read
    found |= {"parameters": parameters(component), "source": source if isinstance(source, str) else ""}
    return {heading: value for heading, value in found.items() if value not in ({}, "")}


def claim_card(claim: type[Claim]) -> dict[str, Any]:
    """Plain values by heading; what a claim does not have is left out."""
    fields = {name: field.get_default(call_default_factory=True) for name, field in claim.model_fields.items()}
    asked = [name for name, field in claim.model_fields.items() if field.is_required()]
    told = {
        "claim": claim.name,
        "statement": " ".join((claim.__doc__ or "").split("\n\n")[0].split()),
        "effect": claim.effect,
        "rule": claim.rule,
        "decision": "supported where all comparisons are shown to keep the rule, refuted where one is shown to break it",
        "metrics": ", ".join(claim.metrics if asked else claim().needs()),
        "axes": [words(side) for side in claim.axes],
        "guards": ", ".join(guard.name for guard in claim.guards),
        "asks for": ", ".join(asked),
        "parameters": {
            claim.model_fields[name].alias or name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if name not in asked
        },
        "source": claim.source,
    }
    return {heading: value for heading, value in told.items() if value not in ([], {}, "")}


def parameters(component: type[Component]) -> dict[str, str]:
    """Every parameter's valid values and its default, by its name in suites."""
    schema = component.model_json_schema()
    return {
        name: _valid(field) + (f"; default {json.dumps(field['default'])}" if "default" in field else "; required")
        for name, field in schema.get("properties", {}).items()
    }


TYPES = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true or false", "null": "null",
         "object": "mapping"}  # fmt: skip
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def _valid(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_valid, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        return f"list of {_valid(schema['items'])}" if "items" in schema else "list"
    bounds = [f"{sign} {schema[bound]:g}" for bound, sign in BOUNDS.items() if bound in schema]
    return " ".join([TYPES[schema["type"]], ", ".join(bounds)]).strip()


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
