from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fmbench import __version__
from fmbench.suite import shipped

Fmbench = Callable[..., Any]
TinyFile = Callable[..., Path]

COMMANDS = ("run", "evaluate", "list", "show", "report", "compare", "claims", "doctor")


@pytest.fixture
def done(fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path) -> Path:
    """A finished result."""
    answer = fmbench("run", tiny_file(), "--workers", 1, "--out", "done", "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    return tmp_path / "done"


def shown(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---- the first seconds ----


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys; sys.argv = ['fmbench', '--help']\n"
        "from fmbench.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'pandas', 'numpy', 'pydantic', 'altair') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()  # the child's own time: the machine may have others to serve
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(command in done.stdout for command in COMMANDS)
    assert min(seconds) < 0.7


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_help_has_examples(fmbench: Fmbench, command: str) -> None:
    answer = fmbench(command, "--help")
    assert answer.code == 0
    examples = answer.out.split("Examples:")[1]
    assert f"fmbench {command}" in examples
    assert re.search(rf"^\s*fmbench {command}.*$", examples, re.MULTILINE)


def test_version_and_no_command(fmbench: Fmbench) -> None:
    answer = fmbench("--version")
    assert (answer.code, answer.out) == (0, f"fmbench {__version__}\n")
    assert "Usage" in fmbench().out


# ---- looking around ----


def test_list(fmbench: Fmbench) -> None:
    suites = fmbench("list")
    assert suites.code == 0
    assert all(name in suites.out for name in shipped())
    for kind, names in {
        "paths": ["rectified", "fm-ot", "vp-cosine", "vp-linear", "ve"],
        "couplings": ["independent", "minibatch-ot"],
        "solvers": ["euler", "midpoint", "heun", "rk4", "dopri5"],
        "models": ["mlp", "unet", "oracle", "empirical"],
        "data": ["moons", "eight-gaussians", "checkerboard", "s-curve", "swiss-roll", "spirals", "gaussian-mixture", "digits"],
        "metrics": ["w2", "sliced_w2", "mmd", "energy_distance", "nll", "transport_cost", "straightness", "path_energy", "npe",
                    "straightness_normalized", "path_length_ratio", "one_step_error", "solver_error", "fd_pixels", "nfe",
                    "seconds", "samples_per_second", "peak_memory_mb"],
    }.items():  # fmt: skip
        answer = fmbench("list", kind)
        assert answer.code == 0
        assert [name for name in names if name not in answer.out.split()] == []
        assert max(map(len, answer.out.splitlines())) <= 100
    assert "data units²" in fmbench("list", "metrics").out


def test_list_shows_a_user_s_own(fmbench: Fmbench, plugin: Callable[[str], str]) -> None:
    answer = fmbench("list", "paths", "--plugin", plugin("components"))
    assert "power" in answer.out.split()


def test_show_prints_what_can_be_run(fmbench: Fmbench, tmp_path: Path) -> None:
    answer = fmbench("show", "moons-nfe-sweep")
    (tmp_path / "own.yaml").write_text(answer.out)
    assert fmbench("show", "own.yaml").out == answer.out
    assert fmbench("run", "own.yaml", "--dry-run").code == 0


def test_show_tells_a_claim(fmbench: Fmbench) -> None:
    told = yaml.safe_load(fmbench("show", "logit-normal-helps").out)
    assert (told["claim"], told["rule"], told["metrics"]) == ("logit-normal-helps", "effect ≤ 0", "w2")
    assert told["axes"] == ["times = logit-normal", "times = uniform"]


def test_show_tells_a_component_and_list_the_recipes(fmbench: Fmbench, plugin: Callable[[str], str]) -> None:
    assert yaml.safe_load(fmbench("show", "w2").out)["unit"] == "data units"
    power = yaml.safe_load(fmbench("show", "power", "--plugin", plugin("components")).out)
    assert power["parameters"] == {"p": "number ≥ 1; default 1.5"}
    assert "torchcfm" in fmbench("list", "recipes").out.split()


def test_doctor(fmbench: Fmbench) -> None:
    answer = fmbench("doctor")
    assert answer.code == 0, answer.out
    assert "problem" not in answer.out
    for name in ("packages", "machine", "cache", "paths", "optimal transport", "solvers"):
        assert re.search(rf"ok\s+{name}", answer.out)


def test_doctor_says_what_is_wrong(fmbench: Fmbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "file" / "cache"))
    answer = fmbench("doctor")
    assert answer.code == 1
    assert re.search(r"problem\s+cache\s+cannot write", answer.out)


# ---- run ----


def test_a_run_prints_a_pivot_and_leaves_its_files(fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path) -> None:
    answer = fmbench("run", tiny_file(), "--workers", 1)
    assert answer.code == 0
    assert answer.err == ""
    for words in (
        "sliced_w2 (data units, lower is better)",
        "RF",
        "euler",
        "heun",
        "floor",
        "± ",
        "21 ok of 21 values",
    ):
        assert words in " ".join(answer.out.split()), words
    assert max(map(len, answer.out.splitlines())) <= 100
    assert shown(tmp_path / "results" / "tiny") == {
        "results.parquet", "results.csv", "manifest.json", "pictures.npz", "report.html"}  # fmt: skip
    again = fmbench("run", tiny_file(), "--workers", 1)
    assert "21 values are already there" in " ".join(again.out.split())


def test_the_pivot_fits_100_columns_with_many_flows(fmbench: Fmbench, tiny_file: TinyFile) -> None:
    suite = tiny_file(flow__path=["rectified", "fm-ot", "vp-cosine", "ve", {"name": "fm-ot", "sigma_min": 0.25}],
                      flow__coupling=["independent", "minibatch-ot"], train__samples=64, metrics=["sliced_w2"])  # fmt: skip
    answer = fmbench("run", suite, "--workers", 1, "--set", "flow.seed=0")
    assert answer.code == 0, answer.err
    assert max(map(len, answer.out.splitlines())) <= 100
    assert "…" not in answer.out
    assert "minibatch-ot" in answer.out


def test_dry_run_tells_and_writes_nothing(fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path, cache: Path) -> None:
    suite = tiny_file(flow__path=["rectified", {"name": "fm-ot", "sigma_min": 0.1}], flow__reflow=[0, 1], flow__seed=0)
    before = shown(tmp_path)
    answer = fmbench("run", suite, "--dry-run")
    assert answer.code == 0
    assert shown(tmp_path) == before
    text = " ".join(answer.out.split())
    for words in ("flows to train 4 0 4", "reflow pairs 2 0 2", "reference solves 4 0 4", "solves 12 0 12", "floors 1 0 1",
                  "4,096 samples to train on, 16 solves, 41 values to measure",
                  "fm-ot[sigma_min=0.1], independent, mlp[depth=1,width=16], reflow 1, seed 0"):  # fmt: skip
        assert words in text, words
    assert len(re.findall(r"to train +train-", answer.out)) == 4

    fmbench(
        "run",
        suite,
        "--quiet",
        "--workers",
        1,
        "--only",
        "path=rectified",
        "--only",
        "reflow=0",
        "--only",
        "solver=euler",
    )
    text = " ".join(fmbench("run", suite, "--dry-run").out.split())
    for words in ("flows to train 4 1 3", "reference solves 4 1 3", "solves 12 2 10", "floors 1 1 0", "3,072 samples"):
        assert words in text, words
    fmbench("run", suite, "--quiet", "--workers", 1)
    assert "0 samples to train on, 0 solves, 0 values" in fmbench("run", suite, "--dry-run").out


def test_set_and_only(fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path) -> None:
    import pandas as pd

    answer = fmbench("run", tiny_file(), "--workers", 1, "--quiet", "--out", "few", "--set", "flow.seed=[3]",
                     "--set", "metrics=[nfe, sliced_w2]", "--only", "solver=heun")  # fmt: skip
    assert answer.code == 0
    table = pd.read_parquet(tmp_path / "few" / "results.parquet")
    assert set(table["seed"].dropna()) == {3}
    assert set(table["solver"].dropna()) == {"heun"}
    assert set(table["metric"]) == {"nfe", "sliced_w2"}
    manifest = json.loads((tmp_path / "few" / "manifest.json").read_text())
    assert manifest["suite"]["flow"]["seed"] == [3]


def test_failures_exit_1_and_are_told(
    fmbench: Fmbench, tiny_file: TinyFile, plugin: Callable[[str], str], tmp_path: Path
) -> None:
    suite = tiny_file(metrics=["nfe", "sliced_w2", "raises"], flow__seed=0)
    for quiet in ([], ["--quiet"]):
        answer = fmbench("run", suite, "--plugin", plugin("misbehaving"), "--workers", 1, "--out", "bad", *quiet)
        assert answer.code == 1
        assert "3 of 10 values failed" in answer.err
        assert "3 × RF, failed: ZeroDivisionError: no good" in answer.err
        assert "Traceback" not in answer.err
        assert (answer.out == "") == bool(quiet)
    manifest = json.loads((tmp_path / "bad" / "manifest.json").read_text())
    assert manifest["statuses"] == {"ok": 7, "failed": 3}
    assert manifest["failures"][0]["rows"] == 3 or len(manifest["failures"]) == 3
    assert "ZeroDivisionError" in manifest["failures"][0]["trace"]


def test_a_run_of_which_nothing_succeeds_still_reports(fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path) -> None:
    suite = tiny_file(train__lr=1e30, train__clip=None, flow__seed=0)
    answer = fmbench("run", suite, "--workers", 1, "--out", "wild")
    assert answer.code == 1
    assert "10 of 11 values failed" in answer.err
    assert "diverged" in answer.err
    assert {"results.csv", "manifest.json", "report.html"} <= shown(tmp_path / "wild")
    assert "Traceback" not in answer.err + answer.out


def test_published_lists_values_with_evidence_and_protocol(fmbench: Fmbench) -> None:
    import io

    import pandas as pd

    answer = fmbench("published", "--dataset", "s-curve", "--method", "I-CFM")
    assert answer.code == 0
    assert max(map(len, answer.out.splitlines())) <= 100
    for words in ("0.856 (sd 0.031)", "euler, nfe 100", "paper", "[1] Tong et al. 2024", "Euler, 100 steps"):
        assert words in " ".join(answer.out.split()), words
    assert "| s-curve | I-CFM | npe |" in fmbench("published", "--dataset", "s-curve", "--format", "md").out.replace(
        r"\_", "_"
    )
    table = pd.read_csv(io.StringIO(fmbench("published", "--format", "csv").out))
    assert len(table) > 400
    assert {"publication", "evidence", "protocol"} <= set(table)


def test_published_names_in_any_case(fmbench: Fmbench) -> None:
    said = [fmbench("published", "--dataset", name, "--format", "csv").out for name in ("cifar10", "CIFAR10")]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) > 5


