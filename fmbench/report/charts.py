"""Interactive charts (Altair): a metric against network calls, and the flows' own metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from ..errors import UserError, unknown
from ..results import Results, interval_text
from ..store import write_atomically
from ..table import REFERENCE, TRUTH, of_flows, records
from .tables import tasks

Row = dict[str, Any]
Spec = dict[str, Any]  # a Vega-Lite specification

# Okabe and Ito's palette (told apart by colour-blind readers); a method keeps its colour in every chart and report
BLACK, ORANGE, SKY, GREEN = "#222222", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#888888"
FIXED = {"RF": BLUE, "FM-OT": SKY, "OT-CFM": GREEN, "VP": RED, "VE": PINK, "I-CFM": ORANGE, "2-RF": BLACK}
PALETTE = [BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK, GREY]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]  # the runs of a report over several
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left", "cross"]
VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])  # the version that Altair's charts are written for
CONFIG = {
    "font": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
    "background": "transparent",
    "view": {"stroke": "#ccc"},
    "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelColor": "#333",
             "titleColor": "#333", "gridColor": "#eee", "domainColor": "#999", "tickColor": "#999"},
    "axisY": {"domain": False, "ticks": False},
    "legend": {"orient": "top", "labelFontSize": 12, "symbolSize": 80, "columnPadding": 18, "padding": 0, "offset": 6},
}  # fmt: skip
FORMATS = ("svg", "png", "pdf")
PLAIN = "format(datum.value, '~g')"  # a linear axis's own format "~g" keeps the digits of a step alone: 30 becomes 3e+1


def colours(flows: Iterable[str]) -> dict[str, str]:
    """A colour for each flow: the well-known methods keep theirs, the others take what is left, in order.

    Flows of several runs read "run: flow": a flow has one colour in all of them.
    """
    names = {flow: flow.rpartition(": ")[2] for flow in flows}
    taken = {name: FIXED[name] for name in names.values() if name in FIXED}
    left = [colour for colour in PALETTE if colour not in taken.values()] or PALETTE
    others = [name for name in dict.fromkeys(names.values()) if name not in taken]
    taken |= {name: left[place % len(left)] for place, name in enumerate(others)}
    return {flow: taken[name] for flow, name in names.items()}


def metric_chart(summary: pd.DataFrame, metric: str, width: int = 1000, height: int = 250) -> Spec | None:
    """One metric of one task against network calls: a panel for each fixed-step solver, a line for each flow.

    Bands are the summary's intervals, the dashed line the floor. Adaptive solvers stand in every panel as hollow points
    at their measured calls; what failed stands as a cross at the top. A click in the legend singles a flow out. None
    where no value has a budget.
    """
    rows = records(summary[(summary["metric"] == metric) & (summary["flow"] != TRUTH)])
    sampled = [row for row in rows if row["solver"] not in (None, REFERENCE)]
    values = [row["mean"] for row in sampled if row["mean"] is not None and math.isfinite(row["mean"])]
    budgets = [row["nfe"] for row in sampled if row["nfe"] is not None and row["nfe"] > 0]
    if not values or not budgets:
        return None
    floor = next((row for row in rows if row["flow"] == "floor" and row["mean"] is not None), None)
    seen = [*values, *([floor["mean"]] if floor else [])]
    log = min(seen) > 0
    low, high = (min(seen) / 1.25, max(seen) * 1.25) if log else _padded(min(seen), max(seen))
    panels = list(dict.fromkeys(row["sampler"] for row in sampled if row["rtol"] is None))
    flows = list(dict.fromkeys(row["flow"] for row in sampled))
    adaptive = list(dict.fromkeys(row["sampler"] for row in sampled if row["rtol"] is not None))

    data: list[Row] = []
    for panel in panels or adaptive:
        for row in sampled:
            if row["rtol"] is None and row["sampler"] != panel:
                continue
            run = row["flow"].rpartition(": ")[0]
            point = {"panel": panel, "flow": row["flow"], "run": run, "solver": row["sampler"], "nfe": row["nfe"]}
            if row["failures"]:
                point |= {"failures": row["failures"]}
            if row["mean"] is None or not math.isfinite(row["mean"]):
                data.append(point | {"kind": "failed", "mean": high})
                continue
            ends = [min(max(row[end], low), high) if math.isfinite(row[end]) else None for end in ("low", "high")]
            text = interval_text(row["mean"], row["low"], row["high"])
            kind = "fixed" if row["rtol"] is None else "adaptive"
            data.append(point | {"kind": kind, "mean": row["mean"], "low": ends[0], "high": ends[1], "text": text,
                                 "seeds": row["seeds"], "n": row["n"]})  # fmt: skip
        if floor:
            text = interval_text(floor["mean"], floor["low"], floor["high"])
            data.append({"panel": panel, "kind": "floor", "mean": floor["mean"], "nfe": max(budgets), "text": text})

    columns = min(len(panels) or 1, 4)
    size = {"width": max(150, (width - 60) // columns - 26), "height": height}
    shades = colours(flows)
    pick = alt.selection_point(fields=["flow"], bind="legend", name="pick")
    first, last = 2.0 ** math.floor(math.log2(min(budgets))), max(budgets) * 1.15
    ticks = [first * 2**k for k in range(math.floor(math.log2(last / first)) + 1)]
    ticks = ticks[:: 1 if len(ticks) <= 7 else 2]
    calls = alt.Scale(type="log", base=2, domain=[first, last])
    x = alt.X("nfe:Q", title="network calls per sample", scale=calls,
              axis=alt.Axis(values=ticks, format="~g", grid=False, labelFlush=False))  # fmt: skip
    y_scale = alt.Scale(type="log", domain=[low, high]) if log else alt.Scale(domain=[low, high], zero=False)
    runs = list(dict.fromkeys(flow.rpartition(": ")[0] for flow in flows))
    dash = alt.StrokeDash("run:N", legend=None, scale=alt.Scale(domain=runs, range=DASHES[: len(runs)] or DASHES))
    title = _axis_title(rows, metric)
    y_axis = alt.Axis(format="~g", values=_log_ticks(low, high)) if log else alt.Axis(labelExpr=PLAIN, tickCount=5)
    y = alt.Y("mean:Q", title=title, scale=y_scale, axis=y_axis)
    scale = alt.Scale(domain=flows, range=[shades[flow] for flow in flows])
    colour = alt.Color("flow:N", title=None, sort=flows, scale=scale, legend=alt.Legend(symbolOpacity=1, columns=5))
    shape = alt.Shape("flow:N", title=None, sort=flows, scale=alt.Scale(domain=flows, range=_shapes(len(flows))))
    tooltip = [alt.Tooltip("flow:N"), alt.Tooltip("solver:N"), alt.Tooltip("nfe:Q", title="calls", format="~g"),
               alt.Tooltip("text:N", title=metric), alt.Tooltip("seeds:Q"), alt.Tooltip("n:Q"),
               alt.Tooltip("failures:N", title="not ok")]  # fmt: skip

    def layer(kind: str) -> alt.Chart:
        return alt.Chart().transform_filter(alt.datum.kind == kind)

    def seen_if_picked(strong: float, weak: float) -> Any:
        return alt.when(pick).then(alt.value(strong)).otherwise(alt.value(weak))

    lines = [
        layer("floor").mark_rule(strokeDash=[5, 4], color="#555", strokeWidth=1.2).encode(
            y=y, tooltip=[alt.Tooltip("text:N", title="floor: real data against real data")]),
        layer("floor").mark_text(align="left", baseline="bottom", dx=2, dy=-2, fontSize=10, color="#555",
                                 text="floor").encode(x=alt.XDatum(first), y=y),
        layer("fixed").mark_area(clip=True).encode(x=x, y=alt.Y("low:Q", scale=y_scale, title=title),
                                                   y2="high:Q", color=colour, opacity=seen_if_picked(0.16, 0.02)),
        layer("fixed").mark_line(strokeWidth=1.8, clip=True).encode(
            x=x, y=y, color=colour, strokeDash=dash, opacity=seen_if_picked(1, 0.12)),
        layer("fixed").mark_point(filled=True, size=34).encode(
            x=x, y=y, color=colour, shape=shape, opacity=seen_if_picked(1, 0.12), tooltip=tooltip),
        layer("adaptive").mark_rule().encode(
            x=x, y=alt.Y("low:Q", scale=y_scale, title=title), y2="high:Q", color=colour,
            opacity=seen_if_picked(0.7, 0.1)),
        layer("adaptive").mark_point(filled=True, size=64, fill="white", strokeWidth=1.8).encode(
            x=x, y=y, stroke=colour, shape=shape, opacity=seen_if_picked(1, 0.12), tooltip=tooltip),
        layer("failed").mark_point(shape="cross", angle=45, size=60, filled=True).encode(
            x=x, y=y, color=colour, opacity=seen_if_picked(1, 0.12), tooltip=tooltip),
    ]  # fmt: skip
    present = {row["kind"] for row in data}
    kinds = ["floor", "floor", "fixed", "fixed", "fixed", "adaptive", "adaptive", "failed"]
    layers = [_unit(line) for kind, line in zip(kinds, lines, strict=True) if kind in present]
    bound = next((layer for layer in layers if layer["mark"]["type"] == "line"), layers[-1])
    bound["params"] = [pick.param.to_dict()]
    facet = alt.Facet("panel:N", title=None, sort=panels or adaptive,
                      header=alt.Header(labelFontSize=12, labelFontWeight="bold", labelPadding=4))  # fmt: skip
    return {  # put together here: Altair copies everything it holds at every step, which takes half a second a chart
        "$schema": alt.SCHEMA_URL,
        "config": CONFIG,
        "data": {"values": data},
        "facet": facet.to_dict(),
        "columns": columns,
        "spacing": 14,
        "spec": {**size, "layer": layers},
    }


def flow_chart(summary: pd.DataFrame, width: int = 1000) -> Spec | None:
    """The flows' own metrics of one task (cost, straightness, likelihood, …): a panel each, a dot a flow, intervals."""
    reference = summary[(summary["solver"] == REFERENCE) & of_flows(summary)]
    rows = [row for row in records(reference) if row["mean"] is not None]
    if not rows:
        return None
    flows = list(dict.fromkeys(row["flow"] for row in rows))
    shades = colours(flows)
    colour = alt.Color("flow:N", legend=None, scale=alt.Scale(domain=flows, range=[shades[f] for f in flows]))
    panels: list[Spec] = []
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    columns = min(4, len(metrics))
    names = max(110, min(300, 7 * max(map(len, flows))))  # room for the flows' names, in pixels
    for place, metric in enumerate(metrics):
        data = [
            {name: row[name] if not isinstance(row[name], float) or math.isfinite(row[name]) else None
             for name in ("flow", "mean", "low", "high", "seeds", "n", "failures")}
            | {"text": interval_text(row["mean"], row["low"], row["high"], row["failures"])}
            for row in rows if row["metric"] == metric
        ]  # fmt: skip
        unit = next((row["unit"] for row in rows if row["metric"] == metric and row["unit"]), None)
        y = alt.Y("flow:N", sort=flows, title=None, scale=alt.Scale(domain=flows), axis=alt.Axis(
            grid=True, labels=place % columns == 0, labelLimit=names, ticks=False, domain=False))  # fmt: skip
        known = [row[end] for row in data for end in ("low", "mean", "high")]
        ends = [end for end in known if isinstance(end, float)]
        if not ends:
            continue
        positive = min(ends) > 0
        spread = positive and max(ends) > 20 * min(ends)
        scale = alt.Scale(type="log", nice=False, padding=8) if spread else alt.Scale(zero=False)
        ticks: dict[str, Any] = {"tickCount": 4, "labelExpr": PLAIN}
        if spread:
            ticks = {"values": _log_ticks(min(ends), max(ends)), "format": "~g"}
        base = alt.Chart().encode(y=y, color=colour)
        rule = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
        title = unit if unit and unit != "1" else None
        dot = base.mark_point(filled=True, size=60, opacity=1).encode(
            x=alt.X("mean:Q", scale=scale, title=title, axis=alt.Axis(grid=False, labelSeparation=6, **ticks)),
            tooltip=[
                alt.Tooltip("flow:N"),
                alt.Tooltip("text:N", title=metric),
                alt.Tooltip("seeds:Q"),
                alt.Tooltip("n:Q"),
            ],
        )
        panels.append({
            "title": {"text": metric, "fontSize": 12, "anchor": "start"},
            "width": max(130, (width - names) // columns - 30),
            "height": {"step": 24},
            "data": {"values": data},
            "layer": [_unit(rule), _unit(dot)],
        })  # fmt: skip
    return {"$schema": alt.SCHEMA_URL, "config": CONFIG, "columns": columns, "spacing": 24, "concat": panels}


def main_chart(results: Results) -> Spec:
    """The main metric of every task, one below the other.

    Raises:
        UserError: the main metric was not measured at any budget.
    """
    parts = tasks(results.summary())
    charts = [(name, metric_chart(summary, results.main_metric)) for name, summary in parts]
    drawn = [chart | ({"title": name} if len(parts) > 1 else {}) for name, chart in charts if chart is not None]
    if not drawn:
        raise UserError(f"results '{results.name}' hold no finite {results.main_metric} at any budget: nothing to draw")
    if len(drawn) == 1:
        return drawn[0]
    for place, chart in enumerate(drawn):  # a parameter's name must be its own within one specification
        drawn[place] = json.loads(json.dumps(chart).replace('"pick"', f'"pick{place}"'))
    outer = {name: drawn[0][name] for name in ("$schema", "config")}
    return outer | {"vconcat": [{key: part for key, part in chart.items() if key not in outer} for chart in drawn]}


def save_chart(results: Results, path: str | Path) -> Path:
    """The main chart as a file for a paper: svg, png (at twice the size) or pdf, by the path's ending.

    Raises:
        UserError: another ending, a place that cannot be written, or nothing to draw.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise unknown("chart format", path.suffix or path.name, FORMATS, remedy="Name a file such as chart.pdf.")
    spec = main_chart(results)
    if kind == "png":  # the renderer of a PNG greys bands that stand on nothing
        spec = spec | {"background": "white"}
    convert: Any = getattr(vl_convert, f"vegalite_to_{kind}")
    drawn = convert(spec, vl_version=VEGA_LITE, **({"scale": 2} if kind == "png" else {}))
    write_atomically(path, drawn.encode() if isinstance(drawn, str) else drawn)
    return path


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 in each decade; powers of ten alone where they are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]


def _unit(chart: alt.Chart) -> Spec:
    """A layer alone, unchecked for speed: a test holds whole charts against the schema."""
    made = chart.to_dict(validate=False)
    return {name: made[name] for name in ("mark", "encoding", "transform") if name in made}


def _axis_title(rows: list[Row], metric: str) -> str:
    unit = next((row["unit"] for row in rows if row["unit"]), None)
    return f"{metric} ({unit})" if unit and unit != "1" else metric


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - room, high + room


def _shapes(count: int) -> list[str]:
    return [SHAPES[place % len(SHAPES)] for place in range(count)]
