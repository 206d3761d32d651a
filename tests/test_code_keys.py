"""What a cache key knows of the code of a user's own components."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fmbench.errors import UserError
from fmbench.flow import PATHS
from fmbench.own_code import digest
from fmbench.plugins import load_plugins
from fmbench.registry import Component

PATH = '''
"""A path with a helper, a constant and a neighbour."""
import torch
from math import exp as scale, sin
from fmbench.flow import PATHS
from fmbench.flow.paths import Path, Schedule

POWER = 2.0
TABLE = {}
TABLE["rise"] = 1.0
if POWER > 1:
    def factor():
        return scale(0.0)


def rise(t):
    """How the data come in."""
    return t**POWER * TABLE["rise"] * factor()


class Slow(Path):
    def slow(self):
        return True


@PATHS.register
class Rising(Slow):
    """α rises slowly."""

    name = "test-rising"
    method = "Rising"

    def schedule(self, t):
        return Schedule(rise(t), 1 - t, POWER * t ** (POWER - 1), -torch.ones_like(t))


@PATHS.register
class Neighbour(Path):
    name = "test-neighbour"
    method = "Neighbour"

    def schedule(self, t):
        return Schedule(t, 1 - t, torch.ones_like(t), -torch.ones_like(t))


def plotted():
    print("a figure", "test-rising")
'''


@pytest.fixture
def codes(tmp_path: Path) -> Callable[[str], dict[str, str | None]]:
    """Loads a text as a plug-in, each time as the same file; the code of each path that it registers."""

    def load(text: str) -> dict[str, str | None]:
        (tmp_path / "own_paths.py").write_text(textwrap.dedent(text))
        load_plugins([tmp_path / "own_paths.py"])
        return {name: PATHS.get(name).code for name in PATHS.names() if name.startswith("test-")}

    yield load
    for name in [name for name in PATHS._where if name.startswith("test-")]:
        PATHS._where.pop(name)
        PATHS._loaded.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    return t**POWER", "    return 0 * t + t**POWER"),  # what it calls
        ("POWER = 2.0", "POWER = 3.0"),  # what it names, by what it calls
        ("POWER * t ** (POWER", "(POWER * t) ** (POWER"),  # itself
        ("return True", "return False"),  # what it derives from
        ("exp as scale", "cos as scale"),  # what it imports, by what it calls
        ('TABLE["rise"] = 1.0', 'TABLE["rise"] = 2.0'),  # what is put into what it names
        ("scale(0.0)", "scale(1.0)"),  # what stands under a condition
        ("POWER > 1", "POWER > 0"),
    ],
)
def test_code_that_a_component_is_made_of_is_part_of_its_identity(
    codes: Callable[[str], dict[str, str | None]], old: str, new: str
) -> None:
    before = codes(PATH)
    assert PATHS.build("test-rising").identity()["code"] == before["test-rising"]
    after = codes(PATH.replace(old, new))
    assert after["test-rising"] != before["test-rising"]
    assert after["test-neighbour"] == before["test-neighbour"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""α rises slowly."""', '"""α rises more and more."""'),
        ("POWER = 2.0", "POWER = 2.0  # as in the paper"),
        ('"a figure"', '"another figure"'),
        ("Schedule(t, 1 - t,", "Schedule(1 * t, 1 - t,"),  # of the neighbour
        ("import torch\n", "import math\nimport torch\n"),
        ("import torch\n", "import math, torch\n"),
        ("as scale, sin", "as scale, tan"),
    ],
)
def test_other_code_is_not(codes: Callable[[str], dict[str, str | None]], old: str, new: str) -> None:
    before = codes(PATH)["test-rising"]
    assert codes(PATH.replace(old, new))["test-rising"] == before


def test_of_a_path_from_two_functions(codes: Callable[[str], dict[str, str | None]]) -> None:
    text = """
        from fmbench.flow.user_paths import path_from
        def falls(t):
            return 1 - t
        path_from("test-first", lambda t: t**2, falls)
        path_from("test-second", lambda t: t**3, lambda t: 1 - t)
    """
    before = codes(text)
    assert None not in before.values()
    lambdas = codes(text.replace("t**3", "t**4"))
    assert lambdas["test-first"] == before["test-first"]
    assert lambdas["test-second"] != before["test-second"]
    named = codes(text.replace("return 1 - t", "return (1 - t) ** 2"))
    assert named["test-first"] != before["test-first"]
    assert named["test-second"] == before["test-second"]


