"""`fmbench evaluate`: a suite around what was made elsewhere, with the table, the report and the exit codes of `run`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fmbench.data import DATA
from fmbench.errors import UserError
from fmbench.evaluation import composed
from fmbench.suite import parse

FIELD = "def velocity(t, x):\n    return {slope} * x\n"
FEW = ("--n", 64, "--workers", 1, "--set", "sample.reference.tolerance=1e-2", "--metric", "sliced_w2")


@pytest.fixture
def field(tmp_path: Path) -> Path:
    path = tmp_path / "my.py"
    path.write_text(FIELD.format(slope=0.5))
    return path


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet")


def test_a_field_from_a_file(fmbench: Callable[..., Any], field: Path, tmp_path: Path) -> None:
    words = (
        "evaluate",
        "my.py:velocity",
        "--data",
        "moons",
        "--solver",
        "euler",
        "--nfe",
        "1,2",
        *FEW,
        "--metric",
        "nfe",
    )
    planned = fmbench(*words, "--dry-run")
    assert planned.code == 0, planned.err
    assert "0 samples to train on, 3 solves, 5 values" in " ".join(planned.out.split())
    assert not (tmp_path / "results").exists()

    answer = fmbench(*words)
    assert (answer.code, answer.err) == (0, "")
    assert "5 ok of 5 values" in answer.out
    folder = tmp_path / "results" / "my"
    table = table_of(folder)
    assert set(table["method"]) == {"my", "data"}
    assert sorted(table["nfe"].dropna().unique()) == [1, 2]
    assert {"manifest.json", "report.html", "results.csv", "pictures.npz"} <= {file.name for file in folder.iterdir()}
    resolved = json.loads((folder / "manifest.json").read_text())["suite"]
    assert resolved["flow"]["model"][0]["factory"] == "my.py:velocity"
    assert len(resolved["flow"]["model"][0]["digest"]) == 64
    assert "5 values are already there" in " ".join(fmbench(*words).out.split())

    field.write_text(FIELD.format(slope=0.6))  # an edit, in the same second and of the same length
    again = fmbench(*words)
    assert "1 value is already there" in " ".join(again.out.split())  # the floor
    edited = table_of(folder)
    assert set(edited["key"]) & set(table["key"]) == set(table[table["model"] == "data"]["key"])
    assert not np.allclose(edited["value"], table["value"])


@pytest.mark.slow  # two interpreters import torch
def test_worker_processes_know_the_field(fmbench: Callable[..., Any], field: Path, tmp_path: Path) -> None:
    answer = fmbench(
        "evaluate", "my.py", "--data", "moons", "--nfe", 1, *FEW, "--workers", 2, "--quiet", "--out", "two"
    )
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert set(table_of(tmp_path / "two")["status"]) == {"ok"}


def test_samples_alone(fmbench: Callable[..., Any], tmp_path: Path) -> None:
    np.save(tmp_path / "last.npy", DATA.build("moons").take("test", 80, seed=5).numpy())
    answer = fmbench("evaluate", "--samples", "last.npy", "--data", "moons", "--metric", "w2", "--metric", "seconds")
    assert answer.code == 0, answer.err
    text = " ".join(answer.out.split())
    assert "given" in text
    assert "skipped 1 × seconds: samples alone are given" in text
    table = table_of(tmp_path / "results" / "last.npy")
    row = table[table["solver"] == "given"].set_index("metric").loc["w2"]
    assert (row["status"], row["n"]) == ("ok", 80)
    assert row["value"] < 1
    assert (tmp_path / "results" / "last.npy" / "report.html").is_file()
    assert fmbench("report", "results/last.npy", "--format", "md").code == 0


def test_a_model_or_samples() -> None:
    with pytest.raises(UserError, match="one of the two"):
        composed(None, data="moons")
    with pytest.raises(UserError, match="one of the two"):
        composed("my.py:v", data="moons", samples="pictures")


@pytest.mark.parametrize(
    ("weights", "suite"), [(None, "linear"), ("a.pt", "linear-a"), ("b.pt:ema_model", "linear-b-ema_model")]
)
def test_two_checkpoints_of_a_network_are_two_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str | None, suite: str
) -> None:
    """Both in results/linear, the second would take the first one's place."""
    from fmbench.plugins import admit

    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("import torch\ndef Linear(): return torch.nn.Bilinear(1, 2, 2)\n")
    state = torch.nn.Bilinear(1, 2, 2).state_dict()
    torch.save(state, "a.pt")
    torch.save({"ema_model": state}, "b.pt")
    admit("net.py")
    assert composed("net.py:Linear", data="moons", weights=weights)["suite"] == suite


