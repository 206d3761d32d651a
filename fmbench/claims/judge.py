"""From a result to verdicts: a pure function of the table, the manifest's facts and the claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import paired
from ..errors import UserError
from ..results import Results
from ..statistics import holm, holm_level
from ..store import ResultFolder
from ..table import bare, read_json, records, table_file
from . import CLAIMS
from .base import Claim, Contrast
from .cells import Cells, NotTested, needed

SUPPORTED, REFUTED, INCONCLUSIVE, NOT_TESTED = "supported", "refuted", "inconclusive", "not tested"
EXACT = ("oracle", "empirical")  # models that are given, not trained: they have no other seed
UNPAIRED = (
    f"without {paired.FILE} samples count as independent, and neither fresh z0 nor how far the ends spread was checked"
)


@dataclass(frozen=True)
class Verdict:
    """What a table says of one claim. The contrast shown is the one nearest to a violation, or that of which a guard failed."""

    claim: str
    statement: str
    verdict: str
    effect: float = math.nan  # left − right; the claim says: at most `margin`
    low: float = math.nan  # its two-sided interval at 1 − alpha, uncorrected
    high: float = math.nan
    p_value: float = math.nan  # two-sided, of effect = margin, corrected by Holm over the claims tested
    n: int | None = None  # training seeds behind the effect
    guard: str | None = None
    rows: tuple[str, ...] = ()
    margin: float = math.nan
    alpha: float = 0.05
    level: float = math.nan  # alpha as Holm leaves it to this claim among those tested: `detectable` is at this level
    detectable: float = math.nan  # the smallest effect that would have refuted it with a chance of 80 %
    by_sample: bool = False  # whether the samples' part of its error is that of differences sample by sample
    samples: int | None = None  # samples behind one seed's value, the fewest
    contrast: str = ""
    contrasts: int = 0
    note: str = ""
    source: str = ""

    def record(self) -> dict[str, Any]:
        """As claims.json holds it: JSON has no NaN and no infinity, both become null."""
        plain = asdict(self)
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
        return {**finite, "rows": list(self.rows)}


def claims_of(results: Results) -> list[Claim]:
    """The claims that the result's suite names.

    Raises:
        UserError: a claim is not known here, as one of a user's own whose plug-in was not given.
    """
    return [CLAIMS.build(claim) for claim in results.suite.get("claims") or []]


def verdicts_of(directory: str | Path, names: Sequence[str] = ()) -> tuple[str, list[dict[str, Any]]]:
    """A folder's suite and its verdicts as claims.json holds them, judged again and kept there where they changed.

    Args:
        names: judge these claims instead, and keep nothing.

    A folder that keeps its table as text alone (results/reference) lacks the values sample by sample, from which its run
    judged: what its claims.json says then stands.

    Raises:
        UserError: the folder is no result, or a claim is not known.
    """
    directory = Path(directory)
    folder = ResultFolder(directory)
    recorded = read_json(directory / "claims.json") or []
    kept = table_file(directory)
    if kept is not None and kept.suffix == ".csv" and not names:
        suite = (read_json(directory / "manifest.json") or {}).get("suite") or {}
        return str(suite.get("suite") or directory.name), recorded
    results = Results.load(directory)
    found = judge(results, [CLAIMS.build(name) for name in names] if names else claims_of(results))
    records = [verdict.record() for verdict in found]
    if not names and records != recorded:
        folder.write_json("claims.json", records)
    return str(results.suite["suite"]), records


def judge(results: Results, claims: Sequence[Claim], per_sample: Mapping[str, Any] | None = None) -> list[Verdict]:
    """The verdict on each claim, in their order, from a result's table and what its manifest says of the data.

    Args:
        per_sample: values sample by sample (`by_sample.gather`); those of the result's folder when None. Verdicts of a folder
            that lacks them say so.
    """
    folder = results.directory if per_sample is None else None
    kept = paired.read(folder) if per_sample is None else per_sample
    found = verdicts(Cells(records(results.table), results.manifest.get("data"), kept), claims)
    if folder is None or (folder / paired.FILE).is_file():
        return found
    return [replace(v, note="; ".join(filter(None, [v.note, UNPAIRED]))) if v.rows else v for v in found]


def verdicts(cells: Cells, claims: Sequence[Claim]) -> list[Verdict]:
    """The verdicts; p-values are corrected over the claims that can be tested."""
    judged = [_judged(claim, cells) for claim in claims]
    found = [verdict for verdict, _ in judged]
    tested = [(place, worst) for place, (_, worst) in enumerate(judged) if worst is not None]
    alone = [found[place].p_value for place, _ in tested]
    for rank, ((place, worst), p_value) in enumerate(zip(tested, holm(alone), strict=True)):
        level = holm_level([*alone[:rank], *alone[rank + 1 :]], found[place].alpha)
        found[place] = _settled(found[place], worst, p_value, level)
    return found


def _judged(claim: Claim, cells: Cells) -> tuple[Verdict, Contrast | None]:
    """The verdict with its own p-value, named by the direction in which it points, and the contrast that it shows."""
    blank = Verdict(claim.label(), claim.statement, NOT_TESTED, alpha=claim.alpha, source=claim.source)
    try:
        contrasts = _contrasts(claim, cells)
    except NotTested as obstacle:
        return replace(blank, guard=obstacle.guard, note=obstacle.reason), None
    for contrast in contrasts:
        if (failed := _failed(claim, cells, contrast)) is not None:
            return replace(_shown(blank, contrast, [contrast]), guard=failed.guard, note=failed.reason), None
    worst, below, above = weigh(contrasts)
    decided = SUPPORTED if below <= above else REFUTED
    return replace(_shown(blank, worst, contrasts), verdict=decided, p_value=min(1.0, 2 * min(below, above))), worst


def _contrasts(claim: Claim, cells: Cells) -> list[Contrast]:
    """What a claim compares, one or more. What a user's own does wrong leaves it untested: the table is not lost for it."""
    lacking = f"nothing measured that speaks of it: it needs {', '.join(claim.needs())}"
    try:
        found = list(claim.contrasts(cells))
    except (NotTested, UserError):
        raise
    except Exception as error:
        raise NotTested("its own code", f"contrasts raises {type(error).__name__}: {error}") from error
    if odd := [contrast for contrast in found if not isinstance(contrast, Contrast)]:
        raise NotTested("its own code", f"contrasts gives {type(odd[0]).__name__} where a Contrast is meant")
    return needed(found, "missing rows", lacking)


