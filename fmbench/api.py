"""A whole run: plan, execute, leave the table, the manifest, the pictures and the report."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import by_sample, paired
from .board import TensorBoard
from .claims.judge import judge
from .disk import named
from .errors import UserError, unknown
from .execute import Missing, Outcome, devices_for, execute, missing
from .execute.ranks import neighbours
from .manifest import manifest
from .pictures import pictures
from .plan import Cell, Plan, make_plan
from .plugins import load_plugins
from .results import Results
from .store import ResultFolder, Store, WriteError
from .suite import Suite, load, parse
from .table import COLUMNS, frame

SNAPSHOT_SECONDS = 10.0  # between tables written while a run goes on


class Watcher(Protocol):
    """Who looks on while a run goes on; the command line shows bars."""

    def planned(self, plan: Plan, work: Missing, devices: Sequence[str]) -> None: ...
    def advanced(self, what: str, amount: int) -> None: ...


class Nobody:
    """A watcher that looks away."""

    def planned(self, plan: Plan, work: Missing, devices: Sequence[str]) -> None:
        pass

    def advanced(self, what: str, amount: int) -> None:
        pass


@dataclass(frozen=True)
class Outline:
    """What `--dry-run` tells: the plan and what of it is already there."""

    plan: Plan
    work: Missing


def outline(
    suite: str | os.PathLike[str] | dict[str, Any] | Suite,
    *,
    set: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    devices_per_flow: int = 1,
    plugins: Sequence[str] = (),
) -> Outline:
    """The plan of a suite compared with the cache; nothing is computed or written. Arguments as in `run`."""
    check_lists(set=set, only=only, plugins=plugins)
    load_plugins(plugins)
    devices_for(device, workers, ray, devices_per_flow)
    plan = make_plan(_suite(suite, set), only)
    return Outline(plan, missing(plan, Store(), devices_per_flow=devices_per_flow))


def run(
    suite: str | os.PathLike[str] | dict[str, Any] | Suite,
    *,
    out: str | Path | None = None,
    set: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    devices_per_flow: int = 1,
    plugins: Sequence[str] = (),
    log: str | None = None,
    watcher: Watcher | None = None,
) -> Results:
    """Runs a suite and leaves its results in a folder. What was computed before is not computed again.

    Args:
        suite: a shipped suite's name, the path of a YAML file, or a mapping with the same keys.
        out: the folder of the results; `results/<suite>` under the working directory when None.
        set: overrides such as `"flow.seed=[0,1]"`.
        only: filters such as `"path=rectified"`.
        device: `"cpu"`, `"cuda"` or `"cuda:1"`; a GPU where there is one when None.
        workers: worker processes; one for each core or GPU when None.
        ray: address of a Ray cluster, "auto" for the one at hand, whose devices take the place of this machine's; all its
            nodes see one FMBENCH_CACHE.
        devices_per_flow: how many devices of this machine train one flow, each a part of every batch, and share its samples, each
            whole batches; a worker holds so many. The samples are the same; the flow is so up to rounding and its own dropout.
        plugins: Python files that register a user's own components.
        log: "tensorboard" for loss and throughput of the trainings in `<out>/tensorboard`.
        watcher: hears of progress.

    Returns:
        `Results`; `.table` has one row per measured value, failures included.

    Raises:
        UserError: a mistake in the suite or the arguments, or a folder that cannot be written.
    """
    if log not in (None, TensorBoard.name):
        raise unknown("log", log, [TensorBoard.name])
    check_lists(set=set, only=only, plugins=plugins)
    load_plugins(plugins)
    wanted = _suite(suite, set)
    for part in [part for task in wanted.problems() for part in (task.data, task.source)]:
        part.prepare()  # before the plan, whose keys name the data's content
    plan = make_plan(wanted, only)
    devices = devices_for(device, workers, ray, devices_per_flow)
    used = [each for device in devices for each in neighbours(device, devices_per_flow)]
    store, watcher = Store(), watcher or Nobody()
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    work = missing(plan, store, len(devices), devices_per_flow)
    if work.jobs:
        store.ready()  # found by the first job, it would be told seconds later, and beside an empty folder
    folder = ResultFolder(Path("results") / plan.suite.suite if out is None else named(out))
    with folder.locked():
        _refuse_anothers(folder, plan.suite.suite)
        watcher.planned(plan, work, used)
        last = time.monotonic()
        board = None if log is None else TensorBoard(folder.directory / log, plan)

        def heard(what: str, amount: Any) -> None:
            if what != "curve":
                watcher.advanced(what, amount)
            elif board is not None:
                board.add(amount)

        known: dict[str, Outcome] = {}

        def unfinished() -> None:
            """The table so far, and before it how it is being made: a table never stands beside another run's manifest."""
            if not (measured := rows(plan, known)):
                return
            folder.write_json("manifest.json", {**manifest(plan, known, store, used), "finished": None})
            folder.write_table(frame(measured))

        def snapshot(outcomes: dict[str, Outcome]) -> None:
            nonlocal last, known
            known = outcomes
            if time.monotonic() - last > SNAPSHOT_SECONDS:
                unfinished()
                last = time.monotonic()

        # The report's libraries take seconds to load, while this process only waits; where it works, on its one device, it
        # imports too, and two threads that import one library may find each other in a deadlock.
        waits = ray is not None or len(devices) > 1
        with ThreadPoolExecutor(1) as beside:
            page = beside.submit(_prepared_page) if work.jobs and waits else None
            try:
                outcomes = execute(
                    work,
                    store,
                    devices=devices,
                    plugins=plugins,
                    ray=ray is not None,
                    devices_per_flow=devices_per_flow,
                    on_progress=heard,
                    on_outcomes=snapshot,
                )
            except KeyboardInterrupt:
                unfinished()
                raise
            finally:
                if board is not None:
                    board.close()
        if page is not None:
            page.result()
        facts = manifest(plan, outcomes, store, used)
        timing = {"started": started.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock, 2)}
        return _published(folder, plan, outcomes, store, facts, timing, new=bool(work.jobs))


