"""What a person sees in the terminal: progress bars, tables, the outcome of a run. Heavy imports wait for their use."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import UserError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from .api import Outline
    from .execute import Missing
    from .plan import Plan
    from .report.tables import Grid
    from .results import Results

CAUSES = 8  # of failures that are told
WIDTH = 100


def counted(n: int, what: str) -> str:
    """ "1 flow", "2,000 flows"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def carry_out(work: Callable[[Bars | None], Results], quiet: bool) -> None:
    """Does a run with bars, prints what it found, and ends with exit code 1 where cells failed."""
    import typer

    console = new_console()
    bars = Bars(console) if not quiet else None
    try:
        with ended_like_ctrl_c():
            results = work(bars)
    except KeyboardInterrupt:
        if bars is not None:
            bars.stop()  # before the message: bars that are drawn to a file come at their end
        new_console(stderr=True).print("Interrupted. Run the same command again to go on from here.")
        raise typer.Exit(130) from None
    finally:
        if bars is not None:
            bars.stop()
    if not quiet:
        print_results(console, results)
        print_claims(console, results)
    if results.table["status"].isin(["failed", "diverged", "timeout"]).any():
        print_failures(new_console(stderr=True), results)
        raise typer.Exit(1)


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """A scheduler's end of time (SIGTERM) and a closed terminal (SIGHUP) leave what Ctrl-C leaves: the table so far."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bars:
    """Progress bars of a run: what is trained, sampled, measured, and the time left."""

    def __init__(self, console: Console):
        self.console = console
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}

    def planned(self, plan: Plan, work: Missing, devices: Sequence[str]) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        flows, solves = len(plan.flows()), len(plan.references()) + len(plan.samples())
        there = len(work.outcomes)
        self.console.print(
            f"[bold]{plan.suite.suite}[/]: {counted(flows, 'flow')}, {counted(solves, 'solve')}, "
            f"{counted(len(plan.cells), 'value')}; {counted(there, 'value')} {'is' if there == 1 else 'are'} already there. "
            f"{len(devices)} × {devices[0]}.",
            highlight=False,
        )
        if not work.jobs:
            return
        self.progress = Progress(
            TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        totals = {
            "trained": ("training", work.train_samples, "sample"),
            "sampled": ("sampling", work.solves, "solve"),
            "measured": ("measuring", work.values, "value"),
        }
        for what, (label, total, unit) in totals.items():
            if total:
                self.tasks[what] = self.progress.add_task(label, total=total, unit=f"of {counted(total, unit)}")
        self.progress.start()

    def advanced(self, what: str, amount: int) -> None:
        if self.progress is not None and what in self.tasks:
            self.progress.advance(self.tasks[what], amount)

    def stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()


SUFFIXES = {"html": ("html", "htm"), "md": ("md", "markdown"), "latex": ("tex",), "csv": ("csv",), "png": ("png",),
            "svg": ("svg",), "pdf": ("pdf",)}  # fmt: skip
"""A report's formats, and what their files are called."""


def format_of(format: str | None, out: Path | None) -> str:
    """The report's format: the one asked for, else the one that the file's name tells, else a page.

    Raises:
        UserError: there is no such format, or the file is called otherwise.
    """
    if format is not None and format not in SUFFIXES:
        raise unknown("format", format, SUFFIXES)
    suffix = "" if out is None else out.suffix.removeprefix(".").lower()
    if not suffix:
        return format or "html"
    told = next((name for name, suffixes in SUFFIXES.items() if suffix in suffixes), None)
    if told is None:
        if format is None:
            raise unknown("suffix of --out", suffix, [s for names in SUFFIXES.values() for s in names])
        return format
    if format not in (None, told):
        raise UserError(f"--format {format} and --out {out} disagree: that file would be taken for {told}")
    return told


def print_results(console: Console, results: Results) -> None:
    from .report.tables import coarse, tasks, terminal_pivot, truth_grid

    pivot = terminal_pivot(results, width=WIDTH)
    print_frame(console, pivot.reset_index(), str(pivot.attrs.get("title", results.main_metric)))
    parts = tasks(results.summary())
    for name, part in parts:
        if (exact := truth_grid(part)).rows:
            print_grid(console, exact, name if len(parts) > 1 else "")
    counts = results.table["status"].value_counts()
    console.print(
        ", ".join(f"{count} {status}" for status, count in counts.items())
        + f" of {counted(len(results.table), 'value')}"
    )
    if remark := coarse(results):
        console.print(remark, highlight=False)
    assert results.directory is not None
    print_reasons(console, results.table[results.table["status"] == "skipped"], "skipped")
    console.print(f"table   {results.directory / 'results.csv'}", soft_wrap=True, markup=False)
    console.print(f"report  {results.directory / 'report.html'}", soft_wrap=True, markup=False)


def print_reasons(console: Console, rows: pd.DataFrame, what: str) -> None:
    """How many values were skipped or the like, and why, the commonest reason first."""
    for reason, group in sorted(rows.groupby("reason", dropna=False), key=lambda pair: -len(pair[1])):
        metrics = ", ".join(dict.fromkeys(group["metric"].dropna()))
        console.print(f"  {what} {len(group)} × {metrics}: {reason}", highlight=False, markup=False)


def print_claims(console: Console, results: Results) -> None:
    """The verdicts that a run left in its folder, if its suite names claims."""
    from .report.verdicts import recorded

    if verdicts := recorded(results):
        print_verdicts(console, verdicts)


