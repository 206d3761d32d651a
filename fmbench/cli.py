"""The command line: parses, calls, prints. No logic; heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import cli_options as options
from . import terminal
from .cli_evaluate import evaluate
from .disk import named
from .errors import UserError, guess, unknown

app = typer.Typer(
    name="fmbench",
    help="Benchmarks flow-matching generative models: paths, couplings and solvers, measured per network call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with:  fmbench run moons-nfe-sweep",
)

KINDS = (
    "suites", "paths", "couplings", "times", "losses", "weights", "solvers", "grids", "metrics", "models", "data", "claims",
    "recipes",
)  # fmt: skip


def main() -> None:
    """Entry point: a user's mistake is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        terminal.new_console(stderr=True).print(
            f"[bold red]Error:[/] {terminal.escaped(str(error))}", soft_wrap=True, highlight=False
        )
        sys.exit(2)
    finally:
        gc.freeze()  # else the interpreter, as it ends, looks through a million objects of the libraries: most of a second


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from . import __version__

        typer.echo(f"fmbench {__version__}")
        raise typer.Exit


@app.command()
def run(
    suite: Annotated[
        str, typer.Argument(help="A shipped suite (see `fmbench list suites`) or the path of your own YAML file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="DIR", help="Folder of the results. Default: results/<suite>."),
    ] = None,
    overrides: options.Overrides = None,
    only: Annotated[list[str] | None, typer.Option(help="Keep only the cells with column=value. Repeatable.")] = None,
    device: options.Device = None,
    workers: options.Workers = None,
    ray: options.Ray = None,
    devices_per_flow: options.DevicesPerFlow = 1,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    data_root: options.DataRoot = None,
    inception_weights: options.InceptionWeights = None,
    log: Annotated[
        str | None, typer.Option(help="tensorboard: loss and throughput of the trainings, in <out>/tensorboard.")
    ] = None,
    plugin: options.Plugins = None,
) -> None:
    """Run a suite: train its flows, sample them, measure them, leave a table and a report.

    What was computed before, by this suite or another, is not computed again. Exit code 1: some cells failed.

    \b
    Examples:
      fmbench run moons-nfe-sweep
      fmbench run moons-nfe-sweep --set flow.seed=0 --set train.samples=50_000 --out quick
      fmbench run moons-nfe-sweep --only path=rectified --only solver=euler,heun
      fmbench run my-suite.yaml --plugin my_path.py --dry-run
    """
    from .api import outline
    from .api import run as run_suite

    what: dict[str, Any] = {
        "set": overrides or [], "only": only or [], "device": device, "workers": workers, "ray": ray,
        "plugins": [str(file) for file in plugin or []], "devices_per_flow": devices_per_flow,
    }  # fmt: skip
    if dry_run:
        terminal.print_outline(outline(suite, **what))
        return
    terminal.carry_out(lambda watcher: run_suite(suite, out=out, watcher=watcher, log=log, **what), quiet)


app.command()(evaluate)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))] = "suites",
    plugin: options.Plugins = None,
) -> None:
    """List suites or components, each with a line about it.

    \b
    Examples:
      fmbench list
      fmbench list paths
      fmbench list metrics
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    from rich.table import Table

    from . import cards
    from .plugins import load_plugins

    load_plugins(plugin or [])
    table = Table(box=None, padding=(0, 2), show_header=kind == "metrics")
    for column in ["name", "about", *(["unit", "better"] if kind == "metrics" else [])]:
        table.add_column(column, no_wrap=column == "name")
    for row in terminal.suite_lines() if kind == "suites" else cards.lines(kind):
        table.add_row(*map(terminal.escaped, row))
    terminal.new_console().print(table)


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SUITE|NAME",
            help="A shipped suite, the path of a YAML file, or what `fmbench list` names: a claim, a metric, a solver …",
        ),
    ],
    plugin: options.Plugins = None,
) -> None:
    """Print a suite's YAML: the whole definition of the experiment, and a start for your own. Or what a component is: its
    parameters with defaults and ranges, unit, direction, source; of a claim effect, decision rule, metrics, axes and guards.

    \b
    Examples:
      fmbench show moons-nfe-sweep
      fmbench show moons-nfe-sweep > my-suite.yaml
      fmbench show marginals-preserved
      fmbench show minibatch-ot
    """
    from .plugins import load_plugins
    from .suite import find, is_file, load, shipped

    load_plugins(plugin or [])
    if name not in shipped() and not is_file(name):
        from . import cards

        if name not in cards.names():
            known = guess(name, [*shipped(), *cards.names()])
            raise UserError(f"unknown name '{name}'.{known} See `fmbench list` with {', '.join(KINDS)}.")
        typer.echo(cards.written(name), nl=False)
        return
    load(name)
    typer.echo(find(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that `fmbench run` made.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="html, md, latex, csv; png, svg or pdf for the main chart. Default: as --out is called, else html.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=named,
            metavar="FILE",
            help="File to write. Default: DIR/report.html, or standard output for text.",
        ),
    ] = None,
) -> None:
    """Write a report of one or several results, side by side.

    html and md also hold the verdicts on the suite's claims; latex and csv are tables alone.

    \b
    Examples:
      fmbench report results/moons-nfe-sweep
      fmbench report results/moons-nfe-sweep --format md
      fmbench report run-a run-b --out both.html
      fmbench report results/moons-nfe-sweep --format svg --out figure.svg
    """
    format = terminal.format_of(format, out)
    from .namesakes import told_apart
    from .results import Results
    from .store import write_atomically

    results = told_apart([Results.load(directory) for directory in directories])
    if format in ("png", "svg", "pdf"):
        from .report.charts import save_chart

        if len(results) != 1:
            raise UserError(f"--format {format} draws one result; {len(results)} were given. Use html for several.")
        typer.echo(save_chart(results[0], out or directories[0] / f"figure.{format}"))
        return
    from .report import render

    text = render(results, format)
    if out is None and format != "html":
        typer.echo(text, nl=not text.endswith("\n"))
        return
    target = out or (directories[0] / "report.html" if len(directories) == 1 else Path("report.html"))
    write_atomically(target, text.encode())
    typer.echo(target)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="DIR_A", help="The results to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="DIR_B", help="The results to judge.")],
    alpha: Annotated[
        float, typer.Option(help="Chance of any false verdict over all cells (Holm).", min=1e-6, max=0.5)
    ] = 0.05,
    all_cells: Annotated[bool, typer.Option("--all", help="Print every cell, not only those that differ.")] = False,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 1 if anything became worse.")
    ] = False,
) -> None:
    """Compare two results cell by cell: is B better, worse, not significantly different, or not comparable, and why.

    \b
    Examples:
      fmbench compare results/before results/after
      fmbench compare results/before results/after --fail-on-regression
    """
    from .namesakes import told_apart
    from .report.compare import compare as compare_results
    from .report.compare import regressed, summary
    from .results import Results

    before, after = told_apart([Results.load(a), Results.load(b)])
    table = compare_results(before, after, alpha=alpha)
    console = terminal.new_console()
    terminal.print_frame(console, summary(table).reset_index(), f"{after.name} against {before.name}")
    shown = table if all_cells else table[table["verdict"].isin(["better", "worse"])]
    columns = ["verdict", "metric", "flow", "sampler", "nfe", "a", "b", "p_value", "reason"]
    if len(shown):
        terminal.print_frame(console, shown[[name for name in columns if name in shown]], "cells")
    if not all_cells:
        terminal.print_reasons(console, table[table["verdict"] == "not comparable"], "not comparable")
    if fail_on_regression and regressed(table):
        raise typer.Exit(1)


@app.command("published")
def published_(
    dataset: Annotated[str | None, typer.Option(help="Keep one data set: cifar10.")] = None,
    method: Annotated[str | None, typer.Option(help="Keep one method, by the name here or the source's own.")] = None,
    metric: Annotated[str | None, typer.Option(help="Keep one metric: fid.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv, md.")] = "table",
) -> None:
    """List what the literature measured, each value with its evidence, its source and its protocol.

    \b
    Examples:
      fmbench published --dataset cifar10 --metric fid
      fmbench published --method OT-CFM
      fmbench published --dataset moons --format md
      fmbench published --format csv > published.csv
    """
    formats = ("table", "csv", "md")
    if format not in formats:
        raise unknown("format", format, formats)
    from .published import select

    table = select(dataset, method, metric)
    if format == "csv":
        typer.echo(table.to_csv(index=False), nl=False)
        return
    from .report.published import published_grid
    from .report.text import grid_markdown

    grid = published_grid(table)
    if format == "md":
        typer.echo("\n\n".join(grid_markdown(grid)))
    else:
        terminal.print_grid(terminal.new_console(), grid)


@app.command()
def claims(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that `fmbench run` made.")],
    format: Annotated[str, typer.Option("--format", "-f", help="table, md, or json (of one folder).")] = "table",
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", help="Judge this claim (see `fmbench list claims`), not the suite's. Repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim is refuted.")] = False,
    plugin: options.Plugins = None,
) -> None:
    """Judge the claims of a result's suite again, from its table: supported, refuted, inconclusive or not tested.

    Prints for each the effect with its interval, the guard that failed, if one did, and the rows used: how many, of which
    metrics, where; claims.json (--format json) holds their keys.

    Writes DIR/claims.json anew where a verdict has changed; with --claim nothing is written. A folder without
    results.parquet, as those of results/reference, lacks what its run judged by: the verdicts recorded there are shown.

    \b
    Examples:
      fmbench claims results/moons-nfe-sweep
      fmbench claims results/moons-nfe-sweep --claim ot-cfm-cheaper --claim solver-orders
      fmbench claims results/moons-nfe-sweep --format json --strict
      fmbench claims results/reference/* --format md
    """
    formats = ("table", "md", "json")
    if format not in formats:
        raise unknown("format", format, formats)
    if format == "json" and len(directories) > 1:
        raise UserError(f"--format json prints the claims.json of one folder; {len(directories)} were given")
    from .claims.judge import REFUTED, verdicts_of
    from .plugins import load_plugins

    load_plugins(plugin or [])
    found = [verdicts_of(directory, claim or []) for directory in directories]
    if format == "json":
        typer.echo(json.dumps(found[0][1], indent=2, ensure_ascii=False))
    else:
        from .report.verdicts import told, verdict_table

        shown = [(suite, told(at, records)) for at, (suite, records) in zip(directories, found, strict=True)]
        if format == "md":
            typer.echo(verdict_table(shown))
        else:
            for suite, verdicts in shown:
                terminal.print_verdicts(terminal.new_console(), verdicts, suite if len(shown) > 1 else "")
    if strict and any(record["verdict"] == REFUTED for _, records in found for record in records):
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Check this installation: versions, devices, the cache folder, and that the numerical core computes what it should.

    \b
    Examples:
      fmbench doctor
    """
    from rich.table import Table

    from .doctor import checks

    table, sound = Table(box=None, padding=(0, 2), show_header=False), True
    for name, good, text in checks():
        table.add_row("[green]ok[/]" if good else "[bold red]problem[/]", name, terminal.escaped(text))
        sound &= good
    terminal.new_console().print(table)
    if not sound:
        raise typer.Exit(1)
