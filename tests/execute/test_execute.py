from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fmbench.errors import Diverged, UserError
from fmbench.execute import _Schedule, devices_for, missing
from fmbench.execute.jobs import CellJob, Job, TrainJob
from fmbench.execute.outcomes import Outcome
from fmbench.plan import make_plan
from fmbench.store import Store
from fmbench.suite import parse

Tiny = Callable[..., dict[str, Any]]
Measured = Callable[..., pd.DataFrame]
Same = Callable[[pd.DataFrame, pd.DataFrame], None]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Counts what is computed in this process from now on."""
    from fmbench.execute import jobs

    calls: list[tuple[str, int]] = []
    for name in ("train", "sample", "reference", "halves", "evidence", "alone"):
        real = getattr(jobs, name)

        def wrapped(*args: Any, name: str = name, real: Any = real, **more: Any) -> Any:
            calls.append((name, len(args[0]) if name == "train" else 1))
            return real(*args, **more)

        monkeypatch.setattr(jobs, name, wrapped)
    return calls


# ---- what is there already is taken ----


def test_a_second_run_computes_nothing(
    tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch, same_values: Same
) -> None:
    first = measured(tiny())
    assert set(first["status"]) == {"ok"}
    calls = counted(monkeypatch)
    pd.testing.assert_frame_equal(measured(tiny()), first, check_exact=True)
    assert calls == []
    plan = make_plan(parse(tiny()))
    assert missing(plan, Store()).jobs == []


def test_what_was_computed_once_is_shared(tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tiny())
    calls = counted(monkeypatch)
    more = measured(tiny(metrics=["sliced_w2", "solver_error", "transport_cost", "nfe", "mmd", "straightness"]))
    assert set(more["status"]) == {"ok"}
    assert {name for name, _ in calls} == {"evidence", "alone"}  # new metrics of cells that stand
    calls.clear()
    measured(tiny(sample__solvers=[{"name": "euler", "nfe": [2, 3]}]))
    assert sorted({name for name, _ in calls}) == ["evidence", "sample"]
    assert calls.count(("sample", 1)) == 2  # nfe = 3 of two seeds
    calls.clear()
    other = measured(tiny(suite="other", flow__path=["rectified", "ve"], flow__seed=[1, 2], metrics=["nfe"]))
    assert set(other["suite"]) == {"other"}
    assert sum(n for name, n in calls if name == "train") == 3  # of four flows one is there


def test_altered_artefacts_are_never_used(tiny: Tiny, measured: Measured, same_values: Same) -> None:
    first = measured(tiny())
    for path in Store().root.glob("measure/*/*.json"):
        path.write_text(path.read_text().replace('"value": ', '"value": 1'))
    same_values(measured(tiny()), first)


def test_damaged_tensors_fail_their_rows_and_name_the_file(tiny: Tiny, measured: Measured) -> None:
    measured(tiny())
    (path, *_) = sorted(Store().root.glob("sample/*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    table = measured(tiny(metrics=["mmd"]))
    failed = table[table["status"] != "ok"]
    assert len(failed) == 1
    assert path.name in failed["reason"].iloc[0]


# ---- the same values however they are computed ----


def test_seeds_together_equal_seeds_alone(
    tiny: Tiny, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_values: Same
) -> None:
    metrics = ["sliced_w2", "straightness", "solver_error"]
    suite = tiny(flow__path=["rectified", "ve"], flow__seed=[0, 1, 2], metrics=metrics)
    calls = counted(monkeypatch)
    together = measured(suite)
    assert [n for name, n in calls if name == "train"] == [3, 3]
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "another"))
    alone = pd.concat([measured(suite | {"flow": suite["flow"] | {"seed": seed}}) for seed in (0, 1, 2)])
    same_values(together, alone.drop_duplicates("key"))


def test_two_worker_processes_equal_one_thread(
    tiny: Tiny, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_values: Same
) -> None:
    suite = tiny(flow__coupling=["independent", "minibatch-ot"], flow__seed=[0, 1],
                 metrics=["w2", {"name": "nll", "n": 16}, "transport_cost", "solver_error", "seconds"])  # fmt: skip
    one = measured(suite)
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "another"))
    two = measured(suite, workers=2)
    assert set(two["status"]) == {"ok"}
    same_values(one, two)


def test_the_number_of_generated_samples_leaves_the_first_ones_alone(tiny: Tiny, measured: Measured) -> None:
    small = measured(tiny(metrics=[{"name": "w2", "n": 32}], flow__seed=0))
    large = measured(tiny(metrics=[{"name": "w2", "n": 32}], flow__seed=0, sample__n=48))
    assert small["value"].tolist() == large["value"].tolist()


def test_reflow_runs_and_its_rounds_are_shared(tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    table = measured(tiny(flow__reflow=1, flow__seed=0))
    assert set(table["status"]) == {"ok"}
    assert set(table["method"]) == {"2-RF", "data"}
    calls = counted(monkeypatch)
    measured(tiny(flow__reflow=[0, 1, 2], flow__seed=0))
    assert [name for name, _ in calls if name in ("train", "halves")] == ["halves", "train"]  # round 2 alone


def test_two_suites_share_one_artefact_of_pairs(
    tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else they measure and sample, and whichever of the next round and the students asks first."""
    measured(tiny(flow__reflow=1, flow__seed=0))
    calls = counted(monkeypatch)
    other = {
        "suite": "other",
        "metrics": ["w2", "train_coupling_cost_l1"],
        "sample__n": 32,
        "sample__solvers": ["dopri5"],
    }
    table = measured(tiny(flow__reflow=[0, 1], flow__distilled=[0, 1], flow__seed=0, **other))
    assert set(table["status"]) == {"ok"}
    computed = [name for name, _ in calls if name in ("train", "halves")]
    assert computed == ["train", "halves", "train"], "the student of round 0; round 1's pairs and their student"
    assert len({record for record in Store().root.rglob("pairs-*") if record.suffix == ".safetensors"}) == 2