def test_the_noise_of_another_range_becomes_the_source(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmbench.plan import make_plan
    from fmbench.plugins import admit

    monkeypatch.chdir(field.parent)
    admit("my.py")
    suite = parse(composed("my.py:velocity", data="digits", images="0..1", nfe=[1], metrics=["fd_pixels"], name="unit"))
    assert suite.problems()[0].source.spec() == {
        "name": "scaled-normal", "mean": -1.0, "std": 2.0, "dims": [1, 8, 8]}  # fmt: skip
    assert make_plan(suite).samples()


MISTAKES: list[tuple[list[Any], list[str]]] = [
    ([], ["--data is missing"]),
    (["--data", "moons"], ["evaluate a model or --samples FOLDER"]),
    (["my.py:velocity", "--data", "moon"], ["'moon'", "'moons'"]),
    (["my.py:velocity", "--data", "[moons"], ["--data", "no valid YAML"]),
    (["my.py:velocty", "--data", "moons"], ["'velocty'", "'velocity'"]),
    (["your.py:velocity", "--data", "moons"], ["your.py: no such Python file"]),
    (["no_such_module:velocity", "--data", "moons"], ["no_such_module cannot be imported", "ModuleNotFoundError"]),
    (["broken.py:velocity", "--data", "moons"], ["broken.py cannot be imported: SyntaxError"]),
    (["nothing", "--data", "moons"], ["'nothing' is no folder and no factory"]),
    (["my.py:velocity", "--data", "moons", "--nfe", "two"], ["nfe = 'two'"]),
    (["my.py:velocity", "--data", "moons", "--solver", "heun", "--nfe", "3"], ["nfe = 3", "2 or 4"]),
    (["my.py:velocity", "--data", "moons", "--solver", "eulr"], ["'eulr'", "'euler'"]),
    (["my.py:velocity", "--data", "moons", "--metric", "w3"], ["'w3'", "'w2'"]),
    (["my.py:velocity", "--data", "moons", "--output", "noise"], ["output = 'noise'", "epsilon"]),
    (["my.py:velocity", "--data", "moons", "--n", "1000000000"], ["sample.n", "10000000"]),
    (["my.py:velocity", "--data", "moons", "--ray", "auto"], ["--ray needs Ray", "flow-matching-bench[ray]"]),
    (["--samples", "none", "--data", "digits"], ["none: there is no such folder or file of samples"]),
    (["--samples", "few.npy", "--data", "moons", "--n", "9"], ["holds 3 samples, sample.n = 9"]),
    (["--samples", "few.npy", "--data", "moons", "--metric", "nll"], ["metric 'nll' needs the flow", "sliced_w2"]),
    (
        ["--samples", "few.npy", "--data", "moons", "--output", "epsilon"],
        ["--output: of a model; --samples gives samples alone"],
    ),
    (["--samples", "few.npy", "--data", "moons", "--solver", "heun", "--nfe", "4"], ["--solver, --nfe: of a model"]),
    (
        ["--samples", "few.npy", "--data", "moons", "--path", "ve", "--guidance", "2"],
        ["--guidance, --path: of a model"],
    ),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=lambda value: " ".join(map(str, value))[:50])
def test_mistakes_are_one_message_and_exit_2(
    fmbench: Callable[..., Any], field: Path, tmp_path: Path, words: list[Any], said: list[str]
) -> None:
    (tmp_path / "broken.py").write_text("def velocity(t, x:\n")
    np.save(tmp_path / "few.npy", np.zeros((3, 2)))
    answer = fmbench("evaluate", *words)
    assert answer.code == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert [part for part in said if part not in " ".join(answer.err.split())] == []
    assert not (tmp_path / "results").exists()


def test_data_and_inception_weights_are_told_to_workers(
    fmbench: Callable[..., Any], field: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for name in ("FMBENCH_DATA", "FMBENCH_INCEPTION_WEIGHTS"):
        monkeypatch.setenv(name, "before")  # so that what the command sets is undone
    (field.parent / "mirror").mkdir()
    words = ("--data", "moons", "--nfe", 1, "--dry-run", "--data-root", "mirror", "--inception-weights", "w.pth")
    assert fmbench("evaluate", "my.py:velocity", *words).code == 0
    assert (os.environ["FMBENCH_DATA"], os.environ["FMBENCH_INCEPTION_WEIGHTS"]) == ("mirror", "w.pth")


def test_from_python(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fmbench

    monkeypatch.chdir(field.parent)
    results = fmbench.evaluate(
        "my.py:velocity", data="moons", nfe=[1], metrics=["nfe"], n=16, workers=1, set=["sample.reference.max_steps=32"]
    )
    assert set(results.table["status"]) == {"ok"}


@pytest.mark.parametrize(
    "one", [{"metrics": "w2"}, {"solvers": {"name": "dopri5"}}, {"nfe": 4}, {"plugins": "mine.py"}]
)
def test_one_thing_is_no_list(one: dict[str, Any]) -> None:
    """Of "w2" the metrics w and 2 were asked for, and a number was no list: a traceback."""
    import fmbench

    with pytest.raises(UserError, match=r": a list is meant, of one entry too: (metrics|solvers|nfe|plugins)=\["):
        fmbench.evaluate("mine.py:velocity", data="moons", **one)