def test_what_was_skipped_is_told_with_its_reason(
    fmbench: Fmbench, tiny_file: TinyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmbench.errors import Skip
    from fmbench.metrics.cost import PeakMemory

    def measure(self: Any, evidence: Any) -> Any:
        raise Skip("this machine does not tell")

    monkeypatch.setattr(PeakMemory, "measure", measure)
    answer = fmbench("run", tiny_file(metrics=["nfe", "peak_memory_mb"], flow__seed=0), "--workers", 1)
    assert answer.code == 0
    assert "3 ok, 3 skipped of 6 values skipped 3 × peak_memory_mb: this machine does not tell" in " ".join(
        answer.out.split()
    )


# ---- reports ----


def test_reports(fmbench: Fmbench, done: Path, tmp_path: Path) -> None:
    assert fmbench("report", done).out.strip() == str(done / "report.html")
    for kind, words in {"md": "| --- |", "latex": "\\toprule", "csv": "suite,data,source,method"}.items():
        answer = fmbench("report", done, "--format", kind)
        assert answer.code == 0
        assert words in answer.out
    both = fmbench("report", done, done, "--out", "both.html")
    assert both.code == 0
    assert "<html" in (tmp_path / "both.html").read_text().lower()
    assert fmbench("report", done, "--out", "t.md").out.strip() == "t.md"
    assert "| --- |" in (tmp_path / "t.md").read_text()


def test_compare(fmbench: Fmbench, done: Path, tiny_file: TinyFile) -> None:
    same = fmbench("compare", done, done, "--fail-on-regression")
    assert same.code == 0, same.err
    assert "done (2) against done\n" in re.sub(" +\n", "\n", same.out), "no two results are called the same"
    fmbench("run", tiny_file(), "--workers", 1, "--quiet", "--out", "worse", "--set", "train.lr=0.5", "--set", "sample.n=500",
            "--set", "flow.seed=[0,1,2,3]")  # fmt: skip
    answer = fmbench("compare", done, "worse", "--all")
    assert answer.code == 0
    assert "Traceback" not in answer.err + answer.out
    fmbench("run", tiny_file(), "--workers", 1, "--quiet", "--out", "part", "--only", "metric=nfe")
    part = fmbench("compare", done, "part").out
    assert re.search(r"  not comparable \d+ × .*: missing in part", part), "why is told where a part is comparable, too"


def test_compare_tells_better_from_worse(fmbench: Fmbench, tiny_file: TinyFile) -> None:
    """By exit code, with several seeds a side: those cells have a verdict and no reason."""
    heun = {"name": "heun", "nfe": 8}
    changes = {"flow__seed": [0, 1, 2], "metrics": ["sliced_w2"], "sample__n": 500, "sample__solvers": [heun]}
    for name, samples in (("short", 128), ("long", 100_000)):
        suite = tiny_file(**changes, train__samples=samples)
        assert fmbench("run", suite, "--workers", 1, "--quiet", "--out", f"{name}/tiny").code == 0
    better = fmbench("compare", "short/tiny", "long/tiny", "--fail-on-regression")
    assert (better.code, better.err) == (0, "")
    assert "better" in better.out
    worse = fmbench("compare", "long/tiny", "short/tiny", "--fail-on-regression")
    assert (worse.code, worse.err) == (1, "")
    assert fmbench("compare", "long/tiny", "short/tiny", "--all").code == 0
    side_by_side = fmbench("report", "long/tiny", "short/tiny", "--format", "csv").out
    assert "long/tiny" in side_by_side
    assert "short/tiny" in side_by_side, "folders of one name are told apart"


# ---- the user's mistakes ----

MISTAKES: list[tuple[list[Any], list[str]]] = [
    (["run", "moon-nfe-sweep"], ["unknown suite 'moon-nfe-sweep'", "Did you mean 'moons-nfe-sweep'?"]),
    (["run", "nothing.yaml"], ["no suite file at 'nothing.yaml'"]),
    (["run", "empty.yaml"], ["empty.yaml is empty"]),
    (["run", "binary.yaml"], ["binary.yaml is not a text file"]),
    (["run", "broken.yaml"], ["broken.yaml is no valid YAML"]),
    (["run", "tiny.yaml", "--set", "flow.sede=1"], ["flow.sede", "'seed'"]),
    (["run", "tiny.yaml", "--set", "flow.seed"], ["--set 'flow.seed'"]),
    (["run", "tiny.yaml", "--set", "flow.seed=true"], ["flow.seed", "True", "a whole number"]),
    (["run", "tiny.yaml", "--set", "suite=../x"], ["suite = '../x'", "lower-case letters"]),
    (["run", "tiny.yaml", "--set", "metrics=[w3]"], ["'w3'", "'w2'"]),
    (["run", "tiny.yaml", "--set", "sample.solvers=[{name: heun, nfe: 3}]"], ["nfe = 3", "2 or 4"]),
    (["run", "tiny.yaml", "--only", "path=foo"], ["'foo'", "rectified"]),
    (["run", "tiny.yaml", "--only", "foo"], ["column=value"]),
    (["run", "tiny.yaml", "--device", "gpu"], ["--device gpu", "cuda"]),
    (["run", "tiny.yaml", "--workers", "0"], ["--workers 0"]),
    (["run", "tiny.yaml", "--plugin", "none.py"], ["--plugin none.py", "no such Python file"]),
    (["run", "tiny.yaml", "--plugin", "raising.py"], ["--plugin raising.py", "ZeroDivisionError"]),
    (["run", "tiny.yaml", "--plugin", "twice.py"], ["'rectified' is registered twice"]),
    (
        ["run", "tiny.yaml", "--out", "a_file", "--workers", 1],
        ["cannot write", "a_file", "A file stands where a folder should"],
    ),
    (["run", "tiny.yaml", "--out", "a_file/below", "--workers", 1], ["cannot write", "a_file/below"]),
    (["run", "tiny.yaml", "--out", "/proc/nowhere", "--workers", 1], ["cannot write /proc/nowhere"]),
    (["run", "tiny.yaml", "--dry-run", "--set", "data=moon"], ["'moons'"]),
    (["run"], ["Missing argument"]),
    (["run", "tiny.yaml", "--workers", "two"], ["--workers", "integer"]),
    (["run", "tiny.yaml", "--dryrun"], ["--dryrun", "--dry-run"]),
    (["rum"], ["rum", "run"]),
    (["list", "path"], ["unknown kind 'path'", "'paths'"]),
    (["show", "moonz"], ["unknown name 'moonz'", "Did you mean 'moons'?", "recipes"]),
    (["show", "nothing.yaml"], ["no suite file at 'nothing.yaml'"]),
    (["show", "broken.yaml"], ["no valid YAML"]),
    (["report", "nowhere"], ["nowhere does not exist", "fmbench run"]),
    (["report", "."], ["is no result"]),
    (["report", "a_file"], ["a_file is no result"]),
    (["report", "damaged"], ["damaged", "cannot be read"]),
    (["report", "damaged", "--format", "pptx"], ["'pptx'", "html"]),
    (["compare", "nowhere", "damaged"], ["nowhere does not exist"]),
    (["compare", "damaged"], ["Missing argument"]),
    (["published", "--dataset", "cifar"], ["unknown published data set 'cifar'", "'cifar10'"]),
    (["published", "--metric", "fidd"], ["'fidd'", "'fid'"]),
    (["published", "--format", "xlsx"], ["'xlsx'", "csv"]),
    (
        ["published", "--dataset", "moons", "--metric", "fid"],
        ["nothing is published of data set 'moons' with metric 'fid'", "There is:"],
    ),
    (["report", "damaged", "--out", "x.doc"], ["unknown suffix of --out 'doc'", "html"]),
    (["report", "damaged", "--out", "x.md", "--format", "html"], ["--format html and --out x.md disagree"]),
    (["run", "tiny.yaml", "--dry-run", "--workers", "0"], ["--workers 0"]),
    (["run", "tiny.yaml", "--dry-run", "--device", "gpu"], ["--device gpu", "cuda"]),
    (["run", "tiny.yaml", "--ray", "auto"], ["--ray needs Ray", "pip install 'flow-matching-bench[ray]'"]),
    (["run", "tiny.yaml", "--plugin", "nameless.py"], ["Mine has no name", "name ="]),
    (
        ["run", "tiny.yaml", "--plugin", "wrong.py", "--set", "flow.path=wrong", "--dry-run"],
        ["path 'wrong'", "derivatives", "d_alpha"],
    ),
    (
        ["run", "tiny.yaml", "--set", "metrics=[{name: nll, n: 1000000000}]"],
        ["metric 'nll' asks for n = 1,000,000,000", "at most"],
    ),
    (["run", "tiny.yaml", "--set", "sample.n=1000000000"], ["sample.n", "10000000"]),
    (["run", "tiny.yaml", "--set", "train.samples=8"], ["batch = 64 is larger than samples = 8"]),
    (
        ["run", "tiny.yaml", "--set", "sample.solvers=[{name: euler, nef: 4}]"],
        ["solver 'euler': unknown key 'nef'", "'nfe'", "steps"],
    ),
    (
        ["run", "tiny.yaml", "--set", "flow.model=unet", "--dry-run"],
        ["flow.model = 'unet'", "images", "data 'moons' have shape (2,)", "Use 'mlp'"],
    ),
    (["run", "tiny.yaml", "--set", "flow.model=transformer"], ["flow.model = 'transformer'", "moons", "Use 'mlp'"]),
    (
        ["run", "tiny.yaml", "--set", "flow.coupling=label-ot", "--set", "data=s-curve"],
        ["flow.coupling = 'label-ot'", "Use 'minibatch-ot'"],
    ),
    (["run", "tiny.yaml", "--set", "flow.model=oracle"], ["flow.model = 'oracle'", "data 'moons'", "Use a trained"]),
    (
        ["run", "moons-nfe-sweep", "--set", "flow.coupling.batch=3"],
        ["flow.coupling is a list", "'batch'", "0 (independent), 1 (minibatch-ot)", "flow.coupling.0.batch=…"],
    ),
    (
        ["run", "tiny.yaml", "--set", "sample.solvers.7.nfe=3"],
        ["sample.solvers is a list", "'7'", "0 (euler), 1 (heun)", "sample.solvers.0.nfe=…"],
    ),
    (["run", "tiny.yaml", "--set", "data.name.foo=3"], ["data.name is 'moons', a name", "--set data.foo=…"]),
    (["run", "tiny.yaml", "--out", ""], ["--out ''", "empty", ". for this folder"]),
    (["evaluate", "x.py:f", "--data", "moons", "--out", " "], ["--out ' '", "empty"]),
    (["report", "damaged", "--out", ""], ["--out ''", "empty"]),
    (["run", "tiny.yaml", "--data-root", "/nope"], ["--data-root", "'/nope' does not exist"]),
    (["run", "tiny.yaml", "--data-root", "a_file"], ["--data-root", "'a_file' is a file"]),
    (["run", "tiny.yaml", "--set", "pairs.init=previus"], ["pairs.init = 'previus'", "'previous'"]),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=lambda value: " ".join(map(str, value))[:40])
def test_mistakes_are_one_message_and_exit_2(
    fmbench: Fmbench,
    tiny_file: TinyFile,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[Any],
    said: list[str],
) -> None:
    from fmbench.flow import PATHS

    for known in ("_where", "_loaded"):  # what these plug-ins register is of this test alone
        monkeypatch.setattr(PATHS, known, dict(getattr(PATHS, known)))
    tiny_file()
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: }")
    (tmp_path / "raising.py").write_text("1 / 0")
    (tmp_path / "twice.py").write_text(
        "from fmbench.flow import PATHS\nfrom fmbench.flow.paths import VE\n\n"
        "@PATHS.register\nclass Mine(VE):\n    name = 'rectified'\n"
    )
    (tmp_path / "nameless.py").write_text(
        "from fmbench.flow import PATHS\nfrom fmbench.flow.paths import Path\n\n"
        "@PATHS.register\nclass Mine(Path):\n    pass\n"
    )
    (tmp_path / "wrong.py").write_text(
        "import torch\nfrom fmbench.flow.user_paths import path_from\n"
        "path_from('wrong', lambda t: t**2, lambda t: 1 - t, d_alpha=lambda t: t)\n"
    )
    (tmp_path / "a_file").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.parquet").write_bytes(b"PAR1 not really")
    before = shown(tmp_path)
    answer = fmbench(*words)
    assert answer.code == 2, answer
    message = " ".join(re.sub("[│╭╮╰╯─]", " ", answer.err).split())
    assert [word for word in said if word not in message] == [], message
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert shown(tmp_path) - before <= {"__pycache__"}  # nothing half-written, no folder made