def test_a_round_may_start_from_the_weights_before_it(
    tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmbench.execute import jobs

    train, started = jobs.train, []

    def seen(specs: Any, **more: Any) -> Any:
        started.append(more["initial"])
        return train(specs, **more)

    monkeypatch.setattr(jobs, "train", seen)
    for init in ("previous", "scratch"):
        suite = tiny(flow__reflow=1, flow__seed=0, pairs={"n": 64, "solver": {"name": "rk4", "steps": 4}, "init": init})
        measured(suite, only=("metric=nfe",))
    first = make_plan(parse(suite)).flows()[0]
    (none, (weights,), scratch) = started
    assert none is scratch is None, "the first round, and a round from scratch"
    for name, tensor in Store().read(first.key).tensors.items():
        assert torch.equal(weights[name], tensor)


# ---- failures are rows ----


def statuses(table: pd.DataFrame, by: Any) -> dict[Any, set[str]]:
    return {place: set(group) for place, group in table.groupby(by)["status"]}


def reasons(table: pd.DataFrame, status: str) -> list[str]:
    return sorted(set(table.loc[table["status"] == status, "reason"]))


def test_a_diverging_training_leaves_rows_and_the_rest_completes(
    tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = tiny(train__lr=1e30, train__clip=None, flow__seed=0)
    table = measured(wild)
    assert dict(table["status"].value_counts()) == {"diverged": 3 * 3 + 1, "ok": 1}  # the floor needs no flow
    (reason,) = reasons(table, "diverged")
    assert "training left the finite numbers by" in reason
    assert "lr = 1e+30" in reason
    assert table.loc[table["status"] == "diverged", "value"].isna().all()
    assert len(table) == len(make_plan(parse(wild)).cells)
    calls = counted(monkeypatch)
    measured(wild)
    assert calls == [("train", 1)]  # failures are tried again; what they explain is not


def test_one_seed_diverges_alone(tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through rounds of reflow that train the seeds together."""
    from fmbench.execute import jobs

    real = jobs.train

    def second_seed_diverges(specs: Any, **more: Any) -> Any:
        trained = real(specs, **more)
        return [Diverged("made up") if spec.seed == 1 else result for spec, result in zip(specs, trained, strict=True)]

    monkeypatch.setattr(jobs, "train", second_seed_diverges)
    table = measured(tiny(flow__seed=[0, 1, 2], flow__reflow=[0, 1]))
    status = statuses(table[table["model"] != "data"], ["seed", "reflow"])
    assert status == {(seed, k): {"diverged" if seed == 1 else "ok"} for seed in (0, 1, 2) for k in (0, 1)}


def test_a_reference_that_diverges_costs_only_what_is_read_from_it(
    tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A velocity that leaves the finite numbers between the times that Euler's few steps ask for."""
    from fmbench.execute import reading

    real = reading.velocity_field

    def with_a_gap(*args: Any) -> Any:
        field = real(*args)
        return lambda t, x: field(t, x) + torch.where((t > 0.2) & (t < 0.3), torch.nan, 0.0).reshape(-1, 1)

    monkeypatch.setattr(reading, "velocity_field", with_a_gap)
    solvers = [{"name": "euler", "nfe": [1, 2]}, {"name": "midpoint", "nfe": 4}]
    suite = tiny(flow__seed=0, sample__solvers=solvers)
    table = measured(suite)
    assert len(table) == len(make_plan(parse(suite)).cells)
    flow = table[table["model"] != "data"]
    lost = flow["metric"].isin(["solver_error", "transport_cost"]) | (flow["solver"] == "midpoint")
    assert set(flow.loc[~lost, "status"]) == {"ok"}
    assert flow.loc[~lost & (flow["metric"] == "nfe"), "value"].tolist() == [1, 2]
    assert set(flow.loc[lost, "status"]) == {"diverged"}
    assert set(flow.loc[lost & (flow["solver"] != "midpoint"), "reason"]) == {
        "the reference solve left the finite numbers"
    }


def test_a_solver_past_its_budget_is_a_timeout(tiny: Tiny, measured: Measured) -> None:
    solvers = [{"name": "dopri5", "max_nfe": 7, "rtol": 1e-8, "atol": 1e-8}, {"name": "euler", "nfe": 2}]
    table = measured(tiny(sample__solvers=solvers))
    assert set(table.loc[table["solver"] == "dopri5", "status"]) == {"timeout"}
    assert set(table.loc[table["solver"] != "dopri5", "status"]) == {"ok"}
    assert "max_nfe = 7" in reasons(table, "timeout")[0]


def test_metrics_that_go_wrong_fail_alone(
    tiny: Tiny, measured: Measured, plugin: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ["raises", "wrong_kind", "skips", "exits", "no_number"]
    suite = tiny(metrics=["nfe", *bad, "sliced_w2"], flow__seed=0)
    table = measured(suite, plugins=(plugin("misbehaving"),))
    assert statuses(table, "metric") == {"nfe": {"ok"}, "sliced_w2": {"ok"}, "skips": {"skipped"}} | {
        name: {"failed"} for name in ("raises", "wrong_kind", "exits", "no_number")
    }
    rows = table.set_index("metric")["reason"]
    assert set(rows["raises"]) == {"ZeroDivisionError: no good"}
    assert set(rows["skips"]) == {"not on a Tuesday"}
    assert set(rows["no_number"]) == {"the metric's value is not a number (nan)"}
    assert all("SystemExit" in reason for reason in rows["exits"])
    assert set(rows["wrong_kind"]) == {
        "UserError: metric 'wrong_kind': measure gives str, not an Estimate(value, stderr, n)"
    }

    from fmbench.metrics import METRICS

    asked = METRICS.get("skips").asked  # type: ignore[attr-defined]
    before = len(asked)
    calls = counted(monkeypatch)
    measured(suite, plugins=(plugin("misbehaving"),))
    assert len(asked) == before  # skipped is an answer, and kept
    assert {name for name, _ in calls} == {"evidence"}
    # Failed values are tried again: 3 cells of 3 metrics (SystemExit is tried in company first, then alone).
    assert len(calls) >= 9


def test_a_worker_that_dies_costs_only_the_value_that_killed_it(
    tiny: Tiny, measured: Measured, plugin: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    solvers = [{"name": "euler", "nfe": [1, 2, 3]}]
    suite = tiny(metrics=["nfe", "dies", "prints", "sliced_w2"], sample__solvers=solvers, flow__seed=0)
    table = measured(suite, workers=2, plugins=(plugin("misbehaving"),))
    assert len(table) == len(make_plan(parse(suite)).cells)
    bad = table[table["status"] != "ok"]
    assert [(row.metric, row.nfe, row.status) for row in bad.itertuples()] == [("dies", 2.0, "failed")]
    assert reasons(table, "failed") == ["the worker process ended (exit code 9); out of memory?"]
    assert "hello" not in capfd.readouterr().out


def test_a_full_disk_stops_the_run_with_one_message_from_a_worker_too(
    tiny: Tiny, measured: Measured, plugin: Callable[[str], str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr(os, "replace", os.replace)  # what the plug-in puts there goes again after this test
    cache.mkdir()
    (cache / "full").touch()
    for workers in (1, 2):
        with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
            measured(tiny(), workers=workers, plugins=(plugin("full_disk"),))
        left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert {path.parent.parent.name for path in left if path.name != "full"} <= {"floor"}
        assert not [path for path in left if path.suffix == ".safetensors" or path.name.startswith(".")]
    (cache / "full").unlink()
    assert set(measured(tiny())["status"]) == {"ok"}


def test_components_of_a_script_are_refused_by_worker_processes(
    tiny: Tiny, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that lives in `__main__` means nothing to another process: one message, no waiting for ever."""
    from fmbench.flow import PATHS
    from fmbench.flow.paths import Rectified

    class Mine(Rectified):
        name = "mine"

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    monkeypatch.setattr(sys.modules["__main__"], "Mine", Mine, raising=False)
    monkeypatch.setattr(PATHS, "_where", {**PATHS._where})
    PATHS.register(Mine)
    suite = tiny(flow__path="mine")
    with pytest.raises(UserError, match=r"Mine.*--plugin"):
        measured(suite, workers=2)
    monkeypatch.delattr(sys.modules["__main__"], "Mine")
    with pytest.raises(UserError, match=r"Mine.*--plugin"):
        measured(suite, workers=2)  # now it cannot even be sent
    assert set(measured(suite)["status"]) == {"ok"}


# ---- the schedule ----


def jobs_of(tiny: Tiny, **changes: Any) -> list[Job]:
    return missing(make_plan(parse(tiny(**changes))), Store()).jobs


def drained(schedule: _Schedule, outcome: Callable[[Job], Outcome]) -> list[Job]:
    done = []
    while (job := schedule.next()) is not None:
        done.append(job)
        schedule.settle({key: outcome(job) for key in job.provides})
    return done


@pytest.mark.parametrize("failing", [TrainJob, CellJob, None])
def test_every_key_is_settled_whatever_fails(tiny: Tiny, failing: type[Job] | None) -> None:
    jobs = jobs_of(tiny, flow__path=["rectified", "fm-ot"], flow__reflow=[0, 1, 2])
    schedule = _Schedule(list(jobs))
    done = drained(schedule, lambda job: Outcome("failed", "x") if failing and isinstance(job, failing) else Outcome())
    assert schedule.waiting == []
    assert set(schedule.outcomes) == {key for job in jobs for key in job.provides}
    if failing is TrainJob:
        assert sum(isinstance(job, TrainJob) for job in done) == 2  # round 0 of either path; all else falls with it
        assert {o.reason for key, o in schedule.outcomes.items() if not key.startswith("floor")} == {"x"}


def test_a_job_starts_when_all_that_it_needs_is_there(tiny: Tiny) -> None:
    jobs = jobs_of(tiny, flow__reflow=[0, 1])
    ready: set[str] = set()
    for job in drained(_Schedule(list(reversed(jobs))), lambda job: Outcome()):
        assert set(job.needs) <= ready
        ready |= set(job.provides)


def test_a_lost_job_is_tried_in_pieces_once(tiny: Tiny) -> None:
    heard: Counter[str] = Counter()
    schedule = _Schedule(jobs_of(tiny), tell=lambda what, amount: heard.update({what: amount}))
    provided = {key for job in schedule.waiting for key in job.provides}
    announced = sum((Counter(job.amounts()) for job in schedule.waiting), Counter())
    lost = 0
    while (job := schedule.next()) is not None:
        lost += 1
        for what, amount in job.amounts().items():
            schedule.heard(job, what, amount // 2)  # is told again by the pieces
        schedule.lose(job, "gone")  # every worker dies, always
        assert lost < 200
    assert schedule.waiting == []
    assert set(schedule.outcomes) == provided
    assert {outcome.status for outcome in schedule.outcomes.values()} == {"failed"}
    assert heard == announced


def test_pieces_provide_what_the_whole_did(tiny: Tiny) -> None:
    for job in jobs_of(tiny, flow__reflow=1):
        pieces = job.pieces()
        assert len(pieces) != 1
        assert sorted(itertools.chain(*(p.provides for p in pieces))) == (sorted(job.provides) if pieces else [])
        assert not any(piece.pieces() for piece in pieces)
        if pieces:
            assert sum((Counter(piece.amounts()) for piece in pieces), Counter()) == Counter(job.amounts())


# ---- devices ----


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert devices_for("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert set(devices_for(None, None)) == {"cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_for(None, None) == devices_for("cuda", None) == ["cuda:0", "cuda:1"]
    assert devices_for("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert devices_for("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices_for("cpu", 1) == ["cpu"]


@pytest.mark.parametrize(
    ("device", "workers", "words"),
    [
        ("gpu", None, ["--device gpu", "cpu", "cuda"]),
        ("cuda", None, ["--device cuda", "0 CUDA devices", "--device cpu"]),
        ("cuda:x", None, ["--device cuda:x", "cuda:0"]),
        ("cpu", 0, ["--workers 0", "at least 1"]),
        ("cpu", "two", ["--workers two", "a whole number"]),
        ("cpu", -2, ["--workers -2"]),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: int | None, words: list[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        devices_for(device, workers)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_an_interrupted_run_leaves_nobody_at_work(tiny: Tiny) -> None:
    """In a notebook the process lives on: no thread may go on training, nor keep a lock."""
    import threading

    from fmbench.execute import execute

    def interrupt(what: str, amount: int) -> None:
        raise KeyboardInterrupt

    plan, store = make_plan(parse(tiny(train__samples=1_000_000))), Store()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        execute(missing(plan, store), store, devices=["cpu"], on_progress=interrupt)
    assert threading.active_count() == before
    entered = threading.Thread(target=lambda: store.locks([flow.key for flow in plan.flows()]).__enter__(), daemon=True)
    entered.start()
    entered.join(5)
    assert not entered.is_alive()