def test_what_no_statement_names_is_made_of_the_whole_file(codes: Callable[[str], dict[str, str | None]]) -> None:
    text = """
        from fmbench.flow.user_paths import path_from
        for power in (2, 3):
            path_from(f"test-{power}", lambda t: t**power, lambda t: 1 - t)
    """
    before, after = codes(text), codes(text.replace("t**power", "t ** (2 * power)"))
    assert before.keys() == after.keys() == {"test-2", "test-3"}
    assert all(after[name] != before[name] for name in before)


def test_what_has_no_file_has_no_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("interactive")
    monkeypatch.setitem(sys.modules, "interactive", module)
    kind = type("Typed", (), {"__module__": "interactive"})
    assert digest(kind, "typed") is None
    module.__file__ = str(tmp_path / "removed.py")
    assert digest(kind, "typed") is None


def test_components_of_the_package_are_known_by_their_version() -> None:
    kinds: list[type[Component]] = [PATHS.get(name) for name in ("rectified", "ve", "icfm")]
    assert [kind.code for kind in kinds] == [None] * 3
    assert "code" not in PATHS.build("rectified").identity()


def test_an_edited_metric_is_measured_anew_and_nothing_else_is(
    fmbench: Callable[..., Any], tiny_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = """
        from fmbench.metrics import METRICS
        from fmbench.metrics.base import PerSampleMetric

        @METRICS.register
        class Reach(PerSampleMetric):
            \"\"\"How far samples go.\"\"\"

            name = "reach"
            unit = "data units"

            def per_sample(self, geometry):
                return FACTOR * geometry.displacement.norm(dim=1)

        FACTOR = 1.0
    """
    import pandas as pd

    def value() -> pd.Series:
        answer = fmbench("run", suite, "--out", "out", "--plugin", "reach.py")
        assert answer.code == 0
        told.append(answer.out)
        table = pd.read_csv(tmp_path / "out" / "results.csv")
        return table.set_index(["metric", "seed"])["value"]["reach"]

    told, suite = list[str](), tiny_file(metrics=["reach", "nfe"])
    (tmp_path / "reach.py").write_text(textwrap.dedent(text))
    once = value()
    (tmp_path / "reach.py").write_text(textwrap.dedent(text).replace("FACTOR = 1.0", "FACTOR = 2.0"))
    twice = value()
    assert twice.tolist() == (2 * once).tolist()
    assert "6 values are already there" in " ".join(told[1].split()), told[1]  # of nfe; nothing is trained again


def test_a_claim_that_raises_is_not_tested_and_the_table_is_not_lost(
    fmbench: Callable[..., Any], tiny_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = """
        from fmbench.claims import CLAIMS, Claim

        class Broken(Claim):
            \"\"\"It is broken.\"\"\"
            source = "nobody"
            metrics = ("nfe",)

        @CLAIMS.register
        class Raises(Broken):
            name = "test-raises"

            def contrasts(self, cells):
                return [1 / 0]

        @CLAIMS.register
        class Numbers(Broken):
            name = "test-numbers"

            def contrasts(self, cells):
                return [0.5]
    """
    (tmp_path / "broken.py").write_text(textwrap.dedent(text))
    suite = tiny_file(claims=["test-raises", "test-numbers"], flow__seed=0)
    answer = fmbench("run", suite, "--out", "out", "--plugin", "broken.py")
    assert answer.code == 0
    assert (tmp_path / "out" / "results.csv").is_file()
    said = " ".join(answer.out.split())
    assert "guard 'its own code': contrasts raises ZeroDivisionError: division by zero" in said
    assert "guard 'its own code': contrasts gives float where a Contrast is meant" in said
    with pytest.raises(UserError, match="registered twice"):
        load_plugins([_copy(tmp_path / "broken.py")])


def _copy(file: Path) -> Path:
    other = file.with_name("another.py")
    other.write_text(file.read_text())
    return other
