"""TensorBoard: what a run's curves say, read back with TensorBoard's own reader."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fmbench.api import run
from fmbench.errors import UserError
from fmbench.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")  # of its own parts


def test_curves_are_those_of_the_store(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = run(tiny(), out=tmp_path / "out", workers=1, log="tensorboard")
    folders = sorted((tmp_path / "out" / "tensorboard").iterdir())
    assert [folder.name.rpartition(" ")[0] for folder in folders] == ["moons RF seed 0", "moons RF seed 1"]
    keys = {flow["key"][-6:]: flow["key"] for flow in results.manifest["flows"]}
    for folder in folders:
        curves = EventAccumulator(str(folder)).Reload()
        losses = (Store().info(keys[folder.name[-6:]]) or {})["losses"]
        assert [(e.step, e.value) for e in curves.Scalars("loss")] == [(n, pytest.approx(loss)) for n, loss in losses]
        assert all(event.value > 0 for event in curves.Scalars("samples_per_second"))


def test_what_is_missing_is_said(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"unknown log 'tensorbord'.*Did you mean 'tensorboard'"):
        run(tiny(), out=tmp_path / "out", log="tensorbord")
    importing = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"not installed. pip install 'flow-matching-bench\[tensorboard\]'"):
        run(tiny(), out=tmp_path / "out", log="tensorboard")
