"""A suite on pictures, from files to table, and what it says when there are none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import write_published
from typer.testing import CliRunner

import fmbench
from fmbench.cli import app
from fmbench.errors import UserError

FLOW = {"model": {"name": "mlp", "width": 8, "depth": 1}, "seed": [0]}
SAMPLE = {
    "n": 16,
    "reference": {"tolerance": 1, "max_steps": 32},
    "solvers": [{"name": "euler", "nfe": [1]}],
}
METRICS = ["sliced_w2", {"name": "bits_per_dim", "n": 8, "steps": 1}]


@pytest.fixture
def suite(tiny: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    train = {"samples": 128, "batch": 32}
    return tiny(suite="pictures", data="cifar10", flow=FLOW, sample=SAMPLE, metrics=METRICS, train=train)


def test_a_copy_in_jpeg_is_labelled_in_every_row_and_known_by_its_content(
    suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("a", "b"):
        write_published(tmp_path / place, "cifar10", encoding="JPEG")
    monkeypatch.setattr("fmbench.data.pictures.CIFAR10.count", 60)
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path / "a"))
    results = fmbench.run(suite, out=tmp_path / "out", workers=1)
    assert set(results.table["data"]) == {"cifar10-jpeg"}
    assert (results.table["status"] == "ok").all()
    assert results.table["value"].notna().all()
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["data"]["cifar10-jpeg"]
    assert facts["source"] == str(tmp_path / "a")
    assert facts["test"] == {"n": 40, "shape": [3, 32, 32], "classes": 10, "encodings": {"JPEG": 40}}
    assert len(facts["sha256"]) == 64
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="mosaic"') == 2, "samples and real pictures, in colour"
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path / "b"))
    outline = fmbench.api.outline(suite)
    assert not outline.work.jobs, "the same content elsewhere is the same data"


def test_without_its_files_a_suite_is_planned_and_not_run(
    suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBENCH_DATA", str(tmp_path))
    assert fmbench.api.outline(suite).work.jobs
    with pytest.raises(UserError, match="'cifar10' is not on this machine"):
        fmbench.run(suite, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_mirror_can_be_named_on_the_command_line(
    suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBENCH_DATA", "")  # gives back what the option sets
    (tmp_path / "pictures.json").write_text(json.dumps(suite))  # JSON is YAML
    write_published(tmp_path / "mirror", "cifar10")
    words = ["run", str(tmp_path / "pictures.json"), "--data-root", str(tmp_path / "mirror"), "--dry-run"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert os.environ["FMBENCH_DATA"] == str(tmp_path / "mirror"), "where worker processes find it"