def _failed(claim: Claim, cells: Cells, contrast: Contrast) -> NotTested | None:
    """The first guard that this comparison does not pass, or that lacks what it reads."""
    for guard in claim.checks():
        try:
            if (reason := guard.check(cells, contrast)) is not None:
                return NotTested(guard.name, reason)
        except NotTested as obstacle:
            return obstacle
    return None


def _shown(blank: Verdict, shown: Contrast, used: Sequence[Contrast]) -> Verdict:
    """With the effect of one comparison and the rows of all that were used."""
    low, high = shown.difference.interval(1 - blank.alpha)
    keys = dict.fromkeys(str(row["key"]) for c in used for cell in c.cells for row in cell.rows if row["key"])
    return replace(
        blank,
        effect=shown.difference.value,
        low=low,
        high=high,
        n=len({row["seed"] for row in shown.left.rows}),
        rows=tuple(keys),
        margin=shown.margin,
        by_sample=shown.difference.by_sample,
        samples=_fewest(shown),
        contrast=shown.about,
        contrasts=len(used),
    )


def weigh(contrasts: Sequence[Contrast]) -> tuple[Contrast, float, float]:
    """The contrast nearest to a violation, and one-sided p-values: that all are below their margins, that one is above.

    All must be below, so the largest p-value counts, uncorrected (intersection-union). One above is enough, of m tries:
    the smallest, times m (Bonferroni).
    """
    worst = max(contrasts, key=lambda c: (c.difference.p_below(c.margin), c.difference.value - c.margin))
    above = min(1.0, len(contrasts) * min(c.difference.p_above(c.margin) for c in contrasts))
    return worst, worst.difference.p_below(worst.margin), above


def _settled(verdict: Verdict, worst: Contrast, p_value: float, level: float) -> Verdict:
    """The verdict at the corrected p-value, with a word on what it could not have seen."""
    trained = any(bare(str(row["model"])) not in EXACT for cell in worst.cells for row in cell.rows)
    notes = ["one seed: what another training would change is not known"] if trained and verdict.n == 1 else []
    detectable = worst.detectable(level / verdict.contrasts)  # one of the contrasts is enough, see `weigh`
    verdict = replace(verdict, p_value=p_value, level=level, detectable=detectable)
    if p_value > verdict.alpha:
        verdict = replace(verdict, verdict=INCONCLUSIVE)
        notes.append(_unseen(worst, detectable))
    return replace(verdict, note="; ".join(notes))


def _unseen(worst: Contrast, detectable: float) -> str:
    if math.isfinite(detectable):
        return f"an effect below {detectable:.3g} could have gone unseen"
    if math.isfinite(worst.difference.stderr):
        return f"it cannot be refuted at this n: not even an effect of {worst.most:.3g}, the largest there is, would be seen"
    return "nothing could have refuted it with this n: no standard error, and fewer than three paired seeds"


def _fewest(contrast: Contrast) -> int | None:
    return min((int(row["n"]) for cell in contrast.cells for row in cell.rows if row["n"] is not None), default=None)
