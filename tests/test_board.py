"""TensorBoard: what a run's curves say, read back with TensorBoard's own reader."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fmbench.api import run
from fmbench.board import TensorBoard
from fmbench.errors import UserError
from fmbench.execute.jobs import Point
from fmbench.stages import train as training
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


def test_a_run_that_is_gone_on_with_doubles_no_point(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after three fifths, with a checkpoint after two: the points between are written once more, and count once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))
    suite = tiny(flow__seed=0, train__samples=64 * 100)
    write, add = Store.write_checkpoint, TensorBoard.add

    def until_two_fifths(store: Store, key: str, state: dict[str, Any]) -> None:
        if int(state["step"]) <= 40:
            write(store, key, state)

    def until_three_fifths(board: TensorBoard, point: Point) -> None:
        add(board, point)
        if point.samples == 64 * 60:
            raise KeyboardInterrupt

    def curve() -> list[tuple[int, float]]:
        (folder,) = (tmp_path / "out" / "tensorboard").iterdir()
        return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars("loss")]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_checkpoint", until_two_fifths)
        patch.setattr(TensorBoard, "add", until_three_fifths)
        with pytest.raises(KeyboardInterrupt):
            run(suite, out=tmp_path / "out", workers=1, log="tensorboard")
    assert [step for step, _ in curve()] == [64 * k for k in range(1, 61)]
    results = run(suite, out=tmp_path / "out", workers=1, log="tensorboard")
    losses = (Store().info(results.manifest["flows"][0]["key"]) or {})["losses"]
    assert curve() == [(n, pytest.approx(loss)) for n, loss in losses]


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