def test_a_cache_that_cannot_be_written(
    fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "file" / "cache"))
    answer = fmbench("run", tiny_file(), "--workers", 1)
    assert answer.code == 2
    assert answer.out == ""  # found before any work was announced
    assert f"cannot write {tmp_path / 'file' / 'cache'}" in answer.err
    assert "(FMBENCH_CACHE)" in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("refused", ["pictures.npz", "report.html"])
def test_a_table_without_its_report_says_how_to_get_it(
    fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path, refused: str
) -> None:
    (tmp_path / "o u t" / refused).mkdir(parents=True)  # refuses its file, as a full disk does
    suite = tiny_file(flow__seed=0, metrics=["nfe"])
    answer = fmbench("run", suite, "--workers", 1, "--out", "o u t", "--quiet")
    assert answer.code == 2
    for words in (
        f"cannot write o u t/{refused}",
        "The table is written, o u t/results.csv",
        "`fmbench report 'o u t'`",
    ):
        assert words in answer.err, words
    assert "Traceback" not in answer.err
    (tmp_path / "o u t" / refused).rmdir()
    assert fmbench("report", "o u t").code == 0
    assert (tmp_path / "o u t" / "report.html").is_file()
    assert "0 solves, 0 values" in fmbench("run", suite, "--dry-run").out


def test_a_second_process_on_the_same_folder_is_refused(fmbench: Fmbench, tiny_file: TinyFile, tmp_path: Path) -> None:
    from fmbench.store import ResultFolder

    with ResultFolder(tmp_path / "out").locked():
        answer = fmbench("run", tiny_file(), "--workers", 1, "--out", "out")
    assert answer.code == 2
    assert "another fmbench process is writing to out" in answer.err
    assert fmbench("run", tiny_file(), "--workers", 1, "--out", "out", "--quiet").code == 0
