"""What the literature measured: the numbers of papers, repositories and documentations, with protocol and evidence.

A value stands here under this project's names where it is the same thing, and under a name of its own where it is not:
`fid` is 50,000 samples against the training set on TensorFlow's Inception features or a port of them, `fid_5k` is not.
Reflow rounds count as everywhere here (2-RF is round 1). `published_as` is the source's own name of a method.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pandas as pd

from .disk import shipped
from .errors import UserError, unknown
from .table import bare

FILE = shipped("results/published.csv")

COLUMNS: dict[str, str] = {
    **dict.fromkeys(["publication", "url"], "string"),
    "year": "Int64",
    **dict.fromkeys(["place", "dataset", "source", "condition", "method", "published_as"], "string"),
    **dict.fromkeys(["path", "coupling", "times"], "string"),
    **dict.fromkeys(["reflow", "distilled"], "Int64"),
    "solver": "string",
    **dict.fromkeys(["tolerance", "nfe"], "float64"),
    "metric": "string",
    **dict.fromkeys(["value", "spread"], "float64"),
    "runs": "Int64",
    "stderr": "float64",
    "n": "Int64",
    **dict.fromkeys(["evidence", "note", "protocol"], "string"),
}
"""`spread` is the ± as printed, a standard deviation over `runs`; `stderr` is spread / √runs, the mean's own error."""

EVIDENCE = {
    "authors": "stated by the authors in their repository or documentation",
    "paper": "read in the paper",
    "transcribed": "from an extract of the paper, not checked against it",
}

LITERATURE = {
    "bits_per_dim": "negative log likelihood of the test set, bits a dimension",
    "clip_score": "CLIP similarity of image and prompt, higher is better",
    "consistency_8": "squared feature distance between samples of 8 calls and of an adaptive solver, from the same noise",
    "fd_clip": "Fréchet distance on CLIP features",
    "fd_dinov2": "Fréchet distance on DINOv2 features",
    "feature_error": "relative error of Inception features against TensorFlow's",
    "fid": "Fréchet distance on Inception features, 50,000 samples against the training set",
    "fid_5k": "the same with 5,000 samples",
    "fid_30k": "the same with 30,000 samples",
    "fid_clean": "the same with clean-fid's antialiased resize",
    "fid_error": "relative error of FID against TensorFlow's",
    "fid_test": "Fréchet distance on Inception features against the test set",
    "generated_w2_squared": "W2² between generated and real samples",
    "inception_score": "Inception Score, higher is better",
    "inception_score_error": "relative error of the Inception Score against TensorFlow's",
    "kid_error": "relative error of KID against TensorFlow's",
    "mean_rank": "mean rank among 61 formulations, lower is better",
    "nfe_to_reach_fid_10": "network calls to reach a FID of 10",
    "nfe_to_reach_fid_20": "network calls to reach a FID of 20",
    "recall": "share of real images near generated ones, higher is better",
    "target_variance_bound": "bound on the variance of the target velocity",
    "training_loss": "the flow-matching objective at the end of training",
    "w2_to_bridge": "mean W2 to the marginals of the true Schrödinger bridge",
}
"""Metrics of the literature beside those registered here, by the names that `published.csv` gives them."""


def load() -> pd.DataFrame:
    """Every published number, one row each, with the columns and dtypes of `COLUMNS`; what a source leaves out is NA."""
    return _read().copy()


def select(dataset: str | None = None, method: str | None = None, metric: str | None = None) -> pd.DataFrame:
    """The numbers on a data set, of a method, by a metric.

    Args:
        dataset: "cifar10" in any case, or one with its parameters, "eight-gaussians[std=1]"; the bare name finds every variant.
        method: this project's name or the source's own ("RF", "1-Rectified Flow").
        metric: as in the table.

    Raises:
        UserError: nothing is known by such a name, or by all of them together.
    """
    table = load()
    names, asked = table["dataset"].map(bare), list[str]()
    for what, wanted, columns in (
        ("data set", dataset, [table["dataset"], names]),
        ("method", method, [table["method"], table["published_as"]]),
        ("metric", metric, [table["metric"]]),
    ):
        if wanted is None:
            continue
        shown = columns[:1] if what == "method" else columns[-1:]
        known = _named(columns)
        name = wanted if wanted in known else {n.casefold(): n for n in known}.get(wanted.casefold())
        if name is None:
            raise unknown(f"published {what}", wanted, _named(shown))
        there = table.index
        table = table[pd.concat([column.eq(name) for column in columns], axis=1).any(axis=1).reindex(there)]
        if table.empty:
            left = ", ".join(sorted(_named(column.reindex(there) for column in shown)))
            raise UserError(f"nothing is published of {', '.join(asked)} with {what} '{name}'. There is: {left}.")
        asked.append(f"{what} '{name}'")
    return table.reset_index(drop=True)


def _named(columns: Iterable[pd.Series]) -> set[str]:
    return {str(name) for column in columns for name in column.dropna()}


@cache
def _read() -> pd.DataFrame:
    text = pd.read_csv(FILE, dtype="string", keep_default_na=False, encoding="utf-8")
    text = text.mask(text == "", pd.NA)
    numeric = {name: pd.to_numeric(text[name]) for name, dtype in COLUMNS.items() if dtype != "string"}
    return text.assign(**numeric)[list(COLUMNS)].astype(dict(COLUMNS))
