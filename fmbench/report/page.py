"""The report as one HTML file that opens offline: charts, pictures, tables, claims, failures, manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from ..errors import UserError
from ..identity import key_of
from ..results import Results
from ..store import Store, write_atomically
from . import charts, pictures, tables
from .compare import compare, summary
from .published import beside_grid
from .reach import reach_grids
from .scale import ends_grid, variances
from .text import NOTE
from .verdicts import number, recorded

VERDICTS = ("supported", "refuted", "inconclusive", "not tested")


@dataclass(frozen=True)
class Figure:
    """A chart: its caption and its Vega-Lite specification as JSON that is safe inside a script element."""

    title: str
    spec: Markup


@dataclass(frozen=True)
class Section:
    """All that the page says about one result."""

    results: Results
    anchor: str
    facts: list[tuple[str, str]]
    headlines: list[tables.Grid]
    reach_grids: list[tables.Grid]
    beside: tables.Grid | None
    figures: list[Figure]
    more_figures: list[Figure]
    geometry: list[Figure]
    flow_grids: list[tables.Grid]
    truth_grids: list[tables.Grid]
    grids: list[tables.Grid]
    trajectories: list[tuple[str, Markup]]
    walls: list[pictures.Wall]
    claims: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    coarse: str | None
    manifest: str


def render_page(results: Sequence[Results]) -> str:
    """The page over one or several results: with several, first all of them in one chart and one table.

    Raises:
        UserError: a result is empty, or its pictures or claims cannot be read.
    """
    results = _distinct(results)
    sections = [_section(result, f"r{place}") for place, result in enumerate(results)]
    together = _together(results) if len(results) > 1 else None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fmbench.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    titles = [str(section.results.suite.get("title") or section.results.name) for section in sections]
    return environment.get_template("page.html.j2").render(
        title=titles[0] if len(titles) == 1 else "Side by side: " + ", ".join(result.name for result in results),
        sections=sections,
        titles=titles,
        together=together,
        note=NOTE,
        vega=Markup(vega()),
    )


def write_page(results: Sequence[Results], path: str | Path) -> Path:
    """Renders the page and puts it at `path`, whole or not at all.

    Raises:
        UserError: as `render_page`, or the place cannot be written.
    """
    path = Path(path)
    write_atomically(path, render_page(results).encode())
    return path


def _section(results: Results, anchor: str) -> Section:
    parts = tables.tasks(results.summary())
    sampled, main = tables.sampled_metrics(results), results.main_metric

    def figures(metrics: Sequence[str]) -> list[Figure]:
        made = [(metric, name, charts.metric_chart(part, metric)) for metric in metrics for name, part in parts]
        several = len(parts) > 1
        return [_figure(f"{metric} · {name}" if several else metric, chart) for metric, name, chart in made if chart]

    headlines = [(name, tables.headline_grid(part, main)) for name, part in parts]
    flow_charts = [(name, charts.flow_chart(part)) for name, part in parts]
    flow_grids = [(name, tables.flow_grid(part, variances(results))) for name, part in parts]
    ends = ends_grid(results)
    truth_grids = [(name, tables.truth_grid(part)) for name, part in parts]
    return Section(
        results=results,
        anchor=anchor,
        facts=_facts(results),
        headlines=[_titled(grid, name, parts) for name, grid in headlines if grid and grid.rows],
        reach_grids=reach_grids(results),
        beside=beside_grid(results),
        figures=figures([main] if main in sampled else []),
        more_figures=figures([metric for metric in sampled if metric not in (main, "nfe")]),  # nfe is the x axis
        geometry=[_figure(name if len(parts) > 1 else "", chart) for name, chart in flow_charts if chart],
        flow_grids=[*(_titled(grid, name, parts) for name, grid in flow_grids if grid.rows), *filter(None, [ends])],
        truth_grids=[_titled(grid, name, parts) for name, grid in truth_grids if grid.rows],
        grids=[grid for grid in tables.grids(results) if grid.index[0] == "solver"],
        trajectories=pictures.trajectories(results.pictures),
        walls=pictures.sample_walls(results.pictures),
        claims=_claims(results),
        failures=tables.failures(results),
        coarse=tables.coarse(results),
        manifest=json.dumps(results.manifest, indent=2, ensure_ascii=False, default=str),
    )


def _titled(grid: tables.Grid, name: str, parts: Sequence[Any]) -> tables.Grid:
    return replace(grid, title=f"{grid.title} · {name}") if len(parts) > 1 else grid


def _figure(title: str, chart: charts.Spec) -> Figure:
    spec = json.dumps(chart, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Figure(title, Markup(spec.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")))


def _plain(value: Any) -> str:
    """A fact as text; of a list its entries, those that repeat counted: 2 × cpu."""
    if not isinstance(value, list):
        return str(value)
    return " + ".join(entry if n == 1 else f"{n} × {entry}" for entry, n in Counter(map(str, value)).items())


def _facts(results: Results) -> list[tuple[str, str]]:
    """What a reader asks first of a result; what the manifest lacks is left out."""
    manifest, table = results.manifest, results.table
    hardware = manifest.get("hardware")
    found = {
        "command": manifest.get("command"),
        "measured": str(manifest.get("finished") or "")[:10],
        "took": f"{manifest['seconds']:.0f} s" if isinstance(manifest.get("seconds"), (int, float)) else None,
        "on": ", ".join(f"{key} {_plain(value)}" for key, value in hardware.items() if value)
        if isinstance(hardware, dict)
        else hardware,
        "seeds": ", ".join(map(str, sorted(table["seed"].dropna().unique()))),
        "samples a value": ", ".join(f"{n:,}" for n in sorted(table["n"].dropna().unique())[-3:]),
        "values": results.unfinished or f"{len(table):,}",
        "fmbench": manifest.get("fmbench"),
        "commit": str(manifest.get("commit") or "")[:10],
    }
    return [(key, str(value)) for key, value in found.items() if value]


def _claims(results: Results) -> list[dict[str, Any]]:
    """Verdicts of DIR/claims.json as the page shows them; a verdict of another name is shown as it stands."""
    return [
        {
            "claim": str(claim.get("claim", "")),
            "statement": str(claim.get("statement", "")),
            "verdict": str(claim.get("verdict", "")),
            "style": VERDICTS.index(claim["verdict"]) if claim.get("verdict") in VERDICTS else 3,
            "effect": number(claim.get("effect")),
            "interval": f"{number(claim.get('low'))} … {number(claim.get('high'))}",
            "margin": number(claim.get("margin")),
            "p_value": number(claim.get("p_value")),
            "n": str(claim.get("n") if claim.get("n") is not None else "–"),
            "guard": str(claim.get("guard") or ""),
            "note": ": ".join(filter(None, [claim.get("contrast"), claim.get("note")])),
            "used": claim["used"],
        }
        for claim in recorded(results)
    ]


def _distinct(results: Sequence[Results]) -> list[Results]:
    """The results under names that differ: equal folder names get a number."""
    names: dict[str, int] = {}
    named = []
    for result in results:
        names[result.name] = names.get(result.name, 0) + 1
        count = names[result.name]
        named.append(replace(result, label=f"{result.name} ({count})" if count > 1 else result.name))
    return named


def _together(results: Sequence[Results]) -> dict[str, Any]:
    """All results in one chart and one table, and the first compared with each other one."""
    main = results[0].main_metric
    parts = [result.select(metric=main) for result in results]
    runs = [
        part.table.assign(suite="together", method=(part.name + ": " + part.table["method"]).astype("string"))
        for part in parts
    ]
    merged = Results(pd.concat(runs, ignore_index=True))
    section = _section(merged, "together")
    verdicts = []
    for other in results[1:]:
        try:
            counts = summary(compare(results[0], other))
            verdicts.append((results[0].name, other.name, list(counts.columns), list(counts.itertuples(name=None)), ""))
        except UserError as error:
            verdicts.append((results[0].name, other.name, [], [], str(error)))
    return {"section": section, "verdicts": verdicts}


@cache
def vega() -> str:
    """Vega, Vega-Lite and their embedding as one script that needs nothing else; cached, for bundling takes seconds."""
    identity = {
        "stage": "vega",
        "version": 1,
        "vl_convert": metadata.version("vl-convert-python"),
        "vega_lite": charts.VEGA_LITE,
    }
    store, key = Store(), key_of(identity)
    if (kept := store.info(key)) is not None:
        return str(kept["script"])
    bundle = vl_convert.javascript_bundle(vl_version=charts.VEGA_LITE)  # type: ignore[call-arg]
    script = bundle.replace("</script", "<\\/script")
    store.write(key, identity, {"script": script})
    return script
