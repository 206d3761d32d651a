"""Registries: names, mistakes, plug-ins; components say the same thing as suite, label and key."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fmbench import registry
from fmbench.claims import CLAIMS
from fmbench.data import DATA
from fmbench.data.pictures import Pictures
from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.losses import LOSSES, WEIGHTS
from fmbench.flow.times import TIMES
from fmbench.metrics import METRICS
from fmbench.models import MODELS
from fmbench.registry import Component, Registry
from fmbench.solvers import GRIDS, SOLVERS

NEEDED = {  # parameters without a default
    "images": {"path": "pictures"}, "fd_own": {"features": "pixels"}, "fd_infinity": {"features": "pixels"},
    "comparison": {"metric": "w2", "at": {"solver": "euler"}, "than": {"solver": "heun"}},
}  # fmt: skip
ALL = [PATHS, COUPLINGS, TIMES, LOSSES, WEIGHTS, SOLVERS, GRIDS, MODELS, DATA, METRICS, CLAIMS]
BUILTIN = [pytest.param(r, name, id=f"{r.kind}-{name}") for r in ALL for name in r.names()]


class Apple(Component):
    name = "apple"
    weight: float = Field(1.0, gt=0)
    kind: str = "red"
    spots: int = 0


def fruits(**builtin: str) -> Registry[Component]:
    found: Registry[Component] = Registry("fruit", builtin, listing="fruits")
    found.register(Apple)
    return found


@pytest.mark.parametrize(("found", "name"), BUILTIN)
def test_every_builtin_is_what_it_is_called(found: Registry[Any], name: str) -> None:
    cls = found.get(name)
    assert cls.name == name
    spec = {"name": name, **NEEDED.get(name, {})}
    component = found.build(spec)
    assert component == found.build(component) == found.build(component.spec())
    assert spec != {"name": name} or component == found.build(name)
    assert component.identity()["name"] == name
    assert component.identity()["version"] == cls.version >= 1
    fields = {field.alias or key for key, field in cls.model_fields.items()}
    if issubclass(cls, Pictures):  # are told by their content, wherever they lie
        fields = fields - {"path"} | {"sha256"}
    # and the digests of what stands outside, such as weights
    assert set(component.identity()) >= {"name", "version", *fields} - set(cls.unchanged)
    assert set(cls.unchanged) <= set(cls.model_fields)
    assert cls.__doc__
    assert cls.__doc__ != Component.__doc__


@given(weight=st.floats(1e-300, 1e300), kind=st.sampled_from(["red", "green"]), spots=st.integers(-(10**20), 10**20))
def test_round_trips(weight: float, kind: str, spots: int) -> None:
    apple = Apple(weight=weight, kind=kind, spots=spots)
    assert fruits().build(apple.spec()) == apple
    assert Apple(**apple.parameters()) == apple
    name, _, inside = apple.label().partition("[")
    assert name == "apple"
    said = dict(part.split("=") for part in inside.removesuffix("]").split(",") if part)
    assert list(said) == sorted(said)
    assert Apple.model_validate_strings(said) == apple, "the label does not say which apple it is"


def test_labels_show_what_differs() -> None:
    assert Apple().label() == "apple"
    assert Apple(weight=2).label() == "apple[weight=2]"
    assert Apple(weight=1e-5, spots=3).label() == "apple[spots=3,weight=1e-05]"
    assert Apple(weight=0.1234567).label() != Apple(weight=0.1234568).label()


def test_spelling_of_numbers_does_not_matter() -> None:
    assert Apple(weight=2).identity() == Apple(weight=2.0).identity()
    assert Apple(weight=2).label() == Apple(weight=2.0).label()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "aple",
            "unknown fruit 'aple'. Did you mean 'apple'? Valid: apple. See `fmbench list fruits`; "
            "one of your own needs `--plugin FILE`.",
        ),
        ("xyz", "unknown fruit 'xyz'. Valid: apple."),
        ({"name": "apple", "wieght": 2}, "fruit 'apple': unknown key 'wieght'. Did you mean 'weight'?"),
        ({"name": "apple", "weight": -1}, "fruit 'apple': weight = -1: must be greater than 0"),
        ({"name": "apple", "weight": float("nan")}, "weight = nan"),
        ({"weight": 2}, "is no fruit: write a name or a mapping with a name. Valid: apple."),
        (3, "3 is no fruit"),
        (None, "None is no fruit"),
    ],
)
def test_mistakes_are_explained(value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        fruits().build(value)
    assert message in str(caught.value)


def test_a_name_has_one_owner() -> None:
    found = fruits()
    assert found.register(Apple) is Apple  # the same again is no quarrel

    class Impostor(Component):
        name = "apple"

    with pytest.raises(UserError, match=r"fruit 'apple' is registered twice: by .*:Apple and by .*Impostor"):
        found.register(Impostor)
    assert found.get("apple") is Apple


def test_builtin_ones_are_loaded_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fruits(pear="no_such_module:Pear")
    assert found.names() == ["apple", "pear"]
    with pytest.raises(ModuleNotFoundError):
        found.get("pear")
    module = ModuleType("no_such_module")
    module.Pear = type("Pear", (Apple,), {"name": "pear", "__module__": "no_such_module"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "no_such_module", module)
    assert found.get("pear") is module.Pear


def plugged(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> list[str]:
    """Installs packages with these entry points; returns the groups that are asked for."""
    asked: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint(name, value, group) for name, value in points]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return asked


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("orchard")
    module.Quince = type("Quince", (Apple,), {"name": "quince", "__module__": "orchard"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orchard", module)
    asked = plugged(monkeypatch, ("quince", "orchard:Quince"))
    found = fruits()
    assert found.names() == ["apple", "quince"]
    assert found.build({"name": "quince", "weight": 3}).label() == "quince[weight=3]"
    assert asked == ["fmbench.fruits"], "asked once, under the documented name"


def test_an_entry_point_that_takes_a_name_is_refused_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, ("apple", "orchard:Other"))
    found = fruits()
    for _ in range(2):
        with pytest.raises(UserError, match=r"fruit 'apple' is registered twice: by .*:Apple and by orchard:Other"):
            found.names()


def test_what_a_class_must_say_of_itself_is_asked_for_at_once() -> None:
    from fmbench.claims import Pairwise
    from fmbench.flow import Path
    from fmbench.metrics.base import Metric
    from fmbench.solvers.tableaux import RungeKutta

    class Nameless(Path):
        name = "nameless"

    class Tableless(RungeKutta):
        name = "tableless"

    class Cheaper(Pairwise):
        """This is cheaper than that."""

        name = "cheaper-than-that"
        metric = "transport_cost"
        at: ClassVar = {"coupling": "this"}
        than: ClassVar = {"coupling": "that"}

    class Sideless(Pairwise):
        name = "sideless"

    with pytest.raises(UserError, match=r"path 'nameless' lacks method: write method = … into the class .*Nameless"):
        PATHS.register(Nameless)
    with pytest.raises(UserError, match="solver 'tableless' lacks calls_per_step, order, tableau"):
        SOLVERS.register(Tableless)
    with pytest.raises(UserError, match="metric Astray: scope = 'sample': valid are samples, flow, coupling"):

        class Astray(Metric):
            scope = "sample"  # type: ignore[assignment]

    claims: Registry[Any] = Registry("claim", {})
    with pytest.raises(UserError, match="claim 'sideless' lacks at, metric, than"):
        claims.register(Sideless)
    assert claims.register(Cheaper)().needs() == ["transport_cost"]
