"""Tables as text: Markdown for a README, LaTeX for a paper, CSV for a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from ..results import Results
from .tables import Grid, coarse, failures, grids
from .verdicts import recorded, verdict_table


def markdown(results: Sequence[Results]) -> str:
    """All tables and verdicts as GitHub markdown; the significantly best of a row is bold."""
    parts = []
    for result in results:
        name = str(result.suite.get("title") or result.name) + (f" · {result.label}" if result.label else "")
        parts += [f"## {_md(name)}", _md(str(result.suite.get("about") or "")), _md(result.unfinished or "")]
        for grid in grids(result):
            parts += grid_markdown(grid)
        if verdicts := recorded(result):
            parts += ["### Claims", verdict_table([(str(result.suite.get("suite") or result.name), verdicts)])]
        failed, remark = failures(result), coarse(result)
        if failed or remark:
            parts += ["### Not ok", _md(remark or "")]
            parts.append("\n".join(
                f"- {x['count']} × {x['status']}: {_md(x['flow'])}, {_md(x['sampler'])} at nfe {x['nfe'] or '–'}, "
                f"{_md(x['metric'])}: {_md(x['reason'])}" for x in failed))  # fmt: skip
    return "\n\n".join([*filter(None, parts), NOTE]) + "\n"


def grid_markdown(grid: Grid) -> list[str]:
    """One table as paragraphs of GitHub markdown: heading and table, floor, notes."""
    lines = [f"### {_md(grid.title)}", "", _md_line([*grid.index, *grid.columns])]
    lines.append("|" + " --- |" * len(grid.index) + " ---: |" * len(grid.columns))
    for index, cells in grid.rows:
        texts = ["" if c is None else f"**{_md(c.text)}**" if c.best else _md(c.text) for c in cells]
        lines.append("| " + " | ".join([*map(_md, index), *texts]) + " |")
    floor = [f"Floor (real data against real data): {grid.floor}"] if grid.floor else []
    notes = [f"{place}. {_md(note)}" for place, note in enumerate(grid.notes, 1)]
    return ["\n".join(lines), *floor, *(["\n".join(notes)] if notes else [])]


NOTE = (
    "Mean ± half the 95 % interval, over training seeds and samples. Bold: better than every other of its row "
    "(Holm at 5 %). †: mean over the seeds that did not fail. ± ?: uncertainty undefined."
)


def latex(results: Sequence[Results]) -> str:
    """All tables as LaTeX with booktabs, one `table` each; the significantly best of a row is bold."""
    parts = ["% needs \\usepackage{booktabs}"]
    for result in results:
        for grid in grids(result):
            notes = "".join(f" [{place}] {note}" for place, note in enumerate(grid.notes, 1))
            lines = ["\\begin{table}", "\\centering", f"\\caption{{{_tex(grid.title)}. {_tex(NOTE + notes)}}}"]
            lines += [f"\\begin{{tabular}}{{{'l' * len(grid.index)}{'r' * len(grid.columns)}}}", "\\toprule"]
            lines += [" & ".join(map(_tex, [*grid.index, *grid.columns])) + " \\\\", "\\midrule"]
            before = None
            for index, cells in grid.rows:
                if before not in (None, index[0]) and grid.index[0] == "solver":
                    lines.append("\\addlinespace")
                before = index[0]
                texts = ["" if c is None else f"\\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in cells]
                lines.append(" & ".join([*map(_tex, index), *texts]) + " \\\\")
            if grid.floor:
                span = len(grid.columns)
                lines += ["\\midrule", f"floor & & \\multicolumn{{{span}}}{{c}}{{{_tex(grid.floor)}}} \\\\"]
            parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]))
    return "\n\n".join(parts) + "\n"


def comma_separated(results: Sequence[Results]) -> str:
    """The summaries of all results, one line a cell, with the folder's name first."""
    tables = [result.summary().assign(results=result.name) for result in results]
    table = pd.concat(tables, ignore_index=True)
    return table[["results", *tables[0].columns.drop("results")]].to_csv(index=False)


def _md(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text).replace("\n", " ")


def _md_line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, texts)) + " |"


TEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
TEX |= {"^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$^\dagger$", "²": "$^2$", "→": r"$\to$", "–": "--"}
TEX |= {"·": r"$\cdot$", "−": "$-$", "<": "$<$", ">": "$>$", "|": "$|$", "…": r"\dots{}"}
TEX |= {"α": r"$\alpha$", "σ": r"$\sigma$", "ε": r"$\varepsilon$"}


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in text).replace("\n", " ")