def print_verdicts(console: Console, verdicts: Sequence[dict[str, Any]], suite: str = "") -> None:
    """Verdicts in a table; below it, for each claim, what hindered or decided it and the rows used."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if not verdicts:
        console.print(
            f"{suite or 'The suite'} names no claims. Judge one with --claim; `fmbench list claims` shows them."
        )
        return
    colours = {"supported": "green", "refuted": "bold red", "inconclusive": "yellow", "not tested": "dim"}
    print_title(console, f"claims of {suite}" if suite else "claims")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("claim", "verdict", "effect", "interval", "margin", "p"):
        table.add_column(column, no_wrap=column != "claim", overflow="fold")
    for item in verdicts:
        effect, low, high, margin, p = (
            _number(item.get(name)) for name in ("effect", "low", "high", "margin", "p_value")
        )
        verdict = f"[{colours.get(item['verdict'], 'default')}]{escaped(item['verdict'])}[/]"
        interval = f"{low} … {high}" if effect else ""
        table.add_row(escaped(item["claim"]), verdict, effect, interval, margin, p)
    console.print(table)
    for item in verdicts:
        guard = f"guard '{item['guard']}'" if item.get("guard") else None
        found = [guard, item.get("contrast") if item["verdict"] != "supported" else None, item.get("note")]
        remarks = [text for text in (": ".join(filter(None, found)), item.get("used")) if text]
        console.print(Padding(Text(": ".join([item["claim"], *remarks[:1]])), (0, 0, 0, 2)))
        for remark in remarks[1:]:
            console.print(Padding(Text(remark), (0, 0, 0, 4)))


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else ""


def print_failures(console: Console, results: Results) -> None:
    bad = results.table[results.table["status"].isin(["failed", "diverged", "timeout"])]
    console.print(f"[bold red]{len(bad)} of {counted(len(results.table), 'value')} failed:[/]")
    causes = bad.groupby(["method", "status", "reason"], dropna=False).size().reset_index(name="count")
    causes = causes.sort_values("count", ascending=False, kind="stable")
    for method, status, reason, count in causes.head(CAUSES).itertuples(index=False):
        console.print(f"  {count} × {method}, {status}: {reason}", highlight=False, markup=False)
    if len(causes) > CAUSES:
        rest = causes["count"].iloc[CAUSES:].sum()
        console.print(f"  … and {rest} for {len(causes) - CAUSES} more reasons: see results.csv", highlight=False)


def print_outline(outline: Outline) -> None:
    from rich.table import Table

    from .store import Store

    console, store, plan, work = new_console(), Store(), outline.plan, outline.work
    print_title(console, f"{plan.suite.suite}: what would be done")
    table = Table(box=None, padding=(0, 2))
    for column in ("stage", "planned", "already there", "to do"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    stages: dict[str, list[bool]] = {}
    for spec in plan.stages():
        stages.setdefault(spec.stage, []).append(store.has(spec.key))
    names = {
        "train": "flows to train",
        "pairs": "reflow pairs",
        "reference": "reference solves",
        "sample": "solves",
        "measure": "values",
        "floor": "floors",
        "pairing": "values of couplings",
        "truth": "exact values",
        "given": "values of given samples",
    }
    for stage, there in stages.items():
        table.add_row(names[stage], str(len(there)), str(sum(there)), str(len(there) - sum(there)))
    console.print(table)
    for flow in plan.flows():
        if flow.model.trained:
            state = (
                "there"
                if store.has(flow.key)
                else "checkpoint"
                if store.checkpoint(flow.key) is not None
                else "to train"
            )
            console.print(
                f"  {state:<11}{flow.key}  {flow.path.label()}, {flow.coupling.label()}, {flow.model.label()}, "
                f"reflow {flow.reflow}, {f'{flow.distilled} steps, ' if flow.distilled else ''}seed {flow.seed}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    console.print(
        f"{counted(work.train_samples, 'sample')} to train on, {counted(work.solves, 'solve')}, "
        f"{counted(work.values, 'value')} to measure.",
        highlight=False,
    )


def suite_lines() -> list[tuple[str, str]]:
    from .suite import load, shipped

    return [(name, f"{(suite := load(name)).title} ({suite.tier})") for name in shipped()]


def print_title(console: Console, title: str) -> None:
    """A table's title, as wide as the console: in the table it would break at a narrow table's width."""
    console.print(title, style="table.title", highlight=False, markup=False)


def print_grid(console: Console, grid: Grid, task: str = "") -> None:
    """A table, and the notes that its cells refer to."""
    from rich.table import Table

    print_title(console, f"{grid.title} · {task}" if task else grid.title)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in grid.index:
        table.add_column(escaped(column), overflow="fold")
    for column in grid.columns:
        table.add_column(escaped(column), justify="right", overflow="fold")
    for index, cells in grid.rows:
        table.add_row(*map(escaped, index), *(escaped(cell.text) if cell else "" for cell in cells))
    console.print(table)
    for place, note in enumerate(grid.notes, 1):
        console.print(escaped(f"[{place}] {note}"), highlight=False)


def print_frame(console: Console, frame: Any, title: str) -> None:
    from rich.table import Table

    print_title(console, title)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in frame.columns:
        table.add_column(escaped(str(column)), justify="right", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*[escaped(_cell(value)) for value in row])
    console.print(table)


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def new_console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
