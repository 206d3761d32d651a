"""The literature's table: its schema, its names, no fact twice; and finding things in it."""

from __future__ import annotations

import csv
import math
import re

import pytest

from fmbench import published
from fmbench.data import DATA
from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.metrics import METRICS
from fmbench.published import COLUMNS, EVIDENCE, LITERATURE, load, select
from fmbench.table import bare


def test_the_file_has_the_columns_and_every_value_its_type() -> None:
    with published.FILE.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    table = load()
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == COLUMNS
    assert len(table) > 400
    for name in (
        "publication",
        "url",
        "year",
        "dataset",
        "method",
        "published_as",
        "metric",
        "value",
        "evidence",
        "protocol",
    ):
        assert table[name].notna().all(), name
    assert table["url"].str.match(r"https://(arxiv\.org/abs/\d{4}\.\d{5}|github\.com/[\w.-]+/[\w.-]+)$").all()
    assert table["year"].between(2015, 2030).all()
    assert table["value"].map(math.isfinite).all()


def test_no_fact_stands_twice() -> None:
    told = load().drop(columns=["evidence", "note", "protocol", "place"])
    assert not told.duplicated().any(), told[told.duplicated(keep=False)]


def test_names_are_this_projects_or_the_literatures_own() -> None:
    table = load()
    assert set(table["metric"]) <= {*METRICS.names(), *LITERATURE}
    assert set(LITERATURE) <= set(table["metric"]), "a definition that no row needs"
    assert set(table["evidence"]) == set(EVIDENCE)
    assert {"rectified", "fm-ot", "icfm", "sb-cfm", "vp-linear", "ve"} <= set(table["path"].dropna()) & set(
        PATHS.names()
    )
    assert {"independent", "minibatch-ot", "sinkhorn"} <= set(table["coupling"].dropna()) & set(COUPLINGS.names())


def test_data_sets_that_exist_here_are_named_as_here() -> None:
    """A label of this project's must be one that a suite can build: else nothing of ours would ever match."""
    table = load()
    labels = set(table["dataset"].dropna()) | set(table["source"].dropna())
    built = {DATA.build({"name": "eight-gaussians", "std": 1.0}).label(), DATA.build("cifar10").label(),
             DATA.build("s-curve").label(),
             DATA.build({"name": "eight-gaussians", "scale": 12.0, "std": 1.5}).label(),
             DATA.build({"name": "moons", "noise": 0.1, "scale": 9.73, "shift": -3.65}).label(),
             DATA.build({"name": "moons", "scale": 2.0, "shift": [-1.0, 0.0]}).label()}  # fmt: skip
    assert built <= labels
    other = {"checkerboard", "moons[torchcfm]", "eight-gaussians[torchcfm]", "normal"}  # no counterpart here, or plain
    assert {label for label in labels if bare(label) in DATA.names()} == built | other


def test_errors_are_those_of_the_mean() -> None:
    table = load()
    stated = table[table["spread"].notna()]
    assert len(stated) > 80
    assert stated["stderr"].to_numpy() == pytest.approx(
        (stated["spread"] / stated["runs"].pow(0.5)).to_numpy(float), rel=0.01
    )
    assert table.loc[table["spread"].isna(), ["runs", "stderr"]].isna().all(axis=None)


def test_reflow_counts_as_here() -> None:
    table = load()
    rounds = {"RF": 0, "2-RF": 1, "3-RF": 2}
    known = table[table["method"].isin(list(rounds))]
    assert (known["reflow"] == known["method"].map(rounds)).all()
    assert (table.loc[table["published_as"] == "2-Rectified Flow", "method"] == "2-RF").all()
    assert set(table["distilled"].dropna()) == {0, 1}


def test_values_as_the_papers_print_them() -> None:
    def value(**where: object) -> float:
        table = load()
        for name, wanted in where.items():
            table = table[table[name].eq(wanted)]
        (found,) = table["value"]
        return float(found)

    assert value(dataset="cifar10", published_as="FM w/ OT", metric="fid") == 6.35
    assert value(dataset="cifar10", method="2-RF", metric="fid", solver="euler", distilled=1) == 4.85
    assert value(dataset="s-curve", method="I-CFM", metric="npe") == 0.856


def test_select_by_bare_name_own_name_and_the_sources_name() -> None:
    assert set(select("eight-gaussians")["dataset"]) == {"eight-gaussians[std=1]", "eight-gaussians[scale=12,std=1.5]"}
    assert len(select("eight-gaussians[std=1]")) < len(select("eight-gaussians"))
    assert set(select(method="1-Rectified Flow")["method"]) == {"RF"}
    both = select("cifar10", "RF", "fid")
    assert set(both["dataset"]) == {"cifar10"}
    assert set(both["metric"]) == {"fid"}
    assert len(both) >= 3


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"dataset": "cifar"}, "unknown published data set 'cifar'. Did you mean 'cifar10'"),
        ({"method": "OTCFM"}, "unknown published method 'OTCFM'. Did you mean 'OT-CFM'"),
        ({"metric": "fidd"}, "unknown published metric 'fidd'. Did you mean 'fid'"),
    ],
)
def test_unknown_names_say_the_nearest(wanted: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        select(**wanted)
