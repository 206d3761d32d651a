"""Reports: what was measured, as a page, as tables for a paper or a README, as charts; and two results compared."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError, unknown
from ..results import Results

FORMATS = ("html", "md", "latex", "csv")

__all__ = ["FORMATS", "render"]


def render(results: Sequence[Results], format: str = "html") -> str:
    """One report over one or several results.

    Raises:
        UserError: no such format, no results, or an empty one.
    """
    if format not in FORMATS:
        raise unknown("report format", format, FORMATS)
    if not results:
        raise UserError("no results to report: name at least one folder that `fmbench run --out` made")
    for result in results:
        _ = result.main_metric  # an empty result says so
    if format == "html":
        from .page import render_page  # Altair takes a second to import: only the page waits for it

        return render_page(results)
    from . import text

    return {"md": text.markdown, "latex": text.latex, "csv": text.comma_separated}[format](results)
