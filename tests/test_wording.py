"""pydantic's findings in our words, whatever model they are about."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from fmbench.wording import worded


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    depth: int = 1
    kind: Literal["red", "green"] = "red"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Inner()
    stds: PositiveFloat | tuple[PositiveFloat | tuple[PositiveFloat, ...], ...] = 1.0
    pair: float | tuple[float, float] = 0.0
    share: float = Field(0.5, ge=0, lt=1)
    kinds: list[Literal["a", "b"]] = []


def keys_at(place: tuple[str | int, ...]) -> list[str]:
    return {(): list(Outer.model_fields), ("inner",): list(Inner.model_fields)}.get(place, [])


def said(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return worded(caught.value, keys_at)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"shar": 1}, "unknown key 'shar'. Did you mean 'share'? Valid: inner, kinds, pair, share, stds."),
        ({"inner": {"dept": 1}}, "unknown key 'inner.dept'. Did you mean 'depth'? Valid: depth, kind."),
        ({"inner": 3}, "inner = 3: must be a mapping"),
        ({"inner": {"depth": "x"}}, "inner.depth = 'x': must be a whole number"),
        ({"inner": {"kind": "gren"}}, "inner.kind = 'gren': unknown. Did you mean 'green'? Valid: green, red."),
        ({"kinds": ["a", "c"]}, "kinds.1 = 'c': unknown. Valid: a, b."),
        ({"share": 2}, "share = 2: must be less than 1"),
        ({"stds": -1}, "stds = -1: must be greater than 0"),
        ({"stds": "a"}, "stds = 'a': must be a number or a list"),
        ({"stds": [1, -1]}, "stds.1 = -1: must be greater than 0"),
        ({"stds": [[1, -1], 1]}, "stds.0.1 = -1: must be greater than 0"),
        ({"pair": [1]}, "key 'pair.1' is missing"),
        ({"share": 2, "pair": "x"}, "pair = 'x': must be a number or a list; share = 2: must be less than 1"),
    ],
)
def test_findings(values: dict[str, object], sentence: str) -> None:
    assert said(**values) == sentence


nested = st.recursive(
    st.none() | st.text(max_size=3) | st.integers(-2, 2), lambda x: st.lists(x, max_size=3), max_leaves=5
)


@given(st.sampled_from(sorted(Outer.model_fields)), nested)
def test_no_finding_speaks_of_types(field: str, value: object) -> None:
    try:
        Outer.model_validate({field: value})
    except ValidationError as error:
        sentence = worded(error, keys_at)
        assert sentence
        assert not any(word in sentence for word in ("constrained", "union", "Input should", "type=", "tuple["))
