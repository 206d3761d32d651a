"""Runs on a Ray cluster, played by a stand-in that runs actors in this process: the jobs are those of any worker."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fmbench.errors import UserError
from fmbench.execute import cluster, devices_for, execute, missing
from fmbench.plan import make_plan
from fmbench.store import Store
from fmbench.suite import parse


class FakeRay(SimpleNamespace):
    """`remote`, `get`, `kill` as Ray means them; what would be sent over the wire is pickled."""

    def __init__(self, cpus: float = 2, gpus: float = 0, breaks: int = 0):
        super().__init__(held={"CPU": cpus} | ({"GPU": gpus} if gpus else {}), breaks=breaks, actors=[], killed=[])

    def init(self, address: str, **_: Any) -> None:
        if address != "auto":
            raise ConnectionError("nobody answers")

    def cluster_resources(self) -> dict[str, float]:
        return self.held

    def remote(self, **asked: Any) -> Callable[[type], Any]:
        def started(cls: type) -> Any:
            def create(*args: Any) -> Any:
                actor = cls(*pickle.loads(pickle.dumps(args)))
                self.actors.append(asked)
                return SimpleNamespace(run=SimpleNamespace(remote=lambda job: (actor, pickle.dumps(job))))

            return SimpleNamespace(remote=create)

        return started

    def get(self, answer: Any) -> Any:
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("the actor died")
        actor, job = answer
        return pickle.loads(pickle.dumps(actor.run(pickle.loads(job))))

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def run(suite: Any) -> dict[str, Any]:
    plan, store, heard = make_plan(parse(suite)), Store(), []
    outcomes = execute(
        missing(plan, store), store, devices=devices_for(None, None, "auto"), ray=True,
        on_progress=lambda what, amount: heard.append(what),
    )  # fmt: skip
    assert {"trained", "sampled", "measured", "curve"} == set(heard)
    return {cell.spec.key: outcomes[cell.spec.key] for cell in plan.cells}


@pytest.mark.parametrize("breaks", [0, 1])
def test_a_cluster_computes_what_one_process_computes(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any, breaks: int
) -> None:
    fake = FakeRay(breaks=breaks)
    monkeypatch.setitem(sys.modules, "ray", fake)
    suite = tiny(metrics=["sliced_w2", "transport_cost"], flow__seed=[0, 1])
    found = run(suite)
    assert {outcome.status for outcome in found.values()} == {"ok"}
    assert len(fake.killed) == len(fake.actors) == 2 + breaks
    assert all(asked["num_gpus"] == 0 for asked in fake.actors)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "alone"))
    plan, store = make_plan(parse(suite)), Store()
    alone = execute(missing(plan, store), store, devices=["cpu"])
    assert {key: outcome.value for key, outcome in found.items()} == {key: alone[key].value for key in found}


def test_the_cluster_says_which_devices_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay(cpus=3))
    assert devices_for(None, None, "auto") == ["cpu"] * 3
    assert devices_for(None, 2, "auto") == ["cpu"] * 2
    with pytest.raises(UserError, match="the cluster has 3 cpu devices, 4 are asked for"):
        devices_for(None, 4, "auto")
    with pytest.raises(UserError, match=r"--ray 10.0.0.1:6379: no Ray cluster answers \(nobody answers\)"):
        devices_for(None, None, "10.0.0.1:6379")
    with pytest.raises(UserError, match="--device and --ray"):
        devices_for("cpu", None, "auto")
    monkeypatch.setitem(sys.modules, "ray", FakeRay(cpus=8, gpus=2))
    assert devices_for(None, None, "auto") == ["cuda"] * 2


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'flow-matching-bench\[ray\]'"):
        cluster.devices_of_cluster("auto", None)