def _published(
    folder: ResultFolder,
    plan: Plan,
    outcomes: dict[str, Outcome],
    store: Store,
    facts: dict[str, Any],
    timing: dict[str, Any],
    *,
    new: bool,
) -> Results:
    """Writes what a run leaves, the table first; nothing where nothing is new and the folder holds it all already.

    Args:
        facts: what the manifest says. timing: when it ran and how long, in which no two runs agree.
    """
    table = frame(rows(plan, outcomes))
    per_sample = by_sample.gather(plan, store) if plan.suite.claims else {}
    verdicts = [v.record() for v in judge(Results(table, facts), plan.suite.claims, per_sample)]
    judged = (folder.read_json("claims.json") or []) == verdicts
    if not new and judged and folder.holds(table, facts):
        return Results.load(folder.directory)
    folder.write_table(table)
    with _after_the_table(folder.directory):
        folder.write_bytes("pictures.npz", pictures(plan, store))
        folder.write_json("manifest.json", facts | timing)
        if per_sample:
            folder.write_bytes(paired.FILE, paired.packed(per_sample))
        if not judged:
            folder.write_json("claims.json", verdicts)
        results = Results.load(folder.directory)
        from .report.page import write_page

        write_page([results], folder.directory / "report.html")
    return results


def check_lists(**arguments: Any) -> None:
    """Raises `UserError` for a single thing where a list is meant: of a text each letter would be taken for an entry."""
    for name, given in arguments.items():
        if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
            raise UserError(f"{name} = {given!r}: a list is meant, of one entry too: {name}=[…]")


def _refuse_anothers(folder: ResultFolder, suite: str) -> None:
    """Raises `UserError` where the folder holds the results of a suite of another name, which a run would replace."""
    held = folder.read_json("manifest.json")
    name = held["suite"].get("suite") if isinstance(held, dict) and isinstance(held.get("suite"), dict) else None
    if name not in (None, suite):
        raise UserError(
            f"{folder.directory} holds the results of suite '{name}': choose another folder for '{suite}' (--out), or "
            "remove that one"
        )


@contextlib.contextmanager
def _after_the_table(directory: Path) -> Iterator[None]:
    """What a disk that fills up now leaves, and how to get the rest, is told with what it refused."""
    try:
        yield
    except WriteError as error:
        raise WriteError(
            f"{error} The table is written, {directory / 'results.csv'}. Once there is room, the same command makes the rest "
            f"without computing again, `fmbench report {shlex.quote(str(directory))}` the report alone."
        ) from None


def _prepared_page() -> None:
    from .report.page import vega

    vega()


def _suite(suite: str | os.PathLike[str] | dict[str, Any] | Suite, overrides: Sequence[str]) -> Suite:
    if isinstance(suite, Suite):
        if overrides:
            raise UserError("overrides (set) apply to a suite's name, file or mapping, not to a Suite object")
        return suite
    if isinstance(suite, dict):
        return parse(suite, overrides)
    if not isinstance(suite, (str, os.PathLike)):
        raise UserError(f"suite = {suite!r}: a shipped suite's name, the path of a YAML file, or a mapping")
    return load(os.fspath(suite), overrides)


def rows(plan: Plan, outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """The table's rows, one for each planned cell whose outcome is known."""
    return [
        _row(plan.suite.suite, cell, outcome)
        for cell in plan.cells
        if (outcome := outcomes.get(cell.spec.key)) is not None
    ]


def _row(suite: str, cell: Cell, outcome: Outcome) -> dict[str, Any]:
    metric = cell.spec.metric
    measured = {name: value for name, value in vars(outcome).items() if name in COLUMNS and value is not None}
    return {
        "suite": suite,
        **cell.columns,
        **measured,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "key": cell.spec.key,
    }
