"""What `fmbench show` tells of everything registered."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fmbench import cards, cli
from fmbench.recipes import RECIPES

EVERY = [(kind, name) for kind, registry in cards.KINDS.items() for name in registry.names()]


def told(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(cards.written(name)))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_card_tells_every_parameter(kind: str, name: str) -> None:
    registry = cards.KINDS[kind]
    (card,) = [card for card in told(name) if card.get(registry.kind) == name]
    fields = registry.get(name).model_fields
    assert set(card.get("parameters", {})) | set(card.get("asks for", "").split(", ")) - {""} == {
        field.alias or key for key, field in fields.items()
    }
    assert card.get("about") or card.get("statement")
    if kind == "metrics":
        assert card["unit"] == registry.get(name).unit
        assert card["better"] in ("higher", "lower", "-")
        assert card["source"]


@pytest.mark.parametrize(
    ("name", "parameter", "text"),
    [
        ("fm-ot", "sigma_min", "number ≥ 0, < 1; default 1e-05"),
        ("w2", "n", "whole number > 0 or null; default null"),
        ("minibatch-ot", "engine", 'auto | pot | lapjv; default "auto"'),
        ("unet", "multipliers", "list of whole number > 0; default [1, 2]"),
        ("images", "path", "text; required"),
    ],
)
def test_ranges_and_defaults(name: str, parameter: str, text: str) -> None:
    assert told(name)[0]["parameters"][parameter] == text


def test_a_name_of_several_kinds_is_told_of_each_and_a_recipe_in_full() -> None:
    assert [next(iter(card)) for card in told("uniform")] == ["time law", "weight", "grid"]
    (recipe,) = told("torchcfm")
    assert recipe["train"] == RECIPES["torchcfm"].train
    assert cards.lines("recipes")[0][0] == "torchcfm"
    assert {*cards.KINDS, "suites", "recipes"} == set(cli.KINDS)
